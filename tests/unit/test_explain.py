# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc explain`` as an operator meets it: from the hosts, over a message bus in this process, and from a record."""
from __future__ import annotations

import json
import pathlib
import time

import pytest

from ovc_plugin import cli, display, record, rpc
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.replay import Pass
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, Level, Outcome
from ovc_plugin.settings import HostSettings, Settings
from tests.builders import NOW, a_guest, a_host, sampled
from tests.unit.test_controller import Host


@pytest.fixture
def ovc(written, bus, capsys, monkeypatch, log_as_before):
    for name in ('OS_CLOUD', 'OS_AUTH_URL'):
        monkeypatch.delenv(name, raising=False)
    config = written('[DEFAULT]\ntransport_url = fake://\n')

    def run(*arguments):
        try:
            status = cli.main([*map(str, arguments), '--config-file', config, '--timeout', '0.3'])
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()
    return run


@pytest.fixture
def controlled(bus, tmp_path):
    """A host named h1 with one guest, that has been through a pass of a shortage and answers on the bus."""
    host = Host(tmp_path / 'state', sampled('g1', last_update=NOW + 4, title='web'))
    host.run()
    server = rpc.serve(bus, 'h1', rpc.StatusEndpoint(host.controller.status, host.controller.explain))
    yield host
    server.stop()
    server.wait()


def test_a_guest_is_explained_by_its_host(ovc, controlled):
    status, out, _ = ovc('explain', 'web', '--host', 'h1')
    words = ' '.join(out.split())
    assert status == 0
    for said in ('web / g1 / uuid-g1', 'on h1, level SOFT: 500 MB available < ', 'maximum 1024 MB',
                 'guaranteed 512 MB (by option default_reservation)', 'Last done', 'ago: shrink g1 from 1024 MB to',
                 'not ballooned: asked'):
        assert said in words, said
    assert max(map(len, out.splitlines())) <= 100


def test_json_has_the_same(ovc, controlled):
    status, out, _ = ovc('explain', 'uuid-g1', '--host', 'h1', '--json')
    told, = json.loads(out)['hosts']
    assert status == 0 and told['host'] == 'h1' and told['guests'][0]['last_action']['done']


def test_an_unknown_guest_is_status_1_with_what_the_hosts_said(ovc, controlled):
    status, _, err = ovc('explain', 'nobody', '--host', 'h1', '--host', 'h2')
    assert status == 1 and 'no guest nobody' in err and 'h2: no answer within 0.3 s' in err


def test_a_host_of_an_older_release_says_so(ovc, bus):
    class Older:
        target = rpc.messaging.Target(namespace=rpc.NAMESPACE, version='1.0')

        def status(self, ctxt):
            return {}
    server = rpc.serve(bus, 'h1', Older())
    try:
        status, _, err = ovc('explain', 'web', '--host', 'h1')
        assert status == 1 and 'older release' in err
        assert rpc.ask(bus, ['h1'], timeout=0.3) == {'h1': {}}
    finally:
        server.stop()
        server.wait()


def test_a_record_explains_what_was_at_any_time(ovc, tmp_path):
    settings, recorder = Settings(host=HostSettings(dry_run=False)), record.Recorder(tmp_path / 'log', 'h1', MIB)
    for at, available in ((NOW, 400 * MIB), (NOW + 60, 10 << 30)):
        snapshot = a_host(a_guest('g1', title='web'), taken_at=at, available=available)
        plan, _ = ladder.decide_host(snapshot, LadderState(), settings.host, at)
        outcomes = tuple(Outcome(action=action, done=True) for action in plan.actions)
        recorder.add(Pass(at=at, state=LadderState(), snapshot=snapshot, plan=plan, outcomes=outcomes), settings)
    status, out, _ = ovc('explain', 'web', '--record', tmp_path / 'log')
    assert status == 0 and 'level CLEAR' in out and '60 s ago: ' in out and 'recorded 1970-01-12T' in out
    then = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(NOW + 5))
    status, out, _ = ovc('explain', 'web', '--record', tmp_path / 'log', '--at', then)
    assert status == 0 and 'level SOFT' in out
    assert ovc('explain', 'db', '--record', tmp_path / 'log')[0] == 1
    assert 'no decision log' in ovc('explain', 'web', '--record', tmp_path / 'other')[2]
    assert ovc('explain', 'web', '--record', tmp_path / 'log', '--at', 'noon')[0] == 2
    status, _, err = ovc('explain', 'web', '--at', then)
    assert status == 2 and '--record' in err


def test_all_that_a_host_tells_is_documented(controlled):
    text = (pathlib.Path(__file__).parents[2] / 'doc' / 'status.rst').read_text()
    status = controlled.controller.status()
    view = display.HostView(host='h1', status=status, age=0.0)
    columns = {word for table in (display.hosts([view]), display.guests([view], NOW))
               for word in table.plain.splitlines()[1].split()}
    assert {'report', 'guests', 'watch'} <= status.keys() and {'Headroom', 'Heard'} <= columns
    named = status.keys() | status['tick'].keys() | status['watch'].keys() | columns - {'Host', 'Guest', 'Level'}
    assert not [name for name in named if f'``{name}``' not in text]
    assert not [level.name for level in Level if f'``{level.name}``' not in text]
