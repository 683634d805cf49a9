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

from nova.scheduler import utils, weights
from oslo_log import log as logging

from ovc_plugin.decide import placement, score, sketch
from ovc_plugin.model import MIB
from ovc_plugin.nova import book, current, neighbours
from ovc_plugin.nova import host_state as states
from ovc_plugin.report import ReportError
from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)

HEADROOM, TREND, AFFINITY = ALL = ('headroom_weight_multiplier', 'pressure_trend_weight_multiplier',
                                   'sharing_affinity_weight_multiplier')
Strengths = tuple[float, float, float]


class _Ballot:
    """One request's votes on any host, each within 0..1 and times its strength."""

    def __init__(self, votes: tuple[str, ...], asked: typing.Any, settings: Settings, now: float) -> None:
        self._votes, self._now, self._max_age = votes, now, settings.shared.report_max_age
        self._asking = states.Asking(asked, settings.shared)
        self._memory, self._domain = self._asking.memory, self._asking.domain
        self._scheduler = settings.scheduler
        self._ratio = settings.scheduler.unreported_ratio or 1.0
        self._default = self._all(lambda name: getattr(settings.scheduler, name))
        self._named: str | None = None
        self._of_aggregates: dict[tuple[int, ...], Strengths] = {}

    def sum(self, host_state: typing.Any) -> float:
        """0 for a host whose report cannot be relied on."""
        strengths = self._strengths(host_state) if host_state.aggregates else self._default
        try:
            found = states.find(host_state, self._asking)
        except ReportError:
            return 0.0
        if found is None:
            return self._unreported(host_state, strengths)
        known, (_, backed, demand) = found
        if abs(self._now - known.taken_at) > self._max_age:
            return 0.0
        report = known.report
        # Where nothing needs to be backed, demand alone says what room is left.
        room = demand if demand < backed or placement.waived(report, self._scheduler) else backed
        headroom, trend, affinity = strengths
        total = headroom * score.headroom(room, self._memory) if headroom else 0.0
        if trend:
            total += trend * score.trend(room, report.growth)
        if affinity and self._domain is not None and (known.domain == self._domain or report.sharing == 'all'):
            alike = self._asking.kind in neighbours.of(host_state).kinds
            held = book.BOOK.expected(self._image(), known.there) if known.there else None
            total += affinity * score.affinity(report, self._domain, alike, held)
        return total

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
            default = dict(zip(ALL, self._default, strict=True))
            found = self._of_aggregates[key] = self._all(
                lambda name: utils.get_weight_multiplier(host_state, name, default[name]))
        return found

    def _all(self, strength: typing.Callable[[str], float]) -> Strengths:
        headroom, trend, affinity = (float(strength(name)) if name in self._votes else 0.0 for name in ALL)
        return headroom, trend, affinity


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

    def weigh_objects(self, weighed_obj_list: list[typing.Any], weight_properties: typing.Any) -> list[float]:
        """The strengths are in it: they differ between votes. An empty list adds nothing to any host."""
        try:
            settings = current.get()
            if settings.scheduler.dry_run:
                return []
            ballot = _Ballot(self.VOTES, weight_properties, settings, time.time())
            return [ballot.sum(weighed.obj) for weighed in weighed_obj_list]
        except Exception:
            (LOG.debug if self._failed else LOG.exception)(
                '%s failed and weighs all hosts alike: report this with the lines below', type(self).__name__,
                exc_info=True)
            self._failed = True
        return []

    def _weigh_object(self, host_state: typing.Any, weight_properties: typing.Any) -> float:
        return _Ballot(self.VOTES, weight_properties, current.get(), time.time()).sum(host_state)


class HeadroomWeigher(OvercommitWeigher):
    """Prefers hosts with more room left after the request."""

    VOTES = (HEADROOM,)


class PressureTrendWeigher(OvercommitWeigher):
    """Prefers hosts whose memory is not about to run out."""

    VOTES = (TREND,)


class SharingAffinityWeigher(OvercommitWeigher):
    """Prefers hosts where the guest may share pages with others of its project."""

    VOTES = (AFFINITY,)
