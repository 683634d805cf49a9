# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The scenes' judgement: what is measured is counted rightly, and each check can fail."""
from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import threading
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'devstack' / 'onebox')]

from benchmarks.scenes import stage, table, verdict  # noqa: E402
from benchmarks.scenes.look import GuestLook, Look  # noqa: E402
from benchmarks.scenes.stage import Beats, Record  # noqa: E402
from tests.waiting import until  # noqa: E402

MB = 1 << 20


def a_guest(**changes) -> GuestLook:
    return GuestLook(**{'running': True, 'actual': 512 * MB, 'resident': 400 * MB, 'swapped': 0, 'swap_in': 0,
                        'merged': 0, 'silent': 0.5} | changes)


def a_look(at: float, guests: dict[str, GuestLook], **changes) -> Look:
    return Look(**{'at': at, 'used': 1300 * MB, 'available': 200 * MB, 'saved': 0, 'full': 0, 'kernel_kills': 0,
                   'level': None, 'guests': guests, 'swapped': sum(g.swapped or 0 for g in guests.values())} | changes)


def a_record(scene: table.Scene, end: dict[str, GuestLook] | None = None, looks: list[Look] | None = None,
             **changes) -> Record:
    """Guests as at boot, and at the end as told."""
    names = [g.name for g in scene.guests]
    if looks is None:
        last = {name: (end or {}).get(name, a_guest()) for name in names}
        looks = [a_look(0, {name: a_guest() for name in names}), a_look(100, last), a_look(119, last)]
    beats = {name: Beats(gap=1.0, stall=0.0, probe=0.0, work=[(1.0, 0)], oom=0) for name in names}
    told = [f'{at:.0f} s: {g.name} told "{command}"' for g in scene.guests for at, command in g.steps]
    return Record(**{'scene': scene.name, 'policy': 'ovc', 'reservation': 128 * MB, 'looks': looks, 'beats': beats,
                     'maximum': {name: 512 * MB for name in names}, 'alive': names, 'refused': [],
                     'events': told} | changes)


def failed(scene: table.Scene, record: Record) -> list[str]:
    return [what for what, _figure, held in verdict.checks(scene, record) if not held]


CARRIED = {
    'cache': {'files1': a_guest(actual=300 * MB)},
    'unique': {'cold1': a_guest(swapped=300 * MB)},
    'stuck': {'mute': a_guest(swapped=100 * MB), 'files1': a_guest(actual=300 * MB)},
}


@pytest.mark.parametrize('name', CARRIED)
def test_a_scene_holds_when_its_mechanism_carried_it(name: str) -> None:
    assert not failed(table.SCENES[name], a_record(table.SCENES[name], CARRIED[name]))


def test_sharing_carries_what_is_alike() -> None:
    guests = {g.name: a_guest() for g in table.ALIKE.guests}
    assert failed(table.ALIKE, a_record(table.ALIKE)) == ['ksm carries it']
    assert not failed(table.ALIKE, a_record(table.ALIKE, looks=[a_look(0, guests), a_look(99, guests, saved=90 * MB)]))


@pytest.mark.parametrize('name, end, what', [
    ('cache', {'files1': a_guest(swapped=300 * MB)}, 'balloon carries it'),
    ('cache', {'files1': a_guest(actual=300 * MB, swap_in=9 * MB)}, 'read back from swap'),
    ('unique', {'cold1': a_guest(actual=300 * MB)}, 'swap carries it'),
    ('unique', {'cold1': a_guest(swapped=30 * MB)}, 'swap carries it'),  # all of it, and no shortage
    ('stuck', {'mute': a_guest(), 'files1': a_guest(actual=300 * MB)}, 'swap carries mute alone'),
    ('stuck', {'mute': a_guest(swapped=100 * MB), 'files1': a_guest(actual=300 * MB, swapped=50 * MB)},
     'swap carries mute alone'),
    ('stuck', {'mute': a_guest(swapped=100 * MB)}, 'balloon carries the others'),
    ('cache', {'files1': a_guest(actual=100 * MB)}, 'below their reservation'),
    ('unique', {'cold1': a_guest(swapped=400 * MB, resident=100 * MB)}, 'below their reservation'),
    ('unique', {'cold1': a_guest(running=False), 'cold2': a_guest(swapped=300 * MB)}, 'guests killed'),
])
def test_a_scene_fails_by_name(name: str, end: dict[str, GuestLook], what: str) -> None:
    assert what in failed(table.SCENES[name], a_record(table.SCENES[name], end))


def test_each_mechanism_of_the_mixed_scene_is_asked_for() -> None:
    assert failed(table.MIXED, a_record(table.MIXED)) == [f'{m} carries its part' for m in verdict.MECHANISMS]


@pytest.mark.parametrize('changes, what', [
    ({'alive': []}, 'guests alive at the end'), ({'refused': ['app: no valid host']}, 'guests placed')])
def test_a_silent_or_refused_guest_fails_the_scene(changes: dict, what: str) -> None:
    assert what in failed(table.CACHE, a_record(table.CACHE, CARRIED['cache'], **changes))


def test_a_kill_that_only_the_kernel_tells_counts() -> None:
    record = a_record(table.UNIQUE)
    looks = [*record.looks, dataclasses.replace(record.looks[-1], kernel_kills=1)]
    assert verdict.outcome(table.UNIQUE, dataclasses.replace(record, looks=looks)).killed == 1


@pytest.mark.parametrize('name', ['unique', 'stuck', 'mixed', 'cache'])
def test_a_kernel_that_is_left_alone_does_not_pass_for_swapping_in_time(name: str) -> None:
    """It swaps, too: at the host's limit, which a controller keeps it from."""
    scene = table.SCENES[name]
    guests = {g.name: a_guest(swapped=190 * MB) for g in scene.guests}

    def kept(full: int, *available: int) -> bool:
        looks = [a_look(at, guests, available=amount * MB, full=full) for at, amount in enumerate(available)]
        return 'kept from its limit' not in failed(scene, a_record(scene, looks=looks))
    assert kept(0, *[0] * 5) and kept(900, *[50] * 19, 0)  # a slow machine may meet it for a moment
    assert kept(900, *[50] * 5, *[0] * 5) == (name == 'cache')


@pytest.mark.parametrize('change', ['actual', 'resident', 'swapped'])
def test_a_guest_that_was_not_seen_is_not_held_to_be_well(change: str) -> None:
    guests, scene = {g.name: a_guest() for g in table.CACHE.guests}, table.CACHE
    blind = guests | {'app': a_guest(**{change: None})}

    def seen(*looks: dict) -> bool:
        return 'seen' not in failed(scene, a_record(scene, looks=[a_look(at, one) for at, one in enumerate(looks)]))
    assert seen(*[guests] * 9, blind) and not seen(*[guests] * 8, blind, blind)
    gone = guests | {'app': a_guest(running=False, actual=None, resident=None, swapped=None)}
    assert seen(guests, gone, gone)  # another row's matter


def test_a_guest_that_was_not_told_or_refused_fails_the_scene() -> None:
    record = a_record(table.CACHE, CARRIED['cache'])
    assert verdict.untold(table.CACHE, record) == []
    less = dataclasses.replace(record, events=[e for e in record.events if 'read' not in e])
    assert failed(table.CACHE, less) == ['untold or refused'] and verdict.untold(table.CACHE, less) == [
        'app: read rate=100']
    mute = dataclasses.replace(less, events=[*less.events, '99 s: app could not be told "read rate=100": no answer'])
    assert failed(table.CACHE, mute) == ['untold or refused']
    refused = dataclasses.replace(record, events=[*record.events, 'app: refused too much {}'])
    assert failed(table.CACHE, refused) == ['untold or refused']


@pytest.mark.parametrize('oom', [1, None])
def test_a_guest_that_ran_out_of_memory_within_fails_the_scene(oom: int | None) -> None:
    record = a_record(table.CACHE, CARRIED['cache'])
    beats = record.beats | {'app': dataclasses.replace(record.beats['app'], oom=oom)}
    assert failed(table.CACHE, dataclasses.replace(record, beats=beats)) == ['out of memory within']
    assert failed(table.CACHE, dataclasses.replace(record, beats={})) == ['out of memory within']


def test_a_command_that_a_slow_guest_accepted_is_not_told_again(tmp_path) -> None:
    from guest.client import Console

    from benchmarks.scenes.stage import has_heard
    path, over = tmp_path / 'console.log', threading.Event()
    path.write_text('ovc-told command=1 touch 400 rate=8 \n')
    assert has_heard(Console(path), 0, over, 0.0) and not has_heard(Console(path), 1, over, 0.3)
    over.set()
    assert not has_heard(Console(path), 1, over, 600)


@pytest.mark.parametrize('accepts, tells, said', [
    (True, 1, '0 s: app told "touch 9", though: no answer'),
    (False, 3, '0 s: app could not be told "touch 9": no answer')])
def test_a_guest_that_does_not_answer_is_told_once_more_only_if_it_has_not_heard(accepts, tells, said, tmp_path,
                                                                                 monkeypatch) -> None:
    from guest.client import Console, GuestError
    console, times = tmp_path / 'console.log', []

    def tell(_domain: object, command: str) -> None:
        times.append(command)
        if accepts:
            console.write_text('ovc-told command=1 touch 9\n')
        raise GuestError('no answer')
    connection = types.SimpleNamespace(close=lambda: None, lookupByName=lambda name: name)
    monkeypatch.setitem(sys.modules, 'libvirt', types.SimpleNamespace(
        open=lambda _uri: connection, libvirtError=RuntimeError, registerErrorHandler=lambda *_: None))
    monkeypatch.setattr(stage, 'tell', tell)
    monkeypatch.setattr(stage, 'LATE', 0.0)
    play = stage._Play(types.SimpleNamespace(hosts=[types.SimpleNamespace(uri='')]), table.CACHE, 'ovc', print)
    play._tell(types.SimpleNamespace(now=0, names={'app': 'i-1'}, console=lambda _name: Console(console)),
               table.Guest(name='app', steps=((0, 'touch 9'),)))
    assert len(times) == tells and play.events == [said]


def test_guests_that_do_not_go_end_the_run(tmp_path, monkeypatch) -> None:
    """The next scene would be measured with them."""
    monkeypatch.setattr(stage, 'PATIENCE', 0.0)
    (tmp_path / 'log').mkdir()
    there, deleted = {'i-1': tmp_path}, []
    compute = types.SimpleNamespace(servers=lambda: [types.SimpleNamespace(id='u1', name='app')] if there else [],
                                    delete_server=lambda uuid, force: deleted.append(uuid))
    on = stage.Stage.__new__(stage.Stage)
    on.cloud = types.SimpleNamespace(state=tmp_path, connect=lambda: types.SimpleNamespace(compute=compute),
                                     hosts=[types.SimpleNamespace(guests=lambda: there)])
    with pytest.raises(stage.OneboxError, match='guests do not go: i-1, app'):
        on._clear(tmp_path / 'kept')
    assert deleted == ['u1']
    there.clear()
    on.policy = 'mom'
    on._clear(tmp_path / 'kept')


def test_the_next_scene_begins_once_the_host_has_looked_without_the_guests_of_the_one_before(monkeypatch) -> None:
    """It refused one of them: their guarantees and those of the guests before were more than it has."""
    on, told = stage.Stage.__new__(stage.Stage), iter([{}, {'node1': 5.0}, {'node1': 9.0}, {'node1': 10.0}])
    on.cloud = types.SimpleNamespace(hosts=[types.SimpleNamespace(name='node1')])
    monkeypatch.setattr(stage.stored, 'reports', lambda cloud: {
        name: types.SimpleNamespace(taken_at=at) for name, at in next(told).items()})
    monkeypatch.setattr(stage.time, 'sleep', lambda seconds: None)
    on._reported(9.5, stage.time.monotonic() + 60)
    assert next(told, None) is None
    monkeypatch.setattr(stage.stored, 'reports', lambda cloud: {})
    with pytest.raises(stage.OneboxError, match='node1 has not reported'):
        on._reported(9.5, 0.0)


def test_a_record_of_before_guests_were_asked_for_kills_is_shown(tmp_path) -> None:
    record = a_record(table.CACHE)
    data = dataclasses.asdict(record)
    for beats in data['beats'].values():
        del beats['oom']
    (tmp_path / 'one.json').write_text(json.dumps(data))
    assert 'out of memory within' in failed(table.CACHE, Record.load(tmp_path / 'one.json'))


@pytest.mark.parametrize('words, said', [
    (['--policies', 'mon'], 'there is no mon'), (['cache', '--policies', 'ovc,x'], 'there is no x'),
    (['--policies', ''], '--with-earlier')])
def test_real_refuses_what_measures_nothing(words: list[str], said: str, capsys, monkeypatch) -> None:
    from benchmarks import real
    monkeypatch.setattr(sys, 'argv', ['real', *words])
    for measures in ('run', 'show', 'sustained'):  # a unit test brings no cloud up, whatever is wrong
        monkeypatch.setattr(real, measures, lambda *_: pytest.fail('it was measured'))
    with pytest.raises(SystemExit, match='2'):
        real.main()
    assert said in capsys.readouterr().err


def test_real_says_where_ours_was_not_judged(tmp_path, monkeypatch, capsys) -> None:
    from benchmarks import real
    a_record(table.CACHE, policy='mom').save(tmp_path / 'cache-mom.json')
    monkeypatch.setattr(sys, 'argv', ['real', 'cache', '--policies', '', '--with-earlier', '--samples', str(tmp_path)])
    monkeypatch.setattr(real.ending, 'as_interrupted', lambda: None)
    monkeypatch.setattr(real, 'run', lambda *_: pytest.fail('it was measured'))
    assert real.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'real: killed cache=mom:0,ovc-not-judged failures=0'
    (tmp_path / 'cache-mom.json').unlink()
    assert real.main() == 1


def test_an_interrupted_real_lets_its_child_clean_up(tmp_path) -> None:
    """The child has a cloud to take down, which takes longer than the quarter of a second that run() gives it."""
    child = tmp_path / 'child'
    child.write_text(f'#!/bin/bash\ntrap \'sleep 1; touch {tmp_path}/clean; exit 1\' TERM\ntouch {tmp_path}/up\n'
                     'for _ in {1..600}; do sleep 0.1; done\n')
    child.chmod(0o755)
    # Where these tests run in the background, SIGINT is ignored by all that they start.
    code = (f'import pathlib, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
            f'from benchmarks import real\nreal.SUSTAINED_COMMAND = pathlib.Path({str(child)!r})\n'
            f'sys.argv = ["real", "sustained", "--samples", {str(tmp_path)!r}]\nreal.main()')
    for ending in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            try:
                until((tmp_path / 'up').exists)
                process.send_signal(ending)
                assert process.wait(60) != 0
            finally:
                process.terminate()
        assert (tmp_path / 'clean').exists()
        for name in ('up', 'clean'):
            (tmp_path / name).unlink()


def test_merged_pages_count_as_resident() -> None:
    """They are the guest's still, in memory, though another guest is charged for them."""
    end = {'alike1': a_guest(resident=100 * MB, merged=300 * MB, swapped=50 * MB)}
    assert 'below their reservation' not in failed(table.ALIKE, a_record(table.ALIKE, end))


def test_the_pace_is_what_was_done_of_what_was_asked() -> None:
    work = [(float(up), up * 25 * MB) for up in range(100)]  # hot is to read 50 MB/s
    record = a_record(table.UNIQUE)
    record = dataclasses.replace(record, beats=record.beats | {'hot': Beats(gap=1, stall=0, probe=0, work=work)})
    assert verdict.outcome(table.UNIQUE, record).pace == pytest.approx(0.5)
    assert verdict.outcome(table.UNIQUE, dataclasses.replace(record, alive=[])).pace == 0


def test_a_record_is_the_same_after_it_was_kept(tmp_path) -> None:
    record = a_record(table.STUCK, CARRIED['stuck'])
    record.save(tmp_path / 'one.json')
    assert Record.load(tmp_path / 'one.json') == record


def test_a_picture_is_small_enough_to_be_kept(tmp_path) -> None:
    from benchmarks.scenes import picture
    picture.draw(table.MIXED, {'ovc': a_record(table.MIXED)}, tmp_path / 'one.png')
    assert 0 < (tmp_path / 'one.png').stat().st_size < 150_000


def test_a_line_tells_what_each_mechanism_does() -> None:
    from benchmarks.scenes.stage import _line
    look = a_look(7, {'files1': a_guest(actual=500 * MB), 'files2': a_guest(running=False, actual=None)}, saved=3 * MB)
    line = _line(look, table.CACHE)
    assert '200 of 1500 MB' in line and 'balloon   12  ksm    3  swap    0 MB' in line and '1 run' in line
