# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Where guests land, by what hosts report."""
from __future__ import annotations

import json
import time
from unittest import mock

import fixtures
from nova import context, exception, objects, utils
from nova.tests.functional.api import client

from ovc_plugin import report as reports
from ovc_plugin.model import MIB, Level
from ovc_plugin.nova import current
from tests.contract.cloud import GB, CloudCase, OvcFakeDriver, a_report, enable


class TestPlacementByReports(CloudCase):

    def test_boots_land_where_the_reports_say_and_refusals_have_both_numbers(self):
        self.compute('host1', level=Level.HARD, available=200 * MIB)
        self.compute('host2')
        server = self.boot(extra={'ovc:reservation': '25%'})
        self.assertEqual('host2', self.host_of(server))
        self.assertRegex(self.log, f'host host1 refused for guest {server["id"]}: level is HARD: 200 MB available of '
                                   '8192 MB')
        # host1 is well again and has more room left: the weigher prefers it, by 1 part in 20.
        self.tell('host1', level=Level.CLEAR, available=8192 * MIB)
        self.tell('host2', claimed=GB, guests=1, committed=GB + 128 * MIB, reserved=GB // 4 + 128 * MIB,
                  available=7000 * MIB)
        self.audit()
        self.assertEqual('host1', self.host_of(self.boot()))
        # A guarantee that no host can give although placement (ratio 2) would place it.
        refused = self.boot(7600, state='ERROR', extra={'ovc:reservation': '7600'})
        self.assertIn('No valid host', self.api.get_server(refused['id'])['fault']['message'])
        self.assertRegex(self.log, f'INFO .*host host2 refused for guest {refused["id"]}: guarantees would need '
                                   r'\d+ MB > 7680 MB')

    def test_claims_since_the_report_are_counted_within_and_between_requests(self):
        # What is reclaimable lets two guests of 1 GB in on each host, and no third.
        room = dict(available=512 * MIB + 2 * (GB + 128 * MIB), reclaimable=0, swap_usable=64 * MIB)
        for host in ('host1', 'host2'):
            self.compute(host, **room)
        hosts = self.boot_many(3, extra={'ovc:reservation': '100%'})
        self.assertEqual([1, 2], sorted(hosts.count(host) for host in ('host1', 'host2')))
        # No audit since, so the reports still say: empty. The next guest finds the one place left, and then none is.
        fuller = max(hosts, key=hosts.count)
        self.assertNotEqual(fuller, self.host_of(self.boot(extra={'ovc:reservation': '100%'})))
        self.boot(state='ERROR', extra={'ovc:reservation': '100%'})

    def boot_many(self, count, extra):
        flavor = self._create_flavor(memory_mb=1024, vcpu=1, disk=1, ephemeral=0, extra_spec=extra)
        body = self._build_server(flavor_id=flavor, networks='none')
        body.update(min_count=count, max_count=count, return_reservation_id=True)
        reservation = self.api.api_post('/servers', {'server': body}).body['reservation_id']
        servers = self.api.get_servers(detail=True, search_opts={'reservation_id': reservation})
        return [self._wait_for_state_change(server, 'ACTIVE')['OS-EXT-SRV-ATTR:host'] for server in servers]

    def test_an_aggregate_turns_the_weigher_around(self):
        # nova-api casts what aggregates say to schedulers: a boot may be there first. Here it waits until it is heard.
        self.useFixture(fixtures.MonkeyPatch(
            'nova.scheduler.rpcapi.SchedulerAPI.update_aggregates',
            lambda api, context, aggregates: api.client.prepare(version='4.1').call(
                context, 'update_aggregates', aggregates=aggregates)))
        self.compute('host1', available=7000 * MIB)
        self.compute('host2', available=3000 * MIB)
        aggregate = self.api.post_aggregate({'aggregate': {'name': 'stack'}})
        for host in ('host1', 'host2'):
            self.api.add_host_to_aggregate(aggregate['id'], host)
        self.api.post_aggregate_action(aggregate['id'], {
            'set_metadata': {'metadata': {'headroom_weight_multiplier': '-1.0'}}})
        self.assertEqual('host2', self.host_of(self.boot()))
        # The aggregate's reservation holds where the flavor has none: now 3 GB are guaranteed, for which host2's
        # fresh report has no memory outside what its own guests are guaranteed.
        self.api.post_aggregate_action(aggregate['id'], {
            'set_metadata': {'metadata': {'ovc:reservation': '100%'}}})
        self.tell('host2', reserved=5 * GB)
        self.audit()
        # The hosts would keep no more than their own default, though: that cannot be missed.
        self.boot(3072, state='ERROR')
        self.assertIn('promises 3072 MB > 1536 MB that the host would keep (its [ovc] default_reservation is 50%; '
                      'hosts know no aggregates)', self.log)
        self.flags(default_reservation='100%', group='ovc')
        current.forget()
        self.audit()
        self.assertEqual('host1', self.host_of(self.boot(3072)))
        self.assertRegex(self.log, 'host host2 refused.*guarantees would need')


class TestUnreliableReports(CloudCase):

    def setUp(self):
        super().setUp()
        self.flags(initial_ram_allocation_ratio=2.0)
        enable(self)
        self.compute('host1')

    def refused_with(self, reason):
        server = self.boot(256, state='ERROR')
        self.assertRegex(self.log, f'host host1 refused for guest {server["id"]}: {reason}')

    def test_no_report_that_cannot_be_relied_on_gets_a_guest(self):
        self.boot(256)
        good = json.loads(reports.encode(a_report('host1')))
        self.tell('host1', taken_at=time.time() - 3600)
        self.audit()
        self.refused_with(r'report is 36\d\d s old > 120 s \(report_max_age\): the host controller has stopped')
        for text, reason in (
                (json.dumps(good | {'version': 2}), 'report has version 2, this scheduler reads 1: install the same'),
                (json.dumps(good | {'swap_usable': -5}), 'report says swap_usable=-5, which cannot be'),
                ('{"version": 1', 'report is not readable')):
            self.audit(host1=text)
            self.refused_with(reason)

    def test_a_host_without_reports_is_left_to_nova_up_to_the_set_ratio(self):
        self.audit(host1=None)
        self.boot(6000)
        self.audit(host1=None)
        # placement's ratio of 2 would take it; nobody on that host would balloon or swap.
        server = self.boot(6000, state='ERROR')
        self.assertRegex(self.log, f'host host1 refused for guest {server["id"]}: host sends no report and would hold '
                                   r'12512 MB > 8192 MB \(unreported_ratio 1\)')
        enable(self, unreported_ratio=0.0)
        self.boot(6000)


class BareMetalDriver(OvcFakeDriver):
    """Reports of its node what nova's ironic driver does: no processors, no memory, no disk."""

    def get_available_resource(self, nodename):
        return super().get_available_resource(nodename) | dict.fromkeys(
            ('vcpus', 'vcpus_used', 'memory_mb', 'memory_mb_used', 'local_gb', 'local_gb_used'), 0)

    def _ovc_start(self, host):
        raise ValueError('not on bare metal')


class TestNodesWithoutMemory(CloudCase):

    def test_a_node_that_counts_no_memory_is_left_to_nova(self):
        with mock.patch('tests.contract.cloud.OvcFakeDriver', BareMetalDriver):
            self.compute('host1')
        node = objects.ComputeNode.get_by_nodename(context.get_admin_context(), 'host1')
        self.assertEqual(0, node.memory_mb)
        self.assertEqual('host1', self.host_of(self.boot()))


class TestExtraSpecs(CloudCase):

    def test_the_api_answers_a_typo_with_400(self):
        flavor = self._create_flavor(memory_mb=512, vcpu=1, disk=1, ephemeral=0)
        good = {'ovc:reservation': '37.5%', 'ovc:weight': '0.5', 'ovc:overcommit': 'no', 'ovc:share': 'no'}
        self.api.post_extra_spec(flavor, {'extra_specs': good})
        for name, value in (('ovc:reservation', '150%'), ('ovc:reservation', 'half'), ('ovc:weight', '0'),
                            ('ovc:overcommit', 'maybe'), ('ovc:share', '2'), ('ovc:reservaton', '50%')):
            error = self.assertRaises(client.OpenStackApiException, self.api.post_extra_spec, flavor,
                                      {'extra_specs': {name: value}})
            self.assertEqual(400, error.response.status_code, (name, value))

    def test_a_typo_that_an_older_microversion_takes_is_warned_of_once(self):
        """openstackclient asks for 2.1 and openstacksdk for 2.61 at most where they are not told: nova validates extra
        specs from 2.86."""
        for host in ('host1', 'host2', 'host3'):
            self.compute(host)
        flavor = self._create_flavor(memory_mb=512, vcpu=1, disk=1, ephemeral=0)
        typo = {'extra_specs': {'ovc:reservaton': '50%'}}
        with utils.temporary_mutation(self.api, microversion='2.61'):
            self.api.post_extra_spec(flavor, typo)
        with utils.temporary_mutation(self.api, microversion='2.86'):
            error = self.assertRaises(client.OpenStackApiException, self.api.post_extra_spec, flavor, typo)
        self.assertEqual(400, error.response.status_code)
        for _ in range(2):
            self._create_server(flavor_id=flavor, networks='none')
        told = [line for line in self.log.splitlines() if 'ovc:reservaton' in line]
        self.assertEqual(1, len(told), told)
        self.assertRegex(told[0], r'WARNING .*extra spec ovc:reservaton is none of ours')

    def test_a_value_set_without_the_validators_guarantees_everything_and_is_warned_of(self):
        self.compute('host1', reserved=4 * GB)
        flavor = self._create_flavor(memory_mb=4096, vcpu=1, disk=1, ephemeral=0)
        # An amount above the flavor's memory is well formed, so the API takes it.
        self.api.post_extra_spec(flavor, {'extra_specs': {'ovc:reservation': '9999'}})
        self._create_server(flavor_id=flavor, networks='none', expected_state='ERROR')
        self.assertRegex(self.log, r'WARNING .*extra spec ovc:reservation: reservation 9999 MB is above the guest\'s '
                                   'memory of 4096 MB: lower the reservation')


class TestOptions(CloudCase):

    def test_a_bad_option_stops_the_scheduler_at_its_start_and_names_it(self):
        from ovc_plugin import conf
        from ovc_plugin.nova import filters
        self.flags(default_reservation='half', group='ovc')
        error = self.assertRaises(conf.ConfigError, filters.OvercommitFilter)
        self.assertIn('[ovc] default_reservation', str(error))
        self.assertNotIsInstance(error, exception.NovaException)
