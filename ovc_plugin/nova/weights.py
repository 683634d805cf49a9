# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The weighers for nova-scheduler: room left, memory's trend, and pages that could be shared.

``OvercommitWeigher`` gives all three votes in one pass: nova spends more on each weigher that it runs than ours need to
count. ``HeadroomWeigher``, ``PressureTrendWeigher`` and ``SharingAffinityWeigher`` give one each, so that nova's debug
log shows them apart; do not enable them beside it.
"""
from __future__ import annotations

import functools
import logging as python_logging
import time
import types
import typing

from nova.scheduler import weights
from oslo_log import log as logging

from ovc_plugin.nova import ballot, current
from ovc_plugin.nova.ballot import AFFINITY, ALL, HEADROOM, TREND, Ballot

LOG = logging.getLogger(__name__)
_NOVA = python_logging.getLogger('nova.weights')


class OvercommitWeigher(weights.BaseHostWeigher):
    """All our votes among nova's weighers, each with a strength ``[ovc_scheduler] *_weight_multiplier``.

    Host aggregates override a strength with metadata of the same name. In dry-run it has no opinion.
    """

    VOTES: tuple[str, ...] = ALL

    # Votes are absolute: two hosts that differ little must not be stretched to 0 and 1.
    minval = 0.0
    maxval = 1.0

    def __init__(self) -> None:
        super().__init__()
        current.load()
        self._failed = False
        ballot.wanted = ballot.wanted or self.VOTES == ALL

    def weigh_objects(self, weighed_obj_list: list[typing.Any], weight_properties: typing.Any) -> list[float]:
        """The strengths are in it: they differ between votes. An empty list adds nothing to any host.

        To what a weigher returns nova's handler does three things: it tells it in its debug log, for which it makes
        three dictionaries whether that is on or not, it scales it, and it adds it to the weights. Ours need no scale,
        and all but the sum costs several times what our votes cost; so where that log is off and the handler makes the
        same of it (:func:`_may_add`), the votes are added here and nothing is left for it to do.
        """
        votes = self.votes(weighed_obj_list, weight_properties)
        if _NOVA.isEnabledFor(python_logging.DEBUG) or not _may_add():
            return votes
        for weighed, vote in zip(weighed_obj_list, votes, strict=False):
            weighed.weight += vote
        return []

    def votes(self, weighed_obj_list: list[typing.Any], weight_properties: typing.Any) -> list[float]:
        """The votes on these hosts; none where we have no opinion."""
        try:
            settings = current.get()
            if settings.scheduler.dry_run:
                return []
            hosts = [weighed.obj for weighed in weighed_obj_list]
            votes = ballot.left(weight_properties, hosts) if self.VOTES == ALL else None
            if votes is None or None in votes:
                count = Ballot(self.VOTES, weight_properties, settings, time.time()).sum
                votes = [count(host) if vote is None else vote
                         for host, vote in zip(hosts, votes or [None] * len(hosts), strict=True)]
            return typing.cast('list[float]', votes)
        except Exception:
            (LOG.debug if self._failed else LOG.exception)(
                '%s failed and weighs all hosts alike: report this with the lines below', type(self).__name__,
                exc_info=True)
            self._failed = True
        return []

    def _weigh_object(self, host_state: typing.Any, weight_properties: typing.Any) -> float:
        return Ballot(self.VOTES, weight_properties, current.get(), time.time()).sum(host_state)


class HeadroomWeigher(OvercommitWeigher):
    """Prefers hosts with more room left after the request."""

    VOTES = (HEADROOM,)


class PressureTrendWeigher(OvercommitWeigher):
    """Prefers hosts whose memory is not about to run out."""

    VOTES = (TREND,)


class SharingAffinityWeigher(OvercommitWeigher):
    """Prefers hosts where the guest may share pages with others of its project."""

    VOTES = (AFFINITY,)


class _Probe(weights.BaseHostWeigher):
    minval, maxval = OvercommitWeigher.minval, OvercommitWeigher.maxval

    def __init__(self, adds: bool) -> None:
        self._adds = adds

    def weigh_objects(self, weighed_obj_list: list[typing.Any], weight_properties: typing.Any) -> list[float]:
        votes = [float(weighed.obj.host) for weighed in weighed_obj_list]
        if not self._adds:
            return votes
        for weighed, vote in zip(weighed_obj_list, votes, strict=True):
            weighed.weight += vote
        return []

    def _weigh_object(self, host_state: typing.Any, weight_properties: typing.Any) -> float:
        return float(host_state.host)


@functools.cache
def _may_add() -> bool:
    """Whether nova's handler makes the same of votes that a weigher has added and of those that it returns. Asked of
    it, as nova documents only the second."""
    hosts = [types.SimpleNamespace(host=str(vote), nodename='') for vote in (0.25, -1.5, 3.0)]

    def made(adds: bool) -> list[tuple[str, float]]:
        found = weights.HostWeightHandler().get_weighed_objects([_Probe(False), _Probe(adds)], hosts, None)
        return [(weighed.obj.host, weighed.weight) for weighed in found]

    try:
        return made(adds=True) == made(adds=False)
    except Exception:
        LOG.debug('nova\'s handler of weighers could not be tried', exc_info=True)
        return False
