# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc explain`` as an operator meets it: from the hosts, over a message bus in this process, and from a record."""
from __future__ import annotations

import importlib.metadata
import json
import pathlib
import time

import pytest

from ovc_plugin import cli, display, record, rpc
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.replay import Pass
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, Level, Outcome, Plan, SetBalloon
from ovc_plugin.settings import HostSettings, Settings
from tests.builders import GIB, NOW, a_guest, a_host, sampled
from tests.unit.test_controller import Host


@pytest.fixture
def ovc(written, bus, capsys, monkeypatch, log_as_before):
    for name in ('OS_CLOUD', 'OS_AUTH_URL'):
        monkeypatch.delenv(name, raising=False)
    config = written('[DEFAULT]\ntransport_url = fake://\n')

    def run(*arguments):
        try:
            status = cli.main([*map(str, arguments), '--config-file', config, '--timeout', '60'])
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
    assert status == 1 and 'no guest nobody' in err and 'h2: no answer within 60 s' in err


def test_a_host_of_an_older_release_says_so(ovc, bus):
    class Older:
        target = rpc.messaging.Target(namespace=rpc.NAMESPACE, version='1.0')

        def status(self, ctxt):
            return {}
    server = rpc.serve(bus, 'h1', Older())
    try:
        status, _, err = ovc('explain', 'web', '--host', 'h1')
        assert status == 1 and 'older release' in err
        assert rpc.ask(bus, ['h1'], timeout=60) == {'h1': {}}
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


def write_down(directory, host, at, reason):
    """The log of one host's controller, of one pass in which it shrank a guest."""
    recorder = record.Recorder(directory, host, MIB, importlib.metadata.version('ovc-plugin'))
    shrunk = SetBalloon(guest='uuid-g1', target=GIB - MIB, previous=GIB, reason=reason)
    recorder.add(Pass(at=at, state=LadderState(), snapshot=a_host(a_guest('g1'), host=host, taken_at=at),
                      plan=Plan(level=Level.SOFT, actions=(shrunk,), reason='test'),
                      outcomes=(Outcome(action=shrunk, done=True),)), Settings())
    recorder.close()


def test_what_another_hosts_controller_did_to_a_guest_is_not_told_as_this_ones(ovc, tmp_path):
    """A guest that has moved, from h2 to h1: files are read by name."""
    write_down(tmp_path, 'h2', NOW, 'done by h2')
    write_down(tmp_path, 'h1', NOW + 60, 'done by h1')
    told = json.loads(ovc('explain', 'g1', '--record', tmp_path, '--json')[1])['hosts']
    assert {one['host']: one['guests'][0]['last_action']['reason'] for one in told} == {
        'h1': 'done by h1', 'h2': 'done by h2'}


def test_the_last_that_a_log_knows_of_a_guest_is_told_in_whatever_order_its_files_are_named(ovc, tmp_path):
    for name, at in (('a', NOW + 60), ('b', NOW)):
        write_down(tmp_path / name, 'h1', at, f'in {name}')
    out = ovc('explain', 'g1', '--record', tmp_path / 'a', '--record', tmp_path / 'b', '--json')[1]
    told, = json.loads(out)['hosts']
    assert told['at'] == NOW + 60 and told['guests'][0]['last_action']['reason'] == 'in a'


def test_a_record_of_another_release_is_explained_by_this_one_and_that_is_said_once(ovc, tmp_path, monkeypatch):
    with monkeypatch.context() as then:
        then.setattr(importlib.metadata, 'version', lambda name: '0.0.9')
        write_down(tmp_path, 'h1', NOW, 'test')
    err = ovc('explain', 'g1', '--record', tmp_path)[2]
    assert err.count('recorded by ovc-plugin 0.0.9, decided again by ') == 1


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
