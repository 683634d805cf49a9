# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc status`` asks nova-compute's own RPC server, with nothing of nova on the asking side."""
from __future__ import annotations

from unittest import mock

from nova import context, rpc

from ovc_plugin import rpc as ours
from tests.contract.cloud import CloudCase
from tests.waiting import LONG


class TestAsking(CloudCase):

    def bus(self):
        with context.target_cell(context.get_admin_context(), self.cell_mappings['cell1']) as cell:
            return cell.mq_connection or rpc.TRANSPORT

    def test_hosts_with_the_plugin_answer_others_say_why_not(self):
        self.compute('host1', available=1 << 30)
        self.flags(compute_driver='fake.MediumFakeDriver')
        self.compute('plain')
        answers = ours.ask(self.bus(), ['host1', 'plain'], (ours.COMPUTE_TOPIC,), timeout=LONG)
        assert answers['host1']['report']['available'] == 1 << 30
        assert answers['plain'] == ours.NO_PLUGIN
        with mock.patch.object(ours, 'SLACK', LONG):
            assert ours.ask(self.bus(), ['gone'], timeout=0.5) == {'gone': 'no answer within 0.5 s'}

    def test_what_fails_on_the_host_is_told_in_one_line(self):
        self.compute('host1')
        self.controller('host1').report = 'nonsense'
        answer = ours.ask(self.bus(), ['host1'], (ours.COMPUTE_TOPIC,), timeout=LONG)['host1']
        assert 'TypeError' in answer or 'AttributeError' in answer
        assert '\n' not in answer
