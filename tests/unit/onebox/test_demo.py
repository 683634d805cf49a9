# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The demo's judgement: what was not seen is not held to be well, and one answer that did not come breaks nothing."""
from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from onebox_cloud.demo import Accident, outcome, run, watch

MB = 1 << 20
ASKED = Accident(guests=2)
CALM, BUSY, PART = {'a': 'CLEAR', 'b': 'SOFT'}, {'a': 'CLEAR', 'b': 'HARD'}, {'a': 'CLEAR', 'b': watch.NO_ANSWER}


def a_sample(at: float, level: dict[str, str], guests: int = 2, seen: int = 2) -> watch.Sample:
    return watch.Sample(at=at, used={}, swapped={}, swap_ins={}, kills={}, kernel_kills=0, running={}, level=level,
                        touched=2, below=[], guests=guests, seen=seen)


def a_run(**changes) -> run.Run:
    return run.Run(**{'part': 'ovc', 'asked': 2, 'placed': {'a': 1, 'b': 1}, 'killed': 0, 'kernel_kills': 0, 'alive': 2,
                      'touched_at': 10.0, 'calm_after': 1.0, 'below': [], 'within': [], 'seen': 1.0, 'why': None,
                      'reasons': {}, 'samples': []} | changes)


@pytest.mark.parametrize('levels, after', [
    ([BUSY, CALM, CALM, CALM], 1), ([BUSY, CALM, CALM, PART], 1), ([BUSY, CALM, PART, CALM], 1),
    ([BUSY, PART, CALM, CALM], 2),  # nothing is known of the one that did not answer
    ([CALM, CALM, CALM, BUSY], None), ([CALM, CALM, {'a': watch.NO_ANSWER, 'b': 'HARD'}, PART], None),
    ([BUSY, CALM, PART, PART, PART], None), ([PART, PART], None), ([{}, {}], None), ([], None)])
def test_hosts_are_calm_from_when_all_said_so(levels: list[dict[str, str]], after: int | None) -> None:
    samples = [a_sample(10.0 + at, level) for at, level in enumerate(levels)]
    assert run._calm_after(samples, 10.0) == after
    assert run._calm_after(samples, None) is None


def test_the_demo_holds_where_guests_were_seen_and_well() -> None:
    assert outcome.failures(ASKED, {'ovc': a_run()}) == []


@pytest.mark.parametrize('changes, said', [
    ({'seen': 0.5}, 'guests could be read in 50% of the looks'), ({'within': ['vm01']}, 'out of memory within: vm01'),
    ({'below': ['x']}, 'below the reservation: x'), ({'calm_after': None}, 'the hosts were not back')])
def test_what_did_not_hold_is_said(changes: dict, said: str) -> None:
    (only,) = outcome.failures(ASKED, {'ovc': dataclasses.replace(a_run(), **changes)})
    assert only.startswith(said)


def test_looks_that_read_nobody_are_told_as_such() -> None:
    assert run._seen([a_sample(0, {}, 4, 4), a_sample(1, {}, 4, 0)]) == 0.5
    assert run._seen([a_sample(0, {}, 0, 0)]) == 0


def test_a_guest_of_which_nothing_can_be_read_is_looked_at_and_not_seen(tmp_path: Path, monkeypatch) -> None:
    class Host:
        name = 'a'

        def guests(self) -> dict[str, Path]:
            return {'g1': tmp_path / 'g1', 'g2': tmp_path / 'g2'}
    one = watch.Watcher.__new__(watch.Watcher)
    one.reservation = 128 * MB
    sizes = {'g1': 512 * MB, 'g2': 100 * MB}
    monkeypatch.setattr(watch, '_balloons', lambda _host: sizes)
    monkeypatch.setattr(watch, '_usage', lambda _group: (200 * MB, 0))
    assert one.below([Host()]) == (['g2 on a: balloon at 100 MB'], 2, 2)
    sizes.clear()
    assert one.below([Host()]) == ([], 2, 0)
    sizes.update(g1=512 * MB, g2=512 * MB)
    monkeypatch.setattr(watch, '_usage', lambda _group: (None, 0))
    assert one.below([Host()]) == ([], 2, 0)
