# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The driver's hooks inside nova-compute: report, ratio, late check, status; and that none can harm nova."""
from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import threading
import time
from unittest import mock

import nova.conf
import oslo_messaging as messaging
from nova import context, exception, objects, rpc
from nova.virt import fake

from ovc_plugin import report as reports
from ovc_plugin.model import MIB, Level
from ovc_plugin.nova import host_state, inventory
from ovc_plugin.nova.mixin import OvcMixin
from tests.contract.cloud import GB, CloudCase, OvcFakeDriver, enable
from tests.waiting import LONG, until


class TestArrivals(CloudCase):

    def failed_builds(self, host):
        """What nova's BuildFailureWeigher goes by: a host with one is taken last until a build succeeds there."""
        self.audit()
        return objects.ComputeNode.get_by_nodename(context.get_admin_context(), host).stats.get('failed_builds', '0')

    def refuse(self, host):
        self.controller(host).refuses = '812 MB available < 1024 MB wanted'

    def test_a_late_refusal_sends_the_guest_to_the_next_host(self):
        self.compute('host1')
        self.compute('host2', available=4 * GB)
        self.refuse('host1')  # the scheduler likes it best and cannot know
        server = self.boot()
        self.assertEqual('host2', self.host_of(server))
        self.assertIn(f'guest {server["id"]} refused by this host: 812 MB available < 1024 MB wanted', self.log)
        self.assertEqual('0', self.failed_builds('host1'))
        # A guest that is here already is not refused its own place when it is rebuilt.
        self.refuse('host2')
        self.api.post_server_action(server['id'], {'rebuild': {'imageRef': self.glance.auto_disk_config_enabled_image[
            'id']}})
        self.assertEqual('host2', self._wait_for_state_change(server, 'ACTIVE')['OS-EXT-SRV-ATTR:host'])
        # Live migration: the best host refuses, the next is tried.
        self.compute('host3', available=2 * GB)
        self._live_migrate(server, 'completed')
        self.assertEqual('host3', self.host_of(server))
        # Whoever has asked for it: the host holds the guest as it is meanwhile.
        self.assertEqual([server['id']], self.controller('host2').left)

    def test_guests_that_bypass_the_scheduler_are_judged_together(self):
        # Room for one guest and a half; both name their host, so no filter is asked, and no report is made between.
        self.compute('host1', available=512 * MIB + 1700 * MIB, swap_usable=64 * MIB)
        self.compute('host2', available=512 * MIB)
        whole = {'ovc:reservation': '100%'}
        flavor = self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0, extra_spec=whole)
        for state in ('ACTIVE', 'ERROR'):
            server = self._create_server(flavor_id=flavor, networks='none', az='nova:host1', expected_state=state)
        self.assertIn('this host cannot take the guest: demand would be', self.api.get_server(server['id'])['fault'][
            'message'])
        self.assertEqual('0', self.failed_builds('host1'))
        self.assertEqual({}, self._get_allocations_by_server_uuid(server['id']))
        self.assertRegex(self.log, 'refused by this host: demand would be .* MB > .* MB that is there')

    def test_a_guest_let_in_before_the_first_report_counts_for_whoever_is_judged_by_it(self):
        self.compute('host1')
        controller = self.controller('host1')
        told, controller.report = controller.report, None  # as while libvirt has not answered yet
        whole = {'ovc:reservation': '100%'}
        flavor = self._create_flavor(memory_mb=6000, vcpu=1, disk=1, ephemeral=0, extra_spec=whole)
        spawn = fake.FakeDriver.spawn

        def while_the_first_is_being_built(driver, *args, **kwargs):
            if controller.report is None:
                controller.report = dataclasses.replace(told, taken_at=time.time())
                second = self._create_server(flavor_id=flavor, networks='none', az='nova:host1',
                                             expected_state='ERROR')
                self.assertIn('guarantees would need', self.api.get_server(second['id'])['fault']['message'])
            return spawn(driver, *args, **kwargs)
        with mock.patch.object(fake.FakeDriver, 'spawn', while_the_first_is_being_built):
            self._create_server(flavor_id=flavor, networks='none', az='nova:host1')

    def test_nobody_is_refused_by_a_look_of_before_another_guest_was_deleted(self):
        self.compute('host1', reserved=7 * GB)
        self.controller('host1').seen_anew = {'reserved': 0}
        server = self._create_server(flavor_id=self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0),
                                     networks='none', az='nova:host1', expected_state='ACTIVE')
        self.assertEqual('host1', self.host_of(server))
        # What is refused by the new look as well, is refused.
        self.tell('host1', reserved=7 * GB)
        self.controller('host1').seen_anew = {'reserved': 7 * GB}
        self._create_server(flavor_id=self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0),
                            networks='none', az='nova:host1', expected_state='ERROR')
        self.assertRegex(self.log, 'refused by this host: guarantees would need')

    def test_a_guest_that_came_while_libvirt_was_silent_is_in_flight_until_it_is_listed(self):
        self.compute('host1')
        server, driver = self.boot(), self.computes['host1'].driver
        landed = driver._ovc_ledger._entries[server['id']].landed_at
        # The report is newer, its guests are not: libvirt did not answer.
        self.tell('host1', taken_at=landed + 1)
        self.controller('host1').listed_at = landed - 1
        self.boot(256)
        self.assertEqual([(1, GB)], [(flying.guests, flying.memory) for flying in self.controller('host1').judged[1:]])

    def short_in_nova(self, host):
        """Whether nova has stored a report of that host by which it takes no guests."""
        node = objects.ComputeNode.get_by_nodename(context.get_admin_context(), host)
        return reports.decode(node.stats['ovc']).level >= Level.HARD

    def pass_at(self, level):
        """The controller has made a pass, and come to that level."""
        self.tell('host1', level=level)
        controller = self.controller('host1')
        controller.on_report(controller.report)

    def test_schedulers_hear_at_once_that_a_host_is_short_and_short_no_longer(self):
        self.compute('host1')
        driver = self.computes['host1'].driver
        self.pass_at(Level.SOFT)
        self.assertIsNone(driver._ovc_audit, 'a host that takes guests as before has nothing to tell')
        self.pass_at(Level.HARD)
        until(lambda: self.short_in_nova('host1'))
        driver._ovc_audit.join(LONG)
        first = driver._ovc_audit
        self.pass_at(Level.CLEAR)
        self.assertIs(first, driver._ovc_audit, 'nova is not asked for two audits within seconds')
        driver._ovc_next_audit = 0.0
        self.pass_at(Level.CLEAR)
        until(lambda: not self.short_in_nova('host1'))
        driver._ovc_audit.join(LONG)
        # An audit that fails is nova's loss alone, and while one hangs no other is begun.
        driver._ovc_next_audit, going_on = 0.0, threading.Event()
        self.addCleanup(going_on.set)

        def fail(*args, **kwargs):
            going_on.wait(LONG)
            raise exception.DBNotAllowed(binary='nova-compute')
        with mock.patch.object(self.computes['host1'].manager.rt, 'update_available_resource', fail):
            self.pass_at(Level.HARD)
            hung, driver._ovc_next_audit = driver._ovc_audit, 0.0
            self.pass_at(Level.HARD)
            self.assertIs(hung, driver._ovc_audit)
            going_on.set()
            hung.join(LONG)
        self.assertIn('ovc early audit failed: DBNotAllowed', self.log)
        # Nor does one count that fails half way: nova has stored nothing.
        driver._ovc_next_audit = 0.0
        with mock.patch.object(self.computes['host1'].manager.rt, '_update', side_effect=exception.DBNotAllowed(
                binary='nova-compute')):
            self.pass_at(Level.HARD)
            driver._ovc_audit.join(LONG)
        self.assertFalse(self.short_in_nova('host1'))
        driver._ovc_next_audit = 0.0
        self.pass_at(Level.HARD)
        until(lambda: self.short_in_nova('host1'))
        driver._ovc_audit.join(LONG)
        self.assertIn('Nova\'s next one follows by its own clock', self.log)

    def test_memory_backed_by_files_is_judged_at_its_full_size(self):
        self.flags(file_backed_memory=16384, group='libvirt')
        self.compute('host1', reserved=6 * GB)  # placement and the filter see a guest of half its memory
        server = self.boot(2048, state='ERROR')
        self.assertRegex(self.log, f'guest {server["id"]} refused by this host: guarantees would need')


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
        broken.report, broken.dry_run = 'not a report', False
        with mock.patch.object(OvcFakeDriver, '_ovc_build', return_value=broken):
            self.compute('host1')
            self.compute('host2')
        self.boot_move_audit()
        self.assertEqual(1.0, self.ratio('host1'))
        for what in ('report', 'ratio', 'stop'):
            self.assertEqual(2, self.log.count(f'ERROR ovc {what} failed'), what)  # once on each host
        self.assertIn('ERROR ovc late check failed', self.log)

    def test_a_controller_that_fails_to_hold_a_guest_or_to_let_it_go_lets_it_move(self):
        @contextlib.contextmanager
        def forgets(guest):
            yield
            raise KeyError(guest)

        self.compute('host1')
        self.compute('host2')
        server = self.boot()
        for leaving in (contextlib.contextmanager(lambda guest: iter(())), forgets):
            self.controller(self.host_of(server)).leaving = leaving
            before = self.host_of(server)
            self._live_migrate(server, 'completed')
            self.assertNotEqual(before, self.host_of(server))
        for what in ('RuntimeError: generator didn', f'KeyError: {server["id"]!r}'):
            # The guest is let go after nova has told that its migration is completed.
            until(lambda what=what: f'ERROR ovc hold failed: {what}' in self.log)

    def test_a_migration_that_nova_fails_is_told_to_nova_as_it_was(self):
        self.compute('host1')
        driver = self.computes['host1'].driver
        instance = objects.Instance(uuid='00000000-0000-0000-0000-000000000001')
        with mock.patch('nova.virt.fake.FakeDriver.live_migration', side_effect=exception.InvalidHostname('host 2')):
            self.assertRaises(exception.InvalidHostname, driver.live_migration, None, instance, 'host 2', None, None)
        self.assertEqual([instance.uuid], self.controller('host1').left)
        self.assertNotIn('ovc hold failed', self.log)

    def test_a_nova_whose_release_is_not_told_is_no_reason_not_to_start(self):
        with mock.patch('importlib.metadata.version', side_effect=importlib.metadata.PackageNotFoundError('nova')):
            self.compute('host1')
        self.assertTrue(self.controller('host1').running)
        self.assertIn('WARNING which nova this is cannot be told', self.log)

    def test_what_a_later_nova_says_in_addition_is_passed_on(self):
        """nova 34 gave finish_migration a share_info."""
        heard = []

        class Later:
            virtapi = None

        for name in ('init_host', 'cleanup_host', 'get_available_resource', 'update_provider_tree', 'instance_on_disk',
                     'spawn', 'finish_migration', 'live_migration', 'check_can_live_migrate_destination'):
            setattr(Later, name, lambda self, *args, name=name, **kwargs: heard.append((name, kwargs)))

        class Driver(OvcMixin, Later):
            pass

        driver, instance = Driver(), objects.Instance(uuid='00000000-0000-0000-0000-000000000001', task_state=None)
        with mock.patch.object(OvcMixin, '_ovc_start'), mock.patch.object(OvcMixin, '_ovc_serve'):
            driver.init_host('host1', new=1)
        driver.get_available_resource('host1', new=1)
        driver.update_provider_tree(None, 'host1', new=1)
        driver.instance_on_disk(instance, new=1)
        driver.spawn(None, instance, new=1)
        driver.finish_migration(None, None, instance, new=1)
        driver.live_migration(None, instance, 'host2', new=1)
        driver.check_can_live_migrate_destination(None, instance, new=1)
        driver.cleanup_host('host1', new=1)
        self.assertEqual(9, len(heard))
        self.assertEqual([], [name for name, kwargs in heard if kwargs.get('new') != 1])

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
        self.assertEqual(1, self.log.count('ERROR OvercommitWeigher failed'))

    def test_a_host_that_cannot_be_judged_is_refused_alone(self):
        self.compute('host1')
        self.compute('host2', available=4 * GB)
        rightly = host_state.in_flight

        def wrongly(state, known):
            if state.host == 'host1':  # which has more room
                raise ZeroDivisionError('a fault of ours')
            return rightly(state, known)

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
        began = time.time()
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
        self.assertTrue(began - 1 <= stored['host1'].seen <= time.time() + 1, (began, stored['host1'].seen))
        self.assertEqual(['its hypervisor is fake'] * 2, [stored[host].apart for host in ('host1', 'host2')])
        for service in self.admin_api.get_services(binary='nova-compute', host='host2'):
            self.admin_api.put_service(service['id'], {'status': 'disabled', 'disabled_reason': 'ticket 4711'})
        cell = self.cell_mappings['cell1']
        with context.target_cell(context.get_admin_context(), cell) as targeted:
            node = objects.ComputeNode.get_by_nodename(targeted, 'host1')
            node.hypervisor_type = 'QEMU'
            node.save()
        stored = inventory.known_hosts_of(nova.conf.CONF)
        self.assertEqual(['', 'disabled (ticket 4711)'], [stored[host].apart for host in ('host1', 'host2')])


def nova_settings():
    from ovc_plugin.settings import Settings
    return Settings()


def test_an_instance_of_which_little_is_loaded_makes_nobody_ask_the_database():
    from ovc_plugin.nova.arriving import Arriving

    class Nova:
        def instance_on_disk(self, instance):
            return 'as nova has it'

    class Driver(Arriving, Nova):
        def __init__(self):
            pass

    objects.register_all()
    # nova's own tests/unit/virt/libvirt/test_driver.py asks with such a one: it has no task_state and no context
    assert Driver().instance_on_disk(objects.Instance(uuid='00000000-0000-0000-0000-000000000001')) == 'as nova has it'
