# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""benchmarks/faults: which boundaries it kills at, and that its table shows what was lost."""
from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from benchmarks import backing
from ovc_plugin.decide.replay import Pass
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import Level, Outcome, Plan, SetBalloon
from ovc_plugin.record import Recorder
from ovc_plugin.settings import Settings
from tests.builders import NOW, a_host
from tests.waiting import LONG

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'benchmarks'), *sys.path])
    import importlib.util
    spec = importlib.util.spec_from_file_location('benchmark_faults', ROOT / 'benchmarks' / 'faults.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_boundary_is_chosen_before_a_second_of_any(faults):
    names = ['before balloon', 'after balloon'] * 10 + ['before write of the state', 'after write of the state']
    chosen = faults.boundaries.choose(names, 6)
    assert {names[number] for number in chosen} == set(names) and 4 <= len(chosen) <= 6
    assert faults.boundaries.choose(names, 100) == list(range(len(names)))
    assert faults.boundaries.choose(names, None) == list(range(len(names)))
    assert faults.boundaries.choose([], 5) == []


def test_all_boundaries_are_killed_at_unless_fewer_are_wanted(faults):
    assert faults.parser().parse_args([]).kills is None
    assert faults.parser().parse_args(['--kills', '24']).kills == 24


@pytest.mark.parametrize('wanted', ['0', '-3', 'x'])
def test_no_kill_at_all_is_refused(faults, wanted, capsys):
    with pytest.raises(SystemExit, match='2'):
        faults.parser().parse_args(['--kills', wanted])
    assert '--kills' in capsys.readouterr().err


def test_too_few_kills_and_a_kind_that_was_never_killed_at_are_told(faults):
    every = list(faults.boundaries.KINDS)
    too_few = faults.boundaries.too_few
    assert too_few(16, 16, every, None) == too_few(120, 122, every, None) == too_few(2, 2, every[:2], 2) == []
    assert too_few(0, 0, [], 1) == ['only 0 of 0 were killed']
    assert too_few(0, 2, [], 2) == ['only 0 of 2 were killed']
    assert too_few(22, 24, every, 24) == ['only 22 of 24 were killed']
    assert too_few(119, 122, every, None) == ['only 119 of 122 were killed']
    assert too_few(16, 16, every[1:], 16) == too_few(99, 99, every[1:], None) == [f'never killed {every[0]}']


def test_kinds_that_a_run_in_another_order_did_not_meet_are_killed_at_by_name(faults, monkeypatch):
    """In each run the last boundary counted is another one than when they were counted."""
    kills, every = [], list(faults.boundaries.KINDS)

    def start(scene, state, *, last=None, at=None, count=False, passes=0, stop=False):
        if count:
            return 0, {}, every if passes > faults.boundaries.PASSES else every[:3]
        if stop:
            return 0, {'targets': {}}, []
        kills.append(at or last)
        return -9, {}, [at or every[min(last, 14)]]
    monkeypatch.setattr(faults.boundaries, 'start', start)
    monkeypatch.setattr(faults.boundaries, 'broken', lambda *_: [])
    row = faults.boundaries.killed_everywhere(Held(), lambda text: None, None)
    assert kills == [*range(16), every[15]] and not row.lost and '16 kinds' in row.happened
    fresh = []

    def reaches_none(scene, state, *, at=None, **more):
        if at:
            fresh.append((state.name, [*state.iterdir()]))
        return (0, {'targets': {}}, []) if at else start(scene, state, **more)
    monkeypatch.setattr(faults.boundaries, 'start', reaches_none)
    assert faults.boundaries.killed_everywhere(Held(), lambda text: None, None).lost == (f'never killed {every[15]}',)
    assert fresh == [('0', []), ('1', []), ('2', [])]


def test_swap_below_a_guarantee_is_lost_though_its_data_come_back(faults, monkeypatch, tmp_path):
    """As the guest that has no balloon: swap takes from it, and who verifies its data has read it back."""
    from faultlib import scene as scenes
    MB, told = scenes.MB, []
    for name, value in (('memory.usage_in_bytes', 100 * MB), ('memory.limit_in_bytes', scenes.UNLIMITED),
                        ('memory.stat', f'total_swap {150 * MB}\ntotal_inactive_file {5 * MB}\ntotal_active_file 0')):
        (tmp_path / name).write_text(f'{value}\n')

    def verify(domain, what, timeout):
        told.append(what)
        (tmp_path / 'memory.stat').write_text('total_swap 0\ntotal_inactive_file 0\ntotal_active_file 0\n')
        return scenes.client.DONE
    monkeypatch.setattr(scenes.client, 'do', verify)
    monkeypatch.setattr(scenes, 'kernel_kills', lambda: 0)
    scene = scenes.Scene.__new__(scenes.Scene)
    scene.kills, scene.seen_oom, scene.owed = 0, {'stuck': 0}, {'stuck': 96 * MB}
    scene.consoles = {'stuck': types.SimpleNamespace(events=lambda name: [])}
    domain = types.SimpleNamespace(isActive=lambda: True)
    scene.connect = lambda: types.SimpleNamespace(lookupByName=lambda name: domain)
    scene.domains = {'stuck': domain}
    scene.host = types.SimpleNamespace(guest_group=lambda domain: tmp_path, pid=lambda domain: 'self')
    assert scene.lost() == ['stuck has 95 MB in memory and 150 MB in swap, guaranteed 96'] and told == ['verify']
    assert scene.lost() == []


@pytest.mark.parametrize('resident, merged, swapped, below', [
    (95, 0, 150, True), (96, 0, 150, False), (60, 40, 150, False), (60, 0, 0, False), (60, 0, 20, False)])
def test_a_guarantee_is_backed_by_memory(resident, merged, swapped, below):
    assert backing.Held(resident=resident, merged=merged, swapped=swapped).below(96) is below


def test_every_boundary_that_is_watched_is_of_a_kind_that_is_required(faults):
    text = Path(faults.boundaries.__file__).read_text()
    assert sorted(re.findall(r"countdown\.wrap\(.*, '([a-z ]+)'\)", text)) == sorted(faults.boundaries.DONE)


def test_a_process_ends_at_the_first_boundary_of_a_kind(faults, tmp_path):
    code = (f'import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})\n'
            'from pathlib import Path\nfrom faultlib.boundaries import Countdown\n'
            f'count = Countdown(None, Path({str(tmp_path / "names")!r}), "after it")\n'
            'for name in ("before it", "between", "after it", "later"):\n    count.cross(name)\n')
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=LONG).returncode == -9
    assert (tmp_path / 'names').read_text().splitlines() == ['before it', 'between', 'after it']


def a_pass(at, *outcomes):
    return Pass(at=at, state=LadderState(level=Level.SOFT), snapshot=a_host(), outcomes=outcomes,
                plan=Plan(level=Level.SOFT, actions=(), reason=''))


def test_passes_count_as_recorded_again_by_when_they_were_made(faults, tmp_path):
    recorder = Recorder(tmp_path / 'record', 'h1', 1 << 20)
    for at in (NOW, NOW + 9):
        assert recorder.add(a_pass(at), Settings()) is None
        assert faults.onhost.recorded(tmp_path)[-1] == at  # though the file is still open
    assert faults.onhost.recorded(tmp_path) == [NOW, NOW + 9]


def test_what_failed_without_the_bus_is_no_work_done(faults):
    from faultlib import oncloud
    ask = SetBalloon(guest='u1', target=1, previous=2, reason='')
    assert oncloud.acted([]) == oncloud.acted([a_pass(NOW), a_pass(NOW, Outcome(action=ask, done=False))]) == 0
    assert oncloud.acted([a_pass(NOW, Outcome(action=ask, done=True)), a_pass(NOW)]) == 1


def test_what_a_forked_watchdog_crosses_is_no_boundary_of_the_controller(faults, tmp_path):
    code = f"""
import os, pathlib, sys
sys.path[:0] = [{str(ROOT / 'benchmarks')!r}]
from faultlib.boundaries import Countdown
owner = type('Owner', (), {{'put_back': lambda self: None}})()
countdown = Countdown(1, pathlib.Path({str(tmp_path / 'names')!r}))
countdown.wrap(owner, 'put_back', 'putting back')
child = os.fork()
owner.put_back()  # of the child neither, of the parent the second ends it
os._exit(5)
"""
    ended = subprocess.run([sys.executable, '-c', code], timeout=LONG)
    assert ended.returncode == -9
    assert (tmp_path / 'names').read_text().splitlines() == ['before putting back', 'after putting back']


def test_the_cloud_of_the_kills_takes_down_every_request_and_is_not_done_with_it(faults, tmp_path):
    for guest in ('one', 'two'):
        cloud = faults.boundaries.Cloud(tmp_path / 'requests')
        cloud.ask(guest)
        assert not cloud.outcome(guest).ended
    scene, state = Held(), tmp_path
    (state / 'ksm').mkdir()
    for name, value in faults.boundaries.FOUND.items():
        (state / 'ksm' / name).write_text(value)
    assert faults.boundaries.broken(scene, state, {'targets': {}}) == ['2 guests asked away, where one is on its way']


def test_a_limit_that_nobody_lifts_is_told(faults, monkeypatch):
    monkeypatch.setattr(faults.boundaries, 'LIFTED_WITHIN', LONG)
    assert faults.boundaries.not_lifted(Held()) == []
    assert faults.boundaries.not_lifted(Held(looks=3, one='4096')) == []
    monkeypatch.setattr(faults.boundaries, 'LIFTED_WITHIN', 0.2)
    assert faults.boundaries.not_lifted(Held(one='4096')) == ['limit 4096 stays on one for 0.2 s']


def test_only_helpers_of_ones_own_are_halted_and_killed(faults):
    """A stand-in for a helper, once as ours and once as another controller's."""
    look = faults.onhelper
    others = look.helpers()  # whom another test has left, if any
    code = 'import sys; print("up", flush=True); sys.stdin.read()'
    started = [subprocess.Popen([sys.executable, '-c', code, look.CONTEXT.decode()], text=True, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, start_new_session=theirs) for theirs in (False, True)]
    try:
        for one in started:
            one.stdout.readline()
        assert [pid for pid in look.helpers() if pid not in others] == [started[0].pid]
        assert look.halted_within(started[0].pid, lambda: True, LONG)
        assert not look.halted_within(started[0].pid, lambda: False, 0.05)
    finally:
        for one in started:
            one.kill()
            one.communicate()


def test_a_helper_is_not_left_halted_by_an_interruption(faults):
    looks = iter([True])

    def begun():
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None
    one = subprocess.Popen([sys.executable, '-c', 'print("up", flush=True); input()'], text=True,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        one.stdout.readline()
        with pytest.raises(KeyboardInterrupt):
            faults.onhelper.halted_within(one.pid, begun, LONG)
        one.communicate('go on\n', timeout=LONG)
        assert one.returncode == 0
    finally:
        one.kill()
        one.communicate()


class Held:
    """A scene whose guests have these limits at so many looks."""

    domains = {}

    def __init__(self, looks=10 ** 9, **limits):
        self.looks, self.of = looks, limits

    def limits(self):
        self.looks -= 1
        return self.of if self.looks >= 0 else {}

    def lost(self):
        return []

    def reset(self):
        pass


def test_a_process_ends_at_the_boundary_that_it_was_told(faults, tmp_path):
    code = (f'import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})\n'
            'from pathlib import Path\nfrom faultlib.boundaries import Countdown\n'
            'class Host:\n    def ask(self):\n        print("asked", flush=True)\nhost = Host()\n'
            f'Countdown(1, Path({str(tmp_path / "names")!r})).wrap(host, "ask", "asking")\nhost.ask()\nprint("on")\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -9 and done.stdout == 'asked\n'
    assert (tmp_path / 'names').read_text().splitlines() == ['before asking', 'after asking']


def test_the_table_says_nothing_was_lost_or_what(faults):
    rows = [faults.Row(fault='a', kind='real', happened='it went on', lost=()),
            faults.Row(fault='b', kind='injected', happened='it did not', lost=('one died', 'a limit'))]
    lines = faults.table(rows).splitlines()
    assert lines[1].endswith('nothing') and 'one died; a limit' in lines[2]
