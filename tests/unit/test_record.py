# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The decision log: what is written is what was, what cannot be read is said, and nothing stops for it."""
from __future__ import annotations

import collections.abc
import dataclasses
import enum
import errno
import gzip
import json
import types
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovc_plugin import codec, record
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.replay import Pass
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, HostSnapshot, Level, Outcome, Plan, SetBalloon
from ovc_plugin.settings import HostSettings, Settings
from tests.builders import NOW, a_guest, a_host


def anything(kind: typing.Any) -> st.SearchStrategy:
    """Values of a declared type, every field of a dataclass included, those with a default too."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([anything(one) for one in arguments])
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{f.name: anything(hints[f.name]) for f in dataclasses.fields(kind)})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*map(anything, arguments))
    if origin in (tuple, list):
        return st.lists(anything(arguments[0]), max_size=3).map(origin)
    if origin in (dict, collections.abc.Mapping):
        return st.dictionaries(st.text(max_size=5), anything(arguments[1]), max_size=3)
    return {int: st.integers(), float: st.floats(allow_nan=False), str: st.text(max_size=8), bool: st.booleans(),
            type(None): st.none()}[kind]


@pytest.mark.parametrize('kind', [HostSnapshot, LadderState, Plan, Pass, Settings])
def test_every_noun_comes_back_exactly(kind):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(anything(kind))
    def check(value):
        for whole in (False, True):
            text = json.dumps(codec.write(kind, value, whole=whole))
            assert codec.read(kind, json.loads(text)) == value
    check()


def test_what_a_newer_release_says_is_passed_over_and_named():
    remarks = codec.Remarks()
    data = codec.write(Plan, Plan(level=Level.SOFT, actions=(), reason='r')) | {'mood': 3}
    assert codec.read(Plan, data, remarks).reason == 'r'
    assert remarks == {'Plan.mood'}


@pytest.mark.parametrize('data, why', [
    ({'level': 'SOFT', 'actions': []}, 'lacks a field'), ({'level': 'LOUD', 'actions': [], 'reason': ''}, 'LOUD'),
    ({'level': 'SOFT', 'actions': [{'Bribe': {}}], 'reason': ''}, 'Bribe. is none of'), ([], r'\[\] is no Plan'),
    ({'level': 'SOFT', 'actions': {}, 'reason': ''}, 'is no list'),
    ({'level': 'SOFT', 'actions': [], 'reason': 4}, '4 is no str')])
def test_what_is_no_plan_is_refused_with_the_place(data, why):
    with pytest.raises(codec.CodecError, match=why):
        codec.read(Plan, data)


def a_pass(at: float = NOW, level: Level = Level.SOFT) -> Pass:
    snapshot = a_host(a_guest('g1'), a_guest('g2'), taken_at=at)
    plan, _ = ladder.decide_host(snapshot, LadderState(), HostSettings(), at)
    if level is Level.SOFT:
        action = SetBalloon(guest='uuid-g1', target=512 * MIB, previous=1024 * MIB, reason='a reason')
        plan = Plan(level=level, actions=(action,), reason='short')
    else:
        plan = Plan(level=level, actions=(), reason='clear')
    return Pass(at=at, state=LadderState(), snapshot=snapshot, plan=plan,
                outcomes=tuple(Outcome(action=a, done=True) for a in plan.actions))


def passes(path) -> list[Pass]:
    return [codec.read(Pass, line['pass']) for line in record.Lines(path) if 'pass' in line]


def test_passes_are_read_back_while_the_file_is_still_open(tmp_path):
    recorder, written = record.Recorder(tmp_path, 'h1', MIB), [a_pass(NOW + n) for n in range(5)]
    assert [recorder.add(one, Settings()) for one in written] == [None] * 5
    path, = tmp_path.iterdir()
    lines = record.Lines(path)
    assert [codec.read(Pass, line['pass']) for line in lines if 'pass' in line] == written and not lines.remarks
    recorder.close()
    assert passes(path) == written
    plain = tmp_path / 'plain.jsonl'
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    assert passes(plain) == written


def test_a_file_says_under_which_settings_it_was_decided(tmp_path):
    recorder = record.Recorder(tmp_path, 'h1', MIB, '1.2')
    for step in (0.1, 0.1, 0.2):
        recorder.add(a_pass(), Settings(host=HostSettings(balloon_step=step)))
    path, = tmp_path.iterdir()
    lines = list(record.Lines(path))
    heads = [line for line in lines if 'record' in line]
    assert [h['settings']['host']['balloon_step'] for h in heads] == [0.1, 0.2]
    assert heads[0]['release'] == '1.2' and heads[0]['host'] == 'h1'
    assert codec.read(Settings, heads[1]['settings']) == Settings(host=HostSettings(balloon_step=0.2))
    assert [line['settings'] for line in lines if 'pass' in line] == [heads[0]['fingerprint']] * 2 + [
        heads[1]['fingerprint']]


def test_a_torn_file_is_read_up_to_the_tear_and_says_so(tmp_path):
    recorder = record.Recorder(tmp_path, 'h1', MIB)
    for n in range(4):
        recorder.add(a_pass(NOW + n), Settings())
    path, = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    lines = record.Lines(path)
    assert len([line for line in lines if 'pass' in line]) == 3
    assert 'cut short' in lines.remarks[0]
    path.write_bytes(data[:300] + b'garbage' + data[307:])
    lines = record.Lines(path)
    list(lines)
    assert lines.remarks
    path.write_bytes(b'')
    lines = record.Lines(path)
    assert not list(lines) and 'no lines' in lines.remarks[0]


def test_quiet_passes_are_thinned_to_one_a_minute_and_others_are_not(tmp_path):
    recorder = record.Recorder(tmp_path, 'h1', MIB)
    for n in range(0, 600, 5):
        recorder.add(a_pass(NOW + n, Level.CLEAR), Settings())
    for n in range(600, 650, 5):
        recorder.add(a_pass(NOW + n), Settings())
    path, = tmp_path.iterdir()
    assert len(passes(path)) == 10 + 10


def test_it_never_grows_beyond_its_size_and_drops_the_oldest(tmp_path):
    limit = 256 << 10
    (tmp_path / 'h2-000001.jsonl.gz').write_bytes(b'another host')
    recorder = record.Recorder(tmp_path, 'h1', limit)
    for n in range(4000):
        at = NOW + n * 7.31
        recorder.add(dataclasses.replace(a_pass(at), snapshot=a_host(
            *(a_guest(f'g{n}-{k}', resident=hash((n, k)) % MIB, uuid=f'{hash((k, n))}') for k in range(5)),
            taken_at=at)), Settings())
    kept = record.files(tmp_path, 'h1')
    assert sum(path.stat().st_size for path in kept) <= limit
    assert len(kept) > 4 and not (tmp_path / 'h1-000001.jsonl.gz').exists()
    assert passes(kept[-1])[-1].at == NOW + 3999 * 7.31
    assert (tmp_path / 'h2-000001.jsonl.gz').exists()


def test_each_start_begins_a_file_and_their_number_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(record, 'MOST_FILES', 5)
    for n in range(9):
        recorder = record.Recorder(tmp_path, 'h1', MIB)
        recorder.add(a_pass(NOW + n), Settings())
    assert [passes(path)[0].at - NOW for path in record.files(tmp_path, 'h1')] == [4, 5, 6, 7, 8]


def test_a_full_disk_is_told_once_a_minute_tried_again_and_leaves_no_empty_files(tmp_path, monkeypatch):
    recorder, full = record.Recorder(tmp_path, 'h1', MIB), True
    write = recorder._write

    def fill(fields):
        if full and 'pass' in fields:
            raise OSError(errno.ENOSPC, 'No space left on device')
        write(fields)
    monkeypatch.setattr(recorder, '_write', fill)
    notes = [recorder.add(a_pass(NOW + n), Settings()) for n in range(0, 300, 5)]
    assert len(set(notes)) == 1 and 'No space left on device' in notes[0] and 'make room' in notes[0]
    assert not list(tmp_path.iterdir())
    full = False
    assert recorder.add(a_pass(NOW + 400), Settings()) is None
    path, = tmp_path.iterdir()
    assert len(passes(path)) == 1


def test_a_directory_that_cannot_be_made_is_a_note(tmp_path):
    (tmp_path / 'file').write_text('')
    recorder = record.Recorder(tmp_path / 'file' / 'record', 'h1', MIB)
    assert 'Not a directory' in recorder.add(a_pass(), Settings())
    recorder.close()
