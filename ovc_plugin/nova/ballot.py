# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One request's votes on hosts: room left, memory's trend, and pages that could be shared.

The votes are counted where a host has just been judged: with thousands of hosts, most of what a look at one costs is to
fetch it into the processor's cache, and nova's own weighers have driven it out again before ours are asked. So the
filter leaves the votes at the request, by host; a weigher counts only those that it does not find there.
"""
from __future__ import annotations

import typing

from nova.scheduler import utils

from ovc_plugin.decide import score, sketch
from ovc_plugin.model import MIB
from ovc_plugin.nova import book, neighbours
from ovc_plugin.nova import host_state as states
from ovc_plugin.report import ReportError
from ovc_plugin.settings import Settings

HEADROOM, TREND, AFFINITY = ALL = ('headroom_weight_multiplier', 'pressure_trend_weight_multiplier',
                                   'sharing_affinity_weight_multiplier')
Strengths = tuple[float, float, float]


class Ballot:
    """One request's votes on any host, each within 0..1 and times its strength."""

    def __init__(self, votes: tuple[str, ...], asked: typing.Any, settings: Settings, now: float,
                 asking: states.Asking | None = None) -> None:
        self._votes, self._now, self._max_age = votes, now, settings.shared.report_max_age
        self._asking = asking or states.Asking(asked, settings.shared,
                                               unbacked=not settings.scheduler.require_swap_backing)
        self._memory, self._domain = self._asking.memory, self._asking.domain
        self._ratio = settings.scheduler.unreported_ratio or 1.0
        #: Strengths where the host's aggregates say nothing of them, and the ids of aggregates that say nothing.
        self.default = self._all(lambda name: getattr(settings.scheduler, name))
        self.silent: set[int] = set()
        self._named: str | None = None
        self._of_aggregates: dict[tuple[int, ...], Strengths] = {}

    def sum(self, host_state: typing.Any) -> float:
        """0 for a host whose report cannot be relied on."""
        try:
            return self.of(host_state, states.find(host_state, self._asking))
        except ReportError:
            return 0.0

    def early(self, host_state: typing.Any, found: states.Found) -> float | None:
        """The same of a host that was just found to take the request, while others have not been looked at. ``None``
        where it depends on what their reports tell of page contents: all votes shall know the same."""
        known, left = found
        affinity = 0.0
        strengths = self._strengths(host_state) if host_state.aggregates else self.default
        if self._domain is not None and (known.domain == self._domain or known.open) and strengths[2]:
            if known.there:
                return None
            affinity = self._affinity(host_state, known)
        return strengths[0] * left.headroom + strengths[1] * left.trend + strengths[2] * affinity

    def of(self, host_state: typing.Any, found: states.Found | None) -> float:
        """The same of any host that was looked up."""
        strengths = self._strengths(host_state) if host_state.aggregates else self.default
        if found is None:
            return self._unreported(host_state, strengths)
        known, left = found
        if abs(self._now - known.taken_at) > self._max_age:
            return 0.0
        affinity = self._affinity(host_state, known) if strengths[2] else 0.0
        return strengths[0] * left.headroom + strengths[1] * left.trend + strengths[2] * affinity

    def _affinity(self, host_state: typing.Any, known: states.Known) -> float:
        if self._domain is None or not (known.domain == self._domain or known.open):
            return 0.0
        held = book.BOOK.expected(self._image(), known.there) if known.there else None
        # Who is there need not be gone through where what the guest would share is known.
        alike = held is None and self._asking.kind in neighbours.of(host_state).kinds
        return score.affinity(known.report, self._domain, alike, held)

    def _image(self) -> str:
        if self._named is None:
            self._named = sketch.image_name(*map(str, self._asking.kind))
        return self._named

    def _unreported(self, host_state: typing.Any, strengths: Strengths) -> float:
        """Room by nova's own sums, on the same scale; nothing else is known."""
        limit = int(host_state.total_usable_ram_mb * self._ratio) * MIB
        room = limit - states.used(host_state) - self._memory
        return strengths[0] * score.headroom(room, self._memory) + strengths[1] * score.UNTOLD

    def _strengths(self, host_state: typing.Any) -> Strengths:
        """As the host's aggregates have them. Many hosts are in the same ones, which live as long as the request."""
        key = tuple(map(id, host_state.aggregates))
        found = self._of_aggregates.get(key)
        if found is None:
            default = dict(zip(ALL, self.default, strict=True))
            found = self._of_aggregates[key] = self._all(
                lambda name: utils.get_weight_multiplier(host_state, name, default[name]))
            self.silent.update(id(a) for a in host_state.aggregates if default.keys().isdisjoint(a.metadata))
        return found

    def _all(self, strength: typing.Callable[[str], float]) -> Strengths:
        headroom, trend, affinity = (float(strength(name)) if name in self._votes else 0.0 for name in ALL)
        return headroom, trend, affinity


_NAME = '_ovc_votes'
#: Whether a weigher that gives all votes was made: without one, nobody asks for them.
wanted = False


def leave(asked: typing.Any, votes: dict[int, float]) -> None:
    """Leave votes at a request, by the ids of nova's host states. It lives no longer than they do; asked for another
    guest of the request, the filter leaves others."""
    setattr(asked, _NAME, votes)


def left(asked: typing.Any) -> dict[int, float]:
    """What the filter has left; empty where it did not."""
    return getattr(asked, _NAME, None) or {}
