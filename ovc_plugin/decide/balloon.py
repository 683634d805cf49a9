# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Balloon targets, always within [reservation, maximum].

This is the plain rule: in a shortage each guest gives in proportion to what it has beyond its need and its weight;
when the host is clear, what is over is handed back in proportion to what guests lack.
"""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide import progress
from ovc_plugin.decide.state import Asked
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, Level, SetBalloon
from ovc_plugin.settings import HostSettings

_LEAST = 2 * progress.ARRIVED  # less than this cannot be told from a guest that has arrived
_PAGE = 1 << 20  # targets are whole MiB: libvirt and QEMU round, and a rounded target must compare equal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ballooning:
    """The actions, and what they and those still under way should free."""

    actions: tuple[SetBalloon, ...]
    credit: int


def fresh(guest: GuestSnapshot, settings: HostSettings) -> bool:
    """Whether what the guest said of itself may be acted on (promise 6)."""
    return (guest.actual is not None and guest.usable is not None and guest.stats_age is not None
            and guest.stats_age <= settings.stats_max_age)


def floor(guest: GuestSnapshot, level: Level, settings: HostSettings) -> int:
    """The least target at this level (promise 3): reservation, and need; below HARD the cushion as well.

    Need is what the guest could not give up without swapping itself: actual - usable.
    """
    if guest.actual is None or guest.usable is None:
        return guest.maximum
    cushion = 0 if level >= Level.HARD else int(settings.cushion * guest.maximum)
    need = guest.actual - guest.usable + max(cushion, 16 * MIB)
    return min(guest.maximum, max(guest.reservation, need))


def givable(guest: GuestSnapshot, level: Level, settings: HostSettings) -> int:
    """Bytes that the balloon could take from a guest whose word is fresh; 0 of any other."""
    if not guest.can_balloon or not fresh(guest, settings) or guest.actual is None:
        return 0
    return max(0, guest.actual - floor(guest, level, settings))


def shrink(snapshot: HostSnapshot, level: Level, shortage: int, asked: typing.Mapping[str, Asked],
           settings: HostSettings, now: float) -> Ballooning:
    """Ask guests to give up ``shortage`` bytes, as far as they can; stuck guests are left out."""
    under_way, wanted = 0, {}
    for guest in snapshot.running:
        mine = asked.get(guest.uuid)
        if progress.stuck(guest.actual, mine, settings, now) or not guest.can_balloon:
            continue
        if owed := progress.shrinking(guest.actual, mine):
            under_way += owed
        elif not _spoke_since(guest, mine, now):
            continue  # what it said then has been taken from it already
        elif spare := givable(guest, level, settings):
            wanted[guest] = spare / guest.weight
    todo, total = shortage - under_way, sum(wanted.values())
    actions: list[SetBalloon] = []
    left = todo
    # Those with most to spare first: shares too small to be worth a change fall together on them.
    for guest, part in sorted(wanted.items(), key=lambda one: -one[1]):
        if left <= 0:
            break
        least = max(_LEAST, int(settings.dead_band * guest.maximum) + _PAGE)
        amount = min(max(int(todo * part / total) + 1, least), givable(guest, level, settings))
        if action := _shrunk(guest, amount, level, shortage, settings):
            actions.append(action)
            left -= action.previous - action.target
    return Ballooning(actions=tuple(actions), credit=under_way + sum(a.previous - a.target for a in actions))


def _spoke_since(guest: GuestSnapshot, asked: Asked | None, now: float) -> bool:
    """Whether the guest has spoken of its memory since it last moved: usable is told rarely, actual at once."""
    return asked is None or (guest.stats_age is not None and now - guest.stats_age > asked.moved_at)


def _shrunk(guest: GuestSnapshot, amount: int, level: Level, shortage: int,
            settings: HostSettings) -> SetBalloon | None:
    if guest.actual is None or guest.usable is None:
        return None
    amount = min(amount, int(settings.balloon_step * guest.maximum))
    lowest = floor(guest, level, settings)
    target = max(_up(guest.actual - amount), _up(lowest))
    if guest.actual - target < max(_LEAST, settings.dead_band * guest.maximum):
        return None
    return SetBalloon(
        guest=guest.uuid, target=target, previous=guest.actual,
        reason=f'level {level.name}, {shortage // MIB} MB short: {guest.name} can use {guest.usable // MIB} MB of '
               f'{guest.actual // MIB} MB without swapping; floor {lowest // MIB} MB')


def taking(snapshot: HostSnapshot, asked: typing.Mapping[str, Asked], settings: HostSettings, now: float) -> int:
    """Bytes that guests were given and are still taking up: they look free, and are handed out already (promise 5)."""
    return sum(max(0, mine.target - guest.actual) for guest in snapshot.running
               if guest.actual is not None and (mine := asked.get(guest.uuid)) is not None
               and now - mine.moved_at < settings.stuck_after)


def grow(snapshot: HostSnapshot, surplus: int, asked: typing.Mapping[str, Asked],
         settings: HostSettings) -> Ballooning:
    """Hand ``surplus`` bytes that are free already (promise 5) back to guests below their maximum."""
    lacking = {g: g.maximum - size for g in snapshot.running
               if g.can_balloon and (size := _size(g, asked)) is not None and g.maximum - size >= _PAGE}
    total, actions = sum(lacking.values()), []
    for guest, lack in lacking.items():
        size = guest.maximum - lack
        amount = min(int(surplus * lack / total), int(settings.balloon_step * guest.maximum), lack)
        target = min(guest.maximum, _down(size + amount)) if amount < lack else guest.maximum
        if target - size >= min(lack, max(_PAGE, int(settings.dead_band * guest.maximum))):
            actions.append(SetBalloon(
                guest=guest.uuid, target=target, previous=size,
                reason=f'level CLEAR, {surplus // MIB} MB over: {guest.name} lacks {lack // MIB} MB of its maximum'))
    return Ballooning(actions=tuple(actions), credit=0)


def relieve(snapshot: HostSnapshot, spare: int, asked: typing.Mapping[str, Asked], settings: HostSettings,
            now: float) -> Ballooning:
    """Give guests that need more than they have what they lack of it, out of ``spare`` bytes that are free already.

    Without this a guest that was shrunk while idle would starve on a host that never has much over.
    """
    actions: list[SetBalloon] = []
    for guest in snapshot.running:
        size = _size(guest, asked)
        if size is None or not guest.can_balloon or not fresh(guest, settings):
            continue
        lack = min(guest.maximum, floor(guest, Level.SOFT, settings)) - size
        least = max(_LEAST, int(settings.dead_band * guest.maximum))
        amount = min(_up(lack), int(settings.balloon_step * guest.maximum), spare) // _PAGE * _PAGE
        if lack >= least and amount >= _PAGE and _spoke_since(guest, asked.get(guest.uuid), now):
            spare -= amount
            actions.append(SetBalloon(
                guest=guest.uuid, target=min(guest.maximum, size + amount), previous=size,
                reason=f'{guest.name} can use {(guest.usable or 0) // MIB} MB of {size // MIB} MB, and needs '
                       f'{lack // MIB} MB more'))
    return Ballooning(actions=tuple(actions), credit=-sum(a.target - a.previous for a in actions))


def _size(guest: GuestSnapshot, asked: typing.Mapping[str, Asked]) -> int | None:
    """What the guest has been asked to have, or has: an old target must be lifted even where it was never reached."""
    mine = asked.get(guest.uuid)
    if mine is not None and guest.actual is not None:
        return mine.target  # on its way there, or stuck above it: a driver that loads late would still obey
    return guest.actual


def _up(amount: int) -> int:
    return -(-amount // _PAGE) * _PAGE


def _down(amount: int) -> int:
    return amount // _PAGE * _PAGE
