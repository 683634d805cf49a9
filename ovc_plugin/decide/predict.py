# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The peak of a host's sum within a horizon, with an error rate that is checked against what then happened.

Guests seldom peak together, so the prediction starts from what their sum has reached lately (``base``: the largest
of the last fourteen horizons) and not from the sum of what each has reached (``bound``). What may come on top is
measured in units of ``spread``: a demand between 0 and a limit L with mean m deviates by at most sqrt(m * (L - m))
(Bhatia and Davis, 2000), and deviations of guests that vary each for itself add up as the root of the sum of their
squares. So one margin suits few guests and many, and a guest that has not burst yet is believed capable of it. How many
units are added, the ``margin``, follows the misses: see ``margin.py``.
"""
from __future__ import annotations

import dataclasses
import math
import typing

from ovc_plugin.decide.demand import DAY_STEPS, STEP, HostDemand, Watch, larger
from ovc_plugin.decide.margin import WIDEST, Pending, Track, Tuning
from ovc_plugin.model import MIB

HORIZONS = (300.0, 3600.0, 86400.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The ``peak`` of the host's sum in bytes, and what it was made of."""

    peak: int
    horizon: float
    base: int
    bound: int
    spread: int = 0
    margin: float = 0.0
    cold: int = 0

    @property
    def reason(self) -> str:
        text = (f'at most {self.peak // MIB} MB within {self.horizon / 60:.0f} min: {self.base // MIB} MB and '
                f'{self.margin:.0%} of {self.spread // MIB} MB; the guests\' own peaks sum to {self.bound // MIB} MB')
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


class Guests(typing.NamedTuple):
    """Of all guests together, in bytes: demand now (a guest's own peak where unknown), what new ones may add to theirs,
    the peaks of each (its limit for the ``cold`` ones) summed, and how far those that are not cold may deviate."""

    used: int
    new: int
    bound: int
    spread: int
    cold: int


class Calibrated:
    """Our predictor; see the module. Time is counted in steps seen: an outage erases no memory."""

    def __init__(self, tuning: Tuning | None = None, horizons: tuple[float, ...] = HORIZONS) -> None:
        self.tuning = tuning or Tuning()
        self.horizons = tuple(sorted(horizons))
        self._watched: dict[str, Watch] = {}
        self._sums: list[int] = []
        self._now = 0
        self._present: dict[str, int] = {}
        self._scanned: HostDemand | None = None
        self._found: dict[float, Guests] = {}
        self.tracks = {h: Track(h, self.tuning.margin) for h in self.horizons}
        self._keep = max(self._window(h) for h in self.horizons)

    def _window(self, horizon: float) -> int:
        return max(1, round(self.tuning.lookback * horizon / STEP))

    def observe(self, step: HostDemand) -> None:
        self._now += 1
        self._scanned = None
        self._arrivals(step)
        total = step.total
        for track in self.tracks.values():
            if total is not None:
                track.judge(self._now, total, self.tuning)
            else:
                track.pass_over(self._now)
        self._record(step, total)
        for horizon, track in self.tracks.items():
            if self._now % track.every == 0:
                due = self._now + max(1, round(horizon / STEP))
                track.pending.append(Pending(due, self.peak(step, horizon).peak))

    def _arrivals(self, step: HostDemand) -> None:
        before, present = self._present, {g.uuid: g.limit for g in step.guests}
        if present == before:
            return
        self._present = present
        more = {uuid: limit if uuid not in before else limit - before[uuid] for uuid, limit in present.items()
                if larger(limit, before.get(uuid, 0))}
        gone = before.keys() - present.keys()
        for track in self.tracks.values():
            track.left(gone)
            track.arrived(more)

    def _record(self, step: HostDemand, total: int | None) -> None:
        for guest in step.guests:
            used = guest.bounded
            if used is not None:
                watch = self._watched.get(guest.uuid)
                if watch is None:
                    watch = self._watched[guest.uuid] = Watch()
                watch.see(used, self._now, self.tuning.memory_days, guest.limit)
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
        past = self._sums[-self._window(horizon):]
        # what has left since cannot peak again, and what is new may: at its limit, on top
        base = min(max(past, default=0) + guests.new, guests.bound)
        base = max(base, guests.used + guests.new)
        # as far as the host's own past is short, the guests' own stand in for it
        trusted = max(1, round(self.tuning.trusted * horizon / STEP))
        base += round((guests.bound - base) * max(0.0, 1 - len(past) / trusted))
        spread = min(guests.spread, present.limit - base)
        track = self.tracks.get(horizon)
        margin = track.margin if track else max(t.margin for t in self.tracks.values())
        peak = base + min(margin, 1.0) * spread + max(margin - 1.0, 0.0) * (present.limit - base - spread)
        return Prediction(peak=max(base, min(round(peak), present.limit)), horizon=horizon, base=base,
                          bound=guests.bound, spread=spread, margin=margin, cold=guests.cold)

    def _guests(self, present: HostDemand, warm: float) -> Guests:
        """What the guests' own pasts say; found once for all horizons that ask the same."""
        if present is not self._scanned:
            self._scanned, self._found = present, {}
        if warm not in self._found:
            self._found[warm] = self._scan(present, warm)
        return self._found[warm]

    def _scan(self, present: HostDemand, warm: float) -> Guests:
        used = new = bound = cold = 0
        squares = 0.0
        for guest in present.guests:
            watch, now = self._watched.get(guest.uuid), guest.bounded
            if watch is None or watch.steps < warm or watch.limit and larger(guest.limit, watch.limit):
                most = guest.limit
                cold += 1
                new += 0 if now is None else most - now
            else:
                most = min(guest.limit, max(watch.peak, now or 0))
                mean = min(watch.mean, guest.limit)
                squares += mean * (guest.limit - mean)
            bound += most
            used += most if now is None else now
        return Guests(used, new, bound, round(math.sqrt(squares)), cold)

    def errors(self) -> list[dict[str, typing.Any]]:
        """How the predictions so far held, by horizon in seconds: how many were ``judged`` and how many too low."""
        return [{'horizon': h, 'judged': track.judged, 'missed': track.missed, 'margin': track.margin,
                 'share': track.missed / track.judged if track.judged else None} for h, track in self.tracks.items()]

    def to_dict(self) -> dict[str, typing.Any]:
        return {'now': self._now, 'sums': self._sums[-self._keep:],
                'margins': {str(int(h)): track.margin for h, track in self.tracks.items()},
                'judged': {str(int(h)): [track.judged, track.missed] for h, track in self.tracks.items()},
                'guests': {uuid: [w.steps, w.last, w.days, w.sums, w.limit] for uuid, w in self._watched.items()}}

    def from_dict(self, kept: typing.Mapping[str, typing.Any]) -> None:
        """Predictions that were pending are not judged: nobody looked in between. An older release kept no counts."""
        margins = {h: float(kept['margins'].get(str(int(h)), self.tuning.margin)) for h in self.horizons}
        judged = {h: [int(n) for n in kept.get('judged', {}).get(str(int(h)), (0, 0))] for h in self.horizons}
        # An older release kept no limits: there a guest is taken to have the one that it has next.
        watched = {str(uuid): Watch(int(steps), [int(day) for day in days], [int(day) for day in sums], int(last),
                                    *map(int, limit))
                   for uuid, (steps, last, days, sums, *limit) in kept['guests'].items()}
        self._now, self._sums = int(kept['now']), [int(amount) for amount in kept['sums']]
        self._watched, self._scanned = watched, None
        self._present = {uuid: watch.limit for uuid, watch in watched.items()}
        for horizon, track in self.tracks.items():
            track.margin = min(WIDEST, max(0.0, margins[horizon]))
            track.proven, track.missed = judged[horizon]
            track.pending.clear()
