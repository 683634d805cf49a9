# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Why placement had no host: nova-scheduler then asks no filter, so we say what the filter saw last.

Placement's ratio is kept at what hosts can promise, so when all are full it is placement that refuses, and nova's log
says only "Got no allocation candidates". This handler listens for that line and adds ours.
"""
from __future__ import annotations

import logging as python_logging
import time
import typing

from oslo_log import log as logging

from ovc_plugin.decide import placement
from ovc_plugin.nova import host_state as states
from ovc_plugin.settings import SharedSettings

LOG = logging.getLogger(__name__)

SPEAKER = 'nova.scheduler.manager'
SAYS = 'Got no allocation candidates'
TOLD = 3


class Explainer(python_logging.Handler):
    """Speaks when placement refuses, by each host's last report and what was in flight when it was last judged."""

    def __init__(self, shared: typing.Callable[[], SharedSettings],
                 known: typing.Callable[[], typing.Mapping[str, states.Known]] = states.all_known) -> None:
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
        overhead = self._shared().default_overhead
        found = []
        for host, known in hosts.items():
            report, seen = known.report, known.seen
            touched = report.committed + seen.memory + seen.guests * overhead
            limit = placement.backing(report.total, report.reserve, report.swap_usable)
            found.append((limit - touched, f'host {host} refused by placement\'s ratio: guests there could touch '
                          f'{placement.mb(touched)} of {placement.mb(limit)} of memory and swap before one more, which '
                          f'costs its memory + {placement.mb(overhead)} (report {report.age(now):.0f} s old)'))
        found.sort(key=lambda one: -one[0])
        told = [text for _, text in found[:TOLD]]
        if len(found) > TOLD:
            told.append(f'{len(found) - TOLD} more hosts had less room: "ovc status" tells what each can take')
        return told


def attach(shared: typing.Callable[[], SharedSettings]) -> Explainer:
    """The one explainer of this process, listening."""
    speaker = python_logging.getLogger(SPEAKER)
    for handler in speaker.handlers:
        if isinstance(handler, Explainer):
            return handler
    explainer = Explainer(shared)
    speaker.addHandler(explainer)
    return explainer
