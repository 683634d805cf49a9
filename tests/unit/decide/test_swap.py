# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What swapping learns from what became of it: of whom nothing could be moved is not counted on."""

import pytest

from ovc_plugin import codec
from ovc_plugin.decide import state as states
from ovc_plugin.decide import swap
from ovc_plugin.decide.host import decide_host, reclaimable
from ovc_plugin.decide.state import LadderState, Probe
from ovc_plugin.model import MIB, Level, Outcome, ReclaimGuest
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings(ksm='leave', dry_run=False)
MUTE = dict(can_balloon=False, usable=None, stats_age=None)  # else the balloon would be asked
PINNED, REST = 'uuid-pinned', OPTIONS.stuck_after


def outcome(freed=0, error=None, dry=False):
    return Outcome(action=ReclaimGuest(guest=PINNED, amount=GIB, floor=0, reason=''), done=error is None and not dry,
                   error=error, freed=freed, dry=dry)


def after(*outcomes, state=None, now=NOW):
    state = state or LadderState()
    for one in outcomes:
        state = swap.settle(state, [one], OPTIONS, now)
    return state


def swapped(state, now=NOW, mb=560, level=Level.SOFT, others=4):
    """Bytes asked of each guest of a host where one does not answer and the others have nothing unused."""
    guests = [a_guest('pinned', **MUTE), *(a_guest(f'g{n}', usable=10 * MIB) for n in range(others))]
    plan, state = decide_host(a_host(*guests, available=mb * MIB, taken_at=now), state, OPTIONS, now)
    assert plan.level is level
    return {a.guest: a.amount for a in plan.actions if isinstance(a, ReclaimGuest)}, state


def test_of_whom_nothing_could_be_moved_twice_is_not_counted_on_and_others_give():
    once, _ = swapped(after(outcome()))
    assert set(once) == {PINNED}, 'once may be chance'
    for missed in ([outcome()] * 2, [outcome(None, 'OSError: no')] * 2):
        amounts, _ = swapped(after(*missed))
        assert PINNED not in amounts and len(amounts) == 4


@pytest.mark.parametrize('nothing', [outcome(dry=True), outcome(None), outcome(5)])
def test_what_was_not_tried_or_moved_something_is_no_miss(nothing):
    assert after(nothing, nothing) == LadderState()


def test_from_hard_on_it_is_tried_last():
    state = after(outcome(), outcome())
    enough, _ = swapped(state, mb=250, level=Level.HARD, others=80)
    assert PINNED not in enough and len(enough) > 4
    short, _ = swapped(state, mb=250, level=Level.HARD)
    assert list(short)[-1] == PINNED
    alone, _ = swapped(state, mb=100, level=Level.CRITICAL, others=0)
    assert list(alone) == [PINNED], 'the alternative is that the kernel picks a page, or a guest, itself'


def test_it_earns_no_credit_where_it_is_tried():
    def credit(state):
        seen = []

        class Sees:
            name = 'sees'

            def plan(self, situation):
                seen.append(situation)
                return swap.reclaim(situation)
        decide_host(a_host(a_guest('pinned', **MUTE), available=250 * MIB), state, OPTIONS, NOW, [Sees()])
        part = swap.reclaim(seen[0])
        assert part.actions
        return part.credit
    assert credit(LadderState()) > 0 == credit(after(outcome(), outcome()))


def test_rests_grow_to_an_end_and_what_is_moved_ends_them():
    state, now, rests = LadderState(), NOW, []
    for _ in range(9):
        state = after(outcome(), state=state, now=now)
        rests.append(state.probes[PINNED].until - now)
        now = state.probes[PINNED].until
        amounts, state = swapped(state, now)
        assert PINNED in amounts, 'it is tried again'
    assert rests == [REST * 2 ** n for n in (0, 1, 2, 3, 4, 4, 4, 4, 4)]
    state = after(outcome(), state=state, now=now)
    assert PINNED not in swapped(state, now)[0]
    assert PINNED in swapped(after(outcome(MIB), state=state, now=now), now)[0]


def test_misses_are_forgotten_after_a_while_and_a_clock_that_was_set_back_prolongs_nothing():
    missed, host = after(outcome(), outcome()).probes, a_host(a_guest('pinned'))
    for later, rests in ((2 * REST - 1, True), (2 * REST, False), (4 * REST, False), (-1e5, True)):
        probe = swap.follow(host, missed, OPTIONS, NOW + later).get(PINNED)
        assert swap.resting(probe, NOW + later) is rests
        assert probe is None or not probe.misses or probe.until <= NOW + later + 2 * REST
    forgotten = swap.follow(host, missed, OPTIONS, NOW + 4 * REST)
    assert not any(probe.misses for probe in forgotten.values())
    assert swap.follow(host, forgotten, OPTIONS, NOW + 5 * REST) == {}, 'the host can be quiet again'
    assert swap.follow(a_host(a_guest('other')), missed, OPTIONS, NOW) == {}


def test_who_reads_back_and_could_not_be_moved_is_both():
    host = a_host(a_guest('pinned', refaults=10 * OPTIONS.refault_limit))
    probe = swap.follow(host, after(outcome(), outcome()).probes, OPTIONS, NOW)[PINNED]
    assert probe.misses == 2 and probe.step < OPTIONS.swap_step


def test_nothing_is_promised_of_a_guest_that_rests():
    host, state = a_host(a_guest('pinned', usable=0)), after(outcome(), outcome())
    assert reclaimable(host, OPTIONS) > 0
    assert reclaimable(host, OPTIONS, probes=state.probes) == reclaimable(host, OPTIONS, state) == 0


def test_what_was_learned_is_kept_over_a_restart_and_in_the_record():
    state = after(outcome(), outcome())
    assert states.from_dict(states.to_dict(state)).probes == state.probes
    assert codec.read(LadderState, codec.write(LadderState, state)) == state
    recorded = codec.write(LadderState, LadderState(probes={PINNED: Probe(step=4, at=5.0)}))
    assert recorded['probes'][PINNED] == {'step': 4, 'at': 5.0}, 'as an earlier release writes and reads it'


def a_probe(**changes):
    return {PINNED: Probe(**dict(step=8 * MIB, at=NOW) | changes)}


def step_after(seconds, probes, **changes):
    found = swap.follow(a_host(a_guest('pinned', **changes)), probes, OPTIONS, NOW + seconds)
    return found[PINNED].step if PINNED in found else OPTIONS.swap_step


def test_a_step_grows_as_it_is_borne_and_not_by_waiting():
    """It grew back to a whole one while nothing was asked of the guest. Then each lull was followed by a whole step, of
    which all was read back in a moment."""
    borne = swap.settle(LadderState(probes=a_probe()), [outcome(4 * MIB)], OPTIONS, NOW).probes
    assert step_after(OPTIONS.tick, borne) == 10 * MIB
    assert step_after(OPTIONS.tick - 1, borne) == 8 * MIB
    too_little = swap.settle(LadderState(probes=a_probe()), [outcome(3 * MIB)], OPTIONS, NOW).probes
    for probes in (a_probe(), too_little):
        assert step_after(OPTIONS.tick, probes) == step_after(500, probes) == 8 * MIB
        assert step_after(601, probes) == 10 * MIB, 'what the guest does may be another thing by then'
    again = swap.follow(a_host(a_guest('pinned')), borne, OPTIONS, NOW + OPTIONS.tick)
    assert step_after(2 * OPTIONS.tick, again) == 10 * MIB, 'the larger one was not tried yet'


def test_a_step_is_kept_where_the_clock_was_set_back():
    for seconds in (-1e5, -1e5 + 599):
        found = swap.follow(a_host(a_guest('pinned')), a_probe(), OPTIONS, NOW + seconds)
        assert found[PINNED].step == 8 * MIB and found[PINNED].at <= NOW + seconds
