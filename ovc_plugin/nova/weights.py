# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``HeadroomWeigher`` for nova-scheduler: prefers hosts with more room left after the request."""
from __future__ import annotations

import time
import typing

from nova.scheduler import utils, weights
from oslo_log import log as logging

from ovc_plugin.decide import placement
from ovc_plugin.model import MIB
from ovc_plugin.nova import current
from ovc_plugin.nova import host_state as states
from ovc_plugin.report import ReportError
from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)

MULTIPLIER = 'headroom_weight_multiplier'


def score(host_state: typing.Any, asking: states.Asking, settings: Settings, now: float) -> float:
    """0..1 by the room left, on a scale set by the request alone; 0 for a host whose report cannot be relied on.

    A host without any report is scored by nova's own sums on the same scale.
    """
    try:
        report = states.report_of(host_state)
    except ReportError:
        return 0.0
    request = asking.of(host_state)
    if report is None:
        limit = int(host_state.total_usable_ram_mb * (settings.scheduler.unreported_ratio or 1.0)) * MIB
        left = limit - states.used(host_state) - request.memory
        return left / (left + request.memory) if left > 0 and request.memory > 0 else 0.0
    if abs(report.age(now)) > settings.shared.report_max_age:
        return 0.0
    return placement.score(report, request, states.in_flight(host_state, report), settings.shared)


class HeadroomWeigher(weights.BaseHostWeigher):
    """One vote among nova's weighers, of strength ``[ovc_scheduler] headroom_weight_multiplier``.

    Host aggregates override the strength with metadata of the same name. In dry-run it has no opinion.
    """

    # Scores are absolute: two hosts that differ little must not be stretched to 0 and 1.
    minval = 0.0
    maxval = 1.0

    def __init__(self) -> None:
        super().__init__()
        current.load()
        self._failed = False

    def weight_multiplier(self, host_state: typing.Any) -> float:
        strength = current.get().scheduler.headroom_weight_multiplier
        return utils.get_weight_multiplier(host_state, MULTIPLIER, strength) if host_state.aggregates else strength

    def weigh_objects(self, weighed_obj_list: list[typing.Any], weight_properties: typing.Any) -> list[float]:
        try:
            settings, now = current.get(), time.time()
            if not settings.scheduler.dry_run:
                asking = states.Asking(weight_properties, settings.shared)
                return [score(weighed.obj, asking, settings, now) for weighed in weighed_obj_list]
        except Exception:
            (LOG.debug if self._failed else LOG.exception)(
                'HeadroomWeigher failed and weighs all hosts alike: report this with the lines below', exc_info=True)
            self._failed = True
        return [0.0] * len(weighed_obj_list)

    def _weigh_object(self, host_state: typing.Any, weight_properties: typing.Any) -> float:
        settings = current.get()
        return score(host_state, states.Asking(weight_properties, settings.shared), settings, time.time())
