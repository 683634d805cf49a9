# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The filters for nova-scheduler.

``OvercommitFilter``: a host passes when its fresh report says that every promise can be kept.
``SharingDomainFilter``: a host passes when nobody of another trust domain shares pages there.
"""
from __future__ import annotations

import time
import typing

from nova.scheduler import filters, utils
from oslo_log import log as logging

from ovc_plugin.model import Verdict
from ovc_plugin.nova import ballot, current, explain, judging, neighbours
from ovc_plugin.nova import host_state as states
from ovc_plugin.report import ReportError
from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)

TOLD_AT_INFO = 5
# The hosts that pass and those that do not, and by the ids of these what went wrong.
Sifted = tuple[list[typing.Any], list[typing.Any], dict[int, Exception]]


class _Filter(filters.BaseHostFilter):
    """What our filters have in common: a host that cannot be judged is refused alone; what goes wrong before any host
    is looked at lets all of them pass. In a dry run all pass, and the log says what would not."""

    RUN_ON_REBUILD = False  # The guest is there already.

    def __init__(self) -> None:
        super().__init__()
        current.load()  # A bad option stops nova-scheduler at its start, not at the first guest.
        self._failed: set[str] = set()

    def host_passes(self, host_state: typing.Any, spec_obj: typing.Any) -> bool:
        return bool(list(self.filter_all([host_state], spec_obj)))

    def filter_all(self, filter_obj_list: typing.Iterable[typing.Any], spec_obj: typing.Any) -> typing.Any:
        hosts = list(filter_obj_list)
        if not self.RUN_ON_REBUILD and utils.request_is_rebuild(spec_obj):
            return hosts
        try:
            return self._judge_all(hosts, spec_obj)
        except Exception as error:
            self._complain(error, f'{type(self).__name__} failed and lets all hosts pass: report this with the lines '
                           'below; placement\'s allocation_ratio and the hosts\' own check still hold')
            return hosts

    def _complain(self, error: Exception, text: str, *values: str) -> None:
        """Once per kind is enough: it would come with every request."""
        kind = f'{text} {type(error).__name__}'
        (LOG.debug if kind in self._failed else LOG.error)(text, *values, exc_info=error)
        self._failed.add(kind)

    def _judge_all(self, hosts: list[typing.Any], spec_obj: typing.Any) -> list[typing.Any]:
        settings, now = current.get(), time.time()
        asking = self._asking(spec_obj, settings, now)
        asking.of()  # a request that cannot be read is no host's fault
        passed, refused, wrong = self._sift(hosts, asking, settings, now)
        for host in refused if wrong else ():
            if error := wrong.get(id(host)):
                self._complain(error, f'{type(self).__name__} could not judge %s and refuses it: report this with the '
                               'lines below', host.host)
        if refused:
            def why(host: typing.Any) -> str:
                if error := wrong.get(id(host)):
                    return f'could not be judged: {type(error).__name__}: {error}'
                return self._why(host, asking, settings, now)
            _tell(refused, why, asking.guest, settings.scheduler.dry_run, bool(passed))
        return hosts if settings.scheduler.dry_run else passed

    def _sift(self, hosts: list[typing.Any], asking: states.Asking, settings: Settings, now: float) -> Sifted:
        passes = self._passing(asking, settings, now)
        passed: list[typing.Any] = []
        refused: list[typing.Any] = []
        wrong: dict[int, Exception] = {}
        for host in hosts:
            try:
                (passed if passes(host) else refused).append(host)
            except Exception as error:
                refused.append(host)
                wrong[id(host)] = error
        return passed, refused, wrong

    def _asking(self, spec_obj: typing.Any, settings: Settings, now: float) -> states.Asking:
        return states.Asking(spec_obj, settings.shared, unbacked=not settings.scheduler.require_swap_backing)

    def _passing(self, asking: states.Asking, settings: Settings,
                 now: float) -> typing.Callable[[typing.Any], bool]:
        """What tells of each host whether it passes."""
        raise NotImplementedError

    def _why(self, host: typing.Any, asking: states.Asking, settings: Settings, now: float) -> str:
        """The reason of a refusal, asked for only when it is told."""
        raise NotImplementedError


class OvercommitFilter(_Filter):
    """Refuses hosts that could not keep their promises with the request added, by a report that is fresh and can be
    read; a host that sends none is left to nova up to ``unreported_ratio``. Of a rebuild, by what it adds."""

    RUN_ON_REBUILD = True

    def __init__(self) -> None:
        super().__init__()
        explain.attach(lambda: current.get().shared)

    def _sift(self, hosts: list[typing.Any], asking: states.Asking, settings: Settings, now: float) -> Sifted:
        if isinstance(asking, judging.Rebuild):
            return super()._sift(hosts, asking, settings, now)
        quick = judging.Quick(asking, settings, now)
        quick.sift(hosts)
        if asking.counts is not None:
            asking.counts.leave(quick.passed, quick.votes)
        return quick.passed, quick.refused, quick.wrong

    def _passing(self, asking: states.Asking, settings: Settings,
                 now: float) -> typing.Callable[[typing.Any], bool]:
        return lambda host: self._verdict(host, asking, settings, now).ok

    def _asking(self, spec_obj: typing.Any, settings: Settings, now: float) -> states.Asking:
        if utils.request_is_rebuild(spec_obj):
            return judging.Rebuild(spec_obj, settings.shared)
        asking = super()._asking(spec_obj, settings, now)
        ballot.leave(spec_obj)
        if ballot.wanted and not settings.scheduler.dry_run:
            asking.counts = ballot.Ballot(ballot.ALL, spec_obj, settings, now, asking)
        return asking

    def _why(self, host: typing.Any, asking: states.Asking, settings: Settings, now: float) -> str:
        return self._verdict(host, asking, settings, now).reason

    def _verdict(self, host: typing.Any, asking: states.Asking, settings: Settings, now: float) -> Verdict:
        if isinstance(asking, judging.Rebuild):
            return asking.judge(host, settings, now)
        return judging.judge(host, asking, settings, now)


class SharingDomainFilter(_Filter):
    """Keeps guests of different trust domains (projects) that share pages off one host; others go anywhere.

    By the host's report, and by nova's own list of guests for those that came since. A guest that another request is
    building just then is in neither: should two domains meet so, the host starts the second without sharing. A host
    that merges nothing, or everybody's pages because its operator said so, has nobody to be kept apart from.
    """

    def _passing(self, asking: states.Asking, settings: Settings,
                 now: float) -> typing.Callable[[typing.Any], bool]:
        return lambda host: asking.domain is None or not self._others(host, asking.domain)

    def _why(self, host: typing.Any, asking: states.Asking, settings: Settings, now: float) -> str:
        others = self._others(host, asking.domain or '')
        return (f'guests of {len(others)} other trust domains share pages there ({", ".join(others)}), the request is '
                f'of {asking.domain}: give its flavor ovc:share=no, or let it go to another host')

    def _others(self, host: typing.Any, mine: str) -> list[str]:
        """The domains there but ``mine``. A report that cannot be read has nothing to say here: OvercommitFilter
        refuses it."""
        try:
            known = states.known(host)
        except ReportError:
            known = None
        if known is not None and known.sharing != 'domain':
            return []
        told, since = (known.domains, known.taken_at) if known is not None else ((), 0.0)
        return sorted({*told, *neighbours.of(host).domains(since)} - {mine})


def _tell(refused: list[typing.Any], why: typing.Callable[[typing.Any], str], guest: str,
          dry_run: bool, passed: bool) -> None:
    """Each refusal at debug level; at info level the first few, where they decide (none left) or are all we do."""
    would = 'would be refused' if dry_run else 'refused'
    aloud = TOLD_AT_INFO if dry_run or not passed else 0
    for host in refused[:None if LOG.isEnabledFor(logging.DEBUG) else aloud]:
        (LOG.info if aloud > 0 else LOG.debug)('host %s %s for guest %s: %s', host.host, would, guest, why(host))
        aloud -= 1
    told = TOLD_AT_INFO if dry_run or not passed else 0
    if told and len(refused) > told:
        LOG.info('%d more hosts %s for guest %s: see the debug level', len(refused) - told, would, guest)
