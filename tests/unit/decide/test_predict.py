# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A prediction stays between present demand and limits, and errs as often as it was told it may."""
import json
import pathlib
import random
import re
import textwrap
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovc_plugin import predictors
from ovc_plugin.decide.demand import DAY_STEPS, STEP, GuestDemand, HostDemand, Steps, percentile
from ovc_plugin.decide.margin import Tuning
from ovc_plugin.decide.predict import HORIZONS, Calibrated
from ovc_plugin.decide.published import BorgDefault, HostMax, Largest, NSigma, ResourceCentral
from tests.builders import GIB

FIVE_MINUTES, HOUR, DAY = HORIZONS


def a_guest(uuid='a', used=GIB, limit=8 * GIB):
    return GuestDemand(uuid=uuid, used=used, limit=limit)


def a_host(*guests, at=0.0):
    return HostDemand(at=at, guests=guests)


def taught(predictor, steps, *guests):
    for number in range(steps):
        predictor.observe(a_host(*guests, at=number * STEP))
    return predictor


amounts = st.integers(0, 64 * GIB)
guests = st.lists(st.builds(lambda name, used, limit: GuestDemand(uuid=name, used=used, limit=limit),
                            st.sampled_from('abcdef'), st.none() | amounts, amounts),
                  max_size=6, unique_by=lambda g: g.uuid).map(lambda made: HostDemand(at=0, guests=tuple(made)))
pasts = st.lists(st.tuples(guests, st.integers(1, 60)), max_size=6)
made = st.sampled_from([Calibrated, BorgDefault, NSigma, ResourceCentral, HostMax, Largest])


def lived(predictor, past):
    for seen, times in past:
        for _ in range(times):
            predictor.observe(seen)
    return predictor


@settings(deadline=None)
@given(made, pasts, guests, st.sampled_from(HORIZONS))
def test_no_prediction_is_below_present_demand_or_above_the_sum_of_limits(kind, past, present, horizon):
    found = lived(kind(), past).peak(present, horizon).peak
    assert sum(g.bounded or 0 for g in present.guests) <= found <= present.limit


@settings(deadline=None)
@given(pasts, guests)
def test_a_longer_horizon_never_predicts_less(past, present):
    predictor = lived(Calibrated(), past)
    peaks = [predictor.peak(present, horizon).peak for horizon in HORIZONS]
    assert peaks == sorted(peaks)


@settings(deadline=None)
@given(pasts, guests, amounts)
def test_a_guest_never_seen_counts_at_its_limit(past, present, limit):
    predictor = lived(Calibrated(), past)
    new = a_guest('new', used=0, limit=limit)
    with_it = a_host(*present.guests, new)
    for horizon in HORIZONS:
        assert predictor.peak(with_it, horizon).peak >= limit + sum(g.bounded or 0 for g in present.guests)


@settings(deadline=None)
@given(pasts, guests)
def test_what_is_remembered_over_a_restart_predicts_the_same(past, present):
    before = lived(Calibrated(), past)
    after = Calibrated()
    after.from_dict(json.loads(json.dumps(before.to_dict())))
    assert [after.peak(present, h) for h in HORIZONS] == [before.peak(present, h) for h in HORIZONS]


@pytest.mark.parametrize('broken', [{}, {'now': 1, 'sums': [], 'margins': {}, 'guests': {'a': 3}},
                                    {'now': 'x', 'sums': [], 'margins': {}, 'guests': {}}])
def test_a_broken_memory_is_refused_and_changes_nothing(broken):
    predictor = taught(Calibrated(), 300, a_guest())
    before = predictor.to_dict()
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        predictor.from_dict(broken)
    assert predictor.to_dict() == before


def test_a_guest_is_cold_for_a_horizon_until_it_was_watched_as_long():
    predictor = taught(Calibrated(), 30, a_guest())  # 2.5 hours
    present = a_host(a_guest())
    for horizon in (FIVE_MINUTES, HOUR):
        assert predictor.peak(present, horizon).cold == 0 and predictor.peak(present, horizon).peak < 4 * GIB
    tomorrow = predictor.peak(present, DAY)
    assert tomorrow.peak == 8 * GIB and tomorrow.cold == 1 and 'too new' in tomorrow.reason


def test_a_guest_that_was_off_for_a_while_is_known_when_it_returns():
    predictor = taught(Calibrated(), 2 * DAY_STEPS, a_guest('a'), a_guest('b'))
    taught(predictor, 5 * DAY_STEPS, a_guest('a'))
    known = predictor.peak(a_host(a_guest('a'), a_guest('b', used=0)), DAY)
    assert known.cold == 0 and known.base == 2 * GIB
    taught(predictor, 15 * DAY_STEPS, a_guest('a'))
    assert predictor.peak(a_host(a_guest('a'), a_guest('b', used=0)), DAY).cold == 1


def test_what_left_the_host_takes_its_peaks_along():
    predictor = taught(Calibrated(), 2 * DAY_STEPS, a_guest('a'), a_guest('huge', used=60 * GIB, limit=64 * GIB))
    assert predictor.peak(a_host(a_guest('a')), DAY).base == GIB


def test_one_reading_gone_wild_is_worth_no_more_than_the_limit():
    predictor = taught(Calibrated(), 10 * DAY_STEPS, a_guest('a'), a_guest('b'))
    predictor.observe(a_host(a_guest('a', used=1 << 60), a_guest('b')))
    assert predictor.peak(a_host(a_guest('a'), a_guest('b')), DAY).base == 9 * GIB
    predictor.observe(a_host(a_guest('a', used=-5), a_guest('b')))
    taught(predictor, 15 * DAY_STEPS, a_guest('a'), a_guest('b'))
    assert predictor.peak(a_host(a_guest('a'), a_guest('b')), DAY).base == 2 * GIB


def test_an_unknown_demand_is_taken_for_the_guests_own_peak_and_teaches_nothing():
    predictor = taught(Calibrated(), 2 * DAY_STEPS, a_guest('a', used=3 * GIB))
    before = predictor.to_dict()['sums']
    predictor.observe(a_host(a_guest('a', used=None)))
    assert predictor.to_dict()['sums'] == before
    assert predictor.peak(a_host(a_guest('a', used=None)), FIVE_MINUTES).base == 3 * GIB


def apart(steps, odds, chance, names='abcdefgh'):
    """Guests that idle at 1 GiB and now and then, each for itself, use more."""
    for number in range(steps):
        yield a_host(*[a_guest(name, used=int((1 + (chance.random() < odds) * 6 * chance.random()) * GIB))
                       for name in names], at=number * STEP)


def misses(predictor, steps, skip):
    """Share of steps, after the first few, that exceeded what was predicted one step before."""
    missed, previous = [], None
    for step in steps:
        if previous is not None:
            missed.append(step.total > previous)
        predictor.observe(step)
        previous = predictor.peak(step, FIVE_MINUTES).peak
    return sum(missed[skip:]) / len(missed[skip:])


@pytest.mark.parametrize('odds', [0.02, 0.2, 0.9])
@pytest.mark.parametrize('margin', [0.0, 2.0])
def test_the_share_of_misses_goes_to_the_target_from_either_side(odds, margin):
    tuning = Tuning(target=0.05, margin=margin, gain=0.05)
    share = misses(Calibrated(tuning, horizons=(FIVE_MINUTES,)), apart(6000, odds, random.Random(7)), 2500)
    assert share == pytest.approx(0.05, abs=0.012)


def test_the_share_of_misses_stays_near_the_target_though_guests_change_their_ways():
    chance = random.Random(3)
    steps = [*apart(2500, 0.02, chance), *apart(2500, 0.3, chance), *apart(2500, 0.05, chance)]
    tuning = Tuning(target=0.02, gain=0.05)
    assert misses(Calibrated(tuning, horizons=(FIVE_MINUTES,)), steps, 0) <= 0.025


def test_a_miss_widens_the_margin_at_once_and_success_narrows_it_slowly():
    predictor = taught(Calibrated(), 8 * DAY_STEPS, a_guest('a'), a_guest('b'))
    calm = {h: track.margin for h, track in predictor.tracks.items()}
    assert all(0 < margin < Tuning().margin for margin in calm.values())
    predictor.observe(a_host(a_guest('a', used=5 * GIB), a_guest('b')))
    for horizon, track in predictor.tracks.items():
        gained, lost_a_step = track.margin - calm[horizon], Tuning().gain * Tuning().target
        assert gained >= Tuning().gain * 0.98 > 50 * lost_a_step and track.missed >= 1


def test_how_often_it_was_wrong_is_told_by_horizon_and_outlives_a_restart():
    predictor = taught(Calibrated(Tuning(margin=0.0)), 3 * DAY_STEPS, a_guest(limit=2 * GIB))
    taught(predictor, 1, a_guest(used=2 * GIB, limit=2 * GIB))
    told = {one['horizon']: one for one in predictor.errors()}
    assert set(told) == set(HORIZONS)
    day = told[DAY]
    assert 0 < day['missed'] <= day['judged'] and day['share'] == day['missed'] / day['judged']
    assert day['margin'] == predictor.tracks[DAY].margin > 0
    again = Calibrated()
    again.from_dict(json.loads(json.dumps(predictor.to_dict())))
    assert again.errors() == predictor.errors()


def test_what_nobody_looked_at_proves_no_prediction_wrong():
    """One guest that could not be read for hours, and then more demand: each prediction of that time was a miss."""
    known, blind = a_host(a_guest(), a_guest('b')), a_host(a_guest(), a_guest('b', used=None))
    predictor = taught(Calibrated(), 300, *known.guests)
    before = [dict(errors) for errors in predictor.errors()]
    for _ in range(72):
        predictor.observe(blind)
    five = predictor.tracks[FIVE_MINUTES]
    assert len(five.pending) <= 2, 'what is never judged is not kept either'
    predictor.observe(a_host(a_guest(used=5 * GIB), a_guest('b', used=5 * GIB)))
    assert predictor.errors()[0]['missed'] <= before[0]['missed'] + 1
    assert five.margin <= before[0]['margin'] + predictor.tuning.gain


def test_nothing_judged_is_no_share():
    assert all(one['share'] is None and one['judged'] == 0 for one in Calibrated().errors())


def test_what_an_older_release_kept_without_counts_is_taken_over():
    kept = taught(Calibrated(), 2 * DAY_STEPS, a_guest()).to_dict()
    del kept['judged']
    again = Calibrated()
    again.from_dict(kept)
    assert again.errors()[0]['judged'] == 0
    assert again.peak(a_host(a_guest()), HOUR) == taught(Calibrated(), 2 * DAY_STEPS, a_guest()).peak(
        a_host(a_guest()), HOUR)


def test_guests_admitted_after_a_prediction_do_not_prove_it_wrong():
    predictor = taught(Calibrated(), 8 * DAY_STEPS, a_guest('a'))
    taught(predictor, 10, a_guest('a'), a_guest('b', used=7 * GIB))
    assert all(track.missed == 0 for track in predictor.tracks.values())


def test_guests_that_came_and_went_leave_no_room_for_a_miss():
    """Else a host of short-lived guests would count as hits what were misses, and narrow its margin."""
    stays = [a_guest(name) for name in 'abcd']
    predictor = taught(Calibrated(), 8 * DAY_STEPS, *stays)
    pending = list(predictor.tracks[DAY].pending)
    told = [entry.peak for entry in pending]
    for number in range(6):
        taught(predictor, 1, *stays, a_guest(f'short{number}', used=0))
        assert [entry.peak for entry in pending] == [peak + 8 * GIB for peak in told]
    taught(predictor, 1, *stays)
    assert [entry.peak for entry in pending] == told
    taught(predictor, 1, *[a_guest(name, used=8 * GIB) for name in 'abcd'])
    assert all(entry.missed for entry in pending)


@pytest.mark.parametrize('restarts', [False, True])
def test_a_guest_that_was_made_larger_is_judged_like_a_new_one(restarts):
    stays = [a_guest(name, used=GIB // 2, limit=GIB) for name in 'abcdefg']
    predictor = taught(Calibrated(), 8 * DAY_STEPS, *stays, a_guest('h', used=GIB // 2, limit=GIB))
    now = a_host(*stays, a_guest('h', used=GIB // 2, limit=32 * GIB))
    new = a_host(*stays, a_guest('i', used=GIB // 2, limit=32 * GIB))
    if restarts:
        kept, predictor = json.loads(json.dumps(predictor.to_dict())), Calibrated()
        predictor.from_dict(kept)
    for _ in range(3):  # before a step has seen it, and after
        grown, arrived = predictor.peak(now, DAY), predictor.peak(new, DAY)
        assert (grown.cold, arrived.cold) == (1, 1) and grown.peak >= 32 * GIB
        predictor.observe(now)
    assert not any(track.missed for track in taught(predictor, 1, *now.guests[:-1], a_guest(
        'h', used=31 * GIB, limit=32 * GIB)).tracks.values()), 'it was admitted at its new size'


def test_an_overhead_that_is_measured_anew_makes_no_guest_new():
    predictor = taught(Calibrated(), 8 * DAY_STEPS, a_guest(limit=8 * GIB))
    assert predictor.peak(a_host(a_guest(limit=8 * GIB + GIB // 4)), DAY).cold == 0


def test_a_host_without_a_past_predicts_the_sum_of_its_guests_peaks():
    predictor = Calibrated()
    taught(predictor, DAY_STEPS, a_guest('a', used=4 * GIB), a_guest('b'))
    taught(predictor, DAY_STEPS // 2, a_guest('a'), a_guest('b', used=4 * GIB))
    young = predictor.peak(a_host(a_guest('a'), a_guest('b')), DAY)
    assert young.bound == 8 * GIB and young.base == pytest.approx((5 + 3 * (1 - 1.5 / 7)) * GIB)
    taught(predictor, 6 * DAY_STEPS, a_guest('a'), a_guest('b'))
    assert predictor.peak(a_host(a_guest('a'), a_guest('b')), DAY).peak < young.peak


def test_the_reason_names_what_the_prediction_was_made_of():
    predictor = taught(Calibrated(), 8 * DAY_STEPS, a_guest('a'))
    predictor.observe(a_host(a_guest('a', used=2 * GIB)))
    reason = predictor.peak(a_host(a_guest('a')), FIVE_MINUTES).reason
    assert re.fullmatch(r'at most 3\d+ MB within 5 min: 2048 MB and \d\d% of 27\d\d MB; the guests. own peaks '
                        r'sum to 2048 MB', reason)


def test_the_published_formulas():
    present = a_host(a_guest('a', used=GIB), a_guest('b', used=2 * GIB, limit=12 * GIB))
    assert BorgDefault().peak(present, DAY).peak == 18 * GIB
    wavy = [NSigma(), ResourceCentral(), HostMax(), Largest()]
    for predictor in wavy:
        assert predictor.peak(present, DAY).peak == 20 * GIB  # nothing known: all limits
        for number in range(120):
            predictor.observe(a_host(a_guest('a', used=(1 + number % 2) * GIB),
                                     a_guest('b', used=2 * GIB, limit=12 * GIB)))
    sigma, central, most, largest = (predictor.peak(present, DAY).peak for predictor in wavy)
    # the sum is 3 or 4 GiB of 20: mean 0.175, deviation 0.025
    assert sigma == pytest.approx((0.175 + 5 * 0.025) * 20 * GIB)
    assert central == most == 4 * GIB and largest == sigma


def test_the_percentile_is_interpolated():
    assert percentile([3.0], 0.99) == 3 and percentile([4, 1, 2, 3], 0.5) == 2.5 and percentile([1, 2], 1.0) == 2


def test_many_small_guests_need_less_margin_than_one_large_one():
    def added(count):
        named = [a_guest(str(number), used=2 * GIB // count, limit=64 * GIB // count) for number in range(count)]
        found = taught(Calibrated(), 8 * DAY_STEPS, *named).peak(a_host(*named), DAY)
        return found.peak - found.base
    # the same memory in all: the bursts of 16 guests that are independent add up to a quarter
    assert added(16) == pytest.approx(added(1) / 4, rel=0.01)


def test_ticks_are_gathered_into_steps_by_their_peaks():
    steps = Steps()
    assert steps.add(a_host(a_guest('a', used=5), a_guest('b', used=1), at=1000)) is None
    assert steps.add(a_host(a_guest('a', used=1), a_guest('b', used=4), at=1100)) is None
    done = steps.add(a_host(a_guest('a', used=9), at=1300))
    assert {g.uuid: g.used for g in done.guests} == {'a': 5, 'b': 4} and done.total == 6
    assert steps.add(a_host(a_guest('a', used=2), at=10)).total == 9  # the clock was set back


def test_all_predictors_come_through_the_same_door():
    assert {'borg_default', 'calibrated', 'host_max', 'largest', 'n_sigma', 'resource_central'} <= set(
        predictors.names())
    for name in predictors.names():
        assert predictors.load(name).peak(a_host(a_guest()), DAY).peak >= GIB
    assert isinstance(predictors.load(), Calibrated)


def test_a_predictor_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(predictors.UnknownPredictor, match="'tarot' does not load .* there are: borg_default, calib"):
        predictors.load('tarot')


def test_a_predictor_that_fails_to_load_is_told_from_one_that_is_not_there(monkeypatch):
    def refuses(*args, **kwargs):
        raise RuntimeError('no licence found')
    monkeypatch.setattr(predictors.driver, 'DriverManager', refuses)
    with pytest.raises(predictors.UnknownPredictor, match="'calibrated' does not load .no licence found"):
        predictors.load('calibrated')


def test_the_predictor_in_the_documentation_works():
    text = (pathlib.Path(__file__).parents[3] / 'doc' / 'adding-a-rule.rst').read_text()
    code = text.split('.. code-block:: python\n')[2].split('\nInstall it')[0]
    found: dict[str, typing.Any] = {}
    exec(textwrap.dedent(code), found)
    ours = found['FourFifths']()
    ours.observe(a_host(a_guest('a', used=GIB)))
    ours.from_dict(ours.to_dict())
    assert ours.peak(a_host(a_guest('a', used=10, limit=1000)), DAY).peak == 800
    assert ours.peak(a_host(a_guest('a', used=900, limit=1000)), DAY).peak == 900
    assert ours.peak(a_host(a_guest('a', used=None, limit=1000)), DAY).peak == 1000
