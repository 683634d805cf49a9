# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The benchmarks' own judgement: what they count as kept, and whose processor time they count."""
from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys
import types

import pytest

from benchmarks import speed_agent, speed_scene, speed_told
from ovc_plugin.decide.replay import Pass
from ovc_plugin.decide.state import Asked, LadderState
from ovc_plugin.model import Level, Plan
from ovc_plugin.record import Recorder
from ovc_plugin.settings import Settings
from tests.builders import NOW, a_host
from tests.waiting import until

ROOT = pathlib.Path(__file__).resolve().parents[2]
MB = 1 << 20


def load(name: str, monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    spec = importlib.util.spec_from_file_location(f'benchmark_{name}', ROOT / 'benchmarks' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_targets_count_as_read_back_by_the_first_decision_after_the_restart(monkeypatch, tmp_path):
    crash = load('crash', monkeypatch)

    def run(*targets):
        """One run of a controller: a pass for each target of its guest."""
        recorder = Recorder(tmp_path, 'h1', 1 << 20)
        for number, target in enumerate(targets):
            asked = {'u1': Asked(target=target * MB, at=NOW, nearest=0, moved_at=NOW)}
            passed = Pass(at=NOW + number, state=LadderState(level=Level.SOFT, asked=asked), snapshot=a_host(),
                          plan=Plan(level=Level.SOFT, actions=(), reason=''))
            assert recorder.add(passed, Settings()) is None
        return set(tmp_path.glob('*.jsonl.gz'))  # not closed: it is killed
    before = run(400, 300)
    assert crash.read_back(tmp_path, before) is None
    run(300, 280)
    assert crash.read_back(tmp_path, before) == {'u1': 300 * MB}


def test_a_root_helpers_processor_time_is_counted_while_it_lives(monkeypatch):
    cost = load('cost', monkeypatch)
    others = cost.helpers()  # whom another test has left, if any
    # Left behind by its parent, as the helper is: no descendant of ours.
    busy = 'import time\nwhile time.process_time() < 0.2: pass\ntime.sleep(600)'
    started = subprocess.run(['sh', '-c', '"$@" >/dev/null 2>&1 & echo $!', 'sh', sys.executable, '-c', busy,
                              '--privsep_context', 'ovc_plugin.privileged.context'], capture_output=True, text=True)
    pid = int(started.stdout)
    try:
        until(lambda: cost.helper_seconds([pid]) >= 0.15)
        assert [one for one in cost.helpers() if one not in others] == [pid]
        assert 0.15 <= cost.helper_seconds([pid]) < 2
    finally:
        os.kill(pid, 9)


@pytest.mark.parametrize('changes, why, ok', [
    ({}, 'locked memory', True),
    ({}, None, False),  # not recognised
    ({'merged': 1}, 'locked memory', False),
    ({'swapped': 4096}, 'locked memory', False),
    ({'size': 100 * MB}, 'locked memory', False),
    ({'limits': ('1048576',)}, 'locked memory', False),
    ({'backed': 10 * MB}, 'locked memory', False)])
def test_an_untouchable_guest_that_lost_anything_is_told_as_touched(changes, why, ok, monkeypatch):
    bench = load('untouchables', monkeypatch)
    before = bench.Look(size=192 * MB, swapped=0, backed=150 * MB, merged=0, limits=())
    told = {'maximum': 192 * MB, 'overhead': 64 * MB, 'reservation': 48 * MB, 'untouchable': why}
    kind = bench.Kind(name='locked', why='locked memory')
    assert bench.row(kind, before, dataclasses.replace(before, **changes), told)['ok'] == ok


def test_an_ordinary_guest_that_gave_nothing_proves_nothing(monkeypatch):
    bench = load('untouchables', monkeypatch)
    before = bench.Look(size=192 * MB, swapped=0, backed=150 * MB, merged=0, limits=())
    told = {'maximum': 192 * MB, 'overhead': 64 * MB, 'reservation': 48 * MB, 'untouchable': None}
    kind = bench.Kind(name='ordinary', why=None)
    assert not bench.row(kind, before, before, told)['ok']
    assert bench.row(kind, before, dataclasses.replace(before, size=100 * MB), told)['ok']


def test_what_was_taken_for_a_moment_and_given_back_was_taken(monkeypatch):
    bench = load('untouchables', monkeypatch)
    whole = bench.Look(size=192 * MB, swapped=0, backed=150 * MB, merged=0, limits=())
    meanwhile = [dataclasses.replace(whole, limits=('1048576',)), dataclasses.replace(whole, size=100 * MB, swapped=5),
                 dataclasses.replace(whole, merged=7, backed=9 * MB)]
    assert bench.worst([whole, *meanwhile, whole]) == bench.Look(
        size=100 * MB, swapped=5, backed=9 * MB, merged=7, limits=('1048576',))
    told = {'maximum': 192 * MB, 'overhead': 64 * MB, 'reservation': 48 * MB, 'untouchable': 'locked memory'}
    kind = bench.Kind(name='locked', why='locked memory')
    assert bench.row(kind, whole, bench.worst([whole, whole]), told)['ok']
    for one in meanwhile:
        assert not bench.row(kind, whole, bench.worst([one, whole]), told)['ok']


@pytest.mark.parametrize('ordinary, mute, nothing_by', [
    ({'size': 100 * MB, 'merged': 9000}, {'swapped': 20 * MB}, None),
    ({'merged': 9000}, {'swapped': 20 * MB}, 'balloon'), ({'size': 100 * MB, 'merged': 9000}, {}, 'swap'),
    ({'size': 100 * MB}, {'swapped': 20 * MB}, 'sharing')])
def test_a_mechanism_that_takes_nothing_from_anybody_ends_the_measurement(ordinary, mute, nothing_by, monkeypatch):
    bench = load('untouchables', monkeypatch)
    whole = bench.Look(size=192 * MB, swapped=0, backed=150 * MB, merged=0, limits=())
    guests = {'ordinary': dataclasses.replace(whole, **ordinary),
              'ordinary too': dataclasses.replace(whole, merged=9000),
              'no balloon driver': dataclasses.replace(whole, **mute)}
    now = [0.0]
    controller = types.SimpleNamespace(run_pass=lambda: None, status=lambda: {'told': 1}, stop=lambda: None)
    monkeypatch.setattr(bench.assembly, 'build', lambda *_, **__: controller)
    monkeypatch.setattr(bench, 'look', lambda host, name: guests[name])
    monkeypatch.setattr(bench, 'time', types.SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)))
    host = types.SimpleNamespace(name='h', group='/g', root=pathlib.Path('/r'), connection=None)

    def shortage():
        options = bench.parser().parse_args(['--patience', '30'])
        return bench.shortage(host, options, {name: name for name in guests}, lambda text: None)
    if nothing_by:
        with pytest.raises(SystemExit, match=f'nothing was taken by: {nothing_by}$'):
            shortage()
    else:
        status, looks = shortage()
        assert status == {'told': 1} and all(len(seen) > 20 for seen in looks.values())


def test_a_suite_that_fails_before_nova_defines_a_guest_is_no_guest_untouched(monkeypatch):
    bench = load('untouchables', monkeypatch)
    done = subprocess.CompletedProcess([], 2, 'no such test', '')
    monkeypatch.setattr(bench.subprocess, 'run', lambda *_, **__: done)
    with pytest.raises(SystemExit, match='nova has defined no guest:\nno such test'):
        bench.nova(lambda text: None)


@pytest.mark.parametrize('sizes, full', [({}, False), ({'a': 512}, False), ({'a': 512, 'b': 512}, True),
                                         ({'a': 512, 'b': 500}, False)])
def test_nobody_has_its_full_size_where_a_guest_is_not_seen(sizes, full, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    turnoff = load('turnoff', monkeypatch)
    assert turnoff.Look(step='', ratio=1.0, sizes=sizes, limits=0, ksm='0').all_full(2, 512) is full


def test_sizes_are_asked_again_while_libvirt_is_busy(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    turnoff = load('turnoff', monkeypatch)
    answers = [{}, {'a': 5}, {'a': 5, 'b': 6}]
    monkeypatch.setattr(turnoff.watch, '_balloons', lambda host: answers.pop(0))
    monkeypatch.setattr(turnoff.time, 'sleep', lambda seconds: None)
    scene = turnoff.Scene.__new__(turnoff.Scene)
    scene.host = types.SimpleNamespace(guests=lambda: {'a': None, 'b': None})
    assert scene.sizes() == {'a': 5, 'b': 6} and not answers


def test_two_more_scans_have_a_time_of_their_own_and_are_waited_for(monkeypatch, tmp_path):
    """Merging may take all of --patience: what the kernel merges across tenants it does in the scans after it."""
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    trust = load('trust', monkeypatch)
    now, scans = [0.0], iter(range(5, 99))

    def sleep(seconds):
        now[0] += seconds
        if now[0] > 300:
            (tmp_path / 'full_scans').write_text(str(next(scans)))
    monkeypatch.setattr(trust, 'time', types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(trust, 'Look', lambda pids: now[0])
    monkeypatch.setattr(trust, 'KSM', tmp_path)
    (tmp_path / 'full_scans').write_text('4')
    scene = trust.Scene.__new__(trust.Scene)
    scene.options, scene.pids = types.SimpleNamespace(patience=120), dict
    assert trust.settled(scene, lambda look: look >= 119) > 300 and (tmp_path / 'full_scans').read_text() == '6'
    scans = iter([6] * 9999)
    with pytest.raises(SystemExit, match='two more full scans'):
        trust.settled(scene, lambda look: True)


def test_frames_common_to_guests_of_two_tenants_are_counted(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    trust = load('trust', monkeypatch)
    look = trust.Look.__new__(trust.Look)
    look.pairs = {('blue1', 'red1'): 3, ('blue1', 'red2'): 4, ('red1', 'red2'): 100, ('blue1', 'blue2'): 7}
    assert (look.common('red', 'blue'), look.common('red'), look.common('blue')) == (7, 100, 7)


@pytest.mark.parametrize('name', ['paths', 'speed', 'sustained'])
def test_a_command_finds_all_its_parts(name, monkeypatch, capsys):
    with pytest.raises(SystemExit, match='0'):
        load(name, monkeypatch).parser().parse_args(['--help'])
    assert capsys.readouterr().out.startswith(f'usage: benchmarks/{name} ')


def test_the_levels_of_a_shock_are_told_once_for_each_change():
    assert speed_told.told_levels([(-3.0, 0), (0.4, 1), (0.9, 1), (1.5, 3), (9.0, 0)]) == (
        '0.0 s CLEAR, 0.4 s SOFT, 1.5 s CRITICAL, 9.0 s CLEAR')
    assert (speed_told.seconds(None), speed_told.seconds(0.5)) == ('never', '0.50 s')


def test_kills_are_counted_in_every_group_below_the_host(tmp_path):
    for name, count in (('a', 1), ('a/b', 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'memory.oom_control').write_text(f'oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n')
    assert speed_scene.kills(tmp_path) == 3


def test_the_agent_that_is_measured_is_the_command_itself(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(speed_agent.subprocess, 'Popen', lambda command, **_: started.append(command))
    speed_agent.start_agent(tmp_path / 'ovc.conf', tmp_path / 'record', tmp_path / 'log')
    *python, command, option, config, record = started[0]
    assert (python[0], command) == (sys.executable, str(ROOT / 'benchmarks' / 'speed.py'))
    speed, called = load('speed', monkeypatch), []
    monkeypatch.setattr(speed, 'agent', lambda *words: called.append(words) or 7)
    monkeypatch.setattr(sys, 'argv', [command, option, config, record])
    assert speed.main() == 7 and called == [(str(tmp_path / 'ovc.conf'), str(tmp_path / 'record'))]


def test_an_action_that_failed_or_freed_nothing_is_no_first_action():
    """The shock's answer is timed by what was done, and not by what was tried."""
    ended = []

    def refuses(*_):
        raise RuntimeError('libvirt is busy')
    with pytest.raises(RuntimeError):
        speed_agent.timed(refuses, ended)('action', 'hypervisor')
    entry = types.SimpleNamespace(freed=0)
    speed_agent.timed(lambda *_: None, ended, speed_agent.freed)('self', [entry], True)  # keeps its errors to itself
    assert not ended
    speed_agent.timed(lambda *_: None, ended)('action', 'hypervisor')
    speed_agent.timed(lambda _self, going, _urgent: setattr(going[0], 'freed', 4096), ended, speed_agent.freed)(
        'self', [entry], True)
    assert len(ended) == 2 and entry.freed == 4096


@pytest.mark.parametrize('failed, held', [
    ([], True), (['OSError: no such group'], False), (['TimeoutError: the guest took long over a size lately'], True),
    (['LookupError: no group', 'TimeoutError: the guest took long over a size lately'], False)])
def test_a_shock_whose_actions_failed_is_told_as_failed(failed, held, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    import rested
    monkeypatch.setattr(rested, 'told', lambda *_: ('a page', '', '', None))
    calm = speed_agent.Quiet(percent=0.1, passes=2, agent=80, helper=30, bare=20, added=50)
    hit = speed_scene.Shock(rate=200, before=450 * MB, crossed=1, passed=0.3, acted=0.4, lowest=0, back=9, stuck=1,
                            killed=0, lost=[], points=[], levels=[(0, 0)], failed=failed)
    rows = {row[0]: row[3] for row in speed_told.rows(types.SimpleNamespace(host_memory=1500, quiet=60, rate=200),
                                                      calm, hit)}
    assert rows.pop('actions that failed') is held
    assert False not in rows.values()


@pytest.mark.parametrize('acted', [None, 0.001, 0.4])
def test_the_speed_of_a_shock_is_told_however_early_the_first_action_comes(acted):
    points = [(10 + n / 10, 400 * MB - n * 20 * MB, 0) for n in range(20)]  # 200 MB/s
    assert speed_scene.filled(points, 10.0, acted) == pytest.approx(200)
    assert speed_scene.filled(points[::10], 10.0, acted) == pytest.approx(200)  # a machine that looks once a second
    assert speed_scene.filled(points[:1], 10.0, acted) == speed_scene.filled([], 10.0, acted) == 0


def test_kills_are_counted_after_the_group_of_the_killed_is_gone(tmp_path):
    (tmp_path / 'vmstat').write_text('nr_free_pages 1\noom_kill 3\n')
    assert speed_scene.all_kills(tmp_path / 'vmstat') == 3
