# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The driver's hooks inside nova-compute: report, ratio, late check, status; and that none can harm nova."""
from __future__ import annotations

import time
from unittest import mock

import nova.conf
import oslo_messaging as messaging
from nova import context, rpc

from ovc_plugin.model import MIB
from ovc_plugin.nova import host_state, inventory
from tests.contract.cloud import GB, CloudCase, OvcFakeDriver, enable


class TestRatio(CloudCase):

    def test_placements_ratio_follows_the_report_and_goes_back_when_nobody_watches(self):
        self.compute('host1')
        self.assertEqual(2.05, self.ratio('host1'))  # (7680 + 8192 - 128) / 7680, rounded down to 0.05
        for _ in range(2):
            self.boot(6000, extra={'ovc:reservation': '25%'})
        # The swap is gone: what is there may stay (it keeps its share, or it could not be moved), nothing is to come.
        here = dict(claimed=12000 * MIB, guests=2, committed=12256 * MIB, reserved=3256 * MIB)
        self.tell('host1', swap_usable=0, **here)
        self.audit()
        self.assertEqual(1.5625, self.ratio('host1'))  # 12000 / 7680
        self.boot(256, state='ERROR')
        # One step up is not worth a write, two are.
        for extra_mb, expected in ((400, 1.5625), (800, 1.65)):
            self.tell('host1', swap_usable=(12256 - 7680 + 128 + extra_mb) * MIB, **here)
            self.audit()
            self.assertEqual(expected, self.ratio('host1'))
        self.tell('host1', taken_at=time.time() - 3600)
        self.audit()
        self.assertEqual(1.0, self.ratio('host1'))
        self.tell('host1')
        self.audit()
        self.assertEqual(1.65, self.ratio('host1'))
        self.computes['host1'].stop()
        self.assertEqual(1.0, self.ratio('host1'))
        self.assertFalse([line for line in self.log.splitlines() if line.startswith('ERROR')])

    def test_a_claim_writes_no_ratio_and_ending_the_rule_by_sighup_gives_novas_own_back(self):
        self.compute('host1')
        self.tell('host1', swap_usable=4 * GB)
        with mock.patch('ovc_plugin.nova.mixin.next_ratio') as decided:
            self.boot()
        decided.assert_not_called()
        self.assertEqual(2.05, self.ratio('host1'))
        self.audit()
        self.assertEqual(1.5, self.ratio('host1'))
        enable(self)
        self.flags(dry_run=True, group='ovc_host')
        self.audit()
        self.assertEqual(1.0, self.ratio('host1'))
        self.assertTrue(self.controller('host1').settings.host.dry_run)
        self.audit()
        self.assertEqual(2, self.log.count('MEMORY_MB allocation_ratio of host1') - 1)

    def test_a_ratio_set_by_the_operator_is_left_alone_and_said_once(self):
        self.flags(ram_allocation_ratio=1.3)
        self.compute('host1')
        self.audit()
        self.assertEqual(1.3, self.ratio('host1'))
        self.assertEqual(1, self.log.count('[DEFAULT] ram_allocation_ratio is set'))
        self.computes['host1'].stop()
        self.assertEqual(1.3, self.ratio('host1'))


class TestArrivals(CloudCase):

    def refuse(self, host):
        self.controller(host).refuses = '812 MB available < 1024 MB wanted'

    def test_a_late_refusal_sends_the_guest_to_the_next_host(self):
        self.compute('host1')
        self.compute('host2', available=4 * GB)
        self.refuse('host1')  # the scheduler likes it best and cannot know
        server = self.boot()
        self.assertEqual('host2', self.host_of(server))
        self.assertIn(f'guest {server["id"]} refused by this host: 812 MB available < 1024 MB wanted', self.log)
        # A guest that is here already is not refused its own place when it is rebuilt.
        self.refuse('host2')
        self.api.post_server_action(server['id'], {'rebuild': {'imageRef': self.glance.auto_disk_config_enabled_image[
            'id']}})
        self.assertEqual('host2', self._wait_for_state_change(server, 'ACTIVE')['OS-EXT-SRV-ATTR:host'])
        # Live migration: the best host refuses, the next is tried.
        self.compute('host3', available=2 * GB)
        self._live_migrate(server, 'completed')
        self.assertEqual('host3', self.host_of(server))

    def test_guests_that_bypass_the_scheduler_are_judged_together(self):
        # Room for one guest and a half; both name their host, so no filter is asked, and no report is made between.
        self.compute('host1', available=512 * MIB + 1700 * MIB, swap_usable=64 * MIB)
        self.compute('host2', available=512 * MIB)
        whole = {'ovc:reservation': '100%'}
        flavor = self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0, extra_spec=whole)
        for state in ('ACTIVE', 'ERROR'):
            self._create_server(flavor_id=flavor, networks='none', az='nova:host1', expected_state=state)
        self.assertRegex(self.log, 'refused by this host: demand would be .* MB > .* MB that is there')


class TestNothingCanHarmNova(CloudCase):

    def boot_move_audit(self):
        self.audit()
        server = self.boot()
        self._live_migrate(server, 'completed')
        self.audit()
        for service in self.computes.values():
            service.stop()

    def test_a_controller_that_does_not_start(self):
        with mock.patch.object(OvcFakeDriver, '_ovc_build', side_effect=ImportError('No module named \'libvirt\'')):
            self.compute('host1')
            self.compute('host2')
        self.assertEqual(2, self.log.count('ovc start failed: ImportError: No module named \'libvirt\''))
        self.assertEqual(1.0, self.ratio('host1'))
        self.assertIn('did not start: No module named', self.computes['host1'].driver._ovc_status()['tick']['error'])
        self.boot_move_audit()

    def test_a_controller_that_fails_at_every_call(self):
        broken = mock.NonCallableMagicMock(name='controller')
        for name in ('status', 'admits', 'stop'):
            getattr(broken, name).side_effect = RuntimeError(f'{name} is broken')
        broken.report = 'not a report'
        with mock.patch.object(OvcFakeDriver, '_ovc_build', return_value=broken):
            self.compute('host1')
            self.compute('host2')
        self.boot_move_audit()
        self.assertEqual(1.0, self.ratio('host1'))
        for what in ('report', 'ratio', 'stop'):
            self.assertEqual(2, self.log.count(f'ERROR ovc {what} failed'), what)  # once on each host
        self.assertIn('ERROR ovc late check failed', self.log)

    def test_an_option_that_cannot_be_used(self):
        self.flags(min_ratio=5.0, group='ovc_host')
        with mock.patch('ovc_plugin.nova.current.get', return_value=nova_settings()):
            self.compute('host1')
            self.assertIn('ERROR ovc start failed: ConfigError: [ovc_host] min_ratio = 5.0', self.log)
            self.boot()

    def test_a_filter_and_a_weigher_that_fail(self):
        self.compute('host1')
        self.compute('host2')
        with mock.patch('ovc_plugin.nova.host_state.Asking', side_effect=RuntimeError('a fault of ours')):
            self.boot()
            self.boot()
        self.assertEqual(1, self.log.count('ERROR OvercommitFilter failed and lets all hosts pass'))
        self.assertEqual(1, self.log.count('ERROR HeadroomWeigher failed'))

    def test_a_host_that_cannot_be_judged_is_refused_alone(self):
        self.compute('host1')
        self.compute('host2', available=4 * GB)
        rightly = host_state.in_flight

        def wrongly(state, report):
            if state.host == 'host1':  # which has more room
                raise ZeroDivisionError('a fault of ours')
            return rightly(state, report)

        with mock.patch('ovc_plugin.nova.host_state.in_flight', side_effect=wrongly):
            for _ in range(2):
                server = self.boot(256)
                self.assertEqual('host2', self.host_of(server))
                self.assertIn(f'host host1 refused for guest {server["id"]}: could not be judged: ZeroDivisionError: a '
                              'fault of ours', self.log)
        self.assertEqual(1, self.log.count('ERROR OvercommitFilter could not judge host1'))

    def test_dry_run_changes_nothing_and_says_what_it_would(self):
        enable(self, dry_run=True)
        self.flags(dry_run=True, group='ovc_host')
        self.compute('host1', taken_at=time.time() - 3600)
        self.compute('host2')
        self.controller('host2').refuses = self.controller('host1').refuses = 'no room'
        self.assertEqual([1.0, 1.0], [self.ratio('host1'), self.ratio('host2')])
        server = self.boot()
        self.assertIn(f'INFO host host1 would be refused for guest {server["id"]}: report is 36', self.log)
        self.assertIn(f'INFO guest {server["id"]} would be refused by this host: no room', self.log)
        self.assertNotIn(' refused', self.log.replace('would be refused', ''))
        stored = inventory.known_hosts_of(nova.conf.CONF)
        self.assertIn('"level":"CLEAR"', stored['host2'].report)


class TestOperators(CloudCase):

    def test_every_host_answers_over_novas_bus_and_is_in_the_inventory(self):
        self.compute('host1')
        with mock.patch.object(OvcFakeDriver, '_ovc_build', side_effect=RuntimeError('no libvirt')):
            self.compute('host2')
        self.controller('host1').guests = [{'uuid': 'u1'}]
        with context.target_cell(context.get_admin_context(), self.cell_mappings['cell1']) as cell:
            client = messaging.get_rpc_client(
                cell.mq_connection or rpc.TRANSPORT,
                messaging.Target(topic='compute', namespace='ovc', version='1.0'),
                serializer=rpc.RequestContextSerializer(None))
            answers = {host: client.prepare(server=host).call(cell, 'status') for host in ('host1', 'host2')}
        self.assertEqual([{'uuid': 'u1'}], answers['host1']['guests'])
        self.assertEqual('host1', answers['host1']['report']['host'])
        self.assertIn('no libvirt', answers['host2']['tick']['error'])
        stored = inventory.known_hosts_of(nova.conf.CONF)
        self.assertEqual(['host1', 'host2'], sorted(stored))
        self.assertIn(f'"nova_reserved":{512 * MIB}', stored['host1'].report)
        self.assertIsNone(stored['host2'].report)
        self.assertAlmostEqual(time.time(), stored['host1'].seen, delta=120)


def nova_settings():
    from ovc_plugin.settings import Settings
    return Settings()
