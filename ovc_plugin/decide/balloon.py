# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whom the balloon asks to shrink, always within [reservation, maximum]: what guests leave unused first, then by the
idle memory tax. How memory is given back is in ``giving``.
"""
from __future__ import annotations

import typing

from ovc_plugin.decide import need, progress
from ovc_plugin.decide.rule import NOTHING, Part, Situation
from ovc_plugin.decide.share import Claim, share_out
from ovc_plugin.decide.state import Asked, Need
from ovc_plugin.model import MIB, GuestSnapshot, Level, SetBalloon
from ovc_plugin.settings import HostSettings

LEAST = 2 * progress.ARRIVED  # less than this cannot be told from a guest that has arrived
PAGE = MIB  # targets are whole MiB: libvirt and QEMU round, and a rounded target must compare equal
_HASTE = {Level.HARD: 2, Level.CRITICAL: 4}  # steps at once, where slow means swapped
_SMALLEST = 16 * MIB  # cushion
_WORTH = 0.25  # free memory of which less than this share is backed is not worth taking


def floor(guest: GuestSnapshot, level: Level, settings: HostSettings, known: Need | None) -> int:
    """The least target at this level (promise 3): reservation, and need with the cushion; half of it at CRITICAL, where
    the balloon gives way if that was too little. Else the guest's kernel would kill."""
    # Asked of each guest several times a pass: comparisons cost less than calls of min and max.
    cushion = int(settings.cushion * guest.maximum / (2 if level >= Level.CRITICAL and guest.gives_way else 1))
    least = need.amount(guest, known) + (cushion if cushion > _SMALLEST else _SMALLEST)
    least = least if least > guest.reservation else guest.reservation
    return least if least < guest.maximum else guest.maximum


def givable(guest: GuestSnapshot, level: Level, settings: HostSettings, known: Need | None) -> int:
    """Bytes that the balloon could take from a guest whose word is fresh; 0 of any other."""
    if not guest.can_balloon or guest.busy or guest.actual is None or not need.fresh(guest, settings):
        return 0
    spare = guest.actual - floor(guest, level, settings, known)
    return spare if spare > 0 else 0


class Yields(typing.NamedTuple):
    """What the host gets for a byte of ``free`` memory that a balloon takes, and for one beyond that (0..1)."""

    free: int
    of_free: float
    of_used: float

    def freed(self, amount: int) -> float:
        if amount <= self.free:
            return amount * self.of_free
        return self.free * self.of_free + (amount - self.free) * self.of_used

    def taken(self, freed: float) -> int:
        """The reverse: how much the balloon has to take."""
        first = self.free * self.of_free
        if freed <= first and self.of_free > 0:
            return int(freed / self.of_free)
        return self.free + int((freed - first) / self.of_used) if self.of_used > 0 else self.free


def yields(guest: GuestSnapshot) -> Yields:
    """By what the host backs for the guest: pages never touched, and those merged or in swap, free nothing."""
    actual, free = guest.actual or 0, guest.unused or 0
    free = free if free < actual else actual
    if guest.resident is None or (backed := progress.backed(guest)) is None:
        return Yields(free, 1.0, 1.0)
    inside, resident = backed - guest.overhead, guest.resident / backed if backed else 0.0
    used = actual - free if actual > free else 1
    if inside >= actual > free:  # as mostly
        return Yields(free, resident if free else 0.0, resident)
    inside = inside if inside > 0 else 0
    of_free = min(1.0, max(0, inside - used) / free) * resident if free else 0.0
    return Yields(free, of_free, min(1.0, inside / used) * resident)


class Giver(typing.NamedTuple):
    """One guest that can shrink: by ``most`` bytes at once, which the host would see as ``freed``; ``idle`` (0..1)."""

    guest: GuestSnapshot
    lowest: int
    least: int
    most: int
    yields: Yields
    freed: float
    idle: float


def shrink(situation: Situation) -> Part:
    """Ask guests to give up what is short, as far as they can in time; stuck ones are left out, others carry it."""
    if situation.short <= 0 or not situation.settings.balloon:
        return NOTHING
    under_way, credit, givers, stern = 0.0, 0.0, [], is_stern(situation)
    for guest in situation.snapshot.running:
        mine = situation.state.asked.get(guest.uuid)
        if mine is not None and (owed := progress.shrinking(guest.actual, mine)):
            if not progress.stuck(guest.actual, mine, situation.settings, situation.now):
                freed = yields(guest).freed(owed)
                under_way += freed
                credit += _in_time(freed, mine, situation.until)
        elif giver := _giver(guest, mine, situation, stern):
            givers.append(giver)
    todo = situation.short - under_way
    actions = []
    for giver, freed in _shares(givers, todo, situation):
        if todo <= 0:
            break
        if action := _action(giver, freed, situation):
            actions.append(action)
            gain = giver.yields.freed(action.previous - action.target)
            todo -= gain
            credit += _in_time(gain, situation.state.asked.get(giver.guest.uuid), situation.until)
    return Part(actions=tuple(actions), credit=int(credit))


def _in_time(amount: float, asked: Asked | None, until: float) -> float:
    """What of it arrives before exhaustion, at the speed at which this guest's balloon was seen to move."""
    speed = asked.speed if asked is not None and asked.speed is not None else progress.CAUTIOUS
    return min(amount, speed * until)


def _giver(guest: GuestSnapshot, mine: Asked | None, situation: Situation, stern: bool) -> Giver | None:
    settings, known = situation.settings, situation.state.needs.get(guest.uuid)
    spoke_at = need.understood(guest, known, settings, situation.now)
    if guest.uuid in situation.turned or spoke_at is None or (
            mine is not None and not may_turn(mine, spoke_at, situation, stern)):
        return None
    spare = givable(guest, Level.CRITICAL if stern else Level.SOFT, settings, known)
    if not spare or not guest.actual:
        return None
    least = max(LEAST, int(settings.dead_band * guest.maximum))
    if mine is not None and mine.change < 0:  # it gave already: not by crumbs, as its need moves to and fro
        least = max(least, int(settings.balloon_step * guest.maximum / 4))
    if spare < least:
        return None
    found = yields(guest)
    # What the host does not back has to be swallowed before anything is freed: no step would ever get beyond it.
    idle = found.free if found.of_free < _WORTH else 0
    most = min(spare, idle + int(settings.balloon_step * guest.maximum * _HASTE.get(situation.level, 1)))
    return Giver(guest, guest.actual - spare, least, max(most, least), found, found.freed(most),
                 min(1.0, spare / guest.actual))


def is_stern(situation: Situation) -> bool:
    """Whether floors and pauses give way: at CRITICAL where swap cannot take what is short, now or in the end. Where it
    can, nothing is won by it: no balloon is in time for CRITICAL."""
    if situation.level < Level.CRITICAL:
        return False
    if not situation.settings.swap or situation.snapshot.swap_free < situation.short:
        return True
    return not situation.backed


def may_turn(mine: Asked, spoke_at: float, situation: Situation, stern: bool) -> bool:
    """Below HARD a word is spent once. Who was given memory keeps it for a while, unless there is no other way,
    or somebody lacks what it is guaranteed."""
    if stern:
        return True
    return not keeps(mine, situation) and (situation.level >= Level.HARD or spoke_at > mine.moved_at)


def keeps(mine: Asked, situation: Situation) -> bool:
    """Whether a guest was given memory lately, which is not asked of it again now."""
    return mine.change > 0 and not situation.owed and situation.now - mine.at < situation.settings.turn_after


def _shares(givers: list[Giver], todo: float, situation: Situation) -> list[tuple[Giver, int]]:
    """What each should free, largest first: all of what they leave unused before anything that they use."""
    if todo <= 0 or not givers:
        return []
    unused = [g.yields.freed(min(g.most, g.yields.free)) if g.yields.of_free >= _WORTH else 0.0 for g in givers]
    first_of_all = sum(unused)
    over = first_of_all >= todo
    if not over:  # what guests use is taken for the host alone
        todo = max(first_of_all, todo - situation.wanted)
    claims, total = [], 0
    for giver, first in zip(givers, unused, strict=True):
        held = giver.guest.resident or giver.guest.actual or 0
        most = held if over else held - int(first)
        least = held - int(first if over else giver.freed)
        claims.append(Claim(giver.guest.weight * giver.guest.maximum, least if least > 0 else 0,
                            most if most > 0 else 0, giver.idle))
        total += held
    targets = share_out(claims, max(0, int(total - todo)), situation.settings.idle_tax)
    parts = [(g, (g.guest.resident or g.guest.actual or 0) - t) for g, t in zip(givers, targets, strict=True)]
    return sorted((p for p in parts if p[1] > 0), key=lambda one: -one[1])


def _action(giver: Giver, freed: int, situation: Situation) -> SetBalloon | None:
    guest, actual = giver.guest, giver.guest.actual or 0
    amount = min(giver.most, max(giver.least, giver.yields.taken(freed)))
    target = max(-(-(actual - amount) // PAGE), -(-giver.lowest // PAGE)) * PAGE
    if actual - target < giver.least - PAGE:
        return None
    return SetBalloon(
        guest=guest.uuid, target=target, previous=actual,
        reason=f'level {situation.level.name}, {situation.short // MIB} MB short: '
               f'{need.spoken(guest, situation.settings)}; floor {giver.lowest // MIB} MB')
