# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One request's votes on hosts: room left, memory's trend, and pages that could be shared.

The votes are counted where a host has just been judged: with thousands of hosts, most of what a look at one costs is to
fetch it into the processor's cache, and nova's own weighers have driven it out again before ours are asked. So the
filter leaves the votes at the request; a weigher counts only those that it does not find there.
"""
from __future__ import annotations

import typing

from nova.scheduler import utils

from ovc_plugin.decide import score, sketch
from ovc_plugin.model import MIB
from ovc_plugin.nova import book, neighbours
from ovc_plugin.nova import host_state as states
from ovc_plugin.nova.asking import RESERVATION
from ovc_plugin.nova.kept import Known
from ovc_plugin.report import ReportError
from ovc_plugin.settings import Settings

HEADROOM, TREND, AFFINITY = ALL = ('headroom_weight_multiplier', 'pressure_trend_weight_multiplier',
                                   'sharing_affinity_weight_multiplier')
#: What in an aggregate's metadata is for us.
OF_AGGREGATES = frozenset((*ALL, RESERVATION))
Strengths = tuple[float, float, float]
# Stronger than any vote that nova adds, and still a number that can be added to.
_MOST = 1e100


class Ballot:
    """One request's votes on any host, each within 0..1 and times its strength."""

    def __init__(self, votes: tuple[str, ...], asked: typing.Any, settings: Settings, now: float,
                 asking: states.Asking | None = None) -> None:
        self._asked, self._votes, self._now, self._max_age = (
            asked, votes, now, settings.shared.report_max_age)
        self._asking = asking or states.Asking(asked, settings.shared,
                                               unbacked=not settings.scheduler.require_swap_backing)
        self._memory, self._domain = self._asking.memory, self._asking.domain
        self._ratio = settings.scheduler.unreported_ratio or 1.0
        #: Strengths where the host's aggregates say nothing of them.
        self.default = self._all(lambda name: getattr(settings.scheduler, name))
        self._named: str | None = None
        self._of_aggregates: dict[tuple[int, ...], Strengths] = {}

    def leave(self, hosts: list[typing.Any], votes: list[float | None]) -> None:
        """:func:`leave` these at the request."""
        leave(self._asked, hosts, votes)

    def sum(self, host_state: typing.Any) -> float:
        """0 for a host whose report cannot be relied on."""
        try:
            return self._sum(host_state, states.known(host_state))
        except ReportError:
            return 0.0

    def _sum(self, host_state: typing.Any, known: Known | None) -> float:
        strengths = self.strengths(host_state)
        if known is None:
            return self._unreported(host_state, strengths)
        left = states.left(host_state, known, self._asking)
        if abs(self._now - known.taken_at) > self._max_age:
            return 0.0
        affinity = self.affinity(host_state, known) if strengths[2] else 0.0
        return left.vote(strengths[:2]) + strengths[2] * affinity

    def affinity(self, host_state: typing.Any, known: Known) -> float:
        """The third vote alone, within 0..1."""
        if self._domain is None or not (known.domain == self._domain or known.open):
            return 0.0
        held = book.BOOK.expected(self._image(), known.there) if known.there else None
        # Who is there need not be gone through where what the guest would share is known.
        alike = held is None and self._asking.kind in neighbours.of(host_state).kinds
        return score.affinity(known, self._domain, alike, held)

    def _image(self) -> str:
        if self._named is None:
            self._named = sketch.image_name(*map(str, self._asking.kind))
        return self._named

    def _unreported(self, host_state: typing.Any, strengths: Strengths) -> float:
        """Room by nova's own sums, on the same scale; nothing else is known."""
        limit = int(host_state.total_usable_ram_mb * self._ratio) * MIB
        room = limit - states.used(host_state) - self._memory
        return strengths[0] * score.headroom(room, self._memory) + strengths[1] * score.UNTOLD

    def strengths(self, host_state: typing.Any) -> Strengths:
        """As the host's aggregates have them. Many hosts are in the same ones, which live as long as the request."""
        if not host_state.aggregates:
            return self.default
        key = tuple(map(id, host_state.aggregates))
        found = self._of_aggregates.get(key)
        if found is None:
            default = dict(zip(ALL, self.default, strict=True))
            found = self._of_aggregates[key] = self._all(
                lambda name: utils.get_weight_multiplier(host_state, name, default[name]))
        return found

    def _all(self, strength: typing.Callable[[str], float]) -> Strengths:
        headroom, trend, affinity = (max(-_MOST, min(_MOST, float(strength(name)))) if name in self._votes else 0.0
                                     for name in ALL)
        return headroom, trend, affinity


_NAME = '_ovc_votes'
#: Whether a weigher that gives all votes was made: without one, nobody asks for them.
wanted = False


def leave(asked: typing.Any, hosts: typing.Sequence[typing.Any] = (),
          votes: typing.Sequence[float | None] = ()) -> None:
    """Leave the votes on these of nova's host states at a request. They live no longer than it; asked for another guest
    of the request, the filter leaves others."""
    setattr(asked, _NAME, (hosts, votes))


def left(asked: typing.Any, hosts: list[typing.Any]) -> list[float | None]:
    """The votes on these hosts that the filter has left; ``None`` where it did not."""
    there, votes = getattr(asked, _NAME, None) or ((), ())
    if hosts == there:  # no filter after ours refused one: the same objects, which need not be looked at
        return list(votes)
    by_host = dict(zip(map(id, there), votes, strict=True))
    return [by_host.get(id(host)) for host in hosts]
