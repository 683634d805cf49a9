# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Per-guest reclaim to swap: what always works, for when the balloon cannot help. Never below the reservation.

How much of a guest may go at once is probed as senpai does: one that reads back gives far less at once, and a little
more each time that it then gives as much without reading back. Of one of which nothing was asked meanwhile nothing is
known: it is trusted with more again only slowly, else each lull was followed by a whole step of which all is read back.
One of which nothing could be moved, again and again, rests for longer each
time: whatever keeps its pages where they are, it must not be counted on while others could give.
"""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide import need, pressure, progress
from ovc_plugin.decide.rule import NOTHING, Part, Situation
from ovc_plugin.decide.share import Claim, share_out
from ovc_plugin.decide.state import LadderState, Probe
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, Level, Outcome, ReclaimGuest
from ovc_plugin.settings import HostSettings

_LEAST = 4 * MIB
_CRUMB = 16 * MIB    # rounding to whole MiB leaves the like of this; the next pass sees whether it is still missing
_UP, _DOWN = 1.25, 0.25
_TRIED = 0.5         # of a step: what must have been moved for it to count as borne
_UNTRIED = 600.0     # seconds after which a step that was not tried grows as well
_PART = 100          # of a large guest's maximum one part at once, where that is more than swap_step
_HASTE = 4           # steps at once at CRITICAL, and of guests from which nothing else can be had
SPEED = 100 * MIB   # bytes a second that a disk is trusted to take
_MISSES = 2          # in a row until a guest rests: one alone may be of a guest that filled up again meanwhile
_DOUBLED = 4         # times at most that a rest, first of stuck_after seconds a miss, is doubled


def floor(guest: GuestSnapshot) -> int:
    """Resident bytes that a guest keeps: its reservation, and what it costs beyond its memory."""
    return guest.reservation + guest.overhead


def swappable(guest: GuestSnapshot, given: int = 0) -> int:
    """Bytes that could be moved to swap without touching what the guest is guaranteed, as far as its limits let them,
    once it has given up so many otherwise."""
    if not guest.can_swap or guest.resident is None:
        return 0
    spare = guest.resident - guest.reservation - guest.overhead - given
    if guest.swap_room is not None and guest.swap_room < spare:
        spare = guest.swap_room
    return spare if spare > 0 else 0


def most(guest: GuestSnapshot, settings: HostSettings) -> int:
    """Bytes of a guest that may be swapped in one pass.

    Small steps: passes follow each other each second while it is urgent, and what was swapped for a burst that ends
    meanwhile is read back for nothing.
    """
    part = guest.maximum // _PART
    return part if part > settings.swap_step else settings.swap_step


def harmed(guest: GuestSnapshot, settings: HostSettings) -> bool:
    """Whether it reads back what was swapped, faster than it may."""
    return guest.refaults is not None and guest.refaults > settings.refault_limit


def follow(snapshot: HostSnapshot, before: typing.Mapping[str, Probe], settings: HostSettings,
           now: float) -> dict[str, Probe]:
    """How much of each guest may be swapped in one pass, after what it read back since the last one. Guests that never
    read back, and of which something could be moved, are missing: they give a whole step."""
    found = {}
    for guest in snapshot.running:
        known, reads_back = before.get(guest.uuid), harmed(guest, settings)
        if known is not None and known.misses:
            known = _recalled(known, settings, now)
        if known is None and not reads_back:
            continue
        whole = most(guest, settings)
        if reads_back:
            known = known or Probe(step=whole, at=now)
            found[guest.uuid] = _stepping(known, max(_LEAST, int(known.step * _DOWN)), now)
        elif known is not None and known.step < whole:
            borne = known.moved >= _TRIED * known.step
            if now - known.at >= (settings.tick if borne else _UNTRIED):
                found[guest.uuid] = _stepping(known, min(whole, int(known.step * _UP)), now)
            else:
                found[guest.uuid] = known if known.at <= now else dataclasses.replace(known, at=now)
        elif known is not None and known.misses:
            found[guest.uuid] = known
    return found


def _stepping(known: Probe, step: int, at: float) -> Probe:
    # Spelled out, as dataclasses.replace() takes several times as long: many guests read back on a host that is short.
    return Probe(step=step, at=at, misses=known.misses, until=known.until)


def settle(state: LadderState, outcomes: typing.Iterable[Outcome], settings: HostSettings, now: float) -> LadderState:
    """The same with what was learned by trying: of whom nothing could be moved, and of whom something could again."""
    probes = dict(state.probes)
    for outcome in outcomes:
        if not isinstance(outcome.action, ReclaimGuest) or outcome.dry:
            continue
        uuid = outcome.action.guest
        known = probes.get(uuid) or Probe(step=settings.swap_step, at=now)
        if outcome.freed:
            if uuid in probes:
                probes[uuid] = dataclasses.replace(known, misses=0, until=0.0, moved=known.moved + outcome.freed)
        elif outcome.freed is not None or outcome.error is not None:
            misses = known.misses + 1
            probes[uuid] = dataclasses.replace(known, misses=misses, until=now + _rest(misses, settings))
    return state if probes == state.probes else dataclasses.replace(state, probes=probes)


def resting(probe: Probe | None, now: float) -> bool:
    """Whether nothing could be moved of a guest lately, so that it is not counted on."""
    return probe is not None and probe.misses >= _MISSES and now < probe.until


def _rest(misses: int, settings: HostSettings) -> float:
    """Seconds until it is tried again after so many misses."""
    return float(settings.stuck_after * 2 ** min(misses - 1, _DOUBLED))


def _recalled(known: Probe, settings: HostSettings, now: float) -> Probe:
    """What was missed is forgotten when as long again has passed without another try; a clock may have been set back.
    """
    rest = _rest(known.misses, settings)
    if now >= known.until + rest:
        return dataclasses.replace(known, misses=0, until=0.0)
    return known if known.until <= now + rest else dataclasses.replace(known, until=now + rest)


def reclaim(situation: Situation) -> Part:
    """Find what is short among the guests: first those from which nothing else can be had, because they are stuck or do
    not answer the balloon; then the others, by the idle memory tax.

    A guest that reads its pages back is left alone, except at CRITICAL: there every guest above its reservation
    gives, because the alternative is that the kernel picks a page, or a guest, itself. But such a guest gives only
    what it takes to leave HARD: each page more would be read back at once, in place of another one.

    A guest of which nothing could be moved lately is tried last, from HARD on and for what all others leave. It earns
    no credit: what it does not give is still to be found.
    """
    settings, snapshot = situation.settings, situation.snapshot
    # What is wanted on a clear host is wanted for guests alone: that is worth what others do not use, and no more.
    short = min(situation.short, snapshot.swap_free) if situation.level > Level.CLEAR else 0
    if not settings.swap or short <= (_CRUMB if situation.level < Level.HARD else 0):
        return NOTHING
    alone: list[tuple[GuestSnapshot, int]] = []
    others: list[tuple[GuestSnapshot, int]] = []
    reading: list[tuple[GuestSnapshot, int]] = []
    fruitless: list[tuple[GuestSnapshot, int]] = []
    probes = situation.state.probes
    for guest in snapshot.running:
        if (spare := swappable(guest)) >= _LEAST:
            group = (fruitless if resting(probes.get(guest.uuid), situation.now)
                     else reading if harmed(guest, settings)
                     else alone if _unanswering(guest, situation) else others)
            group.append((guest, spare))
    actions = _share(alone, short, situation, _HASTE)
    # Below HARD there is time to wait for what these still have.
    covered = sum(spare for _, spare in alone) if situation.level < Level.HARD else sum(a.amount for a in actions)
    actions += _share(others, short - covered, situation, 1)
    if situation.level >= Level.CRITICAL:
        taken = sum(a.amount for a in actions)
        last = situation.short - pressure.beyond(Level.HARD, snapshot.total, settings, backed=situation.backed)
        actions += _share(reading, min(last, snapshot.swap_free) - taken, situation, 1)
    found = sum(a.amount for a in actions)
    credit = min(float(found), SPEED * max(settings.tick, situation.until))
    if situation.level >= Level.HARD and short - found > _CRUMB:
        actions += _share(fruitless, short - found, situation, 1)
    return Part(actions=tuple(actions), credit=int(credit))


def _unanswering(guest: GuestSnapshot, situation: Situation) -> bool:
    """Whether the balloon gets nothing of it, now or later: that of one that boots or moves is only not asked yet."""
    if not guest.can_balloon or not need.fresh(guest, situation.settings):
        return not guest.busy
    return progress.stuck(guest.actual, situation.state.asked.get(guest.uuid), situation.settings, situation.now)


def _share(guests: list[tuple[GuestSnapshot, int]], wanted: int, situation: Situation,
           steps: int) -> list[ReclaimGuest]:
    if wanted <= 0 or not guests:
        return []
    claims = _claims(guests, situation, steps)
    targets = share_out(claims, max(0, sum(c.most for c in claims) - wanted), situation.settings.idle_tax)
    parts = sorted(((c.most - t, g, c) for (g, _), c, t in zip(guests, claims, targets, strict=True) if t < c.most),
                   key=lambda one: -one[0])
    actions: list[ReclaimGuest] = []
    why = f'level {situation.level.name}, {situation.short // MIB} MB short after ballooning: '
    # Those that give most first: shares too small to be worth an action fall together on them.
    for part, guest, claim in parts:
        if wanted <= 0:
            break
        amount = min(max(part, _LEAST), claim.most - claim.least)
        wanted -= amount
        least = floor(guest)
        actions.append(ReclaimGuest(
            guest=guest.uuid, amount=amount, floor=least,
            reason=f'{why}{guest.name} has {claim.most // MIB} MB resident > {least // MIB} MB guaranteed'))
    return actions


def _claims(guests: list[tuple[GuestSnapshot, int]], situation: Situation, steps: int) -> list[Claim]:
    settings, probes, critical = situation.settings, situation.state.probes, situation.level >= Level.CRITICAL
    claims = []
    for guest, spare in guests:
        held, step = guest.resident or 0, most(guest, settings)
        if critical:
            step *= _HASTE
        else:
            probe = probes.get(guest.uuid)
            step = steps * (step if probe is None or probe.step > step else probe.step)
        claims.append(Claim(guest.weight * guest.maximum, held - (spare if spare < step else step), held,
                            _idle(guest, settings)))
    return claims


def _idle(guest: GuestSnapshot, settings: HostSettings) -> float:
    """By what the guest says it can do without; of one that says nothing, all that it does not read back."""
    quiet = 1.0
    if guest.refaults:
        quiet -= min(1.0, guest.refaults / max(1.0, settings.refault_limit))
    if guest.usable is None or not guest.actual:
        return quiet
    idle = quiet * guest.usable / guest.actual
    return 0.0 if idle < 0.0 else idle if idle < quiet else quiet
