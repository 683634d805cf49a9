# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Why placement had no host: nova-scheduler then asks no filter, so we say what the filter saw last.

Placement's ratio is kept at what hosts can promise, so when all are full it is placement that refuses, and nova's log
says only "Got no allocation candidates": neither for what request nor for want of what. This handler listens for that
line and adds how large a guest could have been, so that whoever knows the request can tell whether it was memory.
"""
from __future__ import annotations

import logging as python_logging
import math
import time
import typing

from oslo_log import log as logging

from ovc_plugin.decide import placement
from ovc_plugin.nova import kept
from ovc_plugin.report import HostReport
from ovc_plugin.settings import SharedSettings

LOG = logging.getLogger(__name__)

SPEAKER = 'nova.scheduler.manager'
SAYS = 'Got no allocation candidates'
TOLD = 3


class Explainer(python_logging.Handler):
    """Speaks when placement refuses, by each host's last report and what was in flight when it was last judged."""

    def __init__(self, shared: typing.Callable[[], SharedSettings],
                 known: typing.Callable[[], typing.Mapping[str, kept.Known]] = lambda: kept.HOSTS) -> None:
        super().__init__(level=logging.INFO)
        self._shared, self._known = shared, known

    def emit(self, record: python_logging.LogRecord) -> None:
        try:
            if str(record.msg).startswith(SAYS):
                for line in self.lines(time.time()):
                    LOG.info('%s', line)
        except Exception:
            LOG.debug('could not explain why placement had no host', exc_info=True)

    def lines(self, now: float) -> list[str]:
        """The hosts with most room first, each with both numbers."""
        hosts = dict(self._known())
        if not hosts:
            return ['refused by placement before any host was judged: "ovc status" tells what each host can take']
        shared = self._shared()
        found = []
        for host, known in hosts.items():
            report, seen = known.report, known.seen
            if why := _not_ours(report, report.age(now), shared):
                found.append((-1.0, f'host {host}: {why}'))
                continue
            flying = seen.memory + seen.guests * shared.default_overhead
            touched, limit = report.committed + flying, placement.backing(report.total, report.reserve,
                                                                          report.swap_usable)
            room = max(0, placement.room(report, shared) - flying)
            could = f'a guest of about {placement.mb(room)}' if room < math.inf else 'as much as max_ratio allows'
            found.append((room, f'host {host} can promise {could}: guests there could touch {placement.mb(touched)} of '
                          f'{placement.mb(limit)} of memory and swap, and {placement.mb(report.reserved)} of '
                          f'{placement.mb(report.total - report.reserve)} are guaranteed (report {report.age(now):.0f} '
                          's old); placement\'s ratio follows within a step'))
        found.sort(key=lambda one: -one[0])
        told = [text for _, text in found[:TOLD]]
        if found[0][0] >= 0:
            told.append('a request for less than that, by more than two steps of the ratio ([ovc_host] ratio_step), '
                        'was not refused for memory, unless max_ratio is reached: ask placement for processors, disk '
                        'and traits, and nova whether the hosts are enabled')
        if len(found) > TOLD:
            told.append(f'{len(found) - TOLD} more hosts had less room: "ovc status" tells what each can take')
        return told


def _not_ours(report: HostReport, age: float, shared: SharedSettings) -> str | None:
    """Why the ratio that placement has of a host is not what its report would have it."""
    if report.dry_run:
        return ('a dry run, so that placement\'s ratio there is nova\'s own: initial_ram_allocation_ratio, or what was '
                'set by hand')
    if abs(age) > shared.report_max_age:
        return (f'{placement.stale(age, shared.report_max_age)}; placement\'s ratio there is that of then, or no more '
                'than what is used')
    return None


def attach(shared: typing.Callable[[], SharedSettings]) -> Explainer:
    """The one explainer of this process, listening."""
    speaker = python_logging.getLogger(SPEAKER)
    for handler in speaker.handlers:
        if isinstance(handler, Explainer):
            return handler
    explainer = Explainer(shared)
    speaker.addHandler(explainer)
    return explainer
