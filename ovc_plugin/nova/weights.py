# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The weighers for nova-scheduler: room left, memory's trend, and pages that could be shared.

``OvercommitWeigher`` gives all three votes in one pass: nova spends more on each weigher that it runs than ours need to
count. ``HeadroomWeigher``, ``PressureTrendWeigher`` and ``SharingAffinityWeigher`` give one each, so that nova's debug
log shows them apart; do not enable them beside it.
"""
from __future__ import annotations

import logging as python_logging
import time
import typing

from nova.scheduler import weights
from oslo_log import log as logging

from ovc_plugin.nova import adding, ballot, current
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
        same of it (:func:`ovc_plugin.nova.adding.may_add`), the votes are added here and nothing is left for it to do.
        """
        votes = self.votes(weighed_obj_list, weight_properties)
        scaled = type(self).weight_multiplier is not weights.BaseHostWeigher.weight_multiplier  # by somebody's subclass
        if scaled or _NOVA.isEnabledFor(python_logging.DEBUG) or not adding.may_add():
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
