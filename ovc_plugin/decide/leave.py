# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Giving guests back what was ballooned away from them, when nobody will look after the host any more.

Only what is free is handed out (promise 5), and the host keeps its minimum: what guests then still lack has to come
from guests that leave, from more memory, or, where the operator says so, from swap.
"""
from __future__ import annotations

import dataclasses

from ovc_plugin.decide import giving, pressure
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, SetBalloon
from ovc_plugin.settings import HostSettings

_PAGE = MIB  # targets are whole MiB, as libvirt and QEMU round


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GivingBack:
    """``actions`` to take, of ``room`` bytes that may be handed out; ``lacking`` is what guests lack in all before."""

    actions: tuple[SetBalloon, ...]
    room: int
    lacking: int

    @property
    def given(self) -> int:
        return sum(action.target - action.previous for action in self.actions)

    @property
    def missing(self) -> int:
        """What guests lack and the host has no room for."""
        return self.lacking - self.given


def lack(guest: GuestSnapshot) -> int:
    """Bytes that a running guest is short of its full size; of one that says nothing of its size, none are known."""
    if not guest.running or guest.actual is None:
        return 0
    size = min(guest.actual, guest.target) if guest.target is not None else guest.actual
    short = guest.maximum - size
    return short if short >= _PAGE else 0


def room(snapshot: HostSnapshot, settings: HostSettings) -> int:
    """Bytes that may be handed out: what is available beyond the minimum and the reserve."""
    keep = max(pressure.minimum(snapshot.total, settings.level_scale), snapshot.reserve)
    return max(0, snapshot.available - keep)


def give_back(snapshot: HostSnapshot, settings: HostSettings, handed: int = 0, *,
              into_swap: bool = False) -> GivingBack:
    """Targets towards the maximum: first the whole reservation for whom that can be, the one that lacks least of it
    first, as while the host is looked after; then for all others in proportion to what they lack. What is too little
    for somebody's reservation is kept for it: more may come free.

    ``handed`` bytes were given already and may not be in use yet: they look free, and are not. ``into_swap`` adds the
    free swap to the room.
    """
    wanting = dict(sorted(((guest, short) for guest in snapshot.running if (short := lack(guest))), key=_first))
    lacking = sum(wanting.values())
    free = max(0, room(snapshot, settings) + (snapshot.swap_free if into_swap else 0) - handed)
    kept, owed = giving.reservations(((guest, guest.maximum - short) for guest, short in wanting.items()), free)
    # A whole MiB may be more than it lacks.
    first = {guest: min(short, kept.get(guest.uuid, 0)) for guest, short in wanting.items()}
    over = max(0, free - sum(first.values()) - owed)
    rest = {guest: short - first[guest] for guest, short in wanting.items()
            if first[guest] or guest.maximum - short >= guest.reservation}
    share = min(1.0, over / sum(rest.values())) if any(rest.values()) else 1.0
    actions = []
    for guest, left in rest.items():
        size = guest.maximum - wanting[guest]
        target = guest.maximum if share == 1.0 else size + first[guest] + int(left * share) // _PAGE * _PAGE
        if target - size >= _PAGE:
            why = (giving.below(guest, size) if size < guest.reservation else
                   f'{guest.name} lacks {wanting[guest] // MIB} MB of its maximum')
            actions.append(SetBalloon(
                guest=guest.uuid, target=target, previous=size,
                reason=f'the host is left to itself with {free // MIB} MB of room: {why}'))
    return GivingBack(actions=tuple(actions), room=free, lacking=lacking)


def _first(one: tuple[GuestSnapshot, int]) -> tuple[bool, int]:
    """By what it lacks of its reservation, the others last: there may be time for a few only."""
    guest, short = one
    missing = guest.reservation - (guest.maximum - short)
    return missing <= 0, max(0, missing)
