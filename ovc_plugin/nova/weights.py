# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The weighers for nova-scheduler: room left, memory's trend, and pages that could be shared.

``OvercommitWeigher`` gives all three votes in one pass: nova spends more on each weigher that it runs than ours need to
count. ``HeadroomWeigher``, ``PressureTrendWeigher`` and ``SharingAffinityWeigher`` give one each, so that nova's debug
log shows them apart; do not enable them beside it.
"""
from __future__ import annotations

import time
import typing

from nova.scheduler import weights
from oslo_log import log as logging

from ovc_plugin.nova import ballot, current
from ovc_plugin.nova.ballot import AFFINITY, ALL, HEADROOM, TREND, Ballot

LOG = logging.getLogger(__name__)

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
        """The strengths are in it: they differ between votes. An empty list adds nothing to any host."""
        try:
            settings = current.get()
            if settings.scheduler.dry_run:
                return []
            counted = ballot.left(weight_properties) if self.VOTES == ALL else {}
            votes = [counted.get(id(weighed.obj)) for weighed in weighed_obj_list]
            if None in votes:
                count = Ballot(self.VOTES, weight_properties, settings, time.time()).sum
                votes = [count(weighed.obj) if vote is None else vote
                         for weighed, vote in zip(weighed_obj_list, votes, strict=True)]
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
