# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A host's expected peak: learned at every pass, kept across restarts, and of no harm when it fails."""
from __future__ import annotations

import dataclasses

import pytest

from ovc_plugin import display, predictors, publish, report
from ovc_plugin.decide import placement
from ovc_plugin.decide.predict import Prediction
from ovc_plugin.foresight import HORIZON, Foresight, demand, in_memory
from ovc_plugin.model import MIB, Level, Plan
from ovc_plugin.placing import Request
from ovc_plugin.settings import SharedSettings
from tests.builders import GIB, a_guest, a_host, a_report

DAY = 86400


def over_days(foresight: Foresight, days: float, began: float = 1e9, resident: int = 600 * MIB):
    """One look every five minutes at one guest of 1024 MB; the last prediction."""
    found = None
    for number in range(int(days * DAY / 300)):
        one = a_guest(maximum=1024 * MIB, resident=resident, swapped=0)
        found = foresight.see(dataclasses.replace(a_host(one), taken_at=began + 300.0 * number))
    return found


def made(tmp_path, name: str = 'calibrated') -> Foresight:
    return Foresight(name, predictors.load(name), publish.Store(str(tmp_path), 'host.peaks'))


def test_what_is_in_swap_counts_as_demand():
    one = a_guest(resident=600 * MIB, swapped=100 * MIB)
    assert demand(a_host(one)).total == 700 * MIB


@pytest.mark.parametrize('swapped', [0, GIB, 2 * GIB])
def test_what_is_in_swap_already_is_not_asked_for_twice(swapped):
    """A host that has swapped some of its guests can take as much as one that is yet to do so."""
    expected = Prediction(peak=14 * GIB, horizon=HORIZON, base=0, bound=0)
    told = a_report(available=4 * GIB + swapped, swap_used=swapped, reclaimable=3 * GIB - swapped, reserved=4 * GIB,
                    committed=14 * GIB, predicted_peak=in_memory(expected, a_host(a_guest(swapped=swapped))))
    asked = placement.terms(Request(memory=GIB, reservation=GIB // 4), SharedSettings())
    assert placement.margins(placement.standing(told), asked, 0, 0, 0)[2] == 49 * GIB // 8


@pytest.mark.parametrize('others', [0, GIB // 2, 8 * GIB])
def test_a_peak_that_is_what_is_used_now_leaves_what_is_left_without_one(others):
    """What others use beyond the reserve is not in the report's total: in the peak it counted twice."""
    host = a_host(a_guest(maximum=8 * GIB, resident=6 * GIB, actual=8 * GIB), others=others,
                  available=22 * GIB - others, swap_total=0, swap_free=0)
    expected = Prediction(peak=6 * GIB, horizon=HORIZON, base=0, bound=0)

    def left(peak):
        told = report.of(host, Plan(level=Level.CLEAR, actions=(), reason=''), reclaimable=0, swap_usable=0,
                         backed=True, dry_run=False, predicted_peak=peak)
        asked = placement.terms(Request(memory=GIB, reservation=GIB), SharedSettings())
        return placement.margins(placement.standing(told), asked, 0, 0, 0)[2]
    assert left(in_memory(expected, host)) == left(None)


def test_an_untouchable_guest_is_backed_whole():
    one = a_guest(untouchable='hugepages', resident=10 * MIB)
    assert demand(a_host(one)).total == one.committed


def test_a_guest_of_unknown_size_makes_the_sum_unknown():
    assert demand(a_host(a_guest(resident=None))).total is None


def test_a_new_guest_is_expected_to_fill_up(tmp_path):
    found = over_days(made(tmp_path), 0.1)
    assert found.horizon == HORIZON
    assert found.peak == a_guest(maximum=1024 * MIB).committed


def test_a_guest_that_was_small_for_two_weeks_is_not_expected_to_fill_up(tmp_path):
    found = over_days(made(tmp_path), 14, resident=200 * MIB)
    assert 200 * MIB <= found.peak < a_guest(maximum=1024 * MIB).committed


def test_what_was_learned_survives_a_restart(tmp_path):
    before = over_days(made(tmp_path), 14, resident=200 * MIB)
    again = made(tmp_path)
    again.recall()
    after = over_days(again, 2 * 300 / DAY, began=1e9 + 14 * DAY, resident=200 * MIB)
    assert after.peak == pytest.approx(before.peak, rel=0.01)


def test_what_another_predictor_learned_is_not_taken_over(tmp_path):
    over_days(made(tmp_path), 1)
    other = made(tmp_path, 'host_max')
    other.recall()
    assert over_days(other, 1 / 288).cold == 1


def test_a_torn_file_is_an_empty_one(tmp_path):
    over_days(made(tmp_path), 1)
    (tmp_path / 'host.peaks.json').write_text('{"predictor": "calibrated", "learned": {"now": "soon"}}')
    again = made(tmp_path)
    again.recall()
    assert over_days(again, 1 / 288) is not None


@pytest.mark.parametrize('learned', [{'now': float('inf'), 'sums': [], 'margins': {}, 'guests': {}}, None])
def test_what_was_kept_keeps_nobody_from_starting_whatever_the_predictor_makes_of_it(tmp_path, caplog, learned):
    class Foreign:
        def from_dict(self, kept): raise ZeroDivisionError('a mistake')
    foresight = made(tmp_path) if learned else Foresight('mine', Foreign(), publish.Store(str(tmp_path), 'host.peaks'))
    publish.Store(str(tmp_path), 'host.peaks').save({'predictor': 'calibrated' if learned else 'mine',
                                                     'learned': learned or {}})
    foresight.recall()
    assert 'are learned anew' in caplog.text


def test_a_predictor_that_fails_predicts_nothing_and_says_so_once(tmp_path, caplog):
    class Broken:
        def observe(self, step): raise ZeroDivisionError('a mistake')
        def peak(self, present, horizon): raise ZeroDivisionError('a mistake')
    foresight = Foresight('broken', Broken(), publish.Store(str(tmp_path), 'host.peaks'))
    assert over_days(foresight, 0.1) is None
    assert foresight.error == 'ZeroDivisionError: a mistake'
    assert sum('predictor broken failed' in r.message for r in caplog.records) == 1


def test_operators_are_told_what_is_expected_and_how_often_it_was_wrong(tmp_path):
    foresight = made(tmp_path)
    last = over_days(foresight, 3, resident=200 * MIB)
    told = foresight.fields()
    assert (told['predictor'], told['reason'], told['error']) == ('calibrated', last.reason, None)
    assert {one['horizon'] for one in told['horizons']} == {300.0, 3600.0, 86400.0}
    assert all(one['judged'] and one['missed'] == 0 for one in told['horizons'])


def test_a_predictor_that_does_not_count_or_fails_at_it_is_told_without(tmp_path):
    assert made(tmp_path, 'host_max').fields()['horizons'] == []

    class Broken:
        def errors(self): raise ZeroDivisionError('a mistake')
    assert Foresight('broken', Broken(), publish.Store(str(tmp_path), 'host.peaks')).fields()['horizons'] == []


def test_status_shows_how_often_predictions_were_wrong():
    horizons = [{'horizon': 86400.0, 'judged': 200, 'missed': 3, 'share': 0.015, 'margin': 0.78},
                {'horizon': 300.0, 'judged': 0, 'missed': 0, 'share': None, 'margin': 0.75}]
    status = {'prediction': {'predictor': 'calibrated', 'reason': '', 'error': None, 'horizons': horizons}}
    assert display._predicted(status) == 'predicted peaks that were too low: 24 h 3 of 200 (1.5%, margin 0.78)'
    status['prediction']['error'] = 'ValueError: no'
    assert display._predicted(status) == 'predictor calibrated failed, nothing is predicted: ValueError: no'
    assert display._predicted({'prediction': None}) == display._predicted({}) == ''


def test_a_store_that_cannot_be_written_costs_nothing_but_memory(tmp_path):
    (tmp_path / 'file').write_text('')
    foresight = Foresight('calibrated', predictors.load(), publish.Store(str(tmp_path / 'file'), 'host.peaks'))
    assert over_days(foresight, 0.1) is not None


@pytest.mark.parametrize('peak, told', [
    (GIB * 0.8, -(-GIB * 8 // 10)), (float('inf'), None), (float('nan'), None), (1 << 51, None), (-1, None),
    ('8', None)])
def test_a_predictor_of_somebody_elses_that_tells_nonsense_predicts_nothing_and_closes_no_host(tmp_path, peak, told):
    class Odd:
        def observe(self, step):
            pass

        def peak(self, present, horizon):
            return Prediction(peak=peak, horizon=horizon, base=0, bound=0)

    foresight = Foresight('odd', Odd(), publish.Store(str(tmp_path), 'host.peaks'))
    found = foresight.see(a_host(a_guest()))
    assert (found.peak if found else None) == told and (foresight.error is None) == (told is not None)
    if found:
        assert report.decode(report.encode(a_report(predicted_peak=found.peak))).predicted_peak == told
