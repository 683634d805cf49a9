# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Checks that need a memory of their own: guests below their reservation, what is given, guests that swap moves nothing
of, and the level of the host.

All go by what is true in the model, and count for themselves: none of it is taken from the rules or their state.
"""
from __future__ import annotations

import typing

from ovc_plugin.decide import pressure
from ovc_plugin.model import MIB, HostSnapshot, Level, Outcome, Plan, ReclaimGuest, SetBalloon
from ovc_plugin.settings import HostSettings
from ovc_plugin.simulate.guest import Guest

OWED, GIVEN, FRUITLESS, SETTLES = '1 owed first', '5 free before give', '9 fruitless rests', '10 settles'
HEARD = 10.0       # seconds
_LEAST = 4 * MIB   # of which less is not worth swapping
_MISSES = 2        # in a row, from which on a guest rests
_DOUBLED = 4       # times that a rest is doubled at most
_BEGINS = {Level.SOFT: 0.64, Level.HARD: 0.32, Level.CRITICAL: 0.16}  # of the sliding minimum
_SOONER = 3        # times, that a level above SOFT may fall before the dwell is over: to SOFT, where nothing is given

Holds = typing.Callable[[str, bool, float, str], None]


class Owed:
    """A guest that somebody else has shrunk below its reservation, and that can be asked, is given all of that first.

    In no pass is anybody else given memory while one of them is not, but for one that was asked for a size within the
    last ``HEARD`` seconds, or was seen nearer to it within them: it may have been on its way. And once as much is free,
    beyond the minimum and the reserve, as it and those that lack less need together, for ``HEARD`` seconds, it has been
    asked to have its reservation: so long it may not be seen that one which was asked lately has been shrunk. What
    guests are still taking up is not free, nor what merged pages may take back: all of them, as nothing is promised
    sooner. Of one that was given memory it is not seen before ``stuck_after`` seconds that it does not take it.
    """

    def __init__(self, settings: HostSettings, holds: Holds) -> None:
        self.settings, self._holds = settings, holds
        self._since: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._nearest: dict[str, int] = {}

    def restarted(self, *, kept: bool) -> None:
        """The rules began anew, and have been away."""
        self._since.clear()

    def look(self, true: dict[str, Guest], snapshot: HostSnapshot, plan: Plan, time: float) -> None:
        lacking = sorted((missing, g.uuid) for g in snapshot.guests if g.actual is not None
                         and g.actual < g.reservation and g.can_balloon and (missing := _lacks(true[g.uuid])) > 0)
        self._approach(snapshot, time)
        asked = self._asked
        if plan.actions:
            self._asked = asked | {a.guest: time for a in plan.actions if isinstance(a, SetBalloon)}
            self._nearest |= {a.guest: a.previous for a in plan.actions if isinstance(a, SetBalloon)}
        if not lacking:
            self._since.clear()
            return
        targets = {a.guest: a.target for a in plan.actions if isinstance(a, SetBalloon)}
        waiting = {uuid for _, uuid in lacking if targets.get(uuid, 0) < true[uuid].habit.reservation
                   and time - asked.get(uuid, -HEARD) >= HEARD}
        raised = {uuid for uuid, target in targets.items()  # by more than a target that is asked again is rounded up
                  if target > max(true[uuid].size, true[uuid].target) + MIB}
        others = raised - {uuid for _, uuid in lacking}
        self._holds(OWED, not (waiting and others), time,
                    f'{_names(others, true)} is given memory while {_names(waiting, true)} lacks its reservation')
        free = snapshot.available - max(pressure.minimum(snapshot.total, self.settings.level_scale), snapshot.reserve)
        free -= sum(self._coming(g, time) + g.merged for g in true.values())
        before, self._since = self._since, {}
        for missing, uuid in lacking:
            free -= missing + MIB  # a target is rounded up
            if free < 0 or plan.level >= Level.CRITICAL:
                break
            if uuid not in waiting or not true[uuid].habit.reachable:
                continue
            self._since[uuid] = since = before.get(uuid, time)
            self._holds(OWED, time - since <= HEARD, time,
                        f'{_names({uuid}, true)} lacks {missing // MIB} MB of its reservation for '
                        f'{time - since:.0f} s, though {(free + missing) // MIB} MB are free')

    def _coming(self, guest: Guest, time: float) -> int:
        """Bytes that a guest takes up, or may be taking up as far as anybody can see: one that takes nothing of what it
        was given is known by that, after a while."""
        asked_at = self._asked.get(guest.uuid)
        if asked_at is not None and time - asked_at < self.settings.stuck_after:
            return max(0, guest.target - guest.size)
        return guest.coming(time)

    def _approach(self, snapshot: HostSnapshot, time: float) -> None:
        """Who was asked to grow and is larger than it was ever seen since: as far as anybody can see, it is coming."""
        for guest in snapshot.guests:
            nearest = self._nearest.get(guest.uuid)
            if nearest is not None and guest.actual is not None and guest.actual > nearest:
                self._nearest[guest.uuid], self._asked[guest.uuid] = guest.actual, time


def _lacks(guest: Guest) -> int:
    """Bytes of its reservation that a guest neither has nor was asked to have."""
    return guest.habit.reservation - max(guest.size, guest.target)


def _names(guests: typing.Iterable[str], true: dict[str, Guest]) -> str:
    return ', '.join(sorted(true[uuid].habit.name for uuid in guests))


class Given:
    """What is given was free before. Given is what a guest may have beyond its size and beyond what it was given; what
    it was given and has not taken up yet is not free, as far as that can be seen: while it was asked less than
    ``stuck_after`` seconds ago, or has grown since the last look. What was given before the rules lost their memory,
    and is under way then, nobody can see: libvirt tells of sizes, not of targets.
    """

    def __init__(self, settings: HostSettings, holds: Holds) -> None:
        self.settings, self._holds, self._lost = settings, holds, False
        self._unseen: dict[str, int] = {}
        self._asked: dict[str, float] = {}
        self._sizes: dict[str, int] = {}

    def restarted(self, *, kept: bool) -> None:
        self._lost = self._lost or not kept

    def look(self, true: dict[str, Guest], snapshot: HostSnapshot, plan: Plan, time: float) -> None:
        if self._lost:
            self._lost, self._unseen = False, {uuid: g.target for uuid, g in true.items() if g.coming(time)}
        asks = [a for a in plan.actions if isinstance(a, SetBalloon)]
        if given := sum(max(0, a.target - max(true[a.guest].size, true[a.guest].target)) for a in asks):
            coming = sum(g.coming(time) for uuid, g in true.items()
                         if self._unseen.get(uuid) != g.target and self._seen(g, time))
            self._holds(GIVEN, given + coming <= snapshot.available, time,
                        f'{given // MIB} MB given, {coming // MIB} MB under way, {snapshot.available // MIB} MB free')
        self._asked |= {a.guest: time for a in asks}
        self._sizes = {uuid: g.size for uuid, g in true.items()}

    def _seen(self, guest: Guest, time: float) -> bool:
        asked_at, before = self._asked.get(guest.uuid), self._sizes.get(guest.uuid)
        return before is None or guest.size > before or (
            asked_at is not None and time - asked_at < self.settings.stuck_after)


class Fruitless:
    """A guest of which swap moved nothing twice running is asked again only after a rest, each longer than the last
    (``stuck_after`` seconds, twice that, and so on up to sixteen times); earlier only from HARD on, in a plan that asks
    everybody else who could give. A rest that nobody tried to end is over for good when it has passed once more.
    """

    def __init__(self, settings: HostSettings, holds: Holds) -> None:
        self.settings, self._holds = settings, holds
        self._misses: dict[str, tuple[int, float]] = {}
        self._asked_at = 0.0

    def restarted(self, *, kept: bool) -> None:
        """The rules began anew. Where nothing was kept, they cannot know whom they tried."""
        if not kept:
            self._misses.clear()

    def look(self, true: dict[str, Guest], snapshot: HostSnapshot, plan: Plan,
             outcomes: typing.Iterable[tuple[float, Outcome]], time: float) -> None:
        for when, outcome in outcomes:
            self._count(outcome, when)
        self._asked_at = time
        asked = {a.guest for a in plan.actions if isinstance(a, ReclaimGuest)}
        if not (asked and self._misses):
            return
        resting = {uuid for uuid in true if self._rests(uuid, time)}
        early = asked & resting
        left = {g.uuid for g in snapshot.guests if g.uuid not in asked | resting and g.can_swap
                and (g.refaults or 0.0) <= self.settings.refault_limit and _spare(true[g.uuid]) >= _LEAST}
        self._holds(FRUITLESS, not early or (plan.level >= Level.HARD and not left), time,
                    f'{_names(early, true)} is asked at {plan.level.name} though nothing of it could be moved at least '
                    f'{min((self._misses[uuid][0] for uuid in early), default=0)} times running, '
                    f'{"and not " + _names(left, true) if left else "below HARD"}')

    def _count(self, outcome: Outcome, time: float) -> None:
        uuid = outcome.action.guest if isinstance(outcome.action, ReclaimGuest) else ''
        if outcome.freed:
            self._misses.pop(uuid, None)
        elif outcome.freed is not None or outcome.error:
            misses, until = self._misses.get(uuid, (0, 0.0))
            misses = 1 if misses and self._asked_at >= until + self._rest(misses) else misses + 1
            self._misses[uuid] = misses, time + self._rest(misses)

    def _rest(self, misses: int) -> float:
        return self.settings.stuck_after * 2.0 ** min(misses - 1, _DOUBLED)

    def _rests(self, uuid: str, time: float) -> bool:
        misses, until = self._misses.get(uuid, (0, 0.0))
        return misses >= _MISSES and time < until


def _spare(guest: Guest) -> int:
    """Bytes that swap could take of a guest, as far as its host can see."""
    habit = guest.habit
    return min(guest.resident - habit.reservation - habit.overhead, habit.swap_limit - guest.swapped)


class Levels:
    """The level rises at once when too little is available, and falls after a dwell: to CLEAR only where all of the
    sliding minimum was there at every pass for so long. Under a constant load it changes at most once after ``settled``
    seconds (``None``: the load is not constant).
    """

    def __init__(self, settings: HostSettings, settled: float | None, holds: Holds) -> None:
        self.settings, self.settled, self._holds = settings, settled, holds
        self._level, self._rose, self._short, self._changes = Level.CLEAR, -1e9, -1e9, 0

    def restarted(self, *, kept: bool) -> None:
        """The rules began anew: by the level that they knew, where it was kept."""
        if not kept:
            self._level = Level.CLEAR

    def look(self, snapshot: HostSnapshot, level: Level, time: float) -> None:
        least, before = pressure.minimum(snapshot.total, self.settings.level_scale), self._level
        self._level = level
        due = max((one for one, part in _BEGINS.items() if snapshot.available < part * least), default=Level.CLEAR)
        self._holds(SETTLES, level >= due, time,
                    f'{snapshot.available // MIB} MB of {least // MIB} MB are available at {level.name}')
        if level < before:
            dwell = self.settings.dwell if level is Level.CLEAR else self.settings.dwell / _SOONER
            since = max(self._rose, self._short) if level is Level.CLEAR else self._rose
            self._holds(SETTLES, time - since >= dwell, time,
                        f'{before.name} falls to {level.name} {time - since:.0f} s after the host was short')
        if level > before:
            self._rose = time
        if snapshot.available < least:
            self._short = time
        if self.settled is not None and time >= self.settled and level is not before:
            self._changes += 1
            self._holds(SETTLES, self._changes <= 1, time, f'{before.name} turns to {level.name}')
