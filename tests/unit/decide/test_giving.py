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
