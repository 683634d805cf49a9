# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whom to ask away, and when: only in a shortage that outlasts a migration. Where to is the cloud's affair.

A shortage lasts while the level is HARD or worse, or guests keep reading back from swap what was moved there. On the
Bitbrains traces (20 hosts of 25 guests, capacity at the 99th percentile) 79 % of overloads end within 10 minutes and
97.5 % within 30: balloon and swap carry those. What has lasted is expected to go on for as long again, so no guest is
asked away whose migration would take longer than the shortage has lasted already.
"""
from __future__ import annotations

import dataclasses
import math
import typing

from ovc_plugin.decide import pressure
from ovc_plugin.decide.departing import Awaited, Departing, Setback, bounded, closed, rest, stays
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, AskMigration, GuestSnapshot, HostSnapshot, Level, Outcome
from ovc_plugin.settings import HostSettings

_PAGE = 4096
_SMOOTH = 30.0          # seconds over which reading back is averaged
_GAP = 60.0             # a shortage that was not seen for so long has ended
_URGENT = 5             # at CRITICAL one waits for this part of the time only
_DOWNTIME = 0.5         # seconds for which nova lets a guest stand still at the end (live_migration_downtime)
_ROUNDS = 30            # QEMU would not end a migration that takes more rounds by itself
_UNMEASURED = 0.5       # share of the bandwidth that a guest is taken to write where nobody could measure it
_PATIENCE = 3600.0      # after which nothing more is expected of a request
_ALIKE = 0.05           # two guests whose costs differ by less than this share are alike


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One guest that could go. Bytes, and the seconds that its migration takes."""

    guest: GuestSnapshot
    cost: int
    relief: int
    seconds: float


def look(snapshot: HostSnapshot, level: Level, before: Departing, settings: HostSettings,
         now: float) -> tuple[Departing, HostSnapshot]:
    """What is remembered after this look, and the host as the other mechanisms may use it."""
    departing = follow(snapshot, level, before, settings, now)
    return departing, held(snapshot, departing, level)


def follow(snapshot: HostSnapshot, level: Level, before: Departing, settings: HostSettings, now: float) -> Departing:
    """What is remembered after this look: how long the shortage lasts, and what became of the guest asked away."""
    looked = _lasting(level, _looked(snapshot, level, bounded(before, settings, now), now), settings, now)
    departing = _outcome(snapshot, _arrived(snapshot, looked, now), settings, now)
    return dataclasses.replace(departing, measure=_to_measure(snapshot, departing, settings, now))


def evacuate(snapshot: HostSnapshot, level: Level, departing: Departing, settings: HostSettings,
             now: float) -> AskMigration | None:
    """The guest to ask away now, if any: the one that costs least for each byte of relief that this host needs."""
    lasted = _lasted(departing, now)
    # A moment of calm does not end a shortage, but nobody goes in it: it may be the end.
    calm = departing.short_at < now
    if (closed(snapshot, departing, settings, now) or lasted < wait(departing, settings, now) or calm
            or _getting_better(level, departing)):
        return None
    lacking = max(MIB, _lacking(snapshot, settings))
    able = [c for c in _choices(snapshot, departing, settings, now)
            if c.seconds < lasted and not _over_before(snapshot, c, settings)]
    if not able:
        return None
    # What is freed beyond the need is no relief; among guests that cost alike the one that frees most.
    best = min(able, key=lambda c: (round(c.cost / min(c.relief, lacking) / _ALIKE), -c.relief, c.guest.uuid))
    return AskMigration(
        guest=best.guest.uuid, cost=best.cost, relief=best.relief,
        reason=f'short for {lasted:.0f} s >= {wait(departing, settings, now):.0f} s (level {level.name}, '
               f'{departing.returning / MIB:.1f} MB/s read back from swap, limit {settings.migrate_swap_in / MIB:.0f} '
               f'MB/s): moving {best.guest.name} copies {best.cost // MIB} MB in about {best.seconds:.0f} s and frees '
               f'{best.relief // MIB} MB')


def asked(departing: Departing, action: AskMigration, now: float) -> Departing:
    """The same, with the outcome of this request awaited."""
    return dataclasses.replace(departing, awaited=Awaited(guest=action.guest, at=now), measure=())


def settle(state: LadderState, outcomes: typing.Iterable[Outcome], settings: HostSettings, now: float) -> LadderState:
    """The same once it was carried out: who could not be asked is not awaited, nor who was only named in a dry run."""
    for outcome in outcomes:
        if isinstance(outcome.action, AskMigration) and not outcome.done:
            departing = failed(state.departing, settings, now)
            if outcome.dry:  # nothing was learned of the guest; it is only not said again at each pass
                departing = dataclasses.replace(departing, setbacks=state.departing.setbacks)
            return dataclasses.replace(state, departing=departing)
    return state


def failed(departing: Departing, settings: HostSettings, now: float) -> Departing:
    """The awaited guest stays: it is left alone for twice the cool-down, and twice as long each time that it fails."""
    if departing.awaited is None:
        return departing
    uuid = departing.awaited.guest
    count = departing.setbacks[uuid].count + 1 if uuid in departing.setbacks else 1
    return dataclasses.replace(
        departing, awaited=None, rest_until=now + settings.migrate_cooldown,
        setbacks={**departing.setbacks, uuid: Setback(count=count, until=now + rest(count, settings))})


def held(snapshot: HostSnapshot, departing: Departing, level: Level) -> HostSnapshot:
    """The same with the guest on its way held as it is: what is changed of it is copied again. CRITICAL may swap it."""
    if departing.awaited is None:
        return snapshot
    return dataclasses.replace(snapshot, guests=tuple(
        dataclasses.replace(g, can_balloon=False, can_swap=g.can_swap and level >= Level.CRITICAL)
        if g.uuid == departing.awaited.guest else g for g in snapshot.guests))


def wait(departing: Departing, settings: HostSettings, now: float) -> float:
    """Seconds that a shortage must have lasted; a fifth at CRITICAL throughout, where swap does not keep up."""
    urgent = settings.migrate_after / _URGENT
    critical = departing.critical_since is not None and now - departing.critical_since >= urgent
    return urgent if critical else settings.migrate_after


def copied(memory: int, dirty_rate: float | None, bandwidth: float) -> float | None:
    """Bytes that a pre-copy migration of ``memory`` bytes sends; ``None`` where it would not come to an end.

    Each round sends what was written during the one before: M + M·l + … + M·l^n = M (1 - l^(n+1)) / (1 - l) with
    l = dirty rate / bandwidth, until the rest M·l^n fits in the time for which a guest may stand still (Clark et al.,
    NSDI'05; Akoush et al., MASCOTS'10). Rates in bytes per second.
    """
    share = _UNMEASURED if dirty_rate is None else dirty_rate / bandwidth
    if memory <= _DOWNTIME * bandwidth or share <= 0:
        return float(memory)
    if share >= 1:
        return None
    rounds = math.ceil(math.log(_DOWNTIME * bandwidth / memory) / math.log(share))
    return None if rounds > _ROUNDS else memory * (1 - share ** (rounds + 1)) / (1 - share)


def reading_back(snapshot: HostSnapshot) -> float:
    """Bytes per second that guests read back from swap, by their own count or the host's, whichever tells more."""
    guests = sum(g.refaults or 0.0 for g in snapshot.running) * _PAGE
    return max(guests, snapshot.swap_in or 0.0)


def _looked(snapshot: HostSnapshot, level: Level, before: Departing, now: float) -> Departing:
    """With what is read back. No time is later than now: a clock may have been set back."""
    seconds = 0.0 if before.looked_at is None else max(0.0, now - before.looked_at)
    part = 1 - math.exp(-seconds / _SMOOTH)
    returning = before.returning + part * (reading_back(snapshot) - before.returning)
    since, awaited = before.short_since, before.awaited
    critical = min(now, before.critical_since or now) if level >= Level.CRITICAL else None
    return dataclasses.replace(
        before, returning=returning, looked_at=now, short_since=None if since is None else min(since, now),
        short_at=min(before.short_at, now), critical_since=critical,
        awaited=awaited and dataclasses.replace(awaited, at=min(awaited.at, now)))


def _lasting(level: Level, departing: Departing, settings: HostSettings, now: float) -> Departing:
    """With the shortage begun, gone on or ended. ``usual`` is the mean since it began."""
    short = level >= Level.HARD or departing.returning >= settings.migrate_swap_in
    since = departing.short_since
    if since is None or now - departing.short_at > _GAP:
        return dataclasses.replace(departing, short_since=now if short else None, short_at=now,
                                   usual=departing.returning)
    if not short:
        return departing
    seconds, lasted = now - departing.short_at, max(now - since, 1e-9)
    usual = departing.usual + (departing.returning - departing.usual) * min(1.0, seconds / lasted)
    return dataclasses.replace(departing, short_at=now, usual=usual)


def _lasted(departing: Departing, now: float) -> float:
    return 0.0 if departing.short_since is None else max(0.0, now - departing.short_since)


def _getting_better(level: Level, departing: Departing) -> bool:
    """Below HARD the harm is what guests read back: half of what was usual means that it is ending."""
    return level < Level.HARD and departing.returning < departing.usual / 2


def _over_before(snapshot: HostSnapshot, choice: Choice, settings: HostSettings) -> bool:
    """Whether memory becomes available so fast that the level is left before the guest would be."""
    missing = pressure.goal(snapshot.total, settings, backed=pressure.backed(snapshot)) - snapshot.available
    gained = -(snapshot.growth or 0.0)
    return missing > 0 and gained > 0 and missing / gained < choice.seconds


def _lacking(snapshot: HostSnapshot, settings: HostSettings) -> int:
    """Bytes that would have to go: what is missing now, and what those have in swap who keep reading from it."""
    missing = max(0, pressure.goal(snapshot.total, settings, backed=pressure.backed(snapshot)) - snapshot.available)
    return missing + sum(g.swapped or 0 for g in snapshot.running if g.refaults)


def _choices(snapshot: HostSnapshot, departing: Departing, settings: HostSettings,
             now: float) -> typing.Iterator[Choice]:
    for guest in _candidates(snapshot, departing, settings, now):
        relief = (guest.resident or 0) + (guest.swapped or 0)
        # Pages that are merged here travel one by one.
        sent = copied(relief + (guest.saved or 0), guest.dirty_rate, settings.migrate_bandwidth)
        if sent is not None and relief > 0:
            yield Choice(guest=guest, cost=int(sent) + (guest.saved or 0), relief=relief,
                         seconds=sent / settings.migrate_bandwidth)


def _candidates(snapshot: HostSnapshot, departing: Departing, settings: HostSettings,
                now: float) -> list[GuestSnapshot]:
    """Guests that may go, without those of which nobody knows what it would free."""
    return [g for g in snapshot.running
            if g.resident is not None and not stays(g, departing, settings, now)]


def _to_measure(snapshot: HostSnapshot, departing: Departing, settings: HostSettings, now: float) -> tuple[str, ...]:
    """Measuring costs each guest a little: it is done only when one may have to go soon."""
    if (not settings.migrate or snapshot.departures is None or departing.awaited is not None
            or now < departing.rest_until or _lasted(departing, now) < settings.migrate_after / _URGENT / 2):
        return ()
    return tuple(g.uuid for g in _candidates(snapshot, departing, settings, now))


def _arrived(snapshot: HostSnapshot, departing: Departing, now: float) -> Departing:
    """With the time at which each guest was first seen; without the setbacks of guests that are gone."""
    first = departing.here_since is None
    known = departing.here_since or {}
    here = {g.uuid: 0.0 if first else min(known.get(g.uuid, now), now) for g in snapshot.guests}
    return dataclasses.replace(departing, here_since=here,
                               setbacks={u: s for u, s in departing.setbacks.items() if u in here})


def _outcome(snapshot: HostSnapshot, departing: Departing, settings: HostSettings, now: float) -> Departing:
    awaited = departing.awaited
    if awaited is None:
        return departing
    said = next((d for d in snapshot.departures or () if d.guest == awaited.guest), None)
    if all(g.uuid != awaited.guest or not g.running for g in snapshot.guests):
        return _gone(departing, settings, now)
    if said is not None and said.ended:
        return failed(departing, settings, now) if said.error else _gone(departing, settings, now)
    if now - awaited.at > _PATIENCE:
        return failed(departing, settings, now)
    return departing


def _gone(departing: Departing, settings: HostSettings, now: float) -> Departing:
    """The relief shows only now: another guest goes when the host is short for as long again."""
    return dataclasses.replace(departing, awaited=None, short_since=None, rest_until=now + settings.migrate_cooldown)
