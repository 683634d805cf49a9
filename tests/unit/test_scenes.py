# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The scenes' judgement: what is measured is counted rightly, and each check can fail."""
from __future__ import annotations

import dataclasses
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'devstack' / 'onebox')]

from benchmarks.scenes import table, verdict  # noqa: E402
from benchmarks.scenes.look import GuestLook, Look  # noqa: E402
from benchmarks.scenes.stage import Beats, Record  # noqa: E402

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
    beats = {name: Beats(gap=1.0, stall=0.0, probe=0.0, work=[(1.0, 0)]) for name in names}
    return Record(**{'scene': scene.name, 'policy': 'ovc', 'reservation': 128 * MB, 'looks': looks, 'beats': beats,
                     'maximum': {name: 512 * MB for name in names}, 'alive': names, 'refused': [],
                     'events': []} | changes)


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
