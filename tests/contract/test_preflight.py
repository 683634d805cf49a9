# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Looking at placement: the one that is installed lets guests leave a full host, and nothing is left of the trial."""
from __future__ import annotations

import types
from unittest import mock

from ovc_plugin.nova import preflight
from tests.contract.cloud import CloudCase


class TestPreflight(CloudCase):

    def client(self):
        """What keystoneauth's adapter is to the command, over nova's placement fixture."""
        inner = self.placement

        def call(method):
            def ask(path, microversion=None, raise_exc=True, headers=None, json=None):
                body = {'body': json} if method in ('put', 'post') else {}
                answer = getattr(inner, method)(path, version=microversion, **body)
                if raise_exc and answer.status >= 400:
                    raise ValueError(f'{method} {path}: {answer.status} {answer.body}')
                return types.SimpleNamespace(status_code=answer.status, json=lambda: answer.body, text=str(answer.body),
                                             headers={'Date': None})
            return ask
        return types.SimpleNamespace(**{m: call(m) for m in ('get', 'put', 'post', 'delete')})

    def test_the_placement_installed_lets_guests_leave_and_nothing_is_left_of_the_trial(self):
        self.assertFalse(preflight.too_old(preflight.look(self.client()).newest))
        before = self.placement.get('/resource_providers').body
        self.assertTrue(preflight.lets_leave(self.client()))
        self.assertEqual(before, self.placement.get('/resource_providers').body)
        self.assertNotIn(preflight.PROBE, str(self.placement.get('/resource_classes', version='1.36').body))

    def test_a_placement_that_traps_guests_is_recognised(self):
        """As before 14: what was used before the write is not taken into account."""
        from placement.objects import allocation
        check = allocation._check_capacity_exceeded
        with mock.patch.object(allocation, '_check_capacity_exceeded', lambda context, allocs, _: check(
                context, allocs, {})):
            self.assertFalse(preflight.lets_leave(self.client()))
        self.assertNotIn(preflight.PROBE, str(self.placement.get('/resource_classes', version='1.36').body))

    def test_novas_own_client_of_placement_can_be_used_to_try(self):
        service = self.compute('host1')
        client = preflight.OfNova(service.manager.reportclient)
        before = self.placement.get('/resource_providers').body
        self.assertTrue(preflight.lets_leave(client))
        self.assertEqual(before, self.placement.get('/resource_providers').body)
        with self.assertRaises(preflight.PlacementError):
            preflight.used_mb(client, '00000000-0000-0000-0000-000000000000')

    def test_a_ratio_is_not_given_back_where_guests_could_then_not_leave(self):
        self.compute('host1')
        provider, before = self._get_provider_uuid_by_host('host1'), self.ratio('host1')
        for _ in range(2):
            self.boot(5000, extra={'ovc:reservation': '25%'})
        with mock.patch.object(preflight, 'lets_leave', return_value=False), \
                self.assertRaisesRegex(preflight.PlacementError, '10000 MB are in use there'):
            preflight.give_back(self.client(), provider, [before], 1.0)
        self.assertEqual(before, self.ratio('host1'))
        self.assertTrue(preflight.give_back(self.client(), provider, [before], 1.0))
        self.assertEqual(1.0, self.ratio('host1'))

    def test_a_ratio_is_given_back_only_where_it_is_ours(self):
        self.compute('host1')
        provider = self._get_provider_uuid_by_host('host1')
        before = self.ratio('host1')
        self.assertFalse(preflight.give_back(self.client(), provider, [before + 1], 1.25))
        self.assertEqual(before, self.ratio('host1'))
        self.assertTrue(preflight.give_back(self.client(), provider, [3.0, before], 1.25))
        self.assertEqual(1.25, self.ratio('host1'))
        with self.assertRaises(preflight.PlacementError):
            preflight.give_back(self.client(), '00000000-0000-0000-0000-000000000000', [1.0], 1.25)
