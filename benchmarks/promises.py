# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The promises on random worlds: how often each was checked, and every world in which one broke."""
from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import sys
import textwrap
import time
import traceback
import typing
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT)]

from benchmarks import arguments  # noqa: E402
from ovc_plugin.model import HostSnapshot, Level, Plan, ReclaimGuest, SetBalloon, TuneKsm  # noqa: E402
from ovc_plugin.simulate import generate  # noqa: E402
from ovc_plugin.simulate.dues import OWED  # noqa: E402
from ovc_plugin.simulate.manners import MANNERS  # noqa: E402
from ovc_plugin.simulate.policy import Ours, Reading  # noqa: E402
from ovc_plugin.simulate.promises import NAMES, Breach, Watcher  # noqa: E402
from ovc_plugin.simulate.world import World  # noqa: E402

MANNERLY = textwrap.fill(f'of {len(MANNERS)} manners: {", ".join(MANNERS)}.', 120)
DESCRIPTION = f"""\
Runs the product's rules on random modelled hosts with up to --guests guests
{MANNERLY}
In some worlds somebody else has shrunk guests before the rules came, or does so later; in some there are guests of
which swap cannot move everything, and nothing tells the rules so; in some the controller is started anew, with what it
had kept or without; in some a guest of another tenant comes among guests that share.
A world lasts up to --ticks passes, and guests are admitted by the product's own verdict. At every pass the promises are
checked against what is true in the model, not against what the rules were told. Exit status 0: every promise was
checked and none broke.

A world that breaks one is named at once, with the command that runs it alone; its name is SEED.NUMBER. An exception in
the rules is a breach of promise 9. A long run can be done in parts: --first N leaves the first N worlds of a seed out.
"""
SETTLED = 0.6   # share of a constant world after which nothing may move any more
KEPT = 5        # broken worlds named for each promise
EVERY = 30.0    # seconds between two lines of progress


@dataclasses.dataclass(slots=True, kw_only=True)
class Found:
    """What one world, or all of them together, had to show. ``worlds`` counts those in which something happened."""

    seed: str = ''
    checked: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    worlds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    sums: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    breaches: list[Breach] = dataclasses.field(default_factory=list)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/promises', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, least, help in (
            ('worlds', 200, 1, 'worlds to run'), ('guests', 50, 1, 'most guests of a world'),
            ('ticks', 500, 1, 'most passes of a world'), ('first', 0, 0, 'worlds of this seed to leave out'),
            ('jobs', 1, 1, 'processes')):
        top.add_argument(f'--{name}', type=arguments.number(int, least), default=value,
                         help=f'{help} (default {value})')
    top.add_argument('--seed', type=int, default=1, help='seed of the worlds (default 1)')
    top.add_argument('--only', metavar='WORLD', help='run this world alone, and tell what it is made of')
    return top


def run(seed: str, guests: int, ticks: int) -> Found:
    """One world."""
    recipe = generate.recipe(seed, guests, ticks)
    watcher, seen = Watcher(recipe.settings, recipe.seconds * SETTLED if recipe.constant else None), set()

    def watch(world: World, reading: Reading, plan: Plan) -> None:
        seen.update(_happenings(plan, reading.snapshot))
        if any(outcome.freed == 0 for _, outcome in world.outcomes):
            seen.add('swaps in vain')
        watcher.watch(world, reading, plan)

    world = World(recipe.machine, recipe.habits, Ours(recipe.settings), watch=watch, door=watcher.door,
                  restarts=recipe.restarts, began=watcher.restarted)
    try:
        world.run(recipe.seconds)
        watcher.finish(world)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        watcher.breach('9 isolation', world.time, f'{type(error).__name__}: {error} ({where.name}, {where.filename}:'
                                                  f'{where.lineno})')
    if watcher.checked[OWED]:
        seen.add('shrunk by others')
    if world.refused:
        seen.add('refusals')
    if len(world.restarts) < len(recipe.restarts):
        seen.add('restarts')
    sums = {'guests': len(world.guests), 'refused': len(world.refused), 'passes': world.measures.passes}
    return Found(seed=seed, checked=watcher.checked, worlds=collections.Counter(seen), sums=collections.Counter(sums),
                 breaches=list(watcher.breaches.values()))


def _happenings(plan: Plan, snapshot: HostSnapshot) -> typing.Iterator[str]:
    if plan.level > Level.CLEAR:
        yield plan.level.name
    if snapshot.evaporation:
        yield 'evaporates'
    for action in plan.actions:
        if isinstance(action, SetBalloon):
            yield 'shrinks' if action.target < action.previous else 'grows'
        elif isinstance(action, ReclaimGuest):
            yield 'swaps'
        elif isinstance(action, TuneKsm):
            yield 'shares' if action.run == 1 else 'shares no more'


def tell(recipe: generate.Recipe) -> None:
    print(f'{recipe.machine}\n{recipe.settings}\n{recipe.ticks} ticks, '
          f'{"constant" if recipe.constant else "changing"} load\nrestarts: {recipe.restarts or "none"}')
    for habit in recipe.habits:
        print(f'  {habit}')


def command(seed: str, options: argparse.Namespace) -> str:
    """What runs one world alone again."""
    sizes = ''.join(f' --{name} {getattr(options, name)}' for name in ('guests', 'ticks')
                    if getattr(options, name) != parser().get_default(name))
    return f'benchmarks/promises --only {seed}{sizes}'


def gather(seeds: list[str], options: argparse.Namespace) -> tuple[Found, dict[str, list[str]]]:
    """All worlds, with breaches told as they are found, and how far it is from time to time."""
    total, broken = Found(), {}
    began = told = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(max(1, options.jobs)) as pool:
        count = len(seeds)
        for done, one in enumerate(pool.map(run, seeds, [options.guests] * count, [options.ticks] * count,
                                            chunksize=4), 1):
            total.checked += one.checked
            total.worlds += one.worlds
            total.sums += one.sums
            for breach in one.breaches:
                broken.setdefault(breach.promise, []).append(one.seed)
                if len(broken[breach.promise]) <= KEPT:
                    print(f'BROKEN {breach.promise} at {breach.time:.0f} s: {breach.what}\n'
                          f'       {command(one.seed, options)}', flush=True)
            if time.monotonic() - told >= EVERY:
                told = time.monotonic()
                print(f'{done} of {count} worlds, {sum(map(len, broken.values()))} promises broken, '
                      f'{(told - began) / done * (count - done):.0f} s left', flush=True)
    return total, broken


def main() -> int:
    top, began = parser(), time.monotonic()
    options = top.parse_args()
    if options.only is None and options.first >= options.worlds:
        top.error(f'--first {options.first} leaves none of --worlds {options.worlds} to run')
    seeds = [f'{options.seed}.{number}' for number in range(options.first, options.worlds)]
    if options.only is not None:
        seeds = [options.only]
        tell(generate.recipe(options.only, options.guests, options.ticks))
    total, broken = gather(seeds, options)
    print(f'{"promise":<20}{"checked":>12}{"worlds broken":>15}  meaning')
    for promise, meaning in NAMES.items():
        print(f'{promise:<20}{total.checked[promise]:>12}{len(broken.get(promise, ())):>15}  {meaning}')
    print('worlds with: ' + ', '.join(f'{what} {total.worlds[what]}' for what in (
        'SOFT', 'HARD', 'CRITICAL', 'shrinks', 'grows', 'swaps', 'swaps in vain', 'shares', 'evaporates',
        'shares no more', 'refusals', 'shrunk by others', 'restarts')))
    unchecked = [promise for promise in NAMES if not total.checked[promise]]
    if unchecked and options.only is None:
        print(f'never checked: {", ".join(unchecked)}; run more worlds')
    bad = sum(map(len, broken.values()))
    print(f'promises: worlds={len(seeds)} ' + ' '.join(f'{n}={total.sums[n]}' for n in ('guests', 'refused', 'passes'))
          + f' checks={total.checked.total()} broken={bad} unchecked={len(unchecked)} '
          f'seconds={time.monotonic() - began:.0f} seed={options.seed if options.only is None else options.only}')
    return 1 if bad or (unchecked and options.only is None) else 0


if __name__ == '__main__':
    sys.exit(main())
