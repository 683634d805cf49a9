# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Who is given memory, where little of it is free: in one piece that helps, and not in drops as they come."""
import dataclasses

import pytest

from ovc_plugin.decide.evaporation import Evaporation
from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.state import Asked, LadderState
from ovc_plugin.model import MIB, Level, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings(dry_run=False, ksm='leave')
MINIMUM = 899 * MIB  # below which the host of the builders is not clear
CUSHION = int(OPTIONS.cushion * GIB)


def a_small_guest(size=GIB // 2, **changes):
    return a_guest(**dict(actual=size, target=size, resident=size, gives_way=True) | changes)


def relieved(guest, spare, state=None):
    """By how much a clear host that has so much to spare relieves this guest."""
    plan, _ = decide_host(a_host(guest, available=MINIMUM + spare), state or LadderState(), OPTIONS, NOW)
    assert plan.level is Level.CLEAR
    return sum(a.target - a.previous for a in plan.actions if isinstance(a, SetBalloon))


def sizes(look, seconds, drop):
    """The sizes that a guest is asked to have, on a host that sees ``drop`` bytes more to spare at each pass.
    ``look`` says how the guest is at a size, the moment it has it."""
    state, size, spare, asked = LadderState(), GIB // 2, 0, []
    for second in range(0, seconds, 5):
        now = NOW + second
        host = dataclasses.replace(a_host(look(size), available=MINIMUM + spare), taken_at=now)
        plan, state = decide_host(host, state, OPTIONS, now)
        for action in plan.actions:
            assert isinstance(action, SetBalloon)
            spare -= action.target - size
            size = action.target
            asked.append(size)
        spare += drop
    return asked


@pytest.mark.parametrize('drop', [MIB // 4, MIB])
def test_a_guest_that_reads_its_files_again_is_not_given_memory_in_drops(drop):
    """Its faults raise its need to all that it has, and end some way above: each drop of what came free was given, and
    it lacked as much as before."""
    def look(size):
        missing = max(0, GIB // 2 + CUSHION // 2 - size)
        return a_small_guest(size, usable=size // 2, stats_age=1.0, major_faults=150 + missing / MIB * 2)
    assert len(sizes(look, 3000, drop)) == 1


@pytest.mark.parametrize('backed, parts', [(GIB // 3, 1), (None, 5)])
def test_a_silent_guest_is_made_whole_in_one_piece_where_its_host_backs_less_than_it_has(backed, parts):
    """It would not put a part of it to use either, and what is over would be over again; one of which all is backed
    may be in want of any part."""
    def look(size):
        return a_small_guest(size, usable=None, stats_age=None, resident=size if backed is None else backed)
    asked = sizes(look, 9000, MIB)
    assert len(asked) == parts and asked[-1] == GIB


def test_a_silent_guest_that_left_what_it_was_given_is_given_the_rest_in_one_piece():
    """Its host backs it for more than its memory, so it seemed to use all it had, and was given part after part."""
    def look(size):
        return a_small_guest(size, usable=None, stats_age=None, resident=GIB // 2 + 120 * MIB)
    asked = sizes(look, 9000, MIB)
    assert len(asked) == 2 and asked[-1] == GIB


@pytest.mark.parametrize('used', [GIB // 2, GIB // 2 - CUSHION // 5])
def test_a_guest_that_has_used_up_its_cushion_is_not_given_it_in_drops(used):
    def look(size):
        return a_small_guest(size, usable=size - used, stats_age=1.0)
    assert len(sizes(look, 3000, MIB)) == 1


def test_what_sharing_is_trusted_with_little_by_little_is_not_given_in_drops():
    """What is kept free against the writing of merged pages shrinks for an hour after they were written to, and what
    it leaves came to guests in need 8 MB at a time."""
    guest = a_small_guest(usable=GIB // 4, major_faults=500.0)
    host = a_host(guest, a_guest('other'), available=MINIMUM + 130 * MIB)
    host = dataclasses.replace(host, evaporation=0.0, ksm=dataclasses.replace(host.ksm, saved=8 * GIB))
    state, grown = LadderState(evaporation=Evaporation(
        variance=(0.8 * MIB) ** 2, watched=OPTIONS.evaporation_window, at=NOW - 5)), []
    for second in range(0, 3000, 5):
        seen = dataclasses.replace(host, taken_at=NOW + second)
        plan, state = decide_host(seen, state, OPTIONS, NOW + second)
        grown += [a.target - a.previous for a in plan.actions if isinstance(a, SetBalloon)]
        if grown:
            break
    assert grown == [-(-CUSHION // MIB) * MIB]


def test_where_its_cushion_is_free_a_guest_in_need_is_given_all_of_it_at_once():
    assert relieved(a_small_guest(usable=0), GIB // 2) == -(-CUSHION // MIB) * MIB


def test_a_guest_that_says_it_has_nothing_left_is_given_a_part_that_takes_it_out_of_its_need():
    part = relieved(a_small_guest(usable=0), CUSHION // 2)
    assert part == CUSHION // 2 // MIB * MIB
    assert not relieved(a_small_guest(GIB // 2 + part, usable=part), CUSHION)


def test_a_guest_that_its_own_kernel_would_kill_is_given_any_part():
    assert not relieved(a_small_guest(usable=0), 16 * MIB)
    assert relieved(a_small_guest(usable=0, gives_way=False), 16 * MIB) == 16 * MIB
    assert relieved(a_small_guest(usable=0, gives_way=False, major_faults=5000.0), 16 * MIB) == 16 * MIB


def test_a_guest_that_can_have_no_more_than_a_little_is_given_that():
    nearly = a_small_guest(GIB - CUSHION * 4 // 5, usable=0)
    assert relieved(nearly, GIB) == GIB - nearly.actual


def test_a_guest_stuck_above_its_target_has_not_grown_by_itself_when_its_target_is_raised():
    """It was taken for one that took its memory out of its balloon, and given more at each pass for it."""
    stuck = a_guest(actual=760 * MIB, target=513 * MIB, usable=220 * MIB, gives_way=True)
    state = LadderState(asked={stuck.uuid: Asked(target=513 * MIB, at=NOW - 900, nearest=760 * MIB, moved_at=NOW - 900,
                                                 change=-MIB)})
    asked = []
    for second in range(0, 60, 5):
        host = dataclasses.replace(a_host(stuck, available=MINIMUM + 80 * MIB), taken_at=NOW + second)
        plan, state = decide_host(host, state, OPTIONS, NOW + second)
        asked += [a.target for a in plan.actions if isinstance(a, SetBalloon)]
    assert len(asked) == 1 and state.asked[stuck.uuid].gave_way_at is None


OWED = 2 * GIB  # of a guest of 4 GB, which has less: its host's default was raised, or it came from one with a lower


def owed(size, name='owed', **changes):
    return a_guest(name, **dict(maximum=4 * GIB, reservation=OWED, actual=size, target=size, resident=size,
                                usable=size // 2) | changes)


def balloons(*guests, settings=OPTIONS, level=Level.CLEAR, state=None, **changes):
    """(guest, target) of what a host that has two GB more than it needs asks of its guests, and what it noted."""
    host = a_host(*guests, **{'available': MINIMUM + 2 * GIB} | changes)
    plan, _ = decide_host(host, state or LadderState(), settings, NOW)
    assert plan.level is level and plan.notes == ()
    return [(a.guest, a.target) for a in plan.actions if isinstance(a, SetBalloon)]


HARD = dict(level=Level.HARD, stall=0.9)
SILENT = dict(usable=None, stats_age=None)


@pytest.mark.parametrize('at', [{}, dict(level=Level.SOFT, stall=OPTIONS.stall_soft), HARD])
@pytest.mark.parametrize('word', [{}, SILENT, dict(stats_age=3600.0), dict(gives_way=False)])
@pytest.mark.parametrize('missing', [MIB, 200 * MIB, GIB])
def test_a_guest_below_its_reservation_is_raised_to_it_whatever_it_says(missing, word, at):
    """The guarantee needs neither consent nor statistics: a larger size takes nothing from anybody."""
    assert balloons(owed(OWED - missing, **word), **at) == [('uuid-owed', OWED)]


def test_at_critical_nobody_is_given_anything_and_who_cannot_be_asked_is_not():
    assert balloons(owed(GIB), level=Level.CRITICAL, growth=100.0 * GIB) == []
    assert balloons(owed(GIB, can_balloon=False, untouchable='opted out')) == []
    assert balloons(owed(GIB, busy=True)) == []


def test_a_reservation_is_given_only_of_what_is_free_and_only_whole():
    """No target is below a reservation, ever (promise 3): one of an older look might shrink a guest that grew since."""
    for free, target in ((GIB, [('uuid-owed', OWED)]), (GIB - MIB, [])):
        assert balloons(owed(GIB, **SILENT), available=MINIMUM + free) == target


def test_what_others_still_take_up_is_not_given_to_a_guest_below_its_reservation():
    taking = a_guest(actual=GIB // 4, target=GIB)
    state = LadderState(asked={taking.uuid: Asked(target=GIB, at=NOW - 1, nearest=GIB // 4, moved_at=NOW - 1,
                                                  change=3 * GIB // 4)})
    assert balloons(owed(GIB, **SILENT), taking, available=MINIMUM + GIB + GIB // 2, state=state) == []


def test_reservations_come_before_needs_and_as_many_as_can_be_are_kept():
    needy, larger = a_small_guest(usable=0), owed(GIB, 'larger', **SILENT)
    smaller = owed(GIB + GIB // 2, 'smaller', **SILENT)
    free = MINIMUM + GIB + GIB // 2
    assert balloons(needy, larger, smaller, available=free) == [(smaller.uuid, OWED), (larger.uuid, OWED)]
    assert balloons(needy, larger, available=free) == [(larger.uuid, OWED), (needy.uuid, needy.actual + 103 * MIB)]
    assert balloons(needy, larger, smaller, available=free - MIB) == [(smaller.uuid, OWED)], 'it waits for the other'
    kills = dataclasses.replace(needy, gives_way=False)
    assert len(balloons(kills, larger, smaller, available=free - MIB)) == 2, 'who would be killed does not wait'


def test_a_guest_below_its_reservation_that_needs_more_is_asked_once():
    needs = owed(OWED - 100 * MIB, usable=0)
    assert balloons(needs) == [('uuid-owed', needs.actual + -(-int(4 * GIB * OPTIONS.cushion) // MIB) * MIB)]
    assert balloons(needs, **HARD) == [('uuid-owed', OWED)]


def test_while_a_reservation_is_not_kept_others_give_what_they_do_not_use_and_nobody_is_handed_what_is_over():
    idle, small = a_guest('idle', usable=GIB - 64 * MIB, unused=GIB - 64 * MIB), a_small_guest()
    assert not balloons(idle, small, available=2 * MINIMUM), 'nothing is owed to anybody'
    asked = dict(balloons(owed(GIB, **SILENT), idle, small, available=MINIMUM + GIB - 64 * MIB))
    assert asked[idle.uuid] < GIB and small.uuid not in asked and 'uuid-owed' not in asked
    plenty = a_small_guest('small', usable=0, **dict(actual=GIB // 2))
    assert plenty.uuid not in dict(balloons(
        owed(GIB, **SILENT, reservation=4 * GIB), plenty, available=2 * MINIMUM + GIB))


def test_a_guest_raised_to_its_reservation_is_left_alone_then_though_it_does_not_move():
    state, asked = LadderState(), []
    for second in range(0, 400 * 5, 5):
        host = dataclasses.replace(a_host(owed(GIB, **SILENT), available=MINIMUM + min(second, 100) * 16 * MIB),
                                   taken_at=NOW + second)
        plan, state = decide_host(host, state, OPTIONS, NOW + second)
        asked += [a.target for a in plan.actions if isinstance(a, SetBalloon)]
    assert asked == [OWED]


def had(target, nearest, ago, change):
    """What is remembered of the guest ``owed``, which was asked so many seconds ago."""
    return LadderState(asked={'uuid-owed': Asked(target=target, at=NOW - ago, nearest=nearest, moved_at=NOW - ago,
                                                 change=change)})


@pytest.mark.parametrize('word', [{}, SILENT])
@pytest.mark.parametrize('target, nearest, change', [
    (4 * GIB, 4 * GIB, GIB), (OWED, OWED, -GIB), (OWED, OWED + GIB // 4, -GIB), (4 * GIB, 3 * GIB, 2 * GIB)],
    ids=['given all', 'shrunk', 'on its way down', 'on its way up'])
def test_a_guest_that_somebody_else_shrank_below_its_reservation_is_raised_though_it_was_asked_for_more(
        target, nearest, change, word):
    """What it had been asked for once was taken for what it has been asked for still, and it was left as it was."""
    assert balloons(owed(GIB, **word), state=had(target, nearest, 60, change)) == [('uuid-owed', OWED)]
    assert balloons(owed(GIB, **word), state=had(target, nearest, 60, change), available=MINIMUM + GIB // 2) == []


def test_who_was_asked_a_moment_ago_may_have_shrunk_further_before_it_heard_of_it():
    """Else what it takes up then would be given to somebody else, and its growth be taken for need."""
    going, state = owed(GIB, **SILENT), had(OWED, GIB + 64 * MIB, 4, GIB - 64 * MIB)
    plan, after = decide_host(a_host(going, available=MINIMUM + 2 * GIB), state, OPTIONS, NOW)
    assert not plan.actions and after.asked == state.asked


@pytest.mark.parametrize('word', [{}, SILENT])
def test_who_was_shrunk_further_while_it_was_going_where_we_had_asked_it_to_is_raised_too(word):
    """World 1.4390: seen within the moment in which nobody can tell, it was taken for progress and forgotten."""
    state, asked = had(OWED + GIB // 4, 4 * GIB, 4, -2 * GIB), []
    for second in (0, 5, 10):
        host = dataclasses.replace(a_host(owed(GIB, **word), available=MINIMUM + 6 * GIB), taken_at=NOW + second)
        plan, state = decide_host(host, state, OPTIONS, NOW + second)
        asked += [a for a in plan.actions if isinstance(a, SetBalloon)]
    assert asked and asked[0].target >= OWED and 'its reservation' in asked[0].reason


def test_what_a_guest_said_before_somebody_else_shrank_it_is_no_word_of_its_size():
    before = owed(3 * GIB, usable=2 * GIB, stats_age=0.0)
    _, known = decide_host(a_host(before, available=8 * GIB), had(3 * GIB, 3 * GIB, 60, -GIB), OPTIONS, NOW)
    later = dataclasses.replace(before, actual=OWED, resident=OWED, stats_age=12.0)
    _, after = decide_host(dataclasses.replace(a_host(later, available=8 * GIB), taken_at=NOW + 15), known, OPTIONS,
                           NOW + 15)
    assert after.needs['uuid-owed'].slow == GIB, 'it was 3 GB large, and could use 2 of them'


def test_a_guest_that_gave_back_what_it_took_out_of_its_balloon_has_what_it_has():
    """Its balloon goes back to what it was asked for, which it did not forget: it was taken for as large as ever."""
    again = owed(OWED + 200 * MIB, usable=0)
    state = had(3 * GIB, 3 * GIB, 60, GIB)
    state = dataclasses.replace(state, asked={'uuid-owed': dataclasses.replace(
        state.asked['uuid-owed'], gave_way_at=NOW - 60)})
    assert [target > again.actual for _, target in balloons(again, state=state)] == [True]


@pytest.mark.parametrize('spare', [2 * MIB, 60 * MIB])
def test_what_a_guest_is_stuck_above_its_target_with_is_left_to_it_in_one_piece(spare):
    """Nothing of what is free is taken by that, so it need not wait for it. It was given piece by piece, pass by pass,
    as often as what was free allowed, though nothing of it was ever taken up."""
    stuck = a_guest(actual=GIB, target=GIB // 4, usable=GIB // 4, gives_way=True)
    state = LadderState(asked={stuck.uuid: Asked(target=GIB // 4, at=NOW - 1e4, nearest=GIB,
                                              moved_at=NOW - 1e4)})
    needs = GIB * 3 // 4 + CUSHION - GIB // 4
    assert needs <= relieved(stuck, spare, state) <= needs + MIB


def test_what_a_stuck_guest_keeps_leaves_what_is_free_to_others():
    stuck = a_guest(actual=GIB, target=GIB // 2, usable=GIB // 4, gives_way=True)
    other = a_small_guest(uuid='other', name='other', usable=0, stats_age=1.0)
    state = LadderState(asked={stuck.uuid: Asked(target=GIB // 2, at=NOW - 1e4, nearest=GIB,
                                              moved_at=NOW - 1e4)})
    plan, _ = decide_host(a_host(stuck, other, available=MINIMUM + CUSHION + 2 * MIB), state, OPTIONS, NOW)
    assert {a.guest for a in plan.actions if isinstance(a, SetBalloon)} == {stuck.uuid, other.uuid}


def test_who_was_given_memory_gives_it_for_anothers_reservation_at_once():
    """The guarantee waited for twenty minutes (turn_after) on a clear host, while another kept what it did not use."""
    given = a_guest(actual=4 * GIB, target=4 * GIB, maximum=4 * GIB, usable=3 * GIB, unused=3 * GIB, resident=4 * GIB)
    owed = a_small_guest(uuid='uuid-owed', name='owed', reservation=GIB, usable=GIB // 4, stats_age=1.0)
    state = LadderState(asked={given.uuid: Asked(target=4 * GIB, at=NOW - 300, nearest=4 * GIB, moved_at=NOW - 300,
                                                 change=GIB)})
    plan, _ = decide_host(a_host(given, owed, available=MINIMUM + 8 * MIB), state, OPTIONS, NOW)
    assert plan.level is Level.CLEAR
    assert [a.target < 4 * GIB for a in plan.actions if isinstance(a, SetBalloon) and a.guest == given.uuid] == [True]
    alone, _ = decide_host(a_host(given, available=MINIMUM + 8 * MIB), state, OPTIONS, NOW)
    assert not alone.actions


def test_what_a_guest_that_tells_no_size_any_more_was_given_is_not_free():
    silent = a_guest(actual=None, usable=None, stats_age=None, target=GIB, resident=GIB // 2)
    state = LadderState(asked={silent.uuid: Asked(target=GIB, at=NOW - 100, nearest=GIB // 4, moved_at=NOW - 90,
                                                  change=GIB // 2)})
    starved = a_small_guest(uuid='uuid-starved', name='starved', usable=0, stats_age=1.0)
    for spare, given in ((GIB // 2 + 2 * CUSHION, True), (GIB // 2, False)):
        plan, _ = decide_host(a_host(silent, starved, available=MINIMUM + spare), state, OPTIONS, NOW)
        assert any(a.guest == starved.uuid for a in plan.actions if isinstance(a, SetBalloon)) is given
