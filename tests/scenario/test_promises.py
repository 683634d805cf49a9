# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The promises that one host makes, over modelled worlds: guests with manners, a kernel that swaps, and time."""
from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, HostSnapshot, Level, ReclaimGuest, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest

OPTIONS = HostSettings(ksm='leave', dwell=10)
TICK = 5.0
OVERHEAD = 16 * MIB
MANNERS = ('willing', 'stuck', 'silent', 'untouchable', 'no balloon')


@dataclasses.dataclass
class Guest:
    """A modelled guest: it uses ``used`` bytes, of which ``swapped`` are out, and answers its balloon by its manner."""

    name: str
    maximum: int
    reservation: int
    used: int
    manner: str
    size: int = 0
    target: int = 0
    swapped: int = 0

    def __post_init__(self):
        self.size = self.target = self.maximum

    def tick(self):
        if self.manner == 'willing':
            step = 256 * MIB
            self.size += max(-step, min(step, self.target - self.size))

    @property
    def resident(self):
        return min(self.used, self.size) - self.swapped

    def snapshot(self):
        spoke = self.manner != 'silent'
        return a_guest(
            self.name, maximum=self.maximum, reservation=self.reservation, overhead=OVERHEAD, target=self.target,
            actual=self.size, usable=max(0, self.size - self.used) if spoke else None,
            stats_age=1.0 if spoke else None, resident=self.resident + OVERHEAD, swapped=self.swapped,
            can_balloon=self.manner not in ('untouchable', 'no balloon'), can_swap=self.manner != 'untouchable',
            can_share=False, untouchable='test' if self.manner == 'untouchable' else None)


class World:
    def __repr__(self):
        return f'World({self.guests}, total={self.total}, swap={self.swap})'

    def __init__(self, guests, total, swap):
        self.guests, self.total, self.swap = guests, total, swap
        self.state, self.now, self.history = LadderState(), NOW, []

    def snapshot(self):
        free = self.swap - sum(g.swapped for g in self.guests)
        return HostSnapshot(
            host='h', taken_at=self.now, total=self.total, reserve=0, swap_total=self.swap, swap_free=free,
            available=max(0, self.total - sum(g.resident + OVERHEAD for g in self.guests)),
            guests=tuple(g.snapshot() for g in self.guests))

    def step(self):
        before = self.snapshot()
        plan, self.state = decide_host(before, self.state, OPTIONS, self.now)
        self.history.append((before, plan))
        by_uuid = {f'uuid-{g.name}': g for g in self.guests}
        for action in plan.actions:
            guest = by_uuid[action.guest]
            if isinstance(action, SetBalloon):
                guest.target = action.target
            elif isinstance(action, ReclaimGuest):
                guest.swapped += min(action.amount, max(0, guest.resident + OVERHEAD - action.floor))
        for guest in self.guests:
            guest.tick()
        self.now += TICK
        return plan


@st.composite
def worlds(draw):
    guests = []
    for number in range(draw(st.integers(1, 12))):
        maximum = draw(st.integers(2, 64)) * 64 * MIB
        guests.append(Guest(
            name=f'g{number}', maximum=maximum, reservation=maximum * draw(st.integers(0, 100)) // 100,
            used=maximum * draw(st.integers(10, 100)) // 100, manner=draw(st.sampled_from(MANNERS))))
    total = draw(st.integers(20, 130)) * sum(g.maximum for g in guests) // 100
    return World(guests, total, draw(st.integers(0, 2)) * sum(g.maximum for g in guests) // 2)


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_no_guest_is_asked_or_swapped_below_what_it_is_owed(world):
    """Promises 3 (floor), 6 (unknown holds) and 7 (untouchables), at every step of every world."""
    for _ in range(30):
        before = world.snapshot()
        plan = world.step()
        known = {g.uuid: g for g in before.guests}
        for action in plan.actions:
            guest = known[action.guest]
            assert guest.untouchable is None
            if isinstance(action, SetBalloon):
                assert guest.reservation <= action.target <= guest.maximum
                if action.target < action.previous:
                    assert guest.usable is not None
                    need = guest.actual - guest.usable
                    cushion = OPTIONS.cushion * guest.maximum if plan.level < Level.HARD else 0
                    assert action.target >= min(guest.maximum, need + cushion)
            else:
                assert action.floor >= guest.reservation + OVERHEAD
                assert guest.resident - action.amount >= guest.reservation + OVERHEAD


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_memory_is_given_only_once_the_host_has_seen_it_free(world):
    """Promise 5: what all guests are given in one pass was available before that pass."""
    for _ in range(30):
        before = world.snapshot()
        plan = world.step()
        given = sum(a.target - a.previous for a in plan.actions
                    if isinstance(a, SetBalloon) and a.target > a.previous)
        assert given <= before.available


@given(worlds())
@settings(max_examples=100, deadline=None)
def test_a_constant_load_settles(world):
    """Promise 10: after settling, at most one target change per guest and no swapping back and forth.

    A shortage that ballooning does not end is ballooned in the smallest steps, one in two passes: so long it may take.
    """
    for _ in range(120 + 2 * max(g.maximum for g in world.guests) // (8 * MIB)):
        world.step()
    changes: dict[str, int] = {}
    for _ in range(60):
        for action in world.step().actions:
            if isinstance(action, SetBalloon):
                changes[action.guest] = changes.get(action.guest, 0) + 1
    assert all(count <= 1 for count in changes.values()), changes


@given(worlds())
@settings(max_examples=100, deadline=None)
def test_a_host_with_enough_swap_comes_back_from_its_shortage(world):
    """Where what guests may give by swap covers the shortage, the level ends at SOFT or better."""
    world.swap = 2 * sum(g.maximum for g in world.guests)
    firm = sum(g.used if g.manner == 'untouchable' else min(g.used, g.reservation) for g in world.guests)
    world.total = max(world.total, int((firm + 64 * MIB * len(world.guests)) * 1.2) + GIB // 4)
    for _ in range(120):
        plan = world.step()
    assert plan.level <= Level.SOFT
