# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``OvercommitFilter`` for nova-scheduler: a host passes when its fresh report says that every promise can be kept."""
from __future__ import annotations

import time
import typing

from nova.scheduler import filters, utils
from oslo_log import log as logging

from ovc_plugin.decide import placement
from ovc_plugin.model import MIB, Verdict
from ovc_plugin.nova import current, explain
from ovc_plugin.nova import host_state as states
from ovc_plugin.report import ReportError
from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)

TOLD_AT_INFO = 5


def judge(host_state: typing.Any, asking: states.Asking, settings: Settings, now: float,
          explainer: explain.Explainer | None = None) -> Verdict:
    """May the request go to this host? The reason has both numbers."""
    try:
        report = states.report_of(host_state)
    except ReportError as error:
        return Verdict(ok=False, reason=str(error))
    request = asking.of(host_state)
    if report is None:
        return _unreported(host_state, request.memory, settings.scheduler.unreported_ratio)
    flying = states.in_flight(host_state, report)
    if explainer is not None:
        explainer.saw(host_state.host, report, flying)
    return placement.fits(report, request, flying, settings.scheduler, settings.shared, now)


def _unreported(host_state: typing.Any, memory: int, ratio: float) -> Verdict:
    """A host without the plugin has nobody who would balloon or swap there: nova's own sums, and no overcommit."""
    limit = int(host_state.total_usable_ram_mb * ratio) * MIB
    wanted = states.used(host_state) + memory
    if ratio and wanted > limit:
        return Verdict(ok=False, reason=f'host sends no report and would hold {placement.mb(wanted)} > '
                                        f'{placement.mb(limit)} (unreported_ratio {ratio:g}): enable '
                                        'ovc.OvcLibvirtDriver there, or raise that option')
    return Verdict(ok=True, reason='host sends no report and is left to nova')


class OvercommitFilter(filters.BaseHostFilter):
    """Refuses hosts that could not keep their promises with the request added; unknown or stale is refused too.

    A host that cannot be judged is refused alone. What goes wrong before any host is looked at lets all of them pass:
    placement's ratio bounds them still, and each host checks again.
    """

    RUN_ON_REBUILD = False  # The guest is there already and counted.

    def __init__(self) -> None:
        super().__init__()
        current.load()  # A bad option stops nova-scheduler at its start, not at the first guest.
        self._failed: set[str] = set()
        self._explainer = explain.attach(lambda: current.get().shared)

    def host_passes(self, host_state: typing.Any, spec_obj: typing.Any) -> bool:
        return bool(list(self.filter_all([host_state], spec_obj)))

    def filter_all(self, filter_obj_list: typing.Iterable[typing.Any], spec_obj: typing.Any) -> typing.Any:
        hosts = list(filter_obj_list)
        if not self.RUN_ON_REBUILD and utils.request_is_rebuild(spec_obj):
            return hosts
        try:
            return self._judge_all(hosts, spec_obj)
        except Exception as error:
            self._complain(error, 'OvercommitFilter failed and lets all hosts pass: report this with the lines below; '
                           'placement\'s allocation_ratio and the hosts\' own check still hold')
            return hosts

    def _complain(self, error: Exception, text: str, *values: str) -> None:
        """Once per kind is enough: it would come with every request."""
        kind = f'{text} {type(error).__name__}'
        (LOG.debug if kind in self._failed else LOG.exception)(text, *values, exc_info=True)
        self._failed.add(kind)

    def _judge_all(self, hosts: list[typing.Any], spec_obj: typing.Any) -> list[typing.Any]:
        settings, now = current.get(), time.time()
        asking = states.Asking(spec_obj, settings.shared)
        asking.of()  # a request that cannot be read is no host's fault
        passed, refused = [], []
        for host in hosts:
            try:
                verdict = judge(host, asking, settings, now, self._explainer)
            except Exception as error:
                self._complain(error, 'OvercommitFilter could not judge %s and refuses it: report this with the lines '
                               'below', host.host)
                verdict = Verdict(ok=False, reason=f'could not be judged: {type(error).__name__}: {error}')
            if verdict.ok:
                passed.append(host)
            else:
                refused.append((host.host, verdict.reason))
        if refused:
            _tell(refused, asking.guest, settings.scheduler.dry_run, bool(passed))
        return hosts if settings.scheduler.dry_run else passed


def _tell(refused: list[tuple[str, str]], guest: str, dry_run: bool, passed: bool) -> None:
    """Each refusal at debug level; at info level the first few, where they decide (none left) or are all we do."""
    would = 'would be refused' if dry_run else 'refused'
    aloud = TOLD_AT_INFO if dry_run or not passed else 0
    for count, (host, reason) in enumerate(refused):
        (LOG.info if count < aloud else LOG.debug)('host %s %s for guest %s: %s', host, would, guest, reason)
    if aloud and len(refused) > aloud:
        LOG.info('%d more hosts %s for guest %s: see the debug level', len(refused) - aloud, would, guest)
