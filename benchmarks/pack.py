# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How many guests that share pages fit on a cloud: placed by ours, blindly, without sharing, and at the very best."""
from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'benchmarks')]

import pack_cloud  # noqa: E402
import pack_world  # noqa: E402

from benchmarks import arguments  # noqa: E402
from ovc_plugin.model import MIB  # noqa: E402
from ovc_plugin.settings import HostSettings, SchedulerSettings, Settings, SharedSettings  # noqa: E402

DESCRIPTION = """\
Guests come one after the other until the first that no host takes. What a guest holds is a path in a random tree of
page sets (Sindelar, Sitaraman and Shenoy, SPAA 2011): operating system, version, libraries, application, and pages of
its own; two guests on a host hold what their paths have in common once. Images are wanted by a Zipf law. All guests are
of one trust domain and busy: they use all of their memory, and none of it is idle. MB are MiB.

All hosts have the same memory, swap and reserve, and all policies keep the same promises: what guests are guaranteed is
within memory, and what they may touch within memory and swap, neither counting on page sharing. All admit by the
product's own rule (decide.placement.fits) over the product's own reports.

  ram       without sharing: nothing is merged, and nothing credited for it; the guest goes to the host least filled
  best fit  the same, to the host most filled that takes it
  blind     hosts that share, by our weigher without the vote for sharing
  ovc       the same hosts, by our weigher as it is. What it knows of page contents is what the hosts' reports tell:
            the kernel's count for images of which two guests are there, sketches for all others
  all-knowing  the same with the true overlap in place of what is told
  bound     no placement of the same guests can be better: for each page set, the copies that its guests need at least;
            and the promises

There are two tables. In the first every page is to be in memory, as in the work that our goals are taken from (Memory
Buddies, 2009): swap only backs the promises ([ovc_host] swap = false), since of a busy guest it would be read back at
once. In the second all is as installed: even busy guests are swapped, down to their reservations, to let others in.
There it is the promises, which count nothing on sharing, that can end it first; they are the last line of that table,
and what sharing does beyond is to keep memory out of swap.

In --small clouds, where all placements can be tried (two hosts of some eight guests), the exact best is found as well.

Exit status 0: in the first table, over all seeds, ours places at least 17 % more guests than both that do not share, is
within 10 % of the bound, and in the small clouds within 10 % of the exact best. 1: the last lines say which fails.
"""


def settings(options: argparse.Namespace, *, swapping: bool) -> Settings:
    return Settings(shared=SharedSettings(default_overhead=options.overhead * MIB),
                    host=HostSettings(dry_run=False, swap=swapping), scheduler=SchedulerSettings(dry_run=False))


def cloud(options: argparse.Namespace, of: pack_world.Tree, size: pack_world.Size, seed: int, *,
          swapping: bool = False) -> pack_cloud.Cloud:
    return pack_cloud.Cloud(of=of, size=size, pages=pack_cloud.Pages(of, seed), merges=True,
                            hourly=options.written / 100, settings=settings(options, swapping=swapping))


def size_of(options: argparse.Namespace) -> pack_world.Size:
    return pack_world.Size(memory=options.memory, swap=options.swap, reserve=options.reserve,
                           overhead=options.overhead, share=options.reservation / 100)


def large(options: argparse.Namespace, *, swapping: bool) -> dict[str, list[float]]:
    """By policy, over the seeds: guests placed, hosts used, and MB used and in swap in all; and the bound."""
    found: dict[str, list[float]] = {}
    for seed in range(options.seed, options.seed + options.seeds):
        chance = random.Random(f'pack {seed}')
        of, size = pack_world.tree(chance, options.width), size_of(options)
        coming = pack_world.guests(chance, of, int(options.hosts * (size.memory + size.swap) // 150))
        policies = pack_cloud.policies(cloud(options, of, size, seed, swapping=swapping), options.affinity)
        for label, policy in policies.items():
            hosts = pack_cloud.fill(coming, options.hosts, policy)
            assert all(size.promised(list(h.guests.values())) for h in hosts), f'{label} broke a promise'
            for what, figure in (('', sum(len(h.guests) for h in hosts)),
                                 (' hosts', sum(bool(h.guests) for h in hosts)),
                                 (' MB', sum(h.used for h in hosts)), (' swapped', sum(h.swapped for h in hosts))):
                found.setdefault(label + what, []).append(figure)
        most = pack_world.promises if swapping else pack_world.bound
        found.setdefault('bound', []).append(most(of, coming, options.hosts, size))
    return found


def small(options: argparse.Namespace) -> dict[str, list[int]]:
    """Guests placed by ours, with the true overlap, at best, and by the bound, in each of the clouds of two hosts of
    some eight guests."""
    found: dict[str, list[int]] = {'ovc': [], 'all-knowing': [], 'exact': [], 'bound': []}
    for seed in range(options.seed, options.seed + options.small):
        chance = random.Random(f'pack small {seed}')
        of = pack_world.tree(chance, 2)
        coming = pack_world.guests(chance, of, 80)
        room = 8.0 * (statistics.fmean(g.full for g in coming) + options.overhead)
        size = dataclasses.replace(size_of(options), memory=room + options.reserve,
                                   swap=options.swap / options.memory * room)
        policies = pack_cloud.policies(cloud(options, of, size, seed), options.affinity)
        for label in ('ovc', 'all-knowing'):
            found[label].append(sum(len(h.guests) for h in pack_cloud.fill(coming, 2, policies[label])))
        found['exact'].append(pack_world.exact(of, coming, 2, size))
        found['bound'].append(pack_world.bound(of, coming, 2, size))
    return found


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/pack', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = SharedSettings()
    for label, value, least, help in (
            ('seeds', 5, 1, 'how many seeds'), ('hosts', 10, 1, 'hosts'), ('memory', 65536, 1024, 'MB of a host'),
            ('swap', 65536, 0, 'MB of swap of a host'), ('reserve', 512, 0, 'MB of a host that are for itself'),
            ('overhead', shared.default_overhead // MIB, 0, 'MB that each guest costs its host besides'),
            ('reservation', int(shared.default_reservation.rstrip('%')), 0,
             'percent of its memory a guest is guaranteed'),
            ('written', 10, 0, 'percent of the merged memory that guests write in an hour, and is merged again'),
            ('width', 3, 2, 'most children of a page set'), ('small', 60, 0, 'small clouds')):
        top.add_argument(f'--{label}', type=arguments.number(int, least), default=value,
                         help=f'{help} (default {value})')
    top.add_argument('--seed', type=int, default=1, help='first seed (default 1)')
    strength = SchedulerSettings().sharing_affinity_weight_multiplier
    top.add_argument('--affinity', type=float, default=strength,
                     help=f'strength of the vote for sharing (default {strength:g}, the product\'s)')
    return top


def show(found: dict[str, list[float]], bound: str) -> dict[str, float]:
    """Print a table; the sums over the seeds. ``bound``: what its last line is called."""
    total = {label: sum(values) for label, values in found.items()}
    print(f'{"":<13}{"guests":>8}{"hosts used":>12}{"MB a guest":>12}{"MB in swap":>12}{f"of the {bound}":>16}'
          f'{"against ram":>13}')
    for label in ('ram', 'best fit', 'blind', 'ovc', 'all-knowing', 'bound'):
        cells = ' ' * 36
        if f'{label} MB' in total:
            cells = (f'{total[f"{label} hosts"]:>12.0f}{total[f"{label} MB"] / total[label]:>12.0f}'
                     f'{total[f"{label} swapped"]:>12.0f}')
        print(f'{bound if label == "bound" else label:<13}{total[label]:>8.0f}{cells}'
              f'{total[label] / total["bound"]:>16.1%}'
              f'{total[label] / total["ram"] - 1:>+13.1%}')
    return total


def more(total: dict[str, float]) -> float:
    return total['ovc'] / max(total['ram'], total['best fit']) - 1


def main() -> int:
    options = parser().parse_args()
    began = time.monotonic()
    print(f'{options.seeds} clouds of {options.hosts} hosts of {options.memory} MB and {options.swap} MB of swap, '
          f'seeds from {options.seed}; guests are guaranteed {options.reservation} %\n\nEvery page in memory:')
    total = show(large(options, swapping=False), 'bound')
    print('\nAs installed, busy guests swapped down to their reservations:')
    installed = show(large(options, swapping=True), 'promises')
    each = small(options)
    few = {label: sum(placed) for label, placed in each.items()}
    print(f'\n{options.small} small clouds: ours places {few["ovc"]} guests ({few["all-knowing"]} with the true '
          f'overlap), the exact best is {few["exact"]}, the bound {few["bound"]}')
    if options.small > 1:
        parts = [ours / best for ours, best in zip(each['ovc'], each['exact'], strict=True)]
        print(f'Of the exact best that is {statistics.fmean(parts):.1%} in a cloud, from {min(parts):.0%} to '
              f'{max(parts):.0%}; a mean of so many has a standard error of '
              f'{statistics.stdev(parts) / len(parts) ** 0.5:.1%}')
    blind, reached = total['ovc'] / total['blind'] - 1, total['ovc'] / total['bound']
    of_exact = few['ovc'] / max(1, few['exact'])
    plain = total['blind'] / max(total['ram'], total['best fit']) - 1
    print(f'Of the {more(total):+.1%} against no sharing, {plain:+.1%} come from sharing wherever guests are; choosing '
          f'the host by what it would share adds {blind:+.1%} to that.')
    print(f'As installed sharing adds {more(installed):+.1%} guests, and choosing the host '
          f'{installed["ovc"] / installed["blind"] - 1:+.1%}; a guest then has '
          f'{installed["ram swapped"] / installed["ram"]:.0f} MB in swap without sharing, '
          f'{installed["blind swapped"] / installed["blind"]:.0f} MB with it, '
          f'{installed["ovc swapped"] / installed["ovc"]:.0f} MB with the host chosen.')
    failed = [text for text, fails in (
        (f'only {more(total):.1%} more guests than without sharing', more(total) < 0.17),
        (f'only {reached:.1%} of the bound', reached < 0.9),
        (f'in small clouds only {of_exact:.1%} of the exact best: {few["all-knowing"] - few["ovc"]} guests fewer for '
         f'what reports do not tell of contents, and {few["exact"] - few["all-knowing"]} for not knowing who comes '
         'next and letting each in only where there is room for it before it is merged',
         options.small and of_exact < 0.9)) if fails]
    for text in failed:
        print(text)
    print(f'pack: seeds={options.seeds} guests={total["ovc"]:.0f} more_than_unshared={more(total):.3f} '
          f'more_than_blind={blind:.3f} of_bound={reached:.3f} small_of_exact={of_exact:.3f} '
          f'small_exact_of_bound={few["exact"] / max(1, few["bound"]):.3f} '
          f'installed_more_than_unshared={more(installed):.3f} '
          f'installed_swapped_mb={installed["ovc swapped"]:.0f}/{installed["ram swapped"]:.0f} '
          f'goals_failed={len(failed)} seconds={time.monotonic() - began:.0f}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
