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
    before = bench.Look(size=192 * MB, swapped=0, backed=150 * MB, huge=0, merged=0, limits=())
    told = {'maximum': 192 * MB, 'overhead': 64 * MB, 'reservation': 48 * MB, 'untouchable': why}
    kind = bench.Kind(name='locked', why='locked memory')
    assert bench.row(kind, before, dataclasses.replace(before, **changes), told)['ok'] == ok


def test_an_ordinary_guest_that_gave_nothing_proves_nothing(monkeypatch):
    bench = load('untouchables', monkeypatch)
    before = bench.Look(size=192 * MB, swapped=0, backed=150 * MB, huge=0, merged=0, limits=())
    told = {'maximum': 192 * MB, 'overhead': 64 * MB, 'reservation': 48 * MB, 'untouchable': None}
    kind = bench.Kind(name='ordinary', why=None)
    assert not bench.row(kind, before, before, told)['ok']
    assert bench.row(kind, before, dataclasses.replace(before, size=100 * MB), told)['ok']


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
