# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whether nova's handler of weighers lets one add to the weights itself."""
from __future__ import annotations

import functools
import types
import typing

from nova.scheduler import weights
from oslo_log import log as logging

LOG = logging.getLogger(__name__)


class _Probe(weights.BaseHostWeigher):
    minval, maxval = 0.0, 1.0

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
def may_add() -> bool:
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
