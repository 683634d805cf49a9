# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Listening to guests that move: both hosts write to one console file, and no beat may be taken for another."""
from __future__ import annotations

import pathlib
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'devstack' / 'onebox')]

from benchmarks import sustained_hearts, sustained_told  # noqa: E402
from benchmarks.scenes.look import GuestLook, Look  # noqa: E402
from benchmarks.sustained_hearts import Hearts  # noqa: E402
from benchmarks.sustained_stage import Move, Stage  # noqa: E402
from tests.waiting import until  # noqa: E402

MB = 1 << 20


def beat(seq: int) -> bytes:
    return f'ovc-beat seq={seq} up={seq / 5:.1f} total_kib=1 state=idle\n'.encode()


@pytest.fixture
def heard(tmp_path):
    path = tmp_path / 'console.log'
    path.write_bytes(b'')
    hearts = Hearts({'g': path})
    hearts.start()
    yield hearts, path
    hearts.over.set()


def until_heard(hearts, last):
    until(lambda: hearts.beats['g'] and hearts.beats['g'][-1][1] == last)


def test_beats_are_heard_as_they_come_and_a_pause_is_measured(heard, monkeypatch):
    hearts, path = heard
    now = 100.0
    monkeypatch.setattr(sustained_hearts, 'time', types.SimpleNamespace(monotonic=lambda: now))
    for seq in (1, 2, 3):
        with path.open('ab') as file:
            file.write(beat(seq))
        until_heard(hearts, seq)
        now += 0.3 if seq == 2 else 0.01
    assert hearts.longest('g', now) == pytest.approx(0.3) and hearts.missed('g') == 0
    assert hearts.longest('g', now + 7) >= 7


@pytest.mark.parametrize('source_appends', [True, False])
def test_a_new_host_that_begins_the_file_anew_is_heard(heard, source_appends):
    hearts, path = heard
    source = path.open('ab' if source_appends else 'r+b', buffering=0)
    for seq in range(1, 20):
        source.write(beat(seq))
    until_heard(hearts, 19)
    target = path.open('wb', buffering=0)  # as QEMU opens it where it does not append
    source.write(beat(20))
    until_heard(hearts, 20)
    for seq in range(21, 60):
        target.write(beat(seq))
    until_heard(hearts, 59)
    assert hearts.missed('g') == 0
    source.close()
    target.close()


def test_a_beat_that_nobody_saw_counts_as_missed(heard):
    hearts, path = heard
    path.write_bytes(beat(1) + beat(4))
    until_heard(hearts, 4)
    assert hearts.missed('g') == 2


def test_a_guest_that_never_beats_pauses_for_ever(tmp_path):
    assert Hearts({'g': tmp_path / 'none'}).longest('g', 5.0) == float('inf')


def test_what_a_guest_told_before_its_console_began_anew_is_kept(heard):
    hearts, path = heard
    told = b'ovc-refused too much\novc-beat seq=1 up=1.0 state=idle stall=0.0 oom=2 work_kib=1\n'
    path.write_bytes(told)
    until_heard(hearts, 1)
    path.write_bytes(b'ovc-beat seq=2 up=1.2 state=idle stall=0.0 oom=0 work_kib=1\n')
    until_heard(hearts, 2)
    until(lambda: hearts.oom == {'g': 2} and hearts.refused == {'g': {'ovc-refused too much'}})


NAMES = ('reader1', 'reader2', 'writer')
OPTIONS = types.SimpleNamespace(host_memory=1500, after=60, pause=3)


def a_look(at: float, running: tuple[str, ...], guest: dict | None = None, **changes) -> Look:
    seen = {'actual': 512 * MB, 'resident': 400 * MB, 'swapped': 0, 'swap_in': 0, 'merged': 0} | (guest or {})
    return Look(**{'at': at, 'used': 0, 'available': 90 * MB, 'swapped': 0, 'saved': 0, 'full': 0, 'kernel_kills': 0,
                   'level': 'CLEAR', 'guests': {n: GuestLook(running=True, **seen) if n in running else
                                                GuestLook(running=False) for n in NAMES}} | changes)


def a_stage(begun: float = 90, oom: dict | None = None, refused: str | None = None, guest: dict | None = None,
            before: dict | None = None, after: dict | None = None) -> Stage:
    """120 s on which one guest has moved, after 100 s; what the looks at the first host told before and after it."""
    stage = Stage.__new__(Stage)
    stage.policy, stage.options, stage.hosts, stage.until = 'ovc', OPTIONS, ['node1', 'node2'], 120.0
    stage.servers = {name: name for name in NAMES}
    stage.words = {'node1': ['ask for a to be moved'], 'node2': []}
    stage.moves = {1: Move(guest='reader2', source='node1', target='node2', status='completed', begun=begun, ended=100)}
    stage.hearts = Hearts({})
    stage.hearts.beats = {name: [(n / 5, n) for n in range(1, 601)] for name in NAMES}
    stage.hearts.oom = {name: 0 for name in NAMES} if oom is None else oom
    stage.hearts.refused = {name: {refused} if refused else set() for name in NAMES}
    stage.looks = [{'node1': a_look(at, NAMES, guest, **(before or {})), 'node2': a_look(at, ())} if at < 100 else
                   {'node1': a_look(at, ('reader1', 'writer'), guest, **({'available': 500 * MB} | (after or {}))),
                    'node2': a_look(at, ('reader2',), guest)} for at in range(121)]
    return stage


def failed(stage: Stage) -> list[str]:
    return [what for what, _figure, held in sustained_told.checks(stage, OPTIONS) if not held]


def test_a_guest_that_moved_out_of_a_shortage_holds():
    assert not failed(a_stage())


@pytest.mark.parametrize('changes, what', [
    ({'before': {'available': 700 * MB}}, 'short before it moved'),  # moved for nothing
    ({'begun': 9}, 'asked after 12 s at the earliest'),
    ({'after': {'available': 100 * MB}}, 'the shortage is over'),  # its own word says CLEAR
    ({'after': {'level': 'HARD'}}, 'the shortage is over'),
    ({'guest': {'swap_in': None}}, 'the shortage is over'),
    ({'guest': {'actual': None}}, 'seen'), ({'guest': {'resident': None}}, 'seen'),
    ({'oom': {'reader1': 0, 'reader2': 1, 'writer': 0}}, 'out of memory within'),
    ({'oom': {}}, 'out of memory within'), ({'refused': 'ovc-refused touch'}, 'refused')])
def test_a_move_fails_by_name(changes, what):
    assert failed(a_stage(**changes)) == [what]


def test_a_shortage_of_swapping_is_one_with_memory_available():
    stage = a_stage(before={'available': 400 * MB})
    assert failed(stage) == ['short before it moved']
    for at, look in enumerate(stage.looks[:100]):
        look['node1'] = a_look(at, NAMES, {'swap_in': 2 * MB * at}, available=400 * MB)
    assert stage.short('node1', 90) == (0.0, pytest.approx(6.0)) and not failed(stage)


def test_what_was_not_read_for_a_moment_is_read_back_all_the_same():
    stage = a_stage()
    stage.looks = [{'node1': a_look(at, NAMES, {'swap_in': None if at in (100, 119, 120) else 3 * MB * at})}
                   for at in range(121)]
    assert stage.swap_in('node1', -20) == pytest.approx(9.0)
    assert stage.swap_in('node1', 0, 1) == pytest.approx(9.0)
    assert stage.swap_in('node1', -2) != stage.swap_in('node1', -2)  # NaN


@pytest.mark.parametrize('policies', ['ovx', '', 'ovc,nobody'])
def test_policies_that_do_not_exist_are_refused(policies, monkeypatch, capsys):
    from benchmarks import sustained
    monkeypatch.setattr(sys, 'argv', ['sustained', '--policies', policies])
    monkeypatch.setattr(sustained, 'play', lambda *_: pytest.fail('it was measured'))  # a unit test brings no cloud up
    with pytest.raises(SystemExit, match='2'):
        sustained.main()
    assert 'there is no' in capsys.readouterr().err


def test_the_last_line_says_where_ours_was_not_judged():
    stage = a_stage()
    assert 'not-judged' not in sustained_told.last_line([stage])
    stage.policy = 'mom'
    assert sustained_told.last_line([stage]).startswith('sustained: ovc=not-judged mom: moved=1 ')
