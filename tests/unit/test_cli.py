# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc status`` as an operator meets it, over a message bus within this process."""
from __future__ import annotations

import json
import logging
import sys
import types

import pytest

from ovc_plugin import cli, describe, display, report
from ovc_plugin.cli import hosts, status
from ovc_plugin.model import MIB, Level, Outcome, ReclaimGuest, SetBalloon
from tests.builders import GIB, NOW, a_guest, a_report


def a_status(*guests, host='h1', actions=None, **changes):
    """What a host's controller answers."""
    known = a_report(**{'host': host, 'taken_at': NOW - 3, 'committed': 20 * GIB, 'reserved': 4 * GIB,
                        'saved': 300 * MIB, 'swap_used': 100 * MIB, 'reason': 'available 900 MB < 1000 MB'} | changes)
    return {'report': report.to_dict(known), 'tick': {'seconds': 0.01, 'age': 3.0, 'error': None, 'passes': 7},
            'notes': [], 'dry_run': False, 'ksm': None, 'last_host_action': None, 'events': [],
            'guests': [describe.guest_fields(g, (actions or {}).get(g.uuid)) for g in guests]}


def done(action, name, **changes):
    return describe.action_fields(Outcome(**{'action': action, 'done': True} | changes), NOW - 12,
                                  {action.guest: name})


@pytest.fixture(autouse=True)
def log_as_before():
    """The command sets logging up for its whole process."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(autouse=True)
def it_is_now(monkeypatch):
    """Ages are told in whole seconds: by a real clock they would depend on how fast a test comes to them."""
    for module in (hosts, status):
        monkeypatch.setattr(module, 'time', types.SimpleNamespace(time=lambda: NOW))


@pytest.fixture
def ovc(written, bus, capsys, monkeypatch):
    """Run the command with these arguments; returns (exit status, output, errors)."""
    for name in ('OS_CLOUD', 'OS_AUTH_URL'):
        monkeypatch.delenv(name, raising=False)
    config = written('[DEFAULT]\ntransport_url = fake://\n')

    def run(*arguments):
        try:
            status = cli.main([*arguments, '--config-file', config, '--timeout', '60'])
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()
    return run


def test_every_host_and_guest_is_shown_with_what_was_done_and_why(ovc, serve):
    shrunk, silent = a_guest('web', swapped=64 * MIB), a_guest('db', stats_age=None, usable=None)
    fixed, off = a_guest('fast', untouchable='hugepages'), a_guest('off', running=False)
    actions = {
        shrunk.uuid: done(SetBalloon(guest=shrunk.uuid, target=512 * MIB, previous=GIB, reason='idle 400 MB'), 'web'),
        silent.uuid: done(ReclaimGuest(guest=silent.uuid, amount=256 * MIB, floor=0, reason='stuck for 30 s'), 'db',
                          done=False, error='PermissionError: no')}
    serve('h1', lambda: a_status(shrunk, silent, fixed, off, actions=actions, level=Level.SOFT))
    status, out, _ = ovc('status', '--host', 'h1')
    assert status == 0
    for shown in ('SOFT', '20480 (1.29x)', '15872', '100/8192', 'available 900 MB < 1000 MB', 'uuid-web',
                  ' s ago: shrink web from 1024 MB to 512 MB: idle 400 MB',
                  'could not swap 256 MB of db (PermissionError: no): stuck for 30 s', 'untouchable: hugepages',
                  'stopped', 'says nothing of its memory'):
        assert shown in out


def test_what_a_guest_needs_is_shown_with_how_far_that_can_be_trusted(ovc, serve):
    def told():
        status = a_status(a_guest('web'), a_guest('db'))
        status['guests'][0] |= {'need': 300 * MIB, 'need_confidence': 0.5}
        return status
    serve('h1', told)
    out = ' '.join(ovc('status', '--host', 'h1')[1].split())
    assert 'needs 300 MB (confidence 0.50)' in out and out.count('confidence') == 1


def test_each_source_is_shown_with_how_long_it_takes_and_how_often_it_fails(ovc, serve):
    sources = {'guests': {'seconds': 0.0123, 'read': 40, 'failed': 0, 'error': None},
               'stall': {'seconds': 0.0001, 'read': 37, 'failed': 3, 'error': 'OSError: none'}, 'odd': 5,
               'torn': {'seconds': None}}
    serve('h1', lambda: a_status() | {'sources': sources})
    out = ' '.join(ovc('status', '--host', 'h1')[1].split())
    assert 'read: guests 12.3 ms; stall 0.1 ms, failed 3 times, now: OSError: none' in out
    assert 'odd' not in out and 'torn' not in out


def test_a_host_says_why_it_would_refuse_one_more_guest(ovc, serve):
    refused = {'memory': 512 * MIB, 'reservation': 0, 'ok': False, 'reason': 'guests could touch 3200 MB > 2716 MB'}
    serve('h1', lambda: a_status() | {'next_guest': refused})
    _, out, _ = ovc('status', '--host', 'h1')
    assert 'one more guest of 512 MB is refused: guests could touch 3200 MB > 2716 MB' in out


def test_it_fits_a_hundred_columns_with_long_names_and_large_machines(ovc, serve):
    guests = [a_guest(f'instance-{n:08x}-of-someone', maximum=900 * GIB, actual=900 * GIB, reservation=450 * GIB,
                      resident=800 * GIB, swapped=90 * GIB, target=900 * GIB, uuid='0' * 36) for n in range(3)]
    host = 'compute-rack17-slot03.region.example.org'
    serve(host, lambda: a_status(*guests, host=host, total=2048 * GIB, available=1500 * GIB, swap_usable=1024 * GIB,
                                 committed=3000 * GIB, reserved=1400 * GIB, saved=120 * GIB, swap_used=512 * GIB,
                                 reason='available memory is what it is ' * 5))
    out = ovc('status', '--host', host)[1]
    assert max(map(len, out.splitlines())) <= 100
    assert out.count('\n') > 8


def test_a_silent_host_is_shown_with_its_last_report_and_makes_the_exit_status_1(ovc, serve, monkeypatch):
    serve('h1', a_status)
    last = a_report(host='h2', taken_at=NOW - 600, level=Level.HARD, available=700 * MIB)
    monkeypatch.setattr(hosts, 'find', lambda conf, named: hosts.Found(
        names=['h1', 'h2', 'h3'], reports={'h1': None, 'h2': report.encode(last), 'h3': 'torn'}))
    status, out, _ = ovc('status')
    assert status == 1
    for shown in ('no answer within 60 s', 'last report 10 min old: HARD, 700 MB of 16384 MB available',
                  'its last report cannot be used'):
        assert shown in ' '.join(out.split())


def test_json_has_bytes_for_every_host_and_nothing_else_on_stdout(ovc, serve):
    serve('h1', lambda: a_status(a_guest()))
    status, out, _ = ovc('status', '--host', 'h1', '--host', 'h2', '--json')
    told = json.loads(out)['hosts']
    assert status == 1
    assert told['h1']['error'] is None and told['h1']['age'] == 3.0
    assert told['h1']['status']['guests'][0]['maximum'] == GIB
    assert told['h1']['status']['report']['total'] == 16 * GIB
    assert told['h2'] == {'error': 'no answer within 60 s', 'age': None, 'status': None, 'last_report': None}


def test_a_host_whose_controller_did_not_start_says_why_once(ovc, serve):
    why = 'the host controller did not start: no libvirt'
    serve('h1', lambda: a_status() | {'report': None, 'notes': [why], 'tick': {'error': why, 'age': None}})
    status, out, _ = ovc('status', '--host', 'h1')
    assert status == 0 and out.count(why) == 1


@pytest.mark.parametrize('odd', [
    {}, {'report': None, 'guests': None, 'tick': None, 'notes': None},
    {'report': {'available': 'much', 'level': 7, 'reserve': None}, 'guests': [None, 3, {'last_action': 'yes'}]}])
def test_an_answer_that_lacks_fields_is_shown_as_far_as_it_goes(ovc, serve, odd):
    serve('h1', lambda: odd)
    status, out, _ = ovc('status', '--host', 'h1')
    assert status == 0 and 'h1' in out


FULL = {
    **a_status(a_guest()), 'next_guest': {'memory': GIB, 'ok': True, 'reason': 'fits'}, 'watch': {'means': 'looks'},
    'sources': {'guests': {'seconds': 0.1, 'failed': 2, 'error': 'gone'}}, 'notes': ['no KSM'],
    'prediction': {'predictor': 'p', 'error': None, 'horizons': [
        {'horizon': 3600, 'missed': 1, 'judged': 5, 'share': 0.2, 'margin': 1.0}]},
    'title': 'web-1', 'may': ['a'], 'has': ['b'], 'next': ['c']}
ODD = [None, -1, 10 ** 400, float('nan'), float('inf'), True, 'x', 'a\x1b]0;b\x07\x9b2Jc', [], [1], {}, {'a': 1}]


def places(fields, before=()):
    """Every place in nested data."""
    inner = fields.items() if isinstance(fields, dict) else enumerate(fields) if isinstance(fields, list) else ()
    for key, value in inner:
        yield (*before, key)
        yield from places(value, (*before, key))


def with_odd(fields, place, odd):
    copy = json.loads(json.dumps(fields))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = odd
    return copy


@pytest.mark.parametrize('place', list(places(FULL)), ids=lambda place: '.'.join(map(str, place)))
def test_whatever_a_host_answers_costs_no_other_host_its_row_and_reaches_no_terminal(place):
    for odd in ODD:
        status = with_odd(FULL, place, odd)
        views = [hosts.view('h1', status, None, now=NOW), hosts.view('h2', FULL, None, now=NOW)]
        shown = (display.hosts(views) + display.guests(views, NOW)).plain
        shown += display.account({**status, 'host': 'h1', 'at': odd, 'level': odd, 'recorded': odd}, NOW).plain
        assert 'h2' in shown and not {'\x1b', '\x07', '\x9b'}.intersection(shown)


def test_hosts_come_from_novas_database_where_it_is_configured(written, bus, serve, capsys, monkeypatch):
    last = report.encode(a_report(host='h2', taken_at=NOW - 60))
    inventory = types.SimpleNamespace(last_reports=lambda conf: {'h1': None, 'h2': last})
    monkeypatch.setitem(sys.modules, 'ovc_plugin.nova.inventory', inventory)
    monkeypatch.setattr('ovc_plugin.nova.inventory', inventory, raising=False)
    serve('h1', a_status)
    config = written('[DEFAULT]\ntransport_url = fake://\n[api_database]\nconnection = mysql://there/nova_api\n')
    assert cli.main(['status', '--config-file', config, '--timeout', '60']) == 1
    assert 'last report 60 s old' in capsys.readouterr().out


def test_a_database_that_cannot_be_read_does_not_keep_named_hosts_from_being_asked(written, bus, serve, capsys,
                                                                                  monkeypatch):
    def refuses(conf):
        raise RuntimeError('access denied')
    inventory = types.SimpleNamespace(last_reports=refuses)
    monkeypatch.setitem(sys.modules, 'ovc_plugin.nova.inventory', inventory)
    monkeypatch.setattr('ovc_plugin.nova.inventory', inventory, raising=False)
    config = written('[DEFAULT]\ntransport_url = fake://\n[api_database]\nconnection = mysql://there/nova_api\n')
    assert cli.main(['status', '--config-file', config, '--timeout', '60', '--host', 'h1']) == 1
    out, err = capsys.readouterr()
    assert 'no answer within 60 s' in out and 'access denied' in err
    assert cli.main(['status', '--config-file', config]) == 2
    assert 'check [api_database] connection, or name hosts with --host' in capsys.readouterr().err


def test_a_database_url_that_cannot_be_read_is_not_shown(written, capsys, monkeypatch):
    def refuses(conf):
        raise ValueError("invalid literal for int() with base 10: 's3cret'")
    inventory = types.SimpleNamespace(last_reports=refuses)
    monkeypatch.setitem(sys.modules, 'ovc_plugin.nova.inventory', inventory)
    monkeypatch.setattr('ovc_plugin.nova.inventory', inventory, raising=False)
    config = written('[DEFAULT]\ntransport_url = fake://\n[api_database]\nconnection = mysql://nova:s3cret/x@db/api\n')
    assert cli.main(['status', '--config-file', config]) == 2
    out, err = capsys.readouterr()
    assert 'check [api_database] connection' in err and 's3cret' not in out + err


def test_a_database_whose_library_is_elsewhere_is_not_taken_for_a_wrong_connection(written, bus, capsys, monkeypatch):
    def refuses(conf):
        raise ModuleNotFoundError("No module named 'pymysql'")
    inventory = types.SimpleNamespace(last_reports=refuses)
    monkeypatch.setitem(sys.modules, 'ovc_plugin.nova.inventory', inventory)
    monkeypatch.setattr('ovc_plugin.nova.inventory', inventory, raising=False)
    config = written('[DEFAULT]\ntransport_url = fake://\n[api_database]\nconnection = mysql+pymysql://there/nova\n')
    assert cli.main(['status', '--config-file', config]) == 2
    said = capsys.readouterr().err
    assert 'pymysql\'): run it with the Python of nova-scheduler, or name hosts with --host' in said


def test_where_nothing_lists_hosts_this_machine_is_asked_and_that_is_said(ovc, serve, monkeypatch):
    monkeypatch.setattr(hosts.socket, 'gethostname', lambda: 'me')
    serve('me', lambda: a_status(host='me'))
    status, out, err = ovc('status')
    assert status == 0 and 'asking me alone' in err and 'me' in out


@pytest.mark.parametrize(('arguments', 'remedy'), [
    (['status', '--timeout', 'soon'], 'a number of seconds from 0.1 to 3600'),
    (['status', '--watch', '--json'], 'run it with --json again and again'),
    (['statis'], "'statis' is not an ovc command"),
])
def test_wrong_usage_is_exit_status_2_with_a_remedy(capsys, arguments, remedy):
    try:
        status = cli.main(arguments)
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    assert status == 2 and remedy in out + err


def test_a_configuration_without_a_bus_is_exit_status_2_with_a_remedy(written, capsys):
    assert cli.main(['status', '--config-file', written('')]) == 2
    assert 'no transport_url' in capsys.readouterr().err
    assert cli.main(['status', '--config-file', '/nowhere.conf']) == 2
    assert 'name an existing, readable file' in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['status', '--help'], ['help', 'status']])
def test_help_teaches(capsys, arguments):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert 'examples:' in out and 'exit status:' in out


def test_without_a_command_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert not ended.value.code
    assert 'status ' in capsys.readouterr().out
