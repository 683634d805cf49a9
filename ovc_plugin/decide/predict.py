# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The peak of a host's sum within a horizon, with an error rate that is checked against what then happened.

Guests seldom peak together: the largest sum is about half the sum of the guests' own peaks. Between what the host's
sum has reached lately (``base``) and what it would be had all guests peaked at once (``bound``) lies a gap; the
prediction takes a part of it, the ``margin``. The margin follows the misses (adaptive conformal inference, Gibbs and
Candes 2021): each miss widens it by ``gain * (1 - target)``, each prediction that held narrows it by
``gain * target``. A margin above 1 goes on from ``bound`` towards the sum of all limits, which nothing exceeds: so
in the long run the share of misses is at most the target, whatever the guests do.
"""
from __future__ import annotations

import collections
import dataclasses
import typing

from ovc_plugin.decide.demand import STEP, GuestDemand, HostDemand
from ovc_plugin.model import MIB

HORIZONS = (300.0, 3600.0, 86400.0)
DAY_STEPS = 288


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The ``peak`` of the host's sum in bytes, and what it was made of."""

    peak: int
    horizon: float
    base: int
    bound: int
    margin: float
    cold: int = 0

    @property
    def reason(self) -> str:
        text = (f'at most {self.peak // MIB} MB within {self.horizon / 60:.0f} min: {self.base // MIB} MB, and '
                f'{self.margin:.0%} of the way to {self.bound // MIB} MB')
        return f'{text}; {self.cold} guests too new to judge' if self.cold else text


class Predictor(typing.Protocol):
    """One way to predict. It is told each step in turn, and may be asked at any time for the guests then present."""

    def observe(self, step: HostDemand) -> None:
        """Learn from five minutes that have ended."""

    def peak(self, present: HostDemand, horizon: float) -> Prediction:
        """The largest sum of these guests' demands within ``horizon`` seconds from now."""

    def to_dict(self) -> dict[str, typing.Any]:
        """What should outlive a restart, as JSON-able data; may be empty."""

    def from_dict(self, kept: typing.Mapping[str, typing.Any]) -> None:
        """:raises KeyError, TypeError, ValueError, AttributeError: not written by :meth:`to_dict`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """``target``: share of predictions that may prove too low. ``margin``: where it begins; ``gain``: how far one
    miss moves it. ``lookback``: horizons of the host's own past that count. ``memory_days``: a guest's past."""

    target: float = 0.01
    margin: float = 0.2
    gain: float = 0.005
    lookback: int = 7
    memory_days: int = 14
    warm_up: float = 7200.0


class Watch:
    """One guest's past: steps seen, and the peak of each of its last days (counted in steps seen)."""

    __slots__ = ('steps', 'days', 'last', 'peak')

    def __init__(self, steps: int = 0, days: list[int] | None = None, last: int = 0) -> None:
        self.steps, self.days, self.last = steps, days or [0], last
        self.peak = max(self.days)

    def see(self, used: int, now: int, memory_days: int) -> None:
        if self.steps and self.steps % DAY_STEPS == 0:
            self.days = [*self.days, 0][-memory_days:]
            self.peak = max(self.days)
        self.steps += 1
        self.last = now
        if used > self.days[-1]:
            self.days[-1] = used
            if used > self.peak:
                self.peak = used


class Track:
    """The margin of one horizon, and the predictions not yet proven: ``[due, peak, missed]``."""

    __slots__ = ('margin', 'pending', 'every', 'proven', 'missed')

    def __init__(self, horizon: float, margin: float) -> None:
        self.margin, self.every = margin, max(1, round(horizon / 24 / STEP))
        self.pending: collections.deque[list[float]] = collections.deque()
        self.proven = self.missed = 0

    def judge(self, now: int, total: int, tuning: Tuning) -> None:
        """A miss counts as soon as it is seen, a success when its time is over."""
        for entry in self.pending:
            if not entry[2] and total > entry[1]:
                entry[2] = 1
                self.margin = min(2.0, self.margin + tuning.gain * (1 - tuning.target))
                self.missed += 1
        while self.pending and self.pending[0][0] <= now:
            self.proven += 1
            if not self.pending.popleft()[2]:
                self.margin = max(0.0, self.margin - tuning.gain * tuning.target)

    def arrived(self, limit: int) -> None:
        """Guests that came later were admitted on top of what was predicted."""
        for entry in self.pending:
            entry[1] += limit


class Guests(typing.NamedTuple):
    """Of all guests together: demand now (their own peak where unknown), what new ones may add to theirs, and the
    most to be expected of each (its own peak; its limit for the ``cold`` ones), in bytes."""

    used: int
    new: int
    bound: int
    cold: int


class Calibrated:
    """Our predictor; see the module. Time is counted in steps seen: an outage erases no memory."""

    def __init__(self, tuning: Tuning | None = None, horizons: tuple[float, ...] = HORIZONS) -> None:
        self.tuning = tuning or Tuning()
        self.horizons = tuple(sorted(horizons))
        self._watched: dict[str, Watch] = {}
        self._sums: list[int] = []
        self._now = 0
        self._present: frozenset[str] = frozenset()
        self._scanned: HostDemand | None = None
        self._found: dict[float, Guests] = {}
        self.tracks = {h: Track(h, self.tuning.margin) for h in self.horizons}
        self._keep = max(self._window(h) for h in self.horizons)

    def _window(self, horizon: float) -> int:
        return max(1, round(self.tuning.lookback * horizon / STEP))

    def observe(self, step: HostDemand) -> None:
        self._now += 1
        self._scanned = None
        present = frozenset(g.uuid for g in step.guests)
        self._arrivals(step, present)
        total = step.total
        if total is not None:
            for track in self.tracks.values():
                track.judge(self._now, total, self.tuning)
        self._record(step, total)
        for horizon, track in self.tracks.items():
            if self._now % track.every == 0:
                due = self._now + max(1, round(horizon / STEP))
                track.pending.append([due, self.peak(step, horizon).peak, 0])

    def _arrivals(self, step: HostDemand, present: frozenset[str]) -> None:
        if present != self._present:
            limit = sum(g.limit for g in step.guests if g.uuid not in self._present)
            for track in self.tracks.values():
                track.arrived(limit)
            self._present = present

    def _record(self, step: HostDemand, total: int | None) -> None:
        for guest in step.guests:
            used = guest.bounded
            if used is not None:
                watch = self._watched.get(guest.uuid)
                if watch is None:
                    watch = self._watched[guest.uuid] = Watch()
                watch.see(used, self._now, self.tuning.memory_days)
        if total is not None:
            self._sums.append(total)
        if self._now % DAY_STEPS == 0:
            self._sums = self._sums[-self._keep:]
            oldest = self._now - self.tuning.memory_days * DAY_STEPS
            self._watched = {uuid: w for uuid, w in self._watched.items() if w.last > oldest}

    def peak(self, present: HostDemand, horizon: float) -> Prediction:
        """Never below the present demand nor above the sum of limits; a longer horizon never predicts less."""
        found = self._peak(present, horizon)
        for shorter in self.horizons:
            if shorter < horizon and (other := self._peak(present, shorter)).peak > found.peak:
                found = dataclasses.replace(other, horizon=horizon)
        return found

    def _peak(self, present: HostDemand, horizon: float) -> Prediction:
        guests = self._guests(present, max(self.tuning.warm_up, horizon) / STEP)
        window = self._window(horizon)
        past = max(self._sums[-window:], default=0)
        # what has left since cannot peak again, and what is new may: at its limit, on top
        base = min(max(past, guests.used) + guests.new, guests.bound)
        margin = self._margin(horizon, window)
        peak = (base + min(margin, 1.0) * (guests.bound - base)
                + max(margin - 1.0, 0.0) * (present.limit - guests.bound))
        return Prediction(peak=max(base, min(round(peak), present.limit)), horizon=horizon, base=base,
                          bound=guests.bound, margin=margin, cold=guests.cold)

    def _guests(self, present: HostDemand, warm: float) -> Guests:
        """What the guests' own pasts say; found once for all horizons that ask the same."""
        if present is not self._scanned:
            self._scanned, self._found = present, {}
        if warm not in self._found:
            self._found[warm] = self._scan(present, warm)
        return self._found[warm]

    def _scan(self, present: HostDemand, warm: float) -> Guests:
        used = new = bound = cold = 0
        for guest in present.guests:
            watch, now = self._watched.get(guest.uuid), guest.bounded
            if watch is None or watch.steps < warm:
                most = guest.limit
                cold += 1
                new += 0 if now is None else most - now
            else:
                most = min(guest.limit, max(watch.peak, now or 0))
            bound += most
            used += most if now is None else now
        return Guests(used, new, bound, cold)

    def _margin(self, horizon: float, window: int) -> float:
        """The tracked margin; while the host's own past is short, what is missing of it counts as margin."""
        track = self.tracks.get(horizon)
        learned = track.margin if track else max(t.margin for t in self.tracks.values())
        return max(learned, 1 - len(self._sums) / window)

    def to_dict(self) -> dict[str, typing.Any]:
        return {'now': self._now, 'sums': self._sums[-self._keep:],
                'margins': {str(int(h)): track.margin for h, track in self.tracks.items()},
                'guests': {uuid: [w.steps, w.last, w.days] for uuid, w in self._watched.items()}}

    def from_dict(self, kept: typing.Mapping[str, typing.Any]) -> None:
        """Predictions that were pending are not judged: nobody looked in between."""
        margins = {h: float(kept['margins'].get(str(int(h)), self.tuning.margin)) for h in self.horizons}
        watched = {str(uuid): Watch(int(steps), [int(day) for day in days], int(last))
                   for uuid, (steps, last, days) in kept['guests'].items()}
        self._now, self._sums = int(kept['now']), [int(amount) for amount in kept['sums']]
        self._watched, self._present, self._scanned = watched, frozenset(watched), None
        for horizon, track in self.tracks.items():
            track.margin = min(2.0, max(0.0, margins[horizon]))
            track.pending.clear()
