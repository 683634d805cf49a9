# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""From samples to a snapshot: rates, ages, what is believed, and what is promised."""
import dataclasses

import hypothesis
from hypothesis import strategies as st

from ovc_plugin import report
from ovc_plugin.model import MIB, KsmState, Level, Plan
from ovc_plugin.samples import GroupSample, GuestSample, MemorySample, MergedPages
from ovc_plugin.sense.derive import derive
from ovc_plugin.settings import ALL_TENANTS, Settings
from tests.builders import GIB, NOW, a_sample, facts, sampled

SETTINGS = Settings()


def derived(later, earlier=None, targets=None):
    return derive(earlier, later, targets or {}, 512 * MIB, SETTINGS)


def one(**changes):
    return derived(a_sample(sampled(**changes))).guests[0]


def memory(available, swap_in=0):
    return MemorySample(total=28 * GIB, available=available, swap_total=GIB, swap_free=GIB, swap_in_pages=swap_in)


def test_rates_come_from_two_samples():
    first = a_sample(sampled(refaults=100), memory=memory(10 * GIB))
    later = a_sample(sampled(refaults=600), memory=memory(9 * GIB, swap_in=10), taken_at=NOW + 5)
    found = derived(later, first)
    assert found.guests[0].refaults == 100.0
    assert found.swap_in == 10 * 4096 / 5
    assert found.growth == GIB / 5


def test_a_counter_that_went_back_gives_no_rate():
    first = a_sample(sampled(refaults=600))
    assert derived(a_sample(sampled(refaults=5), taken_at=NOW + 5), first).guests[0].refaults is None


def test_a_clock_that_jumped_back_gives_no_rate():
    assert derived(a_sample(sampled(), taken_at=NOW - 100), a_sample(sampled())).growth is None


def test_rates_go_by_a_clock_that_nobody_sets():
    first = a_sample(sampled(refaults=100), memory=memory(10 * GIB), steady=50.0)
    later = a_sample(sampled(refaults=600), memory=memory(9 * GIB, swap_in=10), steady=55.0, taken_at=NOW + 0.1)
    found = derived(later, first)
    assert (found.growth, found.swap_in, found.guests[0].refaults) == (GIB / 5, 10 * 4096 / 5, 100)


def test_the_reservation_is_the_flavors_or_the_default():
    assert one(reservation='25%').reservation == GIB // 4
    assert one().reservation == GIB // 2


def test_a_reservation_above_the_memory_guarantees_all_and_says_so():
    found = derived(a_sample(sampled(reservation='4096')))
    assert found.guests[0].reservation == GIB
    assert 'above the guest\'s memory' in found.notes[0]


def test_nonsense_from_a_balloon_is_unknown_and_not_zero():
    for nonsense in ({'actual': 5 * GIB}, {'usable': 5 * GIB}, {'actual': 0}):
        guest = one(**nonsense)
        assert guest.stats_age is None and (guest.actual is None or guest.usable is None)


def test_a_guest_that_never_spoke_has_no_age():
    assert one(last_update=None).stats_age is None
    assert one(last_update=NOW - 7).stats_age == 7


def test_after_a_clock_was_set_back_an_old_word_is_not_taken_for_a_new_one():
    """Promise 6: nobody knows how old the word of a guest is that spoke in what is now the future; it may hang."""
    found = derived(a_sample(sampled(last_update=NOW + 3600)))
    assert found.guests[0].stats_age is None and 'clock' in ''.join(found.notes)
    soon = derived(a_sample(sampled(last_update=NOW + 2)))
    assert soon.guests[0].stats_age == 0, 'it may speak while others are read'
    assert not soon.notes or 'clock' not in ''.join(soon.notes)


def test_overhead_is_the_default_until_more_is_measured():
    assert one(usage=GIB // 2).overhead == 128 * MIB
    assert one(usage=GIB, swapped=300 * MIB).overhead == 300 * MIB


def test_when_the_hypervisor_is_silent_its_guests_still_count_but_are_not_believed():
    first = a_sample(sampled())
    found = derived(a_sample(guests=None, taken_at=NOW + 5), first)
    guest = found.guests[0]
    assert guest.committed == GIB + 128 * MIB and guest.stats_age is None


def test_guests_without_an_owner_share_with_nobody():
    both = derived(a_sample(sampled('g1', project=None), sampled('g2', project=None))).guests
    assert both[0].trust_domain != both[1].trust_domain


def test_an_untouchable_guest_gives_nothing_and_is_owed_everything():
    guest = one(untouchable='hugepages')
    assert not (guest.can_balloon or guest.can_swap)
    assert guest.guaranteed == guest.committed


def test_opting_out_is_honoured_and_a_typo_in_it_is_on_the_safe_side():
    assert one(overcommit='no').untouchable == 'opted out by ovc:overcommit'
    assert one(overcommit='perhaps').untouchable == 'unreadable ovc:overcommit'
    assert one(overcommit='yes').untouchable is None


def test_absurd_weights_are_named_and_not_used():
    found = derived(a_sample(sampled(weight='-3')))
    assert found.guests[0].weight == 1.0 and 'ovc:weight' in found.notes[0]


def test_a_paused_guest_is_not_ballooned():
    assert not one(busy=True).can_balloon


def test_a_stopped_guest_counts_since_it_may_be_started_at_any_time():
    guest = one(running=False)
    assert guest.committed > GIB and not guest.can_balloon and not guest.can_swap


def test_page_cache_is_neither_overhead_nor_the_guests_own():
    cached = GuestSample(facts=facts(), group=GroupSample(usage=21 * GIB, cached=20 * GIB, swapped=0))
    guest = derived(a_sample(cached)).guests[0]
    assert (guest.overhead, guest.resident) == (128 * MIB, GIB)


def test_what_compressed_swap_takes_for_a_guest_is_neither_its_memory_nor_others():
    """Counted as its memory it was swapped below its guarantee, counted as others' the host had less to promise."""
    plain = sampled(usage=GIB, swapped=GIB)
    group = dataclasses.replace(plain.group, usage=GIB + GIB // 3, compressed=GIB // 3)
    packed = dataclasses.replace(plain, group=group)
    without, found = (derive(None, a_sample(one), {}, GIB, Settings()) for one in (plain, packed))
    assert found.guests[0].resident == GIB and found.others == without.others - GIB // 3


def test_what_others_use_beyond_the_reserve_is_not_promised():
    found = derived(a_sample(sampled(usage=GIB)))
    assert found.others == 17 * GIB and any('used by others' in note for note in found.notes)
    plan = Plan(level=Level.CLEAR, actions=(), reason='')
    told = report.of(found, plan, reclaimable=0, swap_usable=0, backed=True, dry_run=False)
    assert told.total - told.reserve == 28 * GIB - 17 * GIB


def test_a_kernel_that_cannot_swap_one_guest_is_named_with_the_remedy():
    stubborn = GuestSample(facts=facts(), group=GroupSample(usage=GIB, can_reclaim=False))
    found = derived(a_sample(stubborn))
    assert not found.guests[0].can_swap and any('5.19' in note for note in found.notes)
    assert any('memory.swappiness' in note for note in found.notes)


def test_what_a_guest_may_still_have_in_swap_is_known():
    bounded = GuestSample(facts=facts(), group=GroupSample(usage=GIB, swap_room=9))
    assert derived(a_sample(bounded)).guests[0].swap_room == 9


def test_a_guest_that_says_nothing_is_named_with_the_remedy():
    assert any('mem_stats_period_seconds' in note for note in derived(a_sample(sampled(usable=None))).notes)


def test_a_guest_of_novas_without_a_balloon_device_is_named_with_the_remedy():
    """nova starts guests so while mem_stats_period_seconds is 0, and they stay so until they are started anew."""
    def told(**changes):
        return [note for note in derived(a_sample(sampled(has_balloon=False, **changes))).notes if 'balloon' in note]
    assert len(told()) == 1 and 'mem_stats_period_seconds' in told()[0] and 'hard reboot' in told()[0]
    assert not told(running=False) and not told(managed=False) and not told(untouchable='hugepages')


def sharing(*guests, saved_pages=100, shared_pages=50, **changes):
    ksm = KsmState(**dict(run=1, saved=saved_pages * 4096, shared=shared_pages * 4096, pages_to_scan=100) | changes)
    merged = tuple(dataclasses.replace(sampled(f'g{n}'), merged=m) for n, m in enumerate(guests))
    return a_sample(*merged, ksm=ksm)


def test_what_the_host_has_saved_is_divided_by_what_each_guest_has_merged():
    found = derived(sharing(MergedPages(merging=100), MergedPages(merging=50))).guests
    assert sum(g.saved for g in found) == 100 * 4096  # each guest's own count says 150
    assert found[0].saved == 100 * 4096 * 100 // 150
    assert [g.merged for g in found] == [100 * 4096, 50 * 4096]


@hypothesis.given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(1, 10**6))
def test_the_parts_add_up_to_the_hosts_truth_to_the_byte(merging, shared):
    shared = min(shared, sum(merging))
    found = derived(sharing(*(MergedPages(merging=m) for m in merging), saved_pages=sum(merging) - shared,
                            shared_pages=shared))
    assert sum(g.saved for g in found.guests) == found.ksm.saved


def test_zero_pages_are_saved_whole():
    found = derived(sharing(MergedPages(merging=150, zero=7), MergedPages(merging=0), saved_pages=107, zero=7 * 4096))
    assert [g.saved for g in found.guests] == [107 * 4096, 0]
    assert [g.merged for g in found.guests] == [157 * 4096, 0]


def test_what_a_guest_has_merged_is_unknown_where_nobody_may_read_it():
    found = derived(sharing(MergedPages(merging=75), None)).guests
    assert [g.saved for g in found] == [50 * 4096, None]
    assert [g.merged for g in found] == [75 * 4096, None]
    assert [g.saved for g in derived(sharing(None, saved_pages=0, shared_pages=0)).guests] == [0]


def test_sharing_that_dissolves_is_counted_by_the_kernel():
    before = sharing(None, dissolved=1000)
    later = dataclasses.replace(sharing(None, dissolved=1500, saved_pages=5000), taken_at=NOW + 5)
    assert derived(later, before).evaporation == 100 * 4096
    assert derived(later).evaporation is None


def test_where_the_kernel_does_not_count_it_what_is_saved_has_fallen_while_nobody_left():
    before, later = sharing(None, None, saved_pages=600), sharing(None, None, saved_pages=100)
    later = dataclasses.replace(later, taken_at=NOW + 5)
    assert derived(later, before).evaporation == 100 * 4096
    alone = dataclasses.replace(later, guests=later.guests[:1])
    assert derived(alone, before).evaporation is None


def test_an_operator_is_told_for_as_long_as_sharing_is_paused_and_why():
    state = KsmState(run=0, saved=0, shared=0, pages_to_scan=100)
    both = a_sample(sampled('g1'), sampled('g2', project='p2'), ksm=state)
    assert '2 mergeable guests of 2 trust domains' in ''.join(derived(both).notes)
    apart = a_sample(sampled('g1'), sampled('g2', project='p2', mergeable=False), ksm=both.ksm)
    for calm in (apart, dataclasses.replace(both, ksm=None)):
        assert 'page sharing' not in ''.join(derived(calm).notes)


def test_an_operator_who_merges_across_tenants_is_told_the_risk_for_as_long_as_it_lasts():
    state = KsmState(run=1, saved=0, shared=0, pages_to_scan=100)
    both = a_sample(sampled('g1'), sampled('g2', project='p2'), ksm=state)
    across = dataclasses.replace(SETTINGS, host=dataclasses.replace(SETTINGS.host, ksm=ALL_TENANTS))
    assert 'bit flips' in ''.join(derive(None, both, {}, 0, across).notes)


def test_who_may_be_asked_away():
    assert one(movable=True).can_migrate and one(movable=True, untouchable='locked memory').can_migrate
    for stays in (dict(movable=False), dict(running=False), dict(busy=True), dict(overcommit='no'),
                  dict(overcommit='perhaps')):
        assert not one(**dict(movable=True) | stays).can_migrate
    assert one(movable=True, overcommit='yes').can_migrate
