# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest is started by that was ballooned when nova wrote down its definition."""
from __future__ import annotations

import math
import os
from unittest import mock

from nova import exception, objects
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.libvirt import base
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.libvirt import guest as libvirt_guest
from nova.virt.libvirt import utils as libvirt_utils

from ovc_plugin.model import MIB
from ovc_plugin.nova import current
from tests.contract.test_untouchables import Kinds

BALLOONED = "<currentMemory unit='KiB'>131072</currentMemory>"
FULL = 524288


class TestRestarting(Kinds, base.ServersTestBase):

    def setUp(self):
        super().setUp()
        self.start_compute('host1')
        self.driver = self.computes['host1'].driver
        self.asked = []
        original = libvirt_guest.Guest.get_xml_desc

        def as_libvirt_has_it(guest, *args, **kwargs):
            return original(guest, *args, **kwargs).replace('</memory>', f'</memory>\n  {BALLOONED}', 1)

        for target, name, stand_in in (
                (libvirt_guest.Guest, 'get_xml_desc', as_libvirt_has_it),
                (fakelibvirt.Domain, 'setMemoryFlags', lambda domain, kib, flags: self.asked.append((kib, flags)))):
            patch = mock.patch.object(target, name, stand_in, create=True)
            patch.start()
            self.addCleanup(patch.stop)

    def instance(self):
        return objects.Instance(uuid=self.order({})['id'])

    def acts(self, yes):
        self.flags(dry_run=not yes, group='ovc_host')
        current.forget()
        self._run_periodics()

    def test_a_guest_comes_out_of_a_rescue_at_its_full_size(self):
        server = self.order({})
        os.makedirs(libvirt_utils.get_instance_path(objects.Instance(uuid=server['id'])))
        for dry_run, ballooned in ((False, False), (True, True)):
            self.acts(not dry_run)
            self.api.post_server_action(server['id'], {'rescue': {}})
            self._wait_for_state_change(server, 'RESCUE')
            self.assertNotIn(BALLOONED, self.written[server['id']])
            self.api.post_server_action(server['id'], {'unrescue': None})
            self._wait_for_state_change(server, 'ACTIVE')
            self.assertEqual(ballooned, BALLOONED in self.written[server['id']])

    def ways(self, instance, **nova):
        for name, given in (('post_live_migration_at_destination', (None, instance, [])),
                            ('swap_volume', (None, {}, {}, instance, 'vdb', 0))):
            with mock.patch.object(libvirt_driver.LibvirtDriver, name, **nova):
                yield getattr(self.driver, name), given

    def test_a_guest_starts_at_its_full_size_where_it_migrated_to_or_has_a_volume_swapped(self):
        for way, given in self.ways(self.instance()):
            way(*given)
        self.assertEqual([(FULL, fakelibvirt.VIR_DOMAIN_AFFECT_CONFIG)] * 2, self.asked)

    def test_a_guest_that_is_started_anew_counts_while_it_has_no_definition(self):
        """nova takes it away first; a report that is made meanwhile does not have it."""
        server, seen = self.order({}), []
        ledger, original = self.driver._ovc_ledger, libvirt_driver.LibvirtDriver._get_guest_xml

        def define(driver, *args, **kwargs):
            entry = ledger._entries[server['id']]
            seen.append((entry.request.memory, entry.request.reservation, entry.landed_at))
            return original(driver, *args, **kwargs)

        with mock.patch.object(libvirt_driver.LibvirtDriver, '_get_guest_xml', define):
            self._reboot_server(server, hard=True)
            self._stop_server(server)
            self._start_server(server)
        self.assertEqual([(512 * MIB, 256 * MIB, math.inf)] * 2, seen)
        self.assertLess(ledger._entries[server['id']].landed_at, math.inf)
        with mock.patch.object(ledger, 'admit', side_effect=RuntimeError('a fault of ours')):
            self._reboot_server(server, hard=True)

    def test_what_nova_fails_is_told_as_it_was_and_nothing_of_ours_fails_nova(self):
        instance = self.instance()
        for way, given in self.ways(instance, side_effect=exception.DiskNotFound(location='vdb')):
            self.assertRaises(exception.DiskNotFound, way, *given)
        self.assertEqual([], self.asked)
        with mock.patch.object(fakelibvirt.Domain, 'setMemoryFlags', side_effect=fakelibvirt.libvirtError('no')):
            for way, given in self.ways(instance):
                way(*given)
        with mock.patch('ovc_plugin.nova.restarting.full_size', side_effect=RuntimeError('a fault of ours')):
            self.assertIn(BALLOONED, self.driver._get_existing_domain_xml(instance, []))

    def test_without_a_controller_and_in_a_dry_run_all_is_as_nova_has_it(self):
        instance, controller = self.instance(), self.driver._ovc
        self.acts(False)
        for there in (controller, None):
            self.driver._ovc = there
            for way, given in self.ways(instance):
                way(*given)
            self.assertIn(BALLOONED, self.driver._get_existing_domain_xml(instance, []))
        self.driver._ovc = controller
        self.assertEqual([], self.asked)
