# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The promises on random worlds: how often each was checked, and every world in which one broke."""
from __future__ import annotations

import argparse
import collections
import concurrent.futures
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT)]

from ovc_plugin.simulate import generate  # noqa: E402
from ovc_plugin.simulate.policy import Ours  # noqa: E402
from ovc_plugin.simulate.promises import NAMES, Breach, Watcher  # noqa: E402
from ovc_plugin.simulate.world import World  # noqa: E402

DESCRIPTION = """\
Runs the product's rules on random modelled hosts: up to --guests guests of sixteen manners (stuck, dead, leaking,
writing what they share, ...), up to --ticks passes, guests admitted by the product's own verdict. At every pass the
promises are checked against what is true in the model. Exit status 0: every promise was checked and none broke.
A world that breaks one is named by its seed: run it again with --only SEED.
"""
SETTLED = 0.6  # share of a constant world after which nothing may move any more


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/promises', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('worlds', 200, 'worlds to run'), ('seed', 1, 'seed of the first world'),
                              ('guests', 50, 'most guests of a world'), ('ticks', 500, 'most passes of a world'),
                              ('jobs', 1, 'processes')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--only', metavar='SEED', type=int, help='run this world alone, and tell what it is made of')
    return top


def run(seed: int, guests: int, ticks: int) -> tuple[int, dict[str, int], list[Breach], tuple[int, int, int]]:
    """One world: its seed, how often each promise was checked, what broke, and guests, refusals and passes."""
    recipe = generate.recipe(seed, guests, ticks)
    watcher = Watcher(recipe.settings, recipe.seconds * SETTLED if recipe.constant else None)
    world = World(recipe.machine, recipe.habits, Ours(recipe.settings), watch=watcher.watch, door=watcher.door)
    world.run(recipe.seconds)
    watcher.finish(world)
    return (seed, dict(watcher.checked), list(watcher.breaches.values()),
            (len(world.guests), len(world.refused), world.measures.passes))


def tell(recipe: generate.Recipe) -> None:
    print(f'{recipe.machine}\n{recipe.settings}\n{recipe.ticks} ticks, '
          f'{"constant" if recipe.constant else "changing"} load')
    for habit in recipe.habits:
        print(f'  {habit}')


def table(checked: collections.Counter[str], broken: dict[str, list[tuple[int, Breach]]]) -> None:
    print(f'{"promise":<20}{"checked":>12}{"worlds broken":>15}  meaning')
    for promise, meaning in NAMES.items():
        print(f'{promise:<20}{checked[promise]:>12}{len(broken.get(promise, ())):>15}  {meaning}')
    for promise, found in broken.items():
        for seed, breach in found[:5]:
            print(f'  {promise}: --only {seed} at {breach.time:.0f} s: {breach.what}')


def main() -> int:
    options = parser().parse_args()
    seeds = range(options.seed, options.seed + options.worlds)
    if options.only is not None:
        seeds = range(options.only, options.only + 1)
        tell(generate.recipe(options.only, options.guests, options.ticks))
    checked: collections.Counter[str] = collections.Counter()
    broken: dict[str, list[tuple[int, Breach]]] = {}
    sums, began = [0, 0, 0], time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(max(1, options.jobs)) as pool:
        count = len(seeds)
        for seed, counted, breaches, sizes in pool.map(run, seeds, [options.guests] * count, [options.ticks] * count,
                                                       chunksize=4):
            checked.update(counted)
            sums = [a + b for a, b in zip(sums, sizes, strict=True)]
            for breach in breaches:
                broken.setdefault(breach.promise, []).append((seed, breach))
    table(checked, broken)
    unchecked = [promise for promise in NAMES if not checked[promise]]
    if unchecked and options.only is None:
        print(f'never checked: {", ".join(unchecked)}; run more worlds')
    bad = sum(len(found) for found in broken.values())
    print(f'promises: worlds={len(seeds)} guests={sums[0]} refused={sums[1]} passes={sums[2]} '
          f'checks={checked.total()} broken={bad} unchecked={len(unchecked)} seconds={time.monotonic() - began:.0f} '
          f'seed={seeds[0]}')
    return 1 if bad or (unchecked and options.only is None) else 0


if __name__ == '__main__':
    sys.exit(main())
