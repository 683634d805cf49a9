# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests that share pages, and the most of them that fit: a part of benchmarks/pack. All amounts are MB (MiB)."""
from __future__ import annotations

import dataclasses
import math
import random
import typing


@dataclasses.dataclass(frozen=True)
class Tree:
    """``parent`` (None: a root) and ``size`` of each page set; ``images`` are leaves."""

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
    """``own`` are pages that are nobody else's, ``full`` is its flavor: it uses all of it."""

    number: int
    image: int
    own: float
    full: float


@dataclasses.dataclass(frozen=True)
class Size:
    """A host, the same for all: memory and swap, of the memory what is reserved for the host itself; and what a guest
    costs it besides, and is guaranteed of its flavor (0..1)."""

    memory: float
    swap: float
    reserve: float
    overhead: float
    share: float

    @property
    def room(self) -> float:
        return self.memory - self.reserve

    def promised(self, some: list[Guest], hosts: int = 1) -> bool:
        """Whether hosts of this size can keep promises 1 and 2 to these guests; of several hosts, taken together."""
        full, over = sum(g.full for g in some), len(some) * self.overhead
        return (full * self.share + over <= hosts * self.room
                and full + over <= hosts * (self.room + self.swap))


def tree(chance: random.Random, width: int) -> Tree:
    """3 systems, each level up to ``width`` wide below; sizes are drawn evenly."""
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
    for number, image in enumerate(chance.choices(of.images, wanted, k=count)):
        own = chance.uniform(150, 900)
        made.append(Guest(number, image, own, own + sum(of.size[n] for n in of.path(image))))
    return made


def needed(of: Tree, some: list[Guest], size: Size) -> float:
    """Memory that these guests need on hosts of this size, at least.

    The guests below a page set need ``copies`` of it, where each host that has one spends the sets above it as well:
    copies * (room - set and all above) >= what is below.
    """
    own: dict[int, float] = {}
    children: dict[int | None, list[int]] = {}
    for node, parent in enumerate(of.parent):
        children.setdefault(parent, []).append(node)
    for guest in some:
        own[guest.image] = own.get(guest.image, 0.0) + guest.own + size.overhead

    def below(node: int, above: float) -> float:
        mine = of.size[node]
        inner = own.get(node, 0.0) + sum(below(child, above + mine) for child in children.get(node, ()))
        return inner + mine * math.ceil(inner / (size.room - above - mine)) if inner else 0.0

    return sum(below(root, 0.0) for root in children[None])


def promises(of: Tree, coming: list[Guest], hosts: int, size: Size) -> int:
    """How many of the first guests can be promised anything, wherever their pages are."""
    return most(len(coming), lambda count: size.promised(coming[:count], hosts))


def bound(of: Tree, coming: list[Guest], hosts: int, size: Size) -> int:
    """How many of the first guests may fit at most, under the promises and with all their pages in memory."""
    return most(promises(of, coming, hosts, size),
                lambda count: needed(of, coming[:count], size) <= hosts * size.room)


def most(high: int, fits: typing.Callable[[int], bool]) -> int:
    """The largest count up to ``high`` that fits, where fewer fit as well."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def exact(of: Tree, coming: list[Guest], hosts: int, size: Size) -> int:
    """How many of the first guests fit at best, likewise: all placements are tried, equal hosts once."""
    def place(left: list[Guest], held: list[tuple[float, frozenset[int], tuple[Guest, ...]]]) -> bool:
        if not left:
            return True
        guest, path = left[0], of.path(left[0].image)
        for number, (used, sets, here) in enumerate(held):
            if not here and number and not held[number - 1][2]:
                continue
            after = used + guest.own + size.overhead + sum(of.size[n] for n in path if n not in sets)
            if after <= size.room and size.promised([*here, guest]) and place(
                    left[1:], [*held[:number], (after, sets | set(path), (*here, guest)), *held[number + 1:]]):
                return True
        return False

    fitting = 0
    while fitting < len(coming):
        # the largest first: what cannot be placed is found out soon
        if not place(sorted(coming[:fitting + 1], key=lambda g: -g.full), [(0.0, frozenset(), ())] * hosts):
            break
        fitting += 1
    return fitting
