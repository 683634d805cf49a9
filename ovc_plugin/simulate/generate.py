# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Random worlds from a seed: any mix of manners, hosts from roomy to far too small, guests that come later, guests that
others shrink, guests of which swap cannot move everything, strangers among guests that share, and restarts of the
controller."""
from __future__ import annotations

import dataclasses
import random
import typing

from ovc_plugin.model import MIB
from ovc_plugin.settings import HostSettings
from ovc_plugin.simulate.guest import PAGE
from ovc_plugin.simulate.habit import Habit
from ovc_plugin.simulate.kernel import Machine
from ovc_plugin.simulate.manners import CONSTANT, MANNERS, guest
from ovc_plugin.simulate.world import Restart

GIB = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that makes one world. ``constant``: no guest's wants ever change, and nobody arrives later."""

    seed: str
    machine: Machine
    habits: tuple[Habit, ...]
    settings: HostSettings
    ticks: int
    constant: bool
    restarts: tuple[Restart, ...]

    @property
    def seconds(self) -> float:
        return self.ticks * self.settings.tick


def recipe(seed: int | str, guests: int = 50, ticks: int = 500) -> Recipe:
    """A world of up to that many guests and passes; half of the worlds are constant.

    Most worlds have swap for what memory cannot hold, because without it nobody is overcommitted and nothing happens.
    """
    chance = random.Random(f'promises {seed}')
    constant = chance.random() < 0.5
    count = chance.randint(1, guests)
    length = ticks if constant else chance.randint(min(20, ticks), ticks)
    settings = HostSettings(
        dry_run=False, ksm=chance.choice(('auto', 'auto', 'auto', 'leave')),
        level_scale=chance.choice((0.5, 1.0, 1.0, 3.0)), balloon_step=chance.choice((0.05, 0.1, 0.3)),
        dwell=chance.choice((0.0, 15.0, 60.0)))
    # Most worlds know a few manners only: pure ones show what a mixture hides.
    known = chance.sample(CONSTANT if constant else tuple(MANNERS), chance.randint(1, 5))
    if chance.random() < 0.15:  # in others, guests that could share seldom meet without one that forbids it
        known = ['alike', 'ideal'] if constant else ['alike', 'writing', 'ideal']
    domains = chance.choice((('blue',), ('blue',), ('blue', 'blue', 'blue', 'red')))
    habits = tuple(_habit(chance, f'g{number}', known, domains, length * settings.tick, constant)
                   for number in range(count))
    most = sum(h.maximum + h.overhead for h in habits)
    machine = Machine(total=GIB + int(most * chance.uniform(0.2, 1.1)), reserve=512 * MIB,
                      swap=int(most * chance.choice((0.0, chance.uniform(0, 1), 1.0, 1.0))))
    habits = tuple(_troubled(habits, machine, random.Random(f'trouble {seed}'), length * settings.tick, constant))
    if not constant:
        habits = tuple(_estranged(habits, random.Random(f'strangers {seed}')))
    restarts = tuple(_restarts(random.Random(f'restarts {seed}'), length * settings.tick * (0.25 if constant else 1)))
    return Recipe(seed=str(seed), machine=machine, habits=habits, settings=settings, ticks=length, constant=constant,
                  restarts=restarts)


def _restarts(chance: random.Random, until: float) -> list[Restart]:
    """None in most worlds; a constant one must have settled long before its end."""
    count = chance.choice((0, 0, 0, 1, 3))
    return sorted((Restart(at=chance.uniform(0, until), seconds=chance.choice((1.0, 10.0, 60.0)),
                           kept=chance.random() < 0.75) for _ in range(count)), key=lambda one: one.at)


def _estranged(habits: tuple[Habit, ...], chance: random.Random) -> typing.Iterator[Habit]:
    """In some worlds, all that could share belong to one until the last of them comes: sharing must then be paused."""
    sharers = sorted((h for h in habits if h.alike), key=lambda h: h.arrives)
    if chance.random() < 0.6 or len(sharers) < 3 or not sharers[-1].arrives:
        yield from habits
        return
    for habit in habits:
        if not habit.alike or (habit.untouchable and not habit.arrives):
            yield dataclasses.replace(habit, alike=0)
        else:
            yield dataclasses.replace(habit, trust_domain='red' if habit is sharers[-1] else 'blue')


def _habit(chance: random.Random, name: str, known: list[str], domains: tuple[str, ...], horizon: float,
           constant: bool) -> Habit:
    manner = chance.choice(known)
    arrives = 0.0 if constant or chance.random() < 0.6 else float(int(chance.uniform(1, horizon)))
    changes: dict[str, typing.Any] = {} if constant else {'stirs': chance.uniform(0, 0.001)}
    if manner == 'opted out' and arrives:
        changes['alike'] = 0  # such guests are started without mergeable memory
    return guest(manner, name, chance, horizon, trust_domain=chance.choice(domains), arrives=arrives,
                 maximum=chance.choice((256, 512, 1024, 2048, 4096, 8192)) * MIB,
                 **{'stirs': 0.0} | changes)


def _troubled(habits: tuple[Habit, ...], machine: Machine, chance: random.Random, horizon: float,
              constant: bool) -> typing.Iterator[Habit]:
    """In some worlds, some guests whose balloon others have set, before the controller came or later; in some, guests
    of which swap cannot move everything, though nothing tells the host so.

    These are no more than what half of the memory holds: what cannot be moved must be in memory (promise 2 counts swap
    for it), and no rule could save a host of which all is held so.
    """
    meddled, held = (chance.choice((0.0, 0.0, 0.0, 0.1, 0.4, 1.0)) for _ in range(2))
    room = (machine.total - machine.reserve) // 2 - sum(h.maximum + h.overhead for h in habits if h.untouchable)
    for habit in habits:
        changes: dict[str, typing.Any] = {}
        if habit.has_balloon and not habit.untouchable and chance.random() < meddled:
            sizes = [int(chance.uniform(*chance.choice(((0.1 * habit.reservation, habit.reservation),) * 3 + (
                (habit.reservation, habit.maximum),)))) // PAGE * PAGE for _ in range(2)]
            when = chance.choice(('before', 'later', 'both'))
            if when != 'later' and not habit.arrives:
                changes['starts_at'] = sizes[0]
            if when != 'before':  # a constant world must have settled long before its end
                changes |= {'meddled_to': sizes[1], 'meddled_at': chance.uniform(
                    habit.arrives, 0.25 * horizon if constant else horizon)}
        most = habit.maximum + habit.overhead
        if not habit.untouchable and chance.random() < held and most <= room:
            room -= most
            changes |= chance.choice(({'locked': True}, {'swaps': chance.uniform(0.0, 0.9)},
                                      {'swap_limit': int(habit.maximum * chance.uniform(0.0, 0.5))}))
        yield dataclasses.replace(habit, **changes) if changes else habit
