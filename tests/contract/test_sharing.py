# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Who may share pages (promise 8), in the definitions that nova's libvirt driver writes under our class."""
from __future__ import annotations

import dataclasses
import time
from unittest import mock

from nova import context, objects
from nova.tests.functional.libvirt import base
from nova.virt.libvirt import driver as libvirt_driver

from ovc_plugin.hypervisor import definition
from ovc_plugin.model import MIB
from tests.contract.test_untouchables import Kinds


class TestSharing(Kinds, base.ServersTestBase):

    def host(self, *guests):
        """A host whose controller has seen these guests."""
        self.start_compute('host1')
        self.driver = self.computes['host1'].driver
        self.driver._ovc.guests = list(guests)
        self.driver._ovc.expected = []
        self.driver._ovc.expect = lambda uuid, domain: self.driver._ovc.expected.append((uuid, domain))

    @staticmethod
    def mergeable(domain):
        return {'uuid': f'u-{domain}', 'trust_domain': domain, 'can_share': True, 'running': True,
                'maximum': 1 << 29, 'reservation': 1 << 28, 'untouchable': None}

    def shares(self, specs=None):
        server = self.order(specs or {})
        return '<nosharepages' not in self.written[server['id']], server

    def test_guests_of_the_project_that_was_first_share(self):
        self.host(self.mergeable(self.api.project_id))
        self.assertTrue(self.shares()[0])
        self.assertFalse(self.shares({'ovc:share': 'no'})[0])

    def test_what_the_image_says_is_kept_for_the_host_controller_and_the_flavor_goes_first(self):
        self.host()
        image = self.image(**{'ovc_share': 'no', 'ovc:overcommit': 'no'})
        willing = {'ovc:share': 'yes', 'ovc:overcommit': 'yes'}
        for specs, share, overcommit in (({}, False, 'no'), (willing, True, 'yes')):
            server = self._create_server(image_uuid=image, networks='none',
                                         flavor_id=self._create_flavor(memory_mb=512, extra_spec=specs))
            self.assertEqual(share, '<nosharepages' not in self.written[server['id']])
            self.assertEqual(overcommit, definition.read(self.written[server['id']]).extra_specs['ovc:overcommit'])

    def image(self, **properties):
        return self.glance.create({}, {'name': 'shy', 'container_format': 'raw', 'disk_format': 'raw', 'size': 1,
                                       'status': 'active', 'min_ram': 0, 'min_disk': 0, 'is_public': True,
                                       'properties': properties})['id']

    def owes(self, server, reserved):
        """The host guarantees so much in all, and half its memory to this guest, which it counts."""
        controller = self.driver._ovc
        controller.report = dataclasses.replace(controller.report, reserved=reserved, taken_at=time.time())
        controller.guests = [{'uuid': server['id'], 'maximum': 512 * MIB, 'reservation': 256 * MIB, 'overhead': 0,
                              'untouchable': None, 'trust_domain': 'p', 'can_share': False, 'running': True}]

    def word(self, server):
        return definition.read(self.written[server['id']]).extra_specs.get('ovc:overcommit')

    def test_an_image_that_opts_out_is_heard_in_a_rebuild_only_where_nobody_elses_guarantee_is_broken(self):
        self.host()
        shy = self.image(**{'ovc_overcommit': 'no'})
        server = self.order({})
        self.owes(server, reserved=7680 * MIB - 255 * MIB)
        self._rebuild_server(server, shy)
        self.assertIsNone(self.word(server))
        self.assertIn(f'guest {server["id"]}: ovc:overcommit=no of its image is left out, it counts as its flavor has '
                      'it: guarantees would need 7681 MB > 7680 MB', self.stdlog.logger.output)
        # nova has kept what the image says, and defines the guest by it whenever it is started.
        self._reboot_server(server, hard=True)
        self.assertIsNone(self.word(server))
        self.owes(server, reserved=7680 * MIB - 256 * MIB)
        self._reboot_server(server, hard=True)
        self.assertEqual('no', self.word(server))

    def test_guests_that_are_rebuilt_together_are_judged_together(self):
        self.host()
        shy = self.image(**{'ovc_overcommit': 'no'})
        servers = [self.order({}) for _ in range(2)]
        for server in reversed(servers):
            self.owes(server, reserved=7680 * MIB - 256 * MIB)
            guest, = self.driver._ovc.guests
        self.driver._ovc.guests = [guest | {'uuid': server['id']} for server in servers]
        for server in servers:
            self._rebuild_server(server, shy)
        self.assertEqual(['no', None], [self.word(server) for server in servers])

    def test_a_dry_run_leaves_the_word_of_the_image_and_says_what_it_would_do(self):
        self.flags(dry_run=True, group='ovc_host')
        self.host()
        server = self.order({})
        self.owes(server, reserved=7680 * MIB)
        self._rebuild_server(server, self.image(**{'ovc_overcommit': 'no'}))
        self.assertEqual('no', self.word(server))
        self.assertIn('of its image, which would be left out), for which there is no room here: guarantees would need '
                      '7936 MB > 7680 MB', self.stdlog.logger.output)

    def test_what_only_its_full_size_can_serve_is_said_aloud_where_it_cannot_be_guaranteed(self):
        """Rebuilt from the image it has, whose properties have changed meanwhile: no scheduler is asked."""
        self.host()
        server = self.order({})
        self.owes(server, reserved=7680 * MIB)
        with mock.patch('ovc_plugin.hypervisor.definition._untouchable', return_value='encrypted memory'):
            self._reboot_server(server, hard=True)
        self.assertRegex(self.stdlog.logger.output, f'ERROR .*guest {server["id"]} counts at its full size from now on '
                         r'\(encrypted memory\), and this host cannot guarantee that: guarantees would need 7936 MB > '
                         '7680 MB')

    def test_guests_of_another_project_are_started_unmergeable_and_the_log_says_why(self):
        self.host(self.mergeable('another'))
        shares, server = self.shares()
        self.assertFalse(shares)
        self.assertIn(f'guest {server["id"]} starts with pages that are never merged: guests of another project can '
                      'merge on this host', self.stdlog.logger.output)

    def test_an_operator_who_merges_across_projects_gets_it(self):
        self.flags(ksm='all-tenants-despite-side-channels', group='ovc_host')
        self.host(self.mergeable('another'))
        self.assertTrue(self.shares()[0])

    def test_in_a_dry_run_they_stay_out_of_it_until_page_sharing_has_been_put_back(self):
        self.flags(dry_run=True, group='ovc_host')
        self.host(self.mergeable('another'))
        self.assertTrue(self.shares()[0])
        told = self.driver._ovc.status()
        self.driver._ovc.status = lambda: told | {'sharing_is_ours': True}
        self.assertFalse(self.shares()[0])

    def test_a_controller_that_fails_leaves_the_guest_as_nova_has_it_but_for_what_its_flavor_says(self):
        self.host()
        self.driver._ovc.status = mock.Mock(side_effect=RuntimeError('a fault of ours'))
        self.assertTrue(self.shares()[0])
        self.assertFalse(self.shares({'ovc:share': 'no'})[0])

    def test_a_mergeable_guest_that_migrates_to_here_is_told_of_beforehand(self):
        self.host()
        known = {}
        for name, specs in (('mergeable', {}), ('unmergeable', {'ovc:share': 'no'})):
            known[name] = objects.Instance.get_by_uuid(context.get_admin_context(), self.shares(specs)[1]['id'],
                                                       expected_attrs=['flavor'])
        with mock.patch.object(libvirt_driver.LibvirtDriver, 'check_can_live_migrate_destination', return_value='yes'):
            for instance in known.values():
                self.assertEqual('yes', self.driver.check_can_live_migrate_destination(None, instance, {}, {}))
            self.assertEqual([(known['mergeable'].uuid, known['mergeable'].project_id)], self.driver._ovc.expected)
            with mock.patch('ovc_plugin.nova.sharing.declined', side_effect=RuntimeError('a fault of ours')):
                self.assertEqual('yes', self.driver.check_can_live_migrate_destination(None, instance, {}, {}))
        self.assertIn('ovc arrival failed: RuntimeError: a fault of ours', self.stdlog.logger.output)
