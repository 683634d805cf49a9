# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Our hooks over a nova compute driver. Each falls back to nova's own answer; none can make nova fail.

What ``super()`` raises passes through untouched, and so does what a nova to come may say in addition. What we raise
ourselves is only a refusal that nova knows how to handle: it then tries the next host.
"""
from __future__ import annotations

import dataclasses
import importlib.metadata
import time
import typing

import nova.conf
from oslo_log import log as logging

from ovc_plugin import report as reports
from ovc_plugin.model import MIB
from ovc_plugin.nova.admission import Ledger
from ovc_plugin.nova.arriving import Arriving
from ovc_plugin.nova.leaving import Leaving
from ovc_plugin.nova.preflight import TESTED
from ovc_plugin.nova.provider import ProviderRatio
from ovc_plugin.nova.ratio import next_ratio
from ovc_plugin.nova.telling import Telling
from ovc_plugin.settings import Settings

if typing.TYPE_CHECKING:
    from ovc_plugin.controller import Controller

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

# nova's first audit follows init_host at once and should have a report; more than this would delay its start.
PATIENCE = 5.0


class OvcMixin(Leaving, Arriving, Telling):
    """Put before a nova driver in the bases: ``class Driver(OvcMixin, LibvirtDriver)``."""

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        self._ovc: Controller | None = None
        self._ovc_settings = Settings()
        self._ovc_ledger = Ledger()
        self._ovc_failing: set[str] = set()
        self._ovc_why_not = 'nova-compute is starting'
        self._ovc_ratio: ProviderRatio | None = None

    # -- start and stop ------------------------------------------------------------------------------------------
    def init_host(self, host: str, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().init_host(host, *args, **kwargs)  # type: ignore[misc]
        self._ovc_guarded('endpoint', '"ovc status" cannot ask this host.', self._ovc_serve)
        self._ovc_ratio = self._ovc_guarded('ratio recall', 'placement keeps the allocation_ratio it has.',
                                            self._ovc_recall, host)
        self._ovc_guarded('start', 'This host runs as with the plain LibvirtDriver: it sends no report and nothing is '
                          'reclaimed. Mend what the message names and restart nova-compute.', self._ovc_start, host)

    def cleanup_host(self, host: str, *args: typing.Any, **kwargs: typing.Any) -> None:
        controller, self._ovc = self._ovc, None
        self._ovc_why_not = 'nova-compute is stopping'
        if controller is not None:
            self._ovc_guarded('stop', 'Its thread ends with nova-compute.', controller.stop)
        if self._ovc_ratio is not None:
            self._ovc_guarded('ratio restore', 'Set placement\'s MEMORY_MB allocation_ratio of this host by hand: '
                              'nobody watches over it any more.', self._ovc_give_back, self._ovc_ratio)
        super().cleanup_host(host, *args, **kwargs)  # type: ignore[misc]

    def _ovc_give_back(self, ratio: ProviderRatio) -> None:
        ratio.give_back(self.virtapi.reportclient)  # type: ignore[attr-defined]

    def _ovc_serve(self) -> None:
        from ovc_plugin import rpc
        manager = getattr(self.virtapi, '_compute', None)  # type: ignore[attr-defined]
        if manager is not None:
            manager.additional_endpoints.append(rpc.StatusEndpoint(self._ovc_status, self._ovc_explain))

    def _ovc_recall(self, host: str) -> ProviderRatio:
        """Not with our start: that may fail, and placement's ratio be ours from an earlier one."""
        from ovc_plugin import conf
        conf.register(CONF)
        return ProviderRatio(CONF.ovc_host.state_path, host)

    def _ovc_start(self, host: str) -> None:
        try:
            from ovc_plugin import privileged
            from ovc_plugin.nova import current
            self._ovc_settings = current.load()
            privileged.prepare(CONF)  # Also in a dry run: SIGHUP may end that.
            self._ovc_check_release()
            reserve = self._ovc_settings.host.reserve
            controller = self._ovc_build(host, CONF.reserved_host_memory_mb * MIB if reserve < 0 else reserve)
            controller.on_report = self._ovc_look
            controller.start()
        except Exception as error:
            self._ovc_why_not = f'the host controller did not start: {error}'
            raise
        self._ovc = controller
        deadline = time.monotonic() + min(PATIENCE, self._ovc_settings.host.tick)
        while controller.report is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _ovc_build(self, host: str, reserve: int) -> Controller:
        from ovc_plugin import assembly
        from ovc_plugin.nova import api
        return assembly.build(host, self._ovc_settings, self._ovc_connection, reserve, *api.nova_or_why(CONF, host))

    def _ovc_connection(self) -> typing.Any:
        """A live connection to libvirt."""
        raise NotImplementedError

    def _ovc_check_release(self) -> None:
        try:
            release = importlib.metadata.version('nova')
            tested = int(release.split('.')[0]) in TESTED
        except (importlib.metadata.PackageNotFoundError, ValueError) as error:  # as some packagers leave it
            LOG.warning('which nova this is cannot be told (%s); ovc-plugin is made for nova %d to %d', error,
                        TESTED[0], TESTED[-1])
            return
        if not tested:
            LOG.warning('ovc-plugin is made for nova %d to %d and this is %s: its driver is a subclass of a private '
                        'class of nova\'s; look for an ovc-plugin release made for it', TESTED[0], TESTED[-1], release)

    def _ovc_explain(self, guest: str) -> dict[str, typing.Any]:
        return self._ovc.explain(guest) if self._ovc is not None else {'guests': []}

    def _ovc_status(self) -> dict[str, typing.Any]:
        controller = self._ovc
        if controller is not None:
            return controller.status()
        return {'report': None, 'tick': {'seconds': None, 'age': None, 'error': self._ovc_why_not, 'passes': 0},
                'notes': [self._ovc_why_not], 'dry_run': self._ovc_settings.host.dry_run, 'guests': [], 'ksm': None,
                'last_host_action': None, 'events': []}

    # -- the report ----------------------------------------------------------------------------------------------
    def get_available_resource(self, nodename: str, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        resources = super().get_available_resource(nodename, *args, **kwargs)  # type: ignore[misc]
        if self._ovc_ratio is not None:
            self._ovc_ratio.new_audit()
        self._ovc_guarded('configuration', 'The configuration before stays in force.', self._ovc_reread)
        self._ovc_guarded('report', 'Schedulers will refuse this host once its last report is stale.',
                          self._ovc_add_report, resources, nodename)
        return resources

    def _ovc_reread(self) -> None:
        """Take what SIGHUP has changed in nova's configuration."""
        if self._ovc is not None:
            from ovc_plugin.nova import current
            self._ovc_settings = self._ovc.settings = current.get()

    def _ovc_add_report(self, resources: dict[str, typing.Any], nodename: str) -> None:
        report, settings = self._ovc.report if self._ovc is not None else None, self._ovc_settings
        if report is None or not resources:
            return
        told = dataclasses.replace(
            report, nova_reserved=CONF.reserved_host_memory_mb * MIB, sharing=reports.sharing_of(settings.host),
            default_reservation=settings.shared.default_reservation)
        resources['stats'] = {**(resources.get('stats') or {}), reports.STATS_KEY: reports.encode(told)}
        self._ovc_stores(nodename, report)

    # -- placement's ratio ---------------------------------------------------------------------------------------
    def update_provider_tree(self, provider_tree: typing.Any, nodename: str, *args: typing.Any,
                             **kwargs: typing.Any) -> None:
        super().update_provider_tree(provider_tree, nodename, *args, **kwargs)  # type: ignore[misc]
        self._ovc_guarded('ratio', 'placement keeps the allocation_ratio it has.', self._ovc_follow_ratio,
                          provider_tree, nodename)

    def _ovc_follow_ratio(self, provider_tree: typing.Any, nodename: str) -> None:
        settings, report = self._ovc_settings, self._ovc.report if self._ovc is not None else None
        ours = self._ovc is not None and not self._ovc.dry_run and settings.host.manage_ratio
        if self._ovc_ratio is None or (ours and report is None):
            return
        client = self.virtapi.reportclient  # type: ignore[attr-defined]
        if ours:
            self._ovc_ratio.refuse_old(client)

        def decide(current: float, capacity: int) -> float:
            return next_ratio(current, report, capacity, settings.host, settings.shared, time.time())

        self._ovc_ratio.follow(provider_tree, nodename, decide if ours else None, client)

    # -- the net -------------------------------------------------------------------------------------------------
    def _ovc_guarded(self, what: str, remedy: str, call: typing.Callable[..., typing.Any], *args: typing.Any,
                     **kwargs: typing.Any) -> typing.Any:
        """``call``'s result, or ``None`` when it fails: logged when it begins and ends to fail, not at each audit."""
        try:
            result = call(*args, **kwargs)
        except Exception as error:
            if what not in self._ovc_failing:
                self._ovc_failing.add(what)
                LOG.error('ovc %s failed: %s: %s. %s', what, type(error).__name__, error, remedy,
                          exc_info=not isinstance(error, ValueError))
            return None
        if what in self._ovc_failing:
            self._ovc_failing.discard(what)
            LOG.info('ovc %s works again', what)
        return result
