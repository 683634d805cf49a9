# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How many guests that share pages fit on a cloud: placed by ours, blindly, without sharing, and at the very best."""
from __future__ import annotations

import argparse
import dataclasses
import math
import random
import statistics
import sys
import time
import typing
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT)]

from ovc_plugin.decide import score, sketch  # noqa: E402

MIB = 1 << 20
PAGES = 256  # of 4 KiB in a MiB
REPORT = 900  # characters of a host's report that tell of page contents

DESCRIPTION = """\
Guests come one after the other until the first that no host takes. What a guest holds is a path in a random tree of
page sets (Sindelar, Sitaraman and Shenoy, SPAA 2011): operating system, version, libraries, application, and pages of
its own; two guests on a host hold what their paths have in common once. Images are wanted by a Zipf law. All guests are
of one trust domain, and no page is written again. MB are MiB.

  ram       nova's RAM weigher: flavors fill the memory and no more; the host with most free
  best fit  the same, the host with least free that takes it
  blind     hosts with measured room (what is left after merging takes the guest at its full size), most room first
  ovc       the same hosts, by our weighers: affinity times --affinity, plus headroom. Affinity is estimated from
            sketches of page hashes, which schedulers learn from the hosts' reports only; the first guest of an image is
            placed knowing nothing of it
  all-knowing  the same with the true overlap in place of the sketches
  bound     no placement of the same guests can be better: for each page set, the copies that its guests need at least

In --small clouds, where all placements can be tried (two hosts of some eight guests), the exact best is found as well:
it shows how near the bound is to what is possible. There ours loses more: a guest is let in where there is room for all
of it, though it needs less once merged, and of few guests that one is a large part.

Exit status 0: over all seeds ours places at least 17 % more guests than both that do not share, and is within 10 % of
the bound. 1: the last lines say which fails.
"""


@dataclasses.dataclass(frozen=True)
class Tree:
    """``parent`` (None: a root) and ``size`` in MB of each page set; ``images`` are leaves."""

    parent: list[int | None]
    size: list[float]
    images: list[int]

    def path(self, image: int) -> list[int]:
        found, node = [], image
        while node is not None:
            found.append(node)
            node = self.parent[node]
        return found


@dataclasses.dataclass(frozen=True)
class Guest:
    image: int
    own: float    # MB that are nobody else's
    full: float   # MB in all


def tree(chance: random.Random, width: int) -> Tree:
    """3 systems, each level up to ``width`` wide below; sizes in MB are drawn evenly."""
    found = Tree([], [], [])

    def grow(parent: int | None, count: int, levels: list[tuple[float, float]]) -> None:
        for _ in range(count):
            found.parent.append(parent)
            found.size.append(chance.uniform(*levels[0]))
            node = len(found.size) - 1
            if len(levels) == 1:
                found.images.append(node)
            else:
                grow(node, chance.randint(2, width), levels[1:])

    grow(None, 3, [(100, 250), (80, 200), (60, 200), (50, 250)])
    return found


def guests(chance: random.Random, of: Tree, count: int) -> list[Guest]:
    wanted = [1 / rank ** 0.8 for rank in range(1, len(of.images) + 1)]
    chance.shuffle(wanted)
    made = []
    for image in chance.choices(of.images, wanted, k=count):
        own = chance.uniform(150, 900)
        made.append(Guest(image, own, own + sum(of.size[n] for n in of.path(image))))
    return made


class Host:
    """``used`` MB after merging, ``promised`` MB of flavors."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sets: set[int] = set()
        self.images: set[str] = set()
        self.used = self.promised = 0.0
        self.guests = 0

    def more(self, guest: Guest, of: Tree) -> float:
        """MB by which this guest would make the host fuller, once merged."""
        return guest.own + sum(of.size[n] for n in of.path(guest.image) if n not in self.sets)

    def add(self, guest: Guest, of: Tree) -> None:
        self.used += self.more(guest, of)
        self.promised += guest.full
        self.sets.update(of.path(guest.image))
        self.images.add(name(guest.image))
        self.guests += 1


def name(image: int) -> str:
    return sketch.image_name('tenant', f'image {image}')


def smallest(dice: np.random.Generator, pages: float, kept: int) -> list[int]:
    """The smallest of that many evenly spread hashes, without drawing all of them."""
    steps = np.cumsum(dice.exponential(size=min(kept, max(1, int(pages)))))
    return [int(s / (pages + 1) * sketch.SPACE) for s in steps if s < pages + 1]


class Sampled:
    """Sketches of guests: those of a page set are the same in all of them."""

    def __init__(self, of: Tree, seed: int) -> None:
        self._dice = np.random.default_rng(seed)
        self._of = of
        self._sets = [smallest(self._dice, size * PAGES, sketch.KEPT + 1) for size in of.size]

    def guest(self, guest: Guest) -> sketch.Sketch:
        hashes = smallest(self._dice, guest.own * PAGES, sketch.KEPT + 1)
        for node in self._of.path(guest.image):
            hashes += self._sets[node]
        return sketch.of(hashes)


Pick = typing.Callable[[list[Host], Guest], Host | None]


class Ours:
    """What the scheduler does with what hosts report: a host tells names, and a few sketches at a time."""

    def __init__(self, of: Tree, memory: float, weight: float, seed: int) -> None:
        self._of, self._memory, self._weight = of, memory, weight
        self._sampled, self._book = Sampled(of, seed), sketch.Book()
        self._told: dict[int, dict[str, sketch.Sketch]] = {}
        self._turn = 0

    def __call__(self, hosts: list[Host], guest: Guest) -> Host | None:
        fitting = [h for h in hosts if h.used + guest.full <= self._memory]
        if not fitting:
            return None
        best = max(fitting, key=lambda h: self._votes(h, guest))
        self._report(best, guest)
        return best

    def _votes(self, host: Host, guest: Guest) -> float:
        affinity = self._book.expected(name(guest.image), self._book.there(frozenset(host.images))) or 0.0
        room = self._memory - host.used - guest.full
        return self._weight * affinity + score.headroom(room * MIB, int(guest.full * MIB))

    def _report(self, host: Host, guest: Guest) -> None:
        """The guest has started: from now on its host tells of its image, through the text of its report."""
        told = self._told.setdefault(host.number, {})
        told.setdefault(name(guest.image), self._sampled.guest(guest))
        self._turn += 1
        contents = sketch.Contents(images=frozenset(host.images | told.keys()), sketches=told)
        self._book.learn(sketch.decode(sketch.encode(contents, REPORT, self._turn)))


def pickers(of: Tree, memory: float, weight: float, seed: int) -> dict[str, Pick]:
    def plain(hosts: list[Host], guest: Guest) -> list[Host]:
        return [h for h in hosts if h.promised + guest.full <= memory]

    def knowing(hosts: list[Host], guest: Guest) -> Host | None:
        return max((h for h in hosts if h.used + guest.full <= memory), default=None, key=lambda h: weight * (
            1 - h.more(guest, of) / guest.full) + score.headroom(
                (memory - h.used - guest.full) * MIB, int(guest.full * MIB)))

    return {
        'ram': lambda hosts, g: min(plain(hosts, g), default=None, key=lambda h: h.promised),
        'best fit': lambda hosts, g: max(plain(hosts, g), default=None, key=lambda h: h.promised),
        'blind': lambda hosts, g: min((h for h in hosts if h.used + g.full <= memory), default=None,
                                      key=lambda h: h.used),
        'ovc': Ours(of, memory, weight, seed), 'all-knowing': knowing}


def fill(of: Tree, coming: list[Guest], count: int, pick: Pick) -> list[Host]:
    """Guests until the first that nobody takes."""
    hosts = [Host(number) for number in range(count)]
    for guest in coming:
        host = pick(hosts, guest)
        if host is None:
            return hosts
        host.add(guest, of)
    raise SystemExit('pack: all guests fit: fewer --hosts, please')


def needed(of: Tree, some: list[Guest], memory: float) -> float:
    """Memory in MB that these guests need on hosts of ``memory`` MB, at least.

    The guests below a page set need ``copies`` of it, where each host that has one spends the sets above it as well:
    copies * (memory - set and all above) >= what is below.
    """
    own: dict[int, float] = {}
    children: dict[int | None, list[int]] = {}
    for node, parent in enumerate(of.parent):
        children.setdefault(parent, []).append(node)
    for guest in some:
        own[guest.image] = own.get(guest.image, 0.0) + guest.own

    def below(node: int, above: float) -> float:
        size = of.size[node]
        inner = own.get(node, 0.0) + sum(below(child, above + size) for child in children.get(node, ()))
        return inner + size * math.ceil(inner / (memory - above - size)) if inner else 0.0

    return sum(below(root, 0.0) for root in children[None])


def bound(of: Tree, coming: list[Guest], count: int, memory: float) -> int:
    """How many of the first guests may fit at most."""
    low, high = 0, len(coming)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(of, coming[:middle], memory) <= count * memory else (low, middle - 1)
    return low


def exact(of: Tree, coming: list[Guest], count: int, memory: float) -> int:
    """How many of the first guests fit at best: all placements are tried, equal hosts once."""
    def place(left: list[Guest], held: list[tuple[float, frozenset[int]]]) -> bool:
        if not left:
            return True
        guest, path = left[0], of.path(left[0].image)
        for number, (used, sets) in enumerate(held):
            if (used, sets) in held[:number]:
                continue
            after = used + guest.own + sum(of.size[n] for n in path if n not in sets)
            if after <= memory and place(left[1:], [*held[:number], (after, sets | set(path)), *held[number + 1:]]):
                return True
        return False

    fitting = 0
    while fitting < len(coming):
        # the largest first: what cannot be placed is found out soon
        if not place(sorted(coming[:fitting + 1], key=lambda g: -g.full), [(0.0, frozenset())] * count):
            break
        fitting += 1
    return fitting


def large(options: argparse.Namespace) -> dict[str, list[float]]:
    """Guests placed, and mean MB used of each guest, by policy, over the seeds."""
    found: dict[str, list[float]] = {}
    for seed in range(options.seed, options.seed + options.seeds):
        chance = random.Random(f'pack {seed}')
        of = tree(chance, options.width)
        coming = guests(chance, of, options.hosts * int(options.memory) // 150)
        for label, pick in pickers(of, options.memory, options.affinity, seed).items():
            hosts = fill(of, coming, options.hosts, pick)
            count = sum(h.guests for h in hosts)
            found.setdefault(label, []).append(count)
            found.setdefault(f'{label} MB', []).append(sum(h.used for h in hosts) / count)
            found.setdefault(f'{label} hosts', []).append(sum(h.guests > 0 for h in hosts))
        found.setdefault('bound', []).append(bound(of, coming, options.hosts, options.memory))
    return found


def small(options: argparse.Namespace) -> dict[str, int]:
    """Guests placed by ours, at best, and by the bound, in clouds of two hosts of some eight guests."""
    found = {'ours': 0, 'exact': 0, 'bound': 0}
    for seed in range(options.seed, options.seed + options.small):
        chance = random.Random(f'pack small {seed}')
        of = tree(chance, 2)
        coming = guests(chance, of, 80)
        memory = 8.0 * statistics.fmean(g.full for g in coming)
        pick = pickers(of, memory, options.affinity, seed)['ovc']
        found['ours'] += sum(h.guests for h in fill(of, coming, 2, pick))
        found['exact'] += exact(of, coming, 2, memory)
        found['bound'] += bound(of, coming, 2, memory)
    return found


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/pack', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for label, value, help in (('seed', 1, 'first seed'), ('seeds', 5, 'how many seeds'), ('hosts', 10, 'hosts'),
                               ('memory', 65536, 'MB of a host'), ('width', 3, 'most children of a page set'),
                               ('small', 6, 'small clouds')):
        top.add_argument(f'--{label}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--affinity', type=float, default=1.0, help='weight of affinity against headroom (default 1)')
    return top


def main() -> int:
    options = parser().parse_args()
    began = time.monotonic()
    found = large(options)
    total = {label: sum(values) for label, values in found.items()}
    print(f'{options.seeds} clouds of {options.hosts} hosts of {options.memory} MB, seeds from {options.seed}\n')
    print(f'{"":<13}{"guests":>8}{"hosts used":>12}{"MB a guest":>12}{"of the bound":>14}{"against best fit":>18}')
    for label in ('ram', 'best fit', 'blind', 'ovc', 'all-knowing', 'bound'):
        cells = [f'{total[f"{label} hosts"]:>12.0f}{statistics.fmean(found[f"{label} MB"]):>12.0f}'
                 if f'{label} MB' in found else ' ' * 24]
        print(f'{label:<13}{total[label]:>8.0f}{cells[0]}{total[label] / total["bound"]:>14.1%}'
              f'{total[label] / total["best fit"] - 1:>+18.1%}')
    few = small(options)
    print(f'\n{options.small} small clouds: ours places {few["ours"]} guests, the exact best is {few["exact"]}, the '
          f'bound {few["bound"]}')
    more = total['ovc'] / max(total['ram'], total['best fit']) - 1
    reached = total['ovc'] / total['bound']
    failed = [text for text, fails in (
        (f'only {more:.1%} more guests than without sharing', more < 0.17),
        (f'only {reached:.1%} of the bound', reached < 0.9)) if fails]
    for text in failed:
        print(text)
    small_figures = f'small_of_exact={few["ours"] / max(1, few["exact"]):.3f} '
    small_figures += f'small_exact_of_bound={few["exact"] / max(1, few["bound"]):.3f}'
    print(f'pack: seeds={options.seeds} guests={total["ovc"]:.0f} more_than_unshared={more:.3f} '
          f'more_than_blind={total["ovc"] / total["blind"] - 1:.3f} of_bound={reached:.3f} {small_figures} '
          f'goals_failed={len(failed)} seconds={time.monotonic() - began:.0f}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
