# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Admission: each promise after adding the guest, with both numbers in the reason."""
import dataclasses
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovc_plugin.decide import placement
from ovc_plugin.model import MIB, InFlight, Level, Request
from ovc_plugin.settings import HostSettings, SchedulerSettings, SharedSettings
from tests.builders import GIB, NOW, a_report

SHARED, SCHEDULER, HOST = SharedSettings(), SchedulerSettings(), HostSettings()
NONE = InFlight()


def verdict(report, request=None, in_flight=NONE, now=NOW, scheduler=SCHEDULER):
    request = request or Request(memory=GIB, reservation=GIB // 2)
    return placement.fits(report, request, in_flight, scheduler, SHARED, now)


def test_an_empty_host_takes_a_guest():
    assert verdict(a_report()).ok


def test_a_report_that_is_too_old_earns_nothing():
    late = verdict(a_report(), now=NOW + 121)
    assert not late.ok and 'report is 121 s old > 120 s' in late.reason


def test_a_report_from_the_future_is_refused_with_the_remedy():
    assert 'set both clocks' in verdict(a_report(taken_at=NOW + 500)).reason


@pytest.mark.parametrize('level, ok', [(Level.SOFT, True), (Level.HARD, False), (Level.CRITICAL, False)])
def test_a_host_in_trouble_takes_nobody(level, ok):
    assert verdict(a_report(level=level)).ok is ok


def test_guarantees_never_exceed_memory_outside_the_reserve():
    full = a_report(reserved=15 * GIB)
    assert 'guarantees would need 16000 MB > 15872 MB' in verdict(full).reason


def grows(report, more, in_flight=NONE, now=NOW):
    return placement.grows(report, more, in_flight, SHARED, now)


def test_a_guest_that_is_here_is_guaranteed_more_as_long_as_that_much_is_owed_to_nobody():
    full = a_report(reserved=15 * GIB, level=Level.HARD, committed=30 * GIB)
    assert grows(full, 512 * MIB).ok
    assert 'guarantees would need 15873 MB > 15872 MB' in grows(full, 513 * MIB).reason
    # With its overhead, of one that no report counts just then, and with what others are to be guaranteed.
    arriving = InFlight(guests=1, memory=GIB, reserved=256 * MIB)
    assert grows(full, 128 * MIB, arriving).ok and not grows(full, 129 * MIB, arriving).ok
    assert not grows(full, 0, InFlight(guests=1, memory=GIB)).ok
    assert 'report is 121 s old > 120 s' in grows(full, 1, now=NOW + 121).reason


def test_what_guests_may_touch_never_exceeds_memory_and_swap():
    full = a_report(committed=23 * GIB)
    assert 'guests could touch 24704 MB > 24064 MB of memory and swap (15872 MB + 8192 MB)' in verdict(full).reason


def test_without_swap_a_host_is_not_overcommitted():
    no_swap = a_report(swap_usable=0, committed=15 * GIB)
    assert not verdict(no_swap).ok


def test_unbacked_overcommit_takes_a_word_from_the_operator_on_both_sides():
    full = a_report(committed=23 * GIB, backed=False)
    assert not verdict(full).ok
    assert verdict(full, scheduler=SchedulerSettings(require_swap_backing=False)).ok
    backed = dataclasses.replace(full, backed=True)
    assert not verdict(backed, scheduler=SchedulerSettings(require_swap_backing=False)).ok


def test_claims_in_flight_count_in_full():
    report = a_report(total=4 * GIB, available=4 * GIB, swap_usable=0)
    assert verdict(report).ok
    assert not verdict(report, in_flight=InFlight(guests=3, memory=3 * GIB)).ok


def test_guarantees_in_flight_that_are_known_count_exactly():
    big = InFlight(guests=2, memory=15 * GIB, reserved=15 * GIB)
    assert not verdict(a_report(), Request(memory=4 * GIB, reservation=4 * GIB // 5), big).ok


def test_a_guest_that_may_not_be_overcommitted_is_guaranteed_all_of_it():
    report = a_report(reserved=15 * GIB - 500 * MIB)
    assert verdict(report, Request(memory=GIB, reservation=GIB // 4)).ok
    assert not verdict(report, Request(memory=GIB, reservation=GIB // 4, overcommit=False)).ok


def test_demand_that_nothing_can_meet_is_refused():
    busy = a_report(available=600 * MIB, reclaimable=0, swap_used=8 * GIB)
    assert 'can be reclaimed' in verdict(busy).reason


def test_the_predicted_peak_counts_and_without_one_what_is_used_now():
    # 4 GB used of 16; its guests are owed what they use. Swap is full: what is to come must be met by memory.
    calm = dict(available=12 * GIB, reserved=4 * GIB, swap_used=8 * GIB, committed=10 * GIB)
    request = Request(memory=4 * GIB, reservation=2 * GIB)
    assert verdict(a_report(**calm), request).ok
    assert verdict(a_report(**calm, predicted_peak=2 * GIB), request).ok  # what is used now is used
    refused = verdict(a_report(**calm, predicted_peak=12 * GIB), request)
    assert 'demand would be 16512 MB > 15872 MB' in refused.reason and '(predicted peak 12288 MB)' in refused.reason


def test_growth_that_can_be_swapped_is_no_reason_to_refuse_and_growth_into_what_is_owed_is_met_by_memory():
    busy = dict(available=4 * GIB, committed=18 * GIB, predicted_peak=18 * GIB)
    assert verdict(a_report(**busy, reserved=4 * GIB)).ok
    assert 'predicted peak 18432 MB' in verdict(a_report(**busy, reserved=4 * GIB, swap_used=7 * GIB)).reason
    loose, owed = (placement.standing(a_report(**busy, reserved=r * GIB)).growing for r in (4, 14))
    assert (loose, owed) == (6 * GIB, 4 * GIB)


def test_what_merged_pages_may_take_back_is_not_handed_out():
    full = dict(available=3 * GIB, swap_used=8 * GIB, saved=2 * GIB)
    assert verdict(a_report(**full)).ok
    kept = verdict(a_report(**full, evaporation=2 * GIB)).reason
    assert 'demand would be' in kept and '> 13824 MB' in kept and '2048 MB kept against evaporation' in kept


@given(report=st.builds(a_report, available=st.integers(0, 16 * GIB), committed=st.integers(0, 40 * GIB),
                        reserved=st.integers(0, 20 * GIB), reclaimable=st.integers(0, 8 * GIB),
                        swap_used=st.integers(0, 8 * GIB), predicted_peak=st.none() | st.integers(0, 30 * GIB),
                        evaporation=st.integers(0, 4 * GIB), backed=st.booleans()),
       memory=st.integers(1, 20 * GIB), share=st.floats(0, 1), overcommit=st.booleans(),
       flying=st.integers(0, 8 * GIB), guests=st.integers(0, 9))
def test_the_words_of_a_verdict_have_the_numbers_that_decided(report, memory, share, overcommit, flying, guests):
    request = Request(memory=memory, reservation=int(memory * share), overcommit=overcommit)
    told = verdict(report, request, InFlight(guests=guests, memory=flying))
    guarantee, backed, demand = placement.margins(placement.standing(report), placement.terms(request, SHARED), guests,
                                                  flying, None)
    assert told.ok is (min(guarantee, backed, demand) >= 0)
    if not told.ok:
        over, limit = (int(word) for word in re.search(r'(-?\d+) MB > (-?\d+) MB', told.reason).groups())
        short = next(left for left in (guarantee, backed, demand) if left < 0)
        assert abs((limit - over) * MIB - short) <= MIB


def test_more_room_scores_higher_and_near_equal_hosts_score_alike():
    request = Request(memory=GIB, reservation=0)
    roomy, near, full = (
        placement.score(a_report(committed=c * GIB, available=int((23.5 - c) * GIB)), request, NONE, SHARED)
        for c in (8, 8.5, 23))
    assert roomy > near > full == 0
    assert roomy - near < 0.01


CAPACITY = 16 * GIB - 512 * MIB


def permitted(shared=SHARED, host=HOST, **report):
    return placement.permitted_ratio(a_report(**report), CAPACITY, host, shared)


def test_the_ratio_follows_what_can_be_promised_in_steps():
    assert permitted() == 1.5
    assert permitted(swap_usable=0) == 1.0
    assert permitted(swap_usable=1 << 42, committed=1, reserved=0) == 4.0
    assert placement.permitted_ratio(a_report(), 0, HOST, SHARED) == 1.0


def test_the_ratio_is_never_below_what_is_claimed_nor_is_it_the_operators_most_that_traps_guests():
    full = dict(committed=24 * GIB, claimed=22 * GIB, guests=20)
    for host in (HOST, HostSettings(max_ratio=1.2), HostSettings(max_ratio=1.2, require_swap_backing=False)):
        for backed in (True, False):
            assert permitted(host=host, backed=backed, **full) * CAPACITY >= 22 * GIB
    assert permitted(**full) * CAPACITY < 22 * GIB + 2 * MIB


def test_the_ratio_hands_out_no_more_than_could_be_guaranteed():
    # Half of each guest is guaranteed: with twice the memory in guests, all of it is.
    much = dict(swap_usable=1 << 42)
    assert permitted(**much) == 1.95
    assert permitted(SharedSettings(default_reservation='25%'), **much) == 3.95
    # What guests here are guaranteed says more than the default: 3 of 8 GiB, and 12.5 GiB are owed to nobody.
    here = dict(claimed=8 * GIB, committed=8 * GIB, reserved=3 * GIB, guests=1)
    assert permitted(**much, **here) == 2.6
    assert permitted(**much, **here | dict(reserved=8 * GIB)) == 1.0  # as without overcommit
    # A default of so many MB is no share.
    assert permitted(SharedSettings(default_reservation='512'), **much) == 4.0
    # What the operator does not want backed is guaranteed all the same.
    assert permitted(backed=False, **here) == 2.6


@given(claimed=st.integers(1, 12), share=st.integers(1, 100), swap=st.integers(0, 64))
def test_what_placement_may_hand_out_to_guests_alike_can_be_guaranteed(claimed, share, swap):
    here = claimed * GIB
    report = a_report(claimed=here, committed=here, reserved=here * share // 100, guests=1, swap_usable=swap * GIB)
    ratio = placement.permitted_ratio(report, CAPACITY, HostSettings(min_ratio=0.1), SHARED)
    assert ratio * CAPACITY * share / 100 <= CAPACITY + 2 * MIB


@given(total=st.integers(1, 64), swap=st.integers(0, 64), reserve=st.integers(0, 2048),
       wanted=st.lists(st.tuples(st.integers(64, 8192), st.integers(0, 100)), max_size=60))
def test_no_sequence_of_admissions_breaks_a_promise(total, swap, reserve, wanted):
    """Promises 1 and 2, over any sequence of requests made against one report, as the host knows them in flight."""
    report = a_report(total=total * GIB, available=total * GIB, swap_usable=swap * GIB, reserve=reserve * MIB)
    taken = []
    for size, share in wanted:
        request = Request(memory=size * MIB, reservation=size * MIB * share // 100)
        flying = InFlight(guests=len(taken), memory=sum(r.memory for r in taken),
                          reserved=sum(r.reservation for r in taken))
        if verdict(report, request, flying).ok:
            taken.append(request)
    overhead = len(taken) * SHARED.default_overhead
    room = report.total - report.reserve
    if taken:
        assert sum(r.reservation for r in taken) + overhead <= room
        assert sum(r.memory for r in taken) + overhead <= room + report.swap_usable


def filled(swap, ratio):
    """How many guests of 8 GB a host of 256 GB takes, by its filter and by placement's ratio (0: by any)."""
    held, request = a_report(total=256 * GIB, reserve=4 * GIB, available=256 * GIB, swap_usable=swap), Request(
        memory=8 * GIB, reservation=4 * GIB)
    while verdict(held, request).ok and (not ratio or (held.claimed + 8 * GIB) / (252 * GIB) <= ratio):
        held = dataclasses.replace(
            held, guests=held.guests + 1, claimed=held.claimed + 8 * GIB,
            committed=held.committed + 8 * GIB + SHARED.default_overhead,
            reserved=held.reserved + 4 * GIB + SHARED.default_overhead)
    return held.guests


def test_the_example_in_the_readme_is_what_the_rules_say():
    readme = (pathlib.Path(__file__).parents[3] / 'README.rst').read_text()
    alone, most = filled(0, 0), filled(1000 * GIB, 0)
    empty = a_report(total=256 * GIB, reserve=4 * GIB, swap_usable=124 * GIB)
    ratio = placement.permitted_ratio(empty, 252 * GIB, HOST, SHARED)
    told = (f'takes {alone} guests of 8 GB without swap, and with 124 GB of it {filled(124 * GIB, ratio)}, '
            f'at a ratio of {ratio:g}; the guarantees, half of their memory each, would let {most} in')
    assert told in ' '.join(readme.split()), told


def test_where_no_backing_is_asked_for_what_is_left_is_told_without_it():
    told = a_report(backed=False, swap_usable=0, committed=15 * GIB, reserved=2 * GIB, available=14 * GIB,
                    reclaimable=2 * GIB)
    asked = Request(memory=4 * GIB, reservation=GIB)
    verdict = placement.fits(told, asked, InFlight(), SchedulerSettings(require_swap_backing=False), SharedSettings(),
                             told.taken_at)
    assert verdict.ok and re.search(r', \d+ MB left', verdict.reason), verdict.reason
