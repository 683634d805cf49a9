# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Turning it off as the README says: stop, remove the lines, start again; nova is as it was before."""
from __future__ import annotations

from nova import context, objects

from tests.contract.cloud import GB, CloudCase


class TestTurnoff(CloudCase):

    def without_the_lines(self):
        """nova's configuration with none of ours, read anew by a scheduler and a nova-compute."""
        self.flags(group='filter_scheduler', available_filters=['nova.scheduler.filters.all_filters'],
                   enabled_filters=['ComputeFilter', 'ComputeCapabilitiesFilter', 'ServerGroupAffinityFilter'],
                   weight_classes=['nova.scheduler.weights.all_weighers'])
        self.flags(compute_driver='fake.MediumFakeDriver')
        self.scheduler_service.kill()
        self.scheduler_service = self.start_service('scheduler')

    def test_a_stop_and_a_start_without_the_lines_is_nova_as_before(self):
        service = self.compute('host1')
        self.tell('host1', swap_usable=8 * GB)
        self.audit()
        before = self.boot(1024)
        self.assertEqual(1.95, self.ratio('host1'))
        service.stop()
        self.assertEqual(1.0, self.ratio('host1'))
        self.without_the_lines()
        self.compute('host1')
        self.audit()
        node = objects.ComputeNode.get_by_nodename(context.get_admin_context(), 'host1')
        self.assertNotIn('ovc', node.stats)  # so that ovc check on a controller finds no report that is too old
        self.assertNotIn('Ovc', type(self.computes['host1'].driver).__name__)
        self.assertEqual(1.0, self.ratio('host1'))
        after = self.boot(1024)
        self.assertEqual('host1', self.host_of(after))
        self.assertEqual('ACTIVE', self.api.get_server(before['id'])['status'])
        # 7680 MB at nova's ratio, 2048 of them taken: ours would have promised more.
        self.boot(6000, state='ERROR')
        self._delete_server(before)
