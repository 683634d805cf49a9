# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Per-guest reclaim to swap: what always works, for when the balloon cannot help. Never below the reservation."""
from __future__ import annotations

import typing

from ovc_plugin.decide import progress
from ovc_plugin.decide.state import Asked
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, Level, ReclaimGuest
from ovc_plugin.settings import HostSettings

_LEAST = 4 * MIB


def floor(guest: GuestSnapshot) -> int:
    """Resident bytes that a guest keeps: its reservation, and what it costs beyond its memory."""
    return guest.reservation + guest.overhead


def swappable(guest: GuestSnapshot) -> int:
    """Bytes that could be moved to swap without touching what the guest is guaranteed."""
    if not guest.can_swap or guest.resident is None:
        return 0
    return max(0, guest.resident - floor(guest))


def reclaim(snapshot: HostSnapshot, level: Level, shortage: int, asked: typing.Mapping[str, Asked],
            settings: HostSettings, now: float) -> tuple[ReclaimGuest, ...]:
    """Find ``shortage`` bytes among the guests, stuck ones first, the others in proportion to their excess.

    A guest that reads its pages back is left alone, except at CRITICAL: there every guest above its reservation
    gives, because the alternative is that the kernel picks a page, or a guest, itself.
    """
    shortage = min(shortage, snapshot.swap_free)
    spare = {g: s for g in snapshot.running if (s := swappable(g)) >= _LEAST and _calm(g, level, settings)}
    stuck = {g: s for g, s in spare.items() if progress.stuck(g.actual, asked.get(g.uuid), settings, now)}
    actions: list[ReclaimGuest] = []
    for group in (stuck, {g: s for g, s in spare.items() if g not in stuck}):
        actions += _share(group, shortage - sum(a.amount for a in actions), level, shortage, settings)
    return tuple(actions)


def _calm(guest: GuestSnapshot, level: Level, settings: HostSettings) -> bool:
    return level >= Level.CRITICAL or guest.refaults is None or guest.refaults <= settings.refault_limit


def _share(guests: dict[GuestSnapshot, int], wanted: int, level: Level, shortage: int,
           settings: HostSettings) -> list[ReclaimGuest]:
    total = sum(s / g.weight for g, s in guests.items())
    actions: list[ReclaimGuest] = []
    left = wanted
    # Those with most to spare first: shares too small to be worth an action fall together on them.
    for guest, spare in sorted(guests.items(), key=lambda one: -one[1] / one[0].weight):
        if left <= 0:
            break
        share = max(int(wanted * spare / guest.weight / total) + 1, _LEAST)
        amount = min(share, spare, settings.swap_step)
        if guest.resident is not None:
            left -= amount
            actions.append(ReclaimGuest(
                guest=guest.uuid, amount=amount, floor=floor(guest),
                reason=f'level {level.name}, {shortage // MIB} MB short after ballooning: {guest.name} has '
                       f'{guest.resident // MIB} MB resident > {floor(guest) // MIB} MB guaranteed'))
    return actions
