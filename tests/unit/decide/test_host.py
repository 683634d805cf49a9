# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The ladder as sentences: who gives, who is left alone, what is handed back."""
import dataclasses

from ovc_plugin.decide.host import backed, decide_host, reclaimable
from ovc_plugin.decide.state import Asked, LadderState
from ovc_plugin.model import MIB, Level, ReclaimGuest, SetBalloon, TuneKsm
from ovc_plugin.settings import ALL_TENANTS, HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings()


def actions(host, kind, state=None, settings=OPTIONS):
    plan, _ = decide_host(host, state or LadderState(), settings, NOW)
    return [a for a in plan.actions if isinstance(a, kind)]


def short(*guests, mb=500, **changes):
    return a_host(*guests, available=mb * MIB, **changes)


def test_a_clear_host_asks_nobody_for_anything():
    assert actions(a_host(a_guest(), a_guest('g2')), (SetBalloon, ReclaimGuest)) == []


def test_idle_guests_are_ballooned_before_anybody_is_swapped():
    host = short(*(a_guest(f'g{i}') for i in range(10)), mb=570)
    asked = actions(host, SetBalloon)
    assert len(asked) == 10 and all(a.target < GIB for a in asked)
    assert actions(host, ReclaimGuest) == []


def test_what_the_balloon_cannot_give_is_swapped():
    host = short(*(a_guest(f'g{i}', usable=10 * MIB) for i in range(4)))
    assert actions(host, SetBalloon) == []
    swapped = actions(host, ReclaimGuest, settings=dataclasses.replace(OPTIONS, swap_step=256 * MIB))
    assert sum(a.amount for a in swapped) >= (899 * 1.25 - 500) * MIB * 0.99


def test_swap_takes_small_steps_and_of_large_guests_a_hundredth():
    small, large = a_guest('small', usable=0), a_guest('large', maximum=16 * GIB, actual=16 * GIB, usable=0,
                                                       resident=16 * GIB, reservation=4 * GIB)
    amounts = {a.guest: a.amount for a in actions(short(small, large), ReclaimGuest)}
    assert amounts == {small.uuid: OPTIONS.swap_step, large.uuid: 16 * GIB // 100}


def test_a_guest_that_does_not_answer_the_balloon_is_swapped_before_those_that_can_give():
    mute = a_guest('mute', can_balloon=False, usable=None, stats_age=None)
    others = [a_guest(f'g{n}', usable=10 * MIB) for n in range(4)]
    amounts = {a.guest: a.amount for a in actions(short(mute, *others, mb=560), ReclaimGuest)}
    assert amounts == {mute.uuid: 4 * OPTIONS.swap_step}, 'it has more to give at the next pass'
    hard = {a.guest: a.amount for a in actions(short(mute, *others, mb=250), ReclaimGuest)}
    assert hard[mute.uuid] == 4 * OPTIONS.swap_step and hard['uuid-g0'] == OPTIONS.swap_step


def test_a_guest_that_boots_is_not_taken_for_one_that_does_not_answer():
    boots = a_guest('boots', can_balloon=False, busy=True, usable=None, stats_age=None)
    host = short(boots, *(a_guest(f'g{n}', usable=10 * MIB) for n in range(4)), mb=560)
    assert all(a.amount <= OPTIONS.swap_step for a in actions(host, ReclaimGuest))


def test_at_critical_swap_covers_everything_because_balloons_take_seconds():
    host = short(*(a_guest(f'g{i}') for i in range(10)), mb=100)
    assert sum(a.amount for a in actions(host, ReclaimGuest)) >= 900 * MIB


def test_a_silent_guest_is_not_shrunk_but_can_be_swapped():
    silent = a_guest(usable=None, stats_age=None)
    assert actions(short(silent), SetBalloon) == []
    assert [a.guest for a in actions(short(silent), ReclaimGuest)] == [silent.uuid]


def test_an_old_word_is_as_good_as_silence():
    assert actions(short(a_guest(stats_age=31.0)), SetBalloon) == []


def test_a_guest_that_reads_its_pages_back_is_not_swapped_further_below_critical():
    thrashing = a_guest(usable=0, refaults=500.0)
    assert actions(short(thrashing), ReclaimGuest) == []
    assert actions(short(thrashing, mb=50), ReclaimGuest) != []


def test_a_stuck_guest_is_not_asked_twice_and_swap_takes_its_part():
    stuck = Asked(target=GIB // 2, at=NOW - 30, nearest=GIB, moved_at=NOW - 30)
    host = short(a_guest('g0', usable=0, reservation=0), a_guest(), mb=300)
    state = LadderState(level=Level.HARD, asked={'uuid-g1': stuck})
    assert actions(host, SetBalloon, state) == []
    swapped = actions(host, ReclaimGuest, state)
    assert swapped[0].guest == 'uuid-g1' and swapped[0].amount == 4 * OPTIONS.swap_step


def test_a_guest_under_way_is_not_asked_again():
    moving = Asked(target=GIB // 2, at=NOW - 3, nearest=GIB - 1, moved_at=NOW - 3)
    state = LadderState(level=Level.SOFT, asked={'uuid-g1': moving})
    assert actions(short(a_guest()), SetBalloon, state) == []


def test_swap_that_is_full_is_not_asked_for_more():
    assert actions(short(a_guest(usable=0), swap_free=0), ReclaimGuest) == []


def test_of_a_guest_no_more_is_swapped_than_its_own_limit_of_swap_takes():
    """Nor is it credited with more: others would give nothing, and wait for what never comes; and nobody is placed on
    what it has no room for."""
    bounded = a_guest('bounded', can_balloon=False, usable=None, stats_age=None, swap_room=20 * MIB)
    others = [a_guest(f'g{n}', usable=10 * MIB) for n in range(4)]
    amounts = {a.guest: a.amount for a in actions(short(bounded, *others, mb=560), ReclaimGuest)}
    assert amounts.pop(bounded.uuid) == 20 * MIB and sum(amounts.values()) >= 4 * OPTIONS.swap_step
    full = dataclasses.replace(bounded, swap_room=0)
    assert full.uuid not in {a.guest for a in actions(short(full, *others, mb=560), ReclaimGuest)}
    speaks = a_guest('speaks', maximum=8 * GIB, actual=8 * GIB, resident=8 * GIB, usable=4 * GIB, swap_room=MIB)
    ballooned = reclaimable(a_host(dataclasses.replace(speaks, swap_room=0)), OPTIONS)
    assert reclaimable(a_host(speaks), OPTIONS) == ballooned + MIB


def test_memory_is_handed_back_when_the_host_is_clear():
    small = a_guest(actual=GIB // 2, target=GIB // 2)
    grown = actions(a_host(small), SetBalloon)
    assert [a.target for a in grown] == [GIB]


def test_nothing_is_handed_back_out_of_the_reserve():
    small = a_guest(actual=GIB // 2)
    assert actions(a_host(small, available=1700 * MIB), SetBalloon) == []


def test_sharing_runs_inside_one_trust_domain_and_pauses_across_two():
    off = dataclasses.replace(a_host().ksm, run=0)
    one, other = a_guest(), a_guest('g2', trust_domain='p2')
    assert [a.run for a in actions(a_host(one, a_guest('g3'), ksm=off), TuneKsm)] == [1]
    assert [a.run for a in actions(a_host(one, other), TuneKsm)] == [0]
    assert actions(a_host(one, dataclasses.replace(other, can_share=False), ksm=off), TuneKsm) == []


def test_the_smart_scan_that_keeps_twins_apart_is_switched_off_with_sharing():
    smart = dataclasses.replace(a_host().ksm, smart_scan=1)
    asked = actions(a_host(a_guest(), a_guest('g2'), ksm=smart), TuneKsm)
    assert [(a.run, a.smart_scan) for a in asked] == [(1, 0)]
    assert actions(a_host(a_guest(), a_guest('g2'), ksm=dataclasses.replace(smart, smart_scan=0)), TuneKsm) == []


def test_sharing_across_tenants_takes_a_word_from_the_operator():
    off = dataclasses.replace(a_host().ksm, run=0)
    both = a_host(a_guest(), a_guest('g2', trust_domain='p2'), ksm=off)
    assert [a.run for a in actions(both, TuneKsm, settings=HostSettings(ksm=ALL_TENANTS))] == [1]
    assert actions(both, TuneKsm, settings=HostSettings(ksm='leave')) == []


def test_a_host_without_sharing_swap_or_guests_is_still_judged():
    plan, _ = decide_host(short(ksm=None, swap_total=0, swap_free=0, mb=50), LadderState(), OPTIONS, NOW)
    assert plan.level is Level.CRITICAL and plan.actions == ()


def test_silence_earns_no_credit_for_what_a_balloon_or_swap_might_free():
    for can_swap in (False, True):
        speaking, silent = a_guest(can_swap=can_swap), a_guest('g2', can_swap=can_swap, usable=None)
        assert reclaimable(a_host(speaking), OPTIONS) > 0
        assert reclaimable(a_host(silent), OPTIONS) == 0
        assert reclaimable(a_host(dataclasses.replace(speaking, stats_age=1e4)), OPTIONS) == 0


def test_no_more_is_counted_on_than_swap_takes_in_a_minute_and_nothing_of_who_reads_it_back():
    """A guest that comes would wait for hours for the rest."""
    sizes = dict(maximum=64 * GIB, actual=64 * GIB, resident=64 * GIB, usable=0)
    host = a_host(*(a_guest(f'g{n}', **sizes) for n in range(8)), total=512 * GIB, swap_total=400 * GIB,
                  swap_free=400 * GIB)
    assert 4 * GIB < reclaimable(host, OPTIONS) < 8 * GIB
    reading = dataclasses.replace(host, guests=tuple(dataclasses.replace(g, refaults=5000.0) for g in host.guests))
    assert reclaimable(reading, OPTIONS) == 0


def test_switched_off_mechanisms_are_not_used():
    host = short(a_guest(), mb=100)
    assert actions(host, SetBalloon, settings=HostSettings(balloon=False)) == []
    assert actions(host, ReclaimGuest, settings=HostSettings(swap=False)) == []


def test_a_stuck_guest_is_not_asked_for_a_crumb_again_and_again():
    small = a_guest(maximum=128 * MIB, actual=128 * MIB, usable=56 * MIB, reservation=0, resident=128 * MIB)
    state = LadderState()
    for _ in range(3):
        plan, state = decide_host(short(small, mb=572, swap_free=0), state, OPTIONS, NOW)
        assert all(a.previous - a.target >= 8 * MIB for a in plan.actions if isinstance(a, SetBalloon))


def test_one_word_of_a_guest_is_not_spent_twice():
    """Usable is told every ten seconds, actual at once: between two words a guest is shrunk once."""
    state, size, last = LadderState(level=Level.SOFT), GIB, NOW
    for second in range(11):
        guest = a_guest(actual=size, target=size, usable=GIB // 2, stats_age=float(second), reservation=GIB // 4)
        plan, state = decide_host(short(guest, mb=570, swap_free=0), state, OPTIONS, last + second)
        for action in plan.actions:
            if isinstance(action, SetBalloon):
                size = action.target
    assert size >= GIB * 0.89


def test_a_guest_that_needs_memory_again_gets_it_though_the_host_has_little_over():
    hungry = a_guest(actual=GIB // 4, target=GIB // 4, usable=0)
    idle = a_guest('g2', usable=900 * MIB)
    for mb in (950, 1000, 1700):
        grown = [a for a in actions(short(hungry, idle, mb=mb), SetBalloon) if a.guest == hungry.uuid]
        assert grown and grown[0].target > GIB // 4, mb
    assert not [a for a in actions(short(hungry, mb=200), SetBalloon) if a.target > a.previous]


def test_a_guest_started_anew_at_full_size_is_asked_anew():
    arrived = Asked(target=GIB // 2, at=NOW - 500, nearest=GIB // 2, moved_at=NOW - 400)
    asked = actions(short(a_guest(), mb=300), SetBalloon, LadderState(level=Level.SOFT, asked={'uuid-g1': arrived}))
    assert [a.previous for a in asked] == [GIB]


def test_an_old_target_of_a_stuck_guest_is_lifted_once_the_host_is_clear():
    stuck = Asked(target=GIB // 2, at=NOW - 500, nearest=GIB, moved_at=NOW - 500)
    lifted = actions(a_host(a_guest()), SetBalloon, LadderState(asked={'uuid-g1': stuck}))
    assert lifted and lifted[0].target > GIB // 2


def test_many_small_guests_give_what_a_few_large_ones_would():
    crowd = [a_guest(f'g{i}') for i in range(80)]
    assert actions(short(*crowd, mb=820), SetBalloon, LadderState(level=Level.SOFT)) != []
    small = [a_guest(f'g{i}', usable=0, maximum=64 * MIB, actual=64 * MIB, resident=60 * MIB, reservation=0, overhead=0)
             for i in range(40)]
    swapped = actions(a_host(*small, total=4 * GIB, available=15 * MIB), ReclaimGuest)
    assert sum(a.amount for a in swapped) >= 100 * MIB


def test_a_clock_set_back_holds_neither_the_level_nor_a_stuck_guests_credit():
    ahead = Asked(target=GIB // 2, at=NOW + 3600, nearest=GIB, moved_at=NOW + 3600)
    state = LadderState(level=Level.HARD, better_since=NOW + 3600, asked={'uuid-g1': ahead})
    for second in (0.0, 16.0, 21.0):
        plan, state = decide_host(a_host(a_guest(), available=5 * GIB), state, OPTIONS, NOW + second)
    assert plan.level is Level.CLEAR


def test_sharing_pauses_beside_a_mergeable_guest_that_must_not_be_touched():
    opted_out = a_guest(untouchable='opted out by ovc:overcommit', can_balloon=False, can_swap=False)
    two = a_guest('g2'), a_guest('g3')
    assert [a.run for a in actions(a_host(opted_out, *two), TuneKsm)] == [0]
    assert actions(a_host(dataclasses.replace(opted_out, can_share=False), *two), TuneKsm) == []


def test_sharing_waits_until_there_is_something_to_share():
    assert [a.run for a in actions(a_host(a_guest()), TuneKsm)] == [0]


def test_a_guest_is_not_shrunk_by_more_than_a_step_at_once():
    asked = actions(short(a_guest(usable=GIB, reservation=0), mb=300), SetBalloon)
    assert [a.previous - a.target for a in asked] == [int(OPTIONS.balloon_step * GIB) // MIB * MIB]


def test_what_a_guest_costs_beyond_its_memory_is_not_taken_from_its_reservation():
    asked = actions(short(a_guest(usable=0, resident=400 * MIB), mb=50), ReclaimGuest)
    assert [(a.floor, a.amount) for a in asked] == [(384 * MIB, 16 * MIB)]


def test_sharing_pauses_before_a_mergeable_guest_of_another_project_has_arrived():
    two = a_guest(), a_guest('g2')
    assert actions(a_host(*two, arriving=('p1',)), TuneKsm) == []
    stop, = actions(a_host(*two, arriving=('p2',)), TuneKsm)
    assert stop.run == 0 and 'on their way' in stop.reason
    assert actions(a_host(*two, arriving=('p2',)), TuneKsm, settings=HostSettings(ksm=ALL_TENANTS)) == []


def test_memory_that_nobody_touched_does_not_keep_the_balloon_from_what_lies_behind_it():
    """Of 512 MB a guest leaves 188 MB that the host hardly backs, and holds 250 MB of files: one step of a tenth would
    free nothing, so that it was never taken, and swap carried all."""
    guests = [a_guest(f'g{i}', maximum=512 * MIB, reservation=128 * MIB, target=512 * MIB, actual=512 * MIB,
                      usable=436 * MIB, unused=188 * MIB, resident=400 * MIB, saved=10 * MIB) for i in range(3)]
    host = a_host(*guests, total=1500 * MIB, available=25 * MIB, reserve=0)
    asked = actions(host, SetBalloon)
    assert {a.guest for a in asked} == {g.uuid for g in guests}
    assert all(512 * MIB - a.target > 188 * MIB and a.target >= 128 * MIB for a in asked)
    assert actions(host, ReclaimGuest) == []


def test_guests_that_read_back_give_at_critical_only_what_it_takes_to_leave_hard():
    """More would be read back at once, in place of another page: on a real host four times as much as with no
    controller at all."""
    thrashing, resting = (
        [a_guest(f'g{n}', usable=0, refaults=refaults) for n in range(10)] for refaults in (5000.0, 0.0))
    least, usual = (sum(a.amount for a in actions(short(*guests, mb=100), ReclaimGuest))
                    for guests in (thrashing, resting))
    assert 0.9 * (0.48 * 899 - 100) * MIB <= least <= 1.1 * (0.48 * 899 - 100) * MIB < usual / 2


def test_what_swap_is_left_is_used_at_critical_by_guests_that_read_back_too():
    thrashing = [a_guest(f'g{n}', usable=0, refaults=5000.0) for n in range(10)]
    taken = sum(a.amount for a in actions(short(*thrashing, mb=100, swap_free=200 * MIB), ReclaimGuest))
    assert 190 * MIB <= taken <= 200 * MIB


def test_swap_that_others_use_backs_no_guest():
    guests = [a_guest(f'g{n}', maximum=8 * GIB) for n in range(4)]  # 32.5 GiB, of 27.5 + 8
    assert backed(a_host(*guests)) and not backed(a_host(*guests, swap_others=6 * GIB))
