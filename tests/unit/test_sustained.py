# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Listening to guests that move: both hosts write to one console file, and no beat may be taken for another."""
from __future__ import annotations

import types

import pytest

from benchmarks import sustained_hearts
from benchmarks.sustained_hearts import Hearts
from tests.waiting import until


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
