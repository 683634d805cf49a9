# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What predictors are told: the demand of a host's guests, gathered into steps of five minutes."""
from __future__ import annotations

import dataclasses
import functools
import typing

STEP = 300.0
DAY_STEPS = 288


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestDemand:
    """What a guest makes its host back, and the most it ever may: bytes. ``used`` is ``None`` where unknown."""

    uuid: str
    used: int | None
    limit: int

    @property
    def bounded(self) -> int | None:
        """``used`` within what is possible: one reading gone wild must not stand for weeks."""
        used = self.used
        if used is None or 0 <= used <= self.limit:
            return used
        return max(0, min(used, self.limit))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostDemand:
    """The guests of one host at one time. ``peak`` is the largest sum of their demands within the step, if known to
    differ from the sum of their peaks."""

    at: float
    guests: tuple[GuestDemand, ...]
    peak: int | None = None

    @functools.cached_property
    def total(self) -> int | None:
        """Bytes the guests used together; ``None`` when one of them is unknown."""
        if self.peak is not None:
            return self.peak
        used = [g.bounded for g in self.guests]
        known = [amount for amount in used if amount is not None]
        return sum(known) if len(known) == len(used) else None

    @functools.cached_property
    def limit(self) -> int:
        return sum(g.limit for g in self.guests)


class Steps:
    """Merges what is seen at every tick into steps: for each guest, and for their sum, the largest of the step."""

    def __init__(self, step: float = STEP) -> None:
        self._step = step
        self._began: float | None = None
        self._guests: dict[str, GuestDemand] = {}
        self._peak: int | None = None

    def add(self, seen: HostDemand) -> HostDemand | None:
        """The step that ended before this look, if one did. A clock set back begins a new step."""
        done = None
        if self._began is None or not 0 <= seen.at - self._began < self._step:
            done = self._close(seen.at)
            self._began = seen.at
        for guest in seen.guests:
            before = self._guests.get(guest.uuid)
            if before is None or guest.used is None or before.used is None:
                self._guests[guest.uuid] = guest if before is None or before.used is None else before
            elif guest.used >= before.used or guest.limit != before.limit:
                self._guests[guest.uuid] = dataclasses.replace(guest, used=max(guest.used, before.used))
        if seen.total is not None:
            self._peak = max(self._peak or 0, seen.total)
        return done

    def _close(self, now: float) -> HostDemand | None:
        if self._began is None:
            return None
        done = HostDemand(at=now, guests=tuple(self._guests.values()), peak=self._peak)
        self._guests, self._peak = {}, None
        return done


def larger(limit: int, before: int) -> bool:
    """Whether a guest has been made larger: by more than the overhead, which is measured anew, makes of it."""
    return limit > before * 1.1


class Watch:
    """One guest's past: steps seen, and the peak and the sum of each of its last days (counted in steps seen).

    It says nothing of what the guest does once it is larger: then it begins anew. ``limit`` is the largest that it had,
    in bytes; 0 where that is not known.
    """

    __slots__ = ('steps', 'days', 'sums', 'last', 'peak', '_before', 'limit')

    def __init__(self, steps: int = 0, days: list[int] | None = None, sums: list[int] | None = None,
                 last: int = 0, limit: int = 0) -> None:
        self.steps, self.days, self.sums, self.last, self.limit = steps, days or [0], sums or [0], last, limit
        self.peak, self._before = max(self.days), sum(self.sums[:-1])

    def see(self, used: int, now: int, memory_days: int, limit: int = 0) -> None:
        if self.limit and larger(limit, self.limit):
            self.steps, self.days, self.sums, self.peak, self._before = 0, [0], [0], 0, 0
        self.limit = max(self.limit, limit)
        if self.steps and self.steps % DAY_STEPS == 0:
            self.days, self.sums = [*self.days, 0][-memory_days:], [*self.sums, 0][-memory_days:]
            self.peak, self._before = max(self.days), sum(self.sums[:-1])
        self.steps += 1
        self.last = now
        self.sums[-1] += used
        if used > self.days[-1]:
            self.days[-1] = used
            if used > self.peak:
                self.peak = used

    @property
    def mean(self) -> float:
        """Over the days remembered; 0 before the first step."""
        today = (self.steps - 1) % DAY_STEPS + 1
        return (self._before + self.sums[-1]) / max(1, (len(self.sums) - 1) * DAY_STEPS + today)


def percentile(values: typing.Sequence[float], share: float) -> float:
    """The value below which ``share`` (0..1) of the values lie, interpolated. At least one value is needed."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
