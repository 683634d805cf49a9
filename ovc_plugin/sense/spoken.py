# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Rates of what guests count themselves, between the last two times that each of them spoke.

A guest speaks every few seconds, at moments of its own: between two passes it may have spoken twice, or not at all.
"""
from __future__ import annotations

import dataclasses

from ovc_plugin.samples import GuestFacts, GuestSample


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What a guest last said, and its rates since the time before."""

    at: float
    swap_in: int | None
    faults: int | None
    swap_in_rate: float | None = None
    fault_rate: float | None = None


class Spoken:
    """Remembers one word of each guest."""

    def __init__(self) -> None:
        self._words: dict[str, _Word] = {}

    def tell(self, samples: tuple[GuestSample, ...] | None) -> tuple[GuestSample, ...] | None:
        """The same samples, with the rates of those guests that have spoken twice."""
        if samples is None:
            return None
        self._words = {s.facts.uuid: word for s in samples if (word := self._word(s.facts)) is not None}
        return tuple(dataclasses.replace(s, guest_swap_in=word.swap_in_rate, major_faults=word.fault_rate)
                     if (word := self._words.get(s.facts.uuid)) is not None else s for s in samples)

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


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    """Unknown where a counter went backwards: the guest was started anew."""
    return None if before is None or after is None or after < before else (after - before) / seconds
