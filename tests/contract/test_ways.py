# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Each way in which nova places a guest: who is asked, and what a refusal by the host itself comes to.

This is the table of doc/placement.rst, found out from nova itself.
"""
from __future__ import annotations

import time
from unittest import mock

import pytest
from nova import context, exception, objects

from ovc_plugin.model import MIB, Level, Request, Verdict
from ovc_plugin.nova import filters
from tests.contract.cloud import GB, CloudCase, OvcFakeDriver


class TestWays(CloudCase):

    def setUp(self):
        super().setUp()
        self.flags(allow_resize_to_same_host=False)
        self.asked = []
        judged, admitted = filters.OvercommitFilter.filter_all, OvcFakeDriver._ovc_admit

        def filter_all(chooser, hosts, spec):
            self.asked.append('filter')
            return judged(chooser, hosts, spec)

        def admit(driver, instance, *, force=False, **more):
            self.asked.append(f'{driver._ovc.host} counts' if force else f'{driver._ovc.host} checks')
            return admitted(driver, instance, force=force, **more)

        for target, name, stand_in in ((filters.OvercommitFilter, 'filter_all', filter_all),
                                       (OvcFakeDriver, '_ovc_admit', admit)):
            patch = mock.patch.object(target, name, stand_in)
            patch.start()
            self.addCleanup(patch.stop)
        for host in ('host1', 'host2'):
            self.compute(host)
            self.controller(host).host = host

    def way(self):
        """Who was asked since the last time. (nova's fake driver takes a migrated guest in by its own spawn.)"""
        asked, self.asked[:] = list(self.asked), []
        return [who for who, before in zip(asked, [None, *asked], strict=False) if who != before]

    def a_guest(self, **more):
        server = self.boot(**more)
        self.way()
        return server

    def other(self, server):
        return 'host2' if self.host_of(server) == 'host1' else 'host1'

    def test_boot(self):
        server = self.boot()
        self.assertEqual(['filter', f'{self.host_of(server)} checks'], self.way())

    def test_boot_on_a_forced_host_asks_that_host_alone(self):
        flavor = self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0)
        self._create_server(flavor_id=flavor, networks='none', az='nova:host2')
        self.assertEqual(['host2 checks'], self.way())
        self.controller('host2').refuses = 'no room'
        self._create_server(flavor_id=flavor, networks='none', az='nova:host2', expected_state='ERROR')
        self.assertEqual(['host2 checks'], self.way())

    def test_boot_on_a_named_host_asks_the_filter_too(self):
        self.assertEqual('host2', self.host_of(self.boot(host='host2')))
        self.assertEqual(['filter', 'host2 checks'], self.way())

    def test_resize_is_judged_by_the_filter_at_its_new_size_and_counted_where_it_arrives(self):
        server = self.a_guest()
        other = self.other(server)
        large = self._create_flavor(memory_mb=2048, vcpu=1, disk=1, ephemeral=0)
        self._resize_server(server, large)
        self.assertEqual(['filter', f'{other} counts'], self.way())
        self.assertIn(server['id'], self.computes[other].driver._ovc_ledger._entries)
        self.assertEqual(2 * GB, self.computes[other].driver._ovc_ledger._entries[server['id']].request.memory)
        self._confirm_resize(server)
        self.assertEqual([], self.way())

    def test_a_resize_that_fits_nowhere_leaves_the_guest_as_it_is(self):
        server = self.a_guest()
        self.tell(self.other(server), level=Level.HARD, available=100 * MIB)
        self.audit()
        large = self._create_flavor(memory_mb=2048, vcpu=1, disk=1, ephemeral=0)
        self.api.post_server_action(server['id'], {'resize': {'flavorRef': large}}, check_response_status=[202])
        self._wait_for_action_fail_completion(server, 'resize', 'conductor_migrate_server')
        self.assertEqual(('ACTIVE', 1024), (self.api.get_server(server['id'])['status'], self._memory(server)))
        self.assertEqual(['filter'], self.way())

    def _memory(self, server):
        return self.api.get_server(server['id'])['flavor']['ram']

    def test_cold_migration_and_its_revert(self):
        server = self.a_guest()
        before, other = self.host_of(server), self.other(server)
        self._migrate_server(server)
        self.assertEqual(['filter', f'{other} counts'], self.way())
        self._revert_resize(server)
        # nova has kept its place there; where its definition was not (a move between cells), no report has it.
        self.assertEqual([f'{before} counts'], self.way())
        self.assertNotIn(server['id'], self.still_in_flight(before))

    def still_in_flight(self, host):
        """By guest, once the host was looked at anew."""
        ledger = self.computes[host].driver._ovc_ledger
        later = time.time() + 1
        ledger.admit(Request(memory=0, reservation=0, guest='another'), lambda in_flight: Verdict(ok=True, reason=''),
                     counted={}, listed_at=later, now=later)
        return set(ledger._entries)

    def test_live_migration_goes_to_the_next_host_when_one_refuses(self):
        self.compute('host3')
        self.controller('host3').host = 'host3'
        server = self.a_guest()
        source = self.host_of(server)
        first, second = sorted({'host1', 'host2', 'host3'} - {source})
        self.controller(first).refuses = 'no room'
        self.tell(second, available=4 * GB)  # so that the one that will refuse looks better
        self.audit()
        self._live_migrate(server, 'completed')
        self.assertEqual(second, self.host_of(server))
        self.assertEqual(['filter', f'{first} checks', 'filter', f'{second} checks'], self.way()[:4])

    def test_a_live_migration_that_has_waited_is_judged_again_when_it_begins(self):
        """nova checks at once and then has it wait for others, by default one at a time, as long as it takes."""
        server = self.a_guest()
        before, other = self.host_of(server), self.other(server)
        driver, checked = self.computes[other].driver, OvcFakeDriver.check_can_live_migrate_destination

        def check(driver, *args, **kwargs):
            found = checked(driver, *args, **kwargs)
            self.controller(other).refuses = 'another guest came meanwhile'
            driver._ovc_ledger._entries.clear()  # it has waited for longer than it is counted
            return found
        with mock.patch.object(OvcFakeDriver, 'check_can_live_migrate_destination', check):
            self._live_migrate(server, 'failed', server_expected_state='ACTIVE')
        self.assertEqual(before, self.host_of(server))
        self.assertEqual({}, driver._ovc_ledger._entries)
        self.assertIn(f'guest {server["id"]} refused by this host: another guest came meanwhile', self.log)
        allocations = self._get_allocations_by_server_uuid(server['id'])
        self.assertEqual([self._get_provider_uuid_by_host(before)], list(allocations))
        # One that begins is counted until it is here, or has gone back.
        self.controller(other).refuses = None
        begun = []

        def begin(driver, *args, **kwargs):
            begun.append(set(driver._ovc_ledger._entries))
            raise exception.NovaException('no such network')
        with mock.patch('nova.virt.fake.FakeDriver.pre_live_migration', begin):
            self._live_migrate(server, 'failed', server_expected_state='ACTIVE')
        self.assertEqual([{server['id']}], begun)
        self.assertNotIn(server['id'], self.still_in_flight(other))

    def test_a_live_migration_that_nobody_takes_leaves_the_guest_where_it_is(self):
        server = self.a_guest()
        before = self.host_of(server)
        self.controller(self.other(server)).refuses = 'no room'
        self._live_migrate(server, 'error', server_expected_state='ACTIVE')
        self.assertEqual(before, self.host_of(server))

    def test_evacuation_is_judged_by_the_filter_and_by_the_host(self):
        server = self.a_guest()
        other = self.other(server)
        self._down(self.host_of(server))
        self._evacuate_server(server, expected_host=other)
        self.assertEqual(['filter', f'{other} checks', f'{other} counts'], self.way())
        self.assertIn(server['id'], self.computes[other].driver._ovc_ledger._entries)

    def test_an_evacuation_that_its_host_refuses_leaves_the_guest_to_be_evacuated_again(self):
        """In whatever state it was, and placement counts it on its old host alone."""
        before, other = 'host1', 'host2'
        server, stopped = (self.a_guest(host=before) for _ in range(2))
        self._stop_server(stopped)
        self._down(before)
        old, new = map(self._get_provider_uuid_by_name, (before, other))
        self.controller(other).refuses = 'no room'
        self.way()
        for guest, state in ((server, 'ACTIVE'), (stopped, 'SHUTOFF')):
            self._evacuate_server(guest, expected_state=state, expected_host=before,
                                  expected_migration_status='failed')
            self.assertEqual(['filter', f'{other} checks'], self.way())
            self.assertEqual({old}, set(self._get_allocations_by_server_uuid(guest['id'])))
            self.assertEqual((0, 0), self.nova_counts(other))
            self.assertNotIn(guest['id'], self.computes[other].driver._ovc_ledger._entries)
        self.assertIn('this host cannot take the guest: no room', self.fault(server))
        self.controller(other).refuses = None
        for guest in (server, stopped):
            self._evacuate_server(guest, expected_host=other)
            # The old place is given up once the old host is back.
            self.assertEqual({old, new}, set(self._get_allocations_by_server_uuid(guest['id'])))

    def test_evacuations_together_keep_the_promises_of_their_host(self):
        """The filter's report is as old as its last audit, the host's own is not."""
        guests = [self.a_guest(extra={'ovc:reservation': '100%'}, host='host1') for _ in range(3)]
        self._down('host1')
        self.tell('host2', total=512 * MIB + 2 * (GB + 128 * MIB), available=512 * MIB + 2 * (GB + 128 * MIB))
        for guest in guests:
            self.api.post_server_action(guest['id'], {'evacuate': {}})
        for guest in guests:
            self._wait_for_migration_status(guest, ['done', 'failed', 'error'])
        hosts = sorted(self.host_of(guest) for guest in guests)
        self.assertEqual(['host1', 'host2', 'host2'], hosts)

    def nova_counts(self, host):
        node = objects.ComputeNode.get_by_nodename(context.get_admin_context(), host)
        return node.memory_mb_used - 512, node.running_vms

    def fault(self, server):
        actions = self.api.api_get(f'/servers/{server["id"]}/os-instance-actions').body['instanceActions']
        found = [self.api.api_get(f'/servers/{server["id"]}/os-instance-actions/{one["request_id"]}').body
                 for one in actions if one['action'] == 'evacuate']
        return str(found)

    def test_an_evacuation_that_fits_nowhere_is_refused_by_the_filter(self):
        server = self.a_guest()
        before = self.host_of(server)
        self.tell(self.other(server), level=Level.HARD, available=100 * MIB)
        self.audit()
        self._down(before)
        self._evacuate_server(server, expected_state='ERROR', expected_host=before,
                              expected_migration_status='error')
        self.assertEqual(['filter'], self.way())

    def _down(self, host):
        service = self.computes.pop(host)
        service.stop()
        self.api.put_service(self.api.get_services(host=host, binary='nova-compute')[0]['id'], {'forced_down': True})

    def test_unshelving_is_a_boot_and_a_refused_guest_stays_shelved(self):
        server = self.a_guest()
        self._shelve_server(server)
        self.assertEqual([], self.way())
        self._unshelve_server(server)
        self.assertEqual(['filter', f'{self.host_of(server)} checks'], self.way())
        self._shelve_server(server)
        for host in ('host1', 'host2'):
            self.controller(host).refuses = 'no room'
        self.api.post_server_action(server['id'], {'unshelve': {}})
        self._wait_for_action_fail_completion(server, 'unshelve', 'compute_unshelve_instance')
        self.assertEqual('SHELVED_OFFLOADED', self.api.get_server(server['id'])['status'])
        self.assertEqual({}, self._get_allocations_by_server_uuid(server['id']))

    def test_rebuild_is_not_judged_for_the_guest_is_there_already(self):
        server = self.a_guest()
        self._rebuild_server(server, 'a2459075-d96c-40d5-893e-577ff92e721c')  # another one of nova's fixtures
        self.assertEqual(['filter', f'{self.host_of(server)} counts'], self.way())
        self.tell(self.host_of(server), level=Level.CRITICAL, available=0)
        self.audit()
        self._rebuild_server(server, '76fa36fc-c930-4bf3-8c8a-ea2a2420deb6')

    def image(self, **properties):
        """Another image, with these properties."""
        return self.glance.create({}, {'name': 'another', 'container_format': 'raw', 'disk_format': 'raw', 'size': 1,
                                       'status': 'active', 'min_ram': 0, 'min_disk': 0, 'is_public': True,
                                       'properties': properties})['id']

    def allocated(self, server):
        return {provider: one['resources'] for provider, one in self._get_allocations_by_server_uuid(
            server['id']).items()}

    def test_a_rebuild_that_needs_what_is_guaranteed_to_others_is_refused_by_the_filter_and_the_guest_stays(self):
        """nova sets it to ERROR, as for every filter that refuses a rebuild; it runs on, and can be rebuilt."""
        encrypted = {'hw_mem_encryption': 'true', 'hw_firmware_type': 'uefi', 'hw_machine_type': 'q35'}
        server = self.a_guest()
        host = self.host_of(server)
        allocations = self.allocated(server)
        self.tell(host, claimed=GB, guests=1, committed=GB, reserved=7 * GB + 200 * MIB)
        self.audit()
        self.api.post_server_action(server['id'], {'rebuild': {'imageRef': self.image(**encrypted)}})
        self._wait_for_state_change(server, 'ERROR')
        self.assertEqual(['filter'], self.way())
        self.assertRegex(self.log, f'host {host} refused for guest {server["id"]}: guarantees would need 7880 MB > '
                                   '7680 MB')
        self.assertEqual(allocations, self.allocated(server))
        self.assertIn(server['id'], self.computes[host].driver.list_instance_uuids())
        self._rebuild_server(server, self.image())
        self.assertEqual(['filter', f'{host} counts'], self.way())
        # With room it may, and then again: it has what it asks for.
        self.tell(host, reserved=2 * GB)
        self.audit()
        self._rebuild_server(server, self.image(**encrypted))
        self.tell(host, reserved=7 * GB + 200 * MIB)
        self.audit()
        self._rebuild_server(server, self.image(**encrypted))

    def test_stopping_starting_and_rebooting_ask_nobody_for_the_guest_counts_all_along(self):
        server = self.a_guest()
        self._stop_server(server)
        self._start_server(server)
        self._reboot_server(server, hard=True)
        self.assertEqual([], self.way())

    def test_several_at_once_are_judged_one_after_the_other(self):
        flavor = self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0)
        body = self._build_server(flavor_id=flavor, networks='none')
        body.update(min_count=3, max_count=3, return_reservation_id=True)
        reservation = self.api.api_post('/servers', {'server': body}).body['reservation_id']
        for server in self.api.get_servers(detail=True, search_opts={'reservation_id': reservation}):
            self._wait_for_state_change(server, 'ACTIVE')
        self.assertEqual(['filter'] * 3, self.asked[:3])
        self.assertEqual(3, len([who for who in self.asked if who.endswith('checks')]))

    def test_a_server_group_narrows_and_the_filter_still_judges(self):
        group = self.api.post_server_groups({'name': 'g', 'policy': 'affinity'})
        flavor = self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0)

        def member(state):
            body = self._build_server(flavor_id=flavor, networks='none')
            server = self.api.post_server({'server': body, 'os:scheduler_hints': {'group': group['id']}})
            return self._wait_for_state_change(server, state)

        first = member('ACTIVE')
        self.tell(first['OS-EXT-SRV-ATTR:host'], level=Level.HARD, available=100 * MIB)
        self.audit()
        self.way()
        member('ERROR')
        self.assertEqual(['filter'], self.way())


def test_a_refusal_is_one_that_nova_sends_on():
    from ovc_plugin.nova.arriving import HostRefuses
    assert issubclass(HostRefuses, exception.NovaException)
    with pytest.raises(exception.NovaException, match='no room'):
        raise HostRefuses(reason='no room')
