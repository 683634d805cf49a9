# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Predictors that others have published, for comparison, and for who trusts them.

Formulas after Bashir et al., "Take it to the limit" (EuroSys'21), there for processors. ``u`` is a guest's demand,
``L`` its limit, ``r`` the host's sum of ``u`` over its sum of ``L``. New guests count at their limit. Their horizon
is one day whatever is asked: none of them knows another.
"""
from __future__ import annotations

import collections
import math
import typing

from ovc_plugin.decide.demand import DAY_STEPS, HostDemand, percentile
from ovc_plugin.decide.predict import Prediction, Predictor

WARM_UP_STEPS = 24


class Forgetful:
    """Begins anew after a restart, and keeps every prediction between present demand and limits."""

    def observe(self, step: HostDemand) -> None:
        """Nothing to learn."""

    def to_dict(self) -> dict[str, typing.Any]:
        return {}

    def from_dict(self, kept: typing.Mapping[str, typing.Any]) -> None:
        """Nothing was kept."""

    @staticmethod
    def bounded(peak: float, present: HostDemand, horizon: float, cold: int = 0) -> Prediction:
        known = sum(g.limit if g.bounded is None else g.bounded for g in present.guests)
        found = max(known, min(math.ceil(peak), present.limit))
        return Prediction(peak=found, horizon=horizon, base=found, bound=found, cold=cold)


class BorgDefault(Forgetful):
    """phi * sum L: a fixed share of what was promised."""

    def __init__(self, phi: float = 0.9) -> None:
        self.phi = phi

    def peak(self, present: HostDemand, horizon: float) -> Prediction:
        return self.bounded(self.phi * present.limit, present, horizon)


class NSigma(Forgetful):
    """min(1, mean(r) + n * std(r)) * sum L over the last two hours; all limits until there are as many."""

    def __init__(self, n: float = 5.0, steps: int = 24) -> None:
        self.n = n
        self._ratios: collections.deque[float] = collections.deque(maxlen=steps)

    def observe(self, step: HostDemand) -> None:
        if step.total is not None and step.limit:
            self._ratios.append(step.total / step.limit)

    def peak(self, present: HostDemand, horizon: float) -> Prediction:
        count = len(self._ratios)
        if count < WARM_UP_STEPS:
            return self.bounded(present.limit, present, horizon, len(present.guests))
        mean = sum(self._ratios) / count
        deviation = math.sqrt(sum((ratio - mean) ** 2 for ratio in self._ratios) / count)
        return self.bounded((mean + self.n * deviation) * present.limit, present, horizon)


class ResourceCentral(Forgetful):
    """sum of percentile_p(u / L) * L over each guest's own last ten hours."""

    def __init__(self, share: float = 0.99, steps: int = 120) -> None:
        self.share, self.steps = share, steps
        self._ratios: dict[str, collections.deque[float]] = {}
        self._found: dict[str, float] = {}  # of this step: sorting is what costs
        self._now = 0

    def observe(self, step: HostDemand) -> None:
        for guest in step.guests:
            used = guest.bounded
            if used is not None and guest.limit:
                past = self._ratios.get(guest.uuid)
                if past is None:
                    past = self._ratios[guest.uuid] = collections.deque(maxlen=self.steps)
                past.append(used / guest.limit)
        self._found.clear()
        self._now += 1
        if self._now % DAY_STEPS == 0:
            present = {g.uuid for g in step.guests}
            self._ratios = {uuid: past for uuid, past in self._ratios.items() if uuid in present}

    def peak(self, present: HostDemand, horizon: float) -> Prediction:
        total, cold = 0.0, 0
        for guest in present.guests:
            past = self._ratios.get(guest.uuid, ())
            if len(past) < WARM_UP_STEPS:
                cold += 1
                total += guest.limit
            else:
                if guest.uuid not in self._found:
                    self._found[guest.uuid] = percentile(past, self.share)
                total += self._found[guest.uuid] * guest.limit
        return self.bounded(total, present, horizon, cold)


class HostMax(Forgetful):
    """The largest sum of the last seven days; all limits for the first two hours."""

    def __init__(self, days: int = 7) -> None:
        self._sums: collections.deque[int] = collections.deque(maxlen=days * DAY_STEPS)

    def observe(self, step: HostDemand) -> None:
        if step.total is not None:
            self._sums.append(step.total)

    def peak(self, present: HostDemand, horizon: float) -> Prediction:
        if len(self._sums) < WARM_UP_STEPS:
            return self.bounded(present.limit, present, horizon, len(present.guests))
        return self.bounded(max(self._sums), present, horizon)


class Largest(Forgetful):
    """The largest of what several predict; N-sigma and RC-like unless said otherwise."""

    def __init__(self, of: typing.Sequence[Predictor] | None = None) -> None:
        self.of = tuple(of) if of is not None else (NSigma(), ResourceCentral())

    def observe(self, step: HostDemand) -> None:
        for predictor in self.of:
            predictor.observe(step)

    def peak(self, present: HostDemand, horizon: float) -> Prediction:
        return max((p.peak(present, horizon) for p in self.of), key=lambda found: found.peak)
