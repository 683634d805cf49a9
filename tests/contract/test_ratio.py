# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Placement's ratio: it follows the report, and goes back to nova's own when nobody stands behind it."""
from __future__ import annotations

import time
from unittest import mock

from keystoneauth1 import exceptions as ksa
from nova import exception
from nova.scheduler.client import report

from ovc_plugin import publish
from ovc_plugin.model import MIB
from ovc_plugin.nova import preflight
from tests.contract.cloud import GB, CloudCase, OvcFakeDriver, enable


class TestRatio(CloudCase):

    def test_placements_ratio_follows_the_report_and_goes_back_when_nobody_watches(self):
        self.compute('host1')
        # Half of each guest is guaranteed: (7680 - 128) / 0.5 / 7680, rounded down to 0.05.
        self.assertEqual(1.95, self.ratio('host1'))
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
        # Capacity lost while we are away is refused by staleness (the filter takes no such report), so the ratio need
        # not fall below what is used, where an old placement would trap guests.
        self.tell('host1', taken_at=time.time() - 3600)
        self.audit()
        self.assertEqual(1.5625, self.ratio('host1'))
        self.boot(256, state='ERROR')
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
        self.assertEqual(1.95, self.ratio('host1'))
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
        self.assertIn('remove it', self.log)
        self.computes['host1'].stop()
        self.assertEqual(1.3, self.ratio('host1'))

    def test_where_nova_needs_the_ratio_it_is_not_told_to_be_removed(self):
        """With file-backed memory nova-compute does not start without it."""
        self.flags(ram_allocation_ratio=1.0, reserved_host_memory_mb=0)
        self.flags(file_backed_memory=4096, group='libvirt')
        self.compute('host1')
        told = [line for line in self.log.splitlines() if '[DEFAULT] ram_allocation_ratio is set' in line]
        self.assertEqual(1, len(told))
        self.assertIn('ours to keep: set [ovc_host] manage_ratio = false', told[0])


class TestRatioWithoutAnybodyBehindIt(CloudCase):

    def raised_and_killed(self):
        """A host whose ratio we raised to 1.95, and whose nova-compute was then killed."""
        self.kill(self.compute('host1'))
        self.assertEqual(1.95, self.ratio('host1'))

    def set_by_hand(self, ratio):
        provider = self._get_provider_uuid_by_host('host1')
        inventory = self._get_provider_inventory(provider)
        generation = self.placement.get(f'/resource_providers/{provider}').body['generation']
        memory = inventory['MEMORY_MB'] | {'allocation_ratio': ratio}
        answer = self.placement.put(f'/resource_providers/{provider}/inventories/MEMORY_MB',
                                    memory | {'resource_provider_generation': generation})
        self.assertEqual(200, answer.status)

    def start_without_controller(self):
        with mock.patch.object(OvcFakeDriver, '_ovc_build', side_effect=RuntimeError('no libvirt')):
            return self.compute('host1')

    def test_a_controller_that_does_not_start_after_a_kill_gives_novas_own_back(self):
        self.raised_and_killed()
        self.start_without_controller()
        self.assertEqual(1.0, self.ratio('host1'))
        self.set_by_hand(1.7)  # given back is given back: from now on it is the operator's
        self.audit()
        self.assertEqual(1.7, self.ratio('host1'))

    def test_a_dry_run_after_a_kill_gives_novas_own_back(self):
        self.raised_and_killed()
        self.flags(dry_run=True, group='ovc_host')
        self.compute('host1')
        self.assertEqual(1.0, self.ratio('host1'))

    def test_manage_ratio_switched_off_after_a_kill_gives_novas_own_back(self):
        self.raised_and_killed()
        self.flags(manage_ratio=False, group='ovc_host')
        self.flags(initial_ram_allocation_ratio=1.25)
        self.compute('host1')
        self.assertEqual(1.25, self.ratio('host1'))

    def test_a_controller_that_starts_after_a_kill_goes_on_and_gives_back_when_stopped(self):
        self.raised_and_killed()
        service = self.compute('host1')
        self.assertEqual(1.95, self.ratio('host1'))
        service.stop()
        self.assertEqual(1.0, self.ratio('host1'))

    def test_a_ratio_that_was_never_ours_is_left_alone(self):
        service = self.start_without_controller()
        self.set_by_hand(1.95)  # what we would have chosen
        self.audit()
        service.stop()
        self.start_without_controller().stop()
        self.assertEqual(1.95, self.ratio('host1'))

    def test_a_ratio_that_the_operator_changed_after_the_kill_is_left_alone(self):
        self.raised_and_killed()
        self.set_by_hand(1.7)
        service = self.start_without_controller()
        self.audit()
        service.stop()
        self.assertEqual(1.7, self.ratio('host1'))

    def test_a_provider_that_was_deleted_is_not_made_again(self):
        """nova's API deletes it with the service. One made anew would have no name but its id, which nova-compute keeps
        across its starts: it would then find no provider of its name, and fail at each audit."""
        service = self.compute('host1')
        provider = self._get_provider_uuid_by_host('host1')
        for one in self.api.get_services(host='host1', binary='nova-compute'):
            self.api.api_delete(f'/os-services/{one["id"]}')
        self.assertEqual(404, self.placement.get(f'/resource_providers/{provider}').status)
        service.stop()
        self.assertEqual(404, self.placement.get(f'/resource_providers/{provider}').status)
        self.assertNotIn('ERROR', self.log)
        self.assertEqual({}, self._store().load())  # nothing is left to be given back

    def _store(self):
        return publish.Store(f'{self.state_path}/ratio', 'host1')

    def test_placement_that_did_not_take_it_back_is_told_again(self):
        self.raised_and_killed()
        with mock.patch('nova.scheduler.client.report.SchedulerReportClient.update_from_provider_tree',
                        side_effect=exception.ResourceProviderUpdateFailed(url='', error='down')):
            self.start_without_controller()
        self.assertEqual(1.95, self.ratio('host1'))
        self.audit()
        self.assertEqual(1.0, self.ratio('host1'))

    def test_a_ratio_that_others_set_before_ours_is_put_back_also_after_a_kill(self):
        service = self.start_without_controller()
        self.set_by_hand(1.5)
        self.kill(service)
        service = self.compute('host1')
        self.tell('host1', swap_usable=GB)
        self.audit()
        self.assertEqual(1.1, self.ratio('host1'))
        self.assertIn('was set to 1.5 by others', self.log)
        self.kill(service)
        service = self.compute('host1')
        self.audit()
        self.assertEqual(1.95, self.ratio('host1'))
        service.stop()
        self.assertEqual(1.5, self.ratio('host1'))
        self.start_without_controller()
        self.audit()
        self.assertEqual(1.5, self.ratio('host1'))

    def test_a_ratio_of_which_nothing_is_known_any_more_is_not_taken_for_anothers(self):
        self.raised_and_killed()
        publish.Store(f'{self.state_path}/ratio', 'host1').path.write_text('')  # as after a loss of power
        service = self.compute('host1')
        self.assertIn('could not be read (it says nothing)', self.log)
        self.tell('host1', swap_usable=GB)
        self.audit()
        self.assertEqual(1.1, self.ratio('host1'))
        self.assertNotIn('by others', self.log)
        service.stop()
        self.assertEqual(1.0, self.ratio('host1'))

    def unheard(self):
        """Placement takes what it is told, and the answer is lost on its way."""
        put = report.SchedulerReportClient.put

        def lost(client, url, *args, **kwargs):
            answer = put(client, url, *args, **kwargs)
            if url.endswith('/inventories'):
                raise ksa.ConnectFailure('Remote end closed connection without response')
            return answer
        return mock.patch.object(report.SchedulerReportClient, 'put', lost)

    def test_a_ratio_of_ours_whose_answer_was_lost_is_not_taken_for_anothers(self):
        service = self.compute('host1')
        self.tell('host1', swap_usable=4 * GB)
        with self.unheard():
            self.audit()
        self.assertEqual(1.5, self.ratio('host1'))
        self.tell('host1', swap_usable=2 * GB)
        self.audit()
        self.assertEqual(1.25, self.ratio('host1'))
        self.assertNotIn('by others', self.log)
        service.stop()
        self.assertEqual(1.0, self.ratio('host1'))

    def test_a_ratio_whose_answer_was_lost_is_given_back_though_nova_never_heard_of_it(self):
        self.flags(initial_ram_allocation_ratio=1.0)
        service = self.compute('host1')
        self.tell('host1', swap_usable=0)
        self.audit()
        self.tell('host1', swap_usable=8 * GB)
        with self.unheard():
            self.audit()
        self.assertEqual(1.95, self.ratio('host1'))
        enable(self)
        self.flags(dry_run=True, group='ovc_host')
        self.audit()
        self.assertEqual(1.0, self.ratio('host1'))
        service.stop()
        self.assertEqual(1.0, self.ratio('host1'))

    def test_where_nothing_can_be_written_down_the_ratio_is_kept_and_the_risk_is_said_once(self):
        with open(f'{self.state_path}/file', 'w'):
            self.flags(state_path=f'{self.state_path}/file', group='ovc_host')
        service = self.compute('host1')
        self.assertEqual(1.95, self.ratio('host1'))
        self.tell('host1', swap_usable=4 * GB)
        self.audit()
        self.assertEqual(1.5, self.ratio('host1'))
        self.assertEqual(1, self.log.count('were nova-compute killed now'))
        service.stop()
        self.assertEqual(1.0, self.ratio('host1'))

    def test_placement_that_is_too_old_keeps_its_ratio_and_the_log_says_what_to_do(self):
        with mock.patch('ovc_plugin.nova.preflight.newest_of', return_value='1.36'):
            self.compute('host1')
            self.tell('host1', swap_usable=0)
            self.audit()
        self.assertEqual(1.0, self.ratio('host1'))
        said = [line for line in self.log.splitlines() if line.startswith('ERROR') and 'microversion is 1.36' in line]
        self.assertEqual(1, len(said), self.log)
        self.assertIn('upgrade placement', said[0])


class TestRatioOfAnOldPlacement(CloudCase):
    """Guests must be able to leave: what is used stays within the ratio unless placement is known not to mind."""

    def looks(self, **answer):
        patch = mock.patch('ovc_plugin.nova.preflight.lets_leave', **answer)
        patch.start()
        self.addCleanup(patch.stop)

    def test_one_that_traps_guests_is_found_by_trying_and_keeps_its_ratio(self):
        self.looks(return_value=False)
        self.compute('host1')
        self.audit()
        self.assertEqual(1.0, self.ratio('host1'))
        said = [line for line in self.log.splitlines() if line.startswith('ERROR') and 'older than 14 (tried)' in line]
        self.assertEqual(1, len(said), self.log)

    def test_one_that_cannot_be_tried_has_the_ratio_kept_above_what_is_used(self):
        self.looks(side_effect=preflight.PlacementError('403'))
        service = self.compute('host1')
        self.assertEqual(1.95, self.ratio('host1'))
        self.assertEqual(1, self.log.count('never set below what is used'))
        for _ in range(2):
            self.boot(5000, extra={'ovc:reservation': '25%'})
        # The report does not know of them yet.
        self.tell('host1', swap_usable=0)
        self.audit()
        self.assertEqual(1.3021, self.ratio('host1'))  # 10000 / 7680
        service.stop()
        self.assertEqual(1.3021, self.ratio('host1'))
        self.assertIn('is 1.302 and not 1: so much is in use', self.log)

    def test_what_could_not_be_put_back_for_the_guests_there_is_put_back_once_they_have_left(self):
        self.looks(side_effect=preflight.PlacementError('403'))
        service = self.compute('host1')
        guests = [self.boot(5000, extra={'ovc:reservation': '25%'}) for _ in range(2)]
        service.stop()
        with mock.patch.object(OvcFakeDriver, '_ovc_build', side_effect=RuntimeError('no libvirt')):
            self.compute('host1')
            self.assertEqual(1.3021, self.ratio('host1'))
            self._delete_server(guests[0])
            self.audit()
        self.assertEqual(1.0, self.ratio('host1'))
