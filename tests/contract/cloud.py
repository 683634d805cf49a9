# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A cloud of nova's functional fixtures whose hosts report what a test says."""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
import typing

import fixtures
from nova import context, objects
from nova.tests.functional import integrated_helpers
from nova.virt import fake

from ovc_plugin import answers
from ovc_plugin import report as reports
from ovc_plugin.decide import placement
from ovc_plugin.model import MIB, InFlight, Level, Request, Verdict
from ovc_plugin.nova import asking, current
from ovc_plugin.nova.mixin import OvcMixin
from ovc_plugin.settings import Settings

GB = 1 << 30
TOTAL, RESERVED = 8192 * MIB, 512 * MIB  # nova's MediumFakeDriver, nova's default


def a_report(host: str, **changes: typing.Any) -> reports.HostReport:
    """An idle host of 8 GB with 8 GB of swap that reports just now."""
    fields = dict(host=host, taken_at=time.time(), level=Level.CLEAR, total=TOTAL, reserve=RESERVED, available=TOTAL,
                  committed=0, reserved=0, claimed=0, guests=0, reclaimable=0, saved=0, swap_usable=8 * GB,
                  swap_used=0)
    return reports.HostReport(**fields | changes)


class ToldController:
    """Stands where the host controller stands; its report is what the test last told."""

    def __init__(self, host: str, settings: Settings) -> None:
        self.settings = settings
        self.report: reports.HostReport | None = a_report(host)
        self.guests: list[dict[str, typing.Any]] = []
        self.refuses: str | None = None
        self.running = False
        self.left: list[str] = []
        self.judged: list[InFlight] = []
        self.on_report: typing.Callable[[reports.HostReport], None] = lambda report: None
        self.seen_anew: dict[str, typing.Any] = {}
        self._listed_at: float | None = None

    @property
    def listed_at(self) -> float:
        """With the report, unless the test says that the guests are older."""
        told = self.report.taken_at if self.report is not None else 0.0
        return told if self._listed_at is None else self._listed_at

    @listed_at.setter
    def listed_at(self, at: float) -> None:
        self._listed_at = at

    @property
    def sensed(self) -> answers.Sensed | None:
        if self.report is None:
            return None
        return answers.Sensed(self.report, {g['uuid']: g['maximum'] if g['untouchable'] else g['reservation']
                                            for g in self.guests if 'maximum' in g},
                              {g['uuid']: g['maximum'] for g in self.guests if 'maximum' in g}, self.listed_at)

    @property
    def dry_run(self) -> bool:
        return self.settings.host.dry_run

    def start(self) -> None:
        self.running = True

    def stop(self, timeout: float = 5.0) -> None:
        self.running = False

    def status(self) -> dict[str, typing.Any]:
        return {'report': reports.to_dict(self.report) if self.report else None, 'guests': self.guests}

    def look_anew(self, why: str) -> bool:
        """What the test lets it see then; it has just looked where the test says nothing."""
        if self.report is not None and self.seen_anew:
            self.report = dataclasses.replace(self.report, taken_at=time.time(), **self.seen_anew)
        return bool(self.seen_anew)

    @contextlib.contextmanager
    def leaving(self, guest: str) -> typing.Iterator[None]:
        yield
        self.left.append(guest)

    def admits(self, request: Request, in_flight: InFlight, now: float,
               by: reports.HostReport | None = None) -> Verdict:
        self.judged.append(in_flight)
        if self.refuses:
            return Verdict(ok=False, reason=self.refuses)
        return placement.fits(by or self.report, request, in_flight, self.settings.scheduler, self.settings.shared, now)


class OvcFakeDriver(OvcMixin, fake.MediumFakeDriver):
    """Our hooks over nova's own fake driver."""

    def _ovc_build(self, host: str, reserve: int) -> typing.Any:
        return ToldController(host, self._ovc_settings)


class Longer:
    """In the place of ``time`` in nova's helpers, which look ten times, half a second apart, and then give up: each
    sleep of one wait is longer than the last, so that ten of them are a minute on a machine that needs it."""

    def __init__(self) -> None:
        self._waits: typing.Any = None
        self._factor = 1.0

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        if (waits := sys._getframe(1)) is not self._waits:
            self._waits, self._factor = waits, 1.0
        time.sleep(seconds * self._factor)
        self._factor *= 1.45


sys.modules['nova.virt.ovc_contract'] = sys.modules[__name__]


def enable(case: typing.Any, **options: typing.Any) -> None:
    """nova with our filter and weigher, as the README says; options are of [ovc_scheduler]."""
    current.forget()
    asking._warned.clear()
    case.addCleanup(current.forget)
    case.flags(group='filter_scheduler',
               available_filters=['nova.scheduler.filters.all_filters', 'ovc_plugin.nova.filters.OvercommitFilter'],
               enabled_filters=['ComputeFilter', 'ComputeCapabilitiesFilter', 'ServerGroupAffinityFilter',
                                'OvercommitFilter'],
               weight_classes=['ovc_plugin.nova.weights.OvercommitWeigher'])
    case.flags(group='ovc_scheduler', **{'dry_run': False} | options)
    # Time for a stop to end: nova's tests give it none, and what we do in it would reach into the next test.
    case.flags(manager_shutdown_timeout=100)
    case.useFixture(fixtures.MonkeyPatch('nova.tests.functional.integrated_helpers.time', Longer()))
    if not hasattr(case, 'state_path'):
        case.state_path = case.useFixture(fixtures.TempDir()).path
    # No libvirt of this machine's: the hosts of a test are several, and each is taken by one alone.
    case.flags(group='ovc_host', dry_run=False, state_path=case.state_path, run_path=case.state_path)


class CloudCase(integrated_helpers.ProviderUsageBaseTestCase):
    """Conductor, scheduler, API and placement of nova, and as many computes as the test starts."""

    compute_driver = 'ovc_contract.OvcFakeDriver'

    def setUp(self) -> None:
        enable(self)
        super().setUp()
        self.logged = self.useFixture(fixtures.FakeLogger(
            'ovc_plugin', level=logging.DEBUG, format='%(levelname)s %(message)s'))

    def compute(self, host: str, **report: typing.Any) -> typing.Any:
        """A started nova-compute whose controller reports so."""
        service = self._start_compute(host)
        if report:
            self.tell(host, **report)
            self.audit()
        return service

    def controller(self, host: str) -> typing.Any:
        return self.computes[host].driver._ovc

    def tell(self, host: str, **changes: typing.Any) -> None:
        """The controller makes a new report; nova has it after its next audit."""
        controller = self.controller(host)
        controller.report = dataclasses.replace(controller.report, **{'taken_at': time.time()} | changes)

    def kill(self, service: typing.Any) -> None:
        """nova-compute is killed: nothing of what a stop does is done."""
        service.manager.driver.cleanup_host = lambda host: None
        service.stop()

    def audit(self, **stats: str | None) -> None:
        """nova-compute's periodic audit on every host; ``stats`` replaces what a host then has stored."""
        admin = context.get_admin_context()
        for compute in self.computes.values():
            compute.manager.update_available_resource(admin)
        for host, text in stats.items():
            node = objects.ComputeNode.get_by_nodename(admin, host)
            node.stats = {k: v for k, v in node.stats.items() if k != 'ovc'} | ({'ovc': text} if text else {})
            node.save()

    def boot(self, mb: int = 1024, state: str = 'ACTIVE', extra: dict[str, str] | None = None,
             host: str | None = None) -> typing.Any:
        flavor = self._create_flavor(memory_mb=mb, vcpu=1, disk=1, ephemeral=0, extra_spec=extra)
        return self._create_server(flavor_id=flavor, networks='none', expected_state=state, host=host)

    def host_of(self, server: typing.Any) -> str:
        return str(self.api.get_server(server['id'])['OS-EXT-SRV-ATTR:host'])

    def ratio(self, host: str) -> float:
        provider = self._get_provider_uuid_by_host(host)
        return float(self._get_provider_inventory(provider)['MEMORY_MB']['allocation_ratio'])

    @property
    def log(self) -> str:
        """What our own loggers said, debug level included."""
        return str(self.logged.output)
