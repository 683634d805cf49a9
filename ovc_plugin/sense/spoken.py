# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Rates of what guests count themselves, between the last two times that each of them spoke.

A guest speaks every few seconds, at moments of its own: between two passes it may have spoken twice, or not at all.
"""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.samples import Counted, GuestFacts, GuestSample


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What a guest last said, and its rates since the time before."""

    at: float
    swap_in: int | None
    faults: int | None
    swap_in_rate: float | None = None
    fault_rate: float | None = None


class _Pressed(typing.NamedTuple):
    """What a guest last counted of its pressure, and its rates since the time before."""

    counted: Counted
    rates: dict[str, float]


class Spoken:
    """Remembers one word of each guest, and one of its pressure, which it is asked for at other times."""

    def __init__(self) -> None:
        self._words: dict[str, _Word] = {}
        self._counted: dict[str, _Pressed] = {}

    def tell(self, samples: tuple[GuestSample, ...] | None) -> tuple[GuestSample, ...] | None:
        """The same samples, with the rates of those guests that have spoken twice."""
        if samples is None:
            return None
        self._words = {s.facts.uuid: word for s in samples if (word := self._word(s.facts)) is not None}
        self._counted = {s.facts.uuid: _pressed(self._counted.get(s.facts.uuid), s.counted)
                         for s in samples if s.counted is not None}
        return tuple(self._told(sample) for sample in samples)

    def _told(self, sample: GuestSample) -> GuestSample:
        word, pressed = self._words.get(sample.facts.uuid), self._counted.get(sample.facts.uuid)
        if word is not None:
            sample = dataclasses.replace(sample, guest_swap_in=word.swap_in_rate, major_faults=word.fault_rate)
        return sample if pressed is None else dataclasses.replace(sample, pressures=pressed.rates)

    def _word(self, facts: GuestFacts) -> _Word | None:
        if not facts.running or facts.last_update is None:
            return None
        before, at = self._words.get(facts.uuid), facts.last_update
        if before is not None and at == before.at:
            return before
        if before is None or at < before.at:
            return _Word(at=at, swap_in=facts.swap_in, faults=facts.major_faults)
        seconds = at - before.at
        return _Word(at=at, swap_in=facts.swap_in, faults=facts.major_faults,
                     swap_in_rate=_rate(before.swap_in, facts.swap_in, seconds),
                     fault_rate=_rate(before.faults, facts.major_faults, seconds))


def _pressed(before: _Pressed | None, counted: Counted) -> _Pressed:
    if before is None or counted.at < before.counted.at:
        return _Pressed(counted, {})
    seconds, earlier = counted.at - before.counted.at, before.counted.counts
    if not seconds:
        return before
    rates = {name: _rate(earlier.get(name), count, seconds) for name, count in counted.counts.items()}
    return _Pressed(counted, {name: rate for name, rate in rates.items() if rate is not None})


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    """Unknown where a counter went backwards: the guest was started anew."""
    return None if before is None or after is None or after < before else (after - before) / seconds
