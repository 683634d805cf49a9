# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""nova's real LibvirtDriver under our class, over nova's fake libvirt, with the real controller in its thread."""
from __future__ import annotations

import inspect
import json
import os
import sys
import threading
from unittest import mock

import fixtures
from nova import context, objects
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.libvirt import base
from nova.virt import driver as virt_driver

from ovc_plugin.nova.driver import OvcLibvirtDriver
from tests.contract.cloud import enable
from tests.waiting import until

MB_KIB = 1024


class OnlyWhatWeRead:
    """A fake domain whose definition is the one that nova wrote: nova's fake answers with a canned text."""

    def __init__(self, domain, xml):
        self._domain, self._xml = domain, xml

    def __getattr__(self, name):
        return getattr(self._domain, name)

    def XMLDesc(self, flags):
        return self._xml


class TestLibvirt(base.ServersTestBase):
    ADMIN_API = True
    microversion = 'latest'

    def setUp(self):
        enable(self, dry_run=True)
        self.state = self.useFixture(fixtures.TempDir()).path
        self.flags(group='ovc_host', dry_run=True, tick=0.2, fast_look=0, state_path=self.state)
        self.written = {}
        self.useFixture(fixtures.MonkeyPatch(
            'nova.tests.fixtures.libvirt.Domain._parse_definition', self._remember_definition()))
        self.useFixture(fixtures.MonkeyPatch(
            'nova.tests.fixtures.libvirt.Connection.getAllDomainStats', self._stats, ))
        for name, value in (('VIR_DOMAIN_STATS_STATE', 1), ('VIR_DOMAIN_STATS_BALLOON', 4)):
            self.useFixture(fixtures.MonkeyPatch(f'nova.tests.fixtures.libvirt.{name}', value))
        patch = mock.patch.dict(sys.modules, libvirt=fakelibvirt)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()

    def _setup_compute_service(self):
        self.flags(compute_driver='ovc.OvcLibvirtDriver')  # through the installed .pth, as in a cloud

    def _remember_definition(self):
        original, written = fakelibvirt.Domain._parse_definition, self.written

        def parse(domain, xml):
            definition = original(domain, xml)
            written[definition['uuid']] = xml
            return definition
        return parse

    def _stats(self, kinds, flags):
        connection = self.computes_connection
        return [(OnlyWhatWeRead(vm, self.written[vm.UUIDString()]),
                 {'state.state': vm._state, 'balloon.current': 512 * MB_KIB, 'balloon.rss': 300 * MB_KIB})
                for vm in connection._vms.values()]

    def test_guests_start_and_are_seen_as_nova_defined_them(self):
        info = fakelibvirt.HostInfo(cpu_nodes=1, cpu_sockets=1, cpu_cores=4, cpu_threads=2, kB_mem=8192 * 1024)
        self.computes_connection = self._get_connection(host_info=info, hostname='host1')
        self.start_compute('host1', connection=self.computes_connection)
        driver = self.computes['host1'].driver
        self.assertIsInstance(driver, OvcLibvirtDriver)
        self.assertIsNotNone(driver._ovc, self.stdlog.logger.output[-2000:])
        self.assertIn('ovc-controller', [thread.name for thread in threading.enumerate()])
        flavor = self._create_flavor(memory_mb=512, vcpu=1, extra_spec={
            'ovc:reservation': '25%', 'ovc:weight': '2', 'ovc:share': 'no'})
        server = self._create_server(flavor_id=flavor, networks='none')
        guest = self._wait_for_guest(driver, server['id'])
        self.assertEqual((512 << 20, 128 << 20), (guest['maximum'], guest['reservation']))
        self.assertTrue(guest['running'])
        self.assertIn('<nosharepages', self.written[server['id']])
        for specs, unshared in (({'ovc:overcommit': 'no'}, True), ({'ovc:overcommit': 'No', 'ovc:share': 'yes'}, True),
                                ({'ovc:overcommit': 'yes'}, False), ({}, False)):
            flavor = self._create_flavor(memory_mb=512, vcpu=1, extra_spec=specs)
            other = self._create_server(flavor_id=flavor, networks='none')
            self.assertEqual(unshared, '<nosharepages' in self.written[other['id']], specs)
            self._delete_server(other)
        self._run_periodics()
        stats = objects.ComputeNode.get_by_nodename(context.get_admin_context(), 'host1').stats
        report = json.loads(stats['ovc'])
        self.assertEqual((1, 512 << 20), (report['guests'], report['claimed']))
        self.assertIn('uptime', stats)  # nova's own are kept
        self.assertTrue(os.listdir(self.state))
        self.computes['host1'].stop()
        self.assertNotIn('ovc-controller', [thread.name for thread in threading.enumerate()])

    def _wait_for_guest(self, driver, uuid):
        return until(lambda: next((guest for guest in driver._ovc.status()['guests'] if guest['uuid'] == uuid), None),
                     f'the controller to see {uuid}')


def test_our_methods_take_what_novas_take():
    """As nova's own test of its libvirt driver has it, for every method."""
    def public(kind):
        return {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if name[0] != '_'}
    theirs = public(virt_driver.ComputeDriver)
    ours = public(OvcLibvirtDriver)
    assert set(ours) <= set(theirs)
    differ = [name for name, method in ours.items()
              if inspect.getfullargspec(method)[:-1] != inspect.getfullargspec(theirs[name])[:-1]]
    assert not differ
