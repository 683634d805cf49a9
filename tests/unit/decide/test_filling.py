# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest fills of what it was just given is no shortage; what anybody else takes meanwhile is one."""
import dataclasses

import pytest

from ovc_plugin.decide import host as ladder
from ovc_plugin.decide import pressure, why
from ovc_plugin.decide import state as states
from ovc_plugin.decide.state import Asked, Filled, Filling, Gift, LadderState
from ovc_plugin.model import MIB, Level, ReclaimGuest, SetBalloon
from ovc_plugin.samples import Recent
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings(dry_run=False, ksm='leave')
HELD = 2 * GIB


def just_given(gift, ago=0.0, **changes):
    """A guest of 4 GiB, half of which is backed, is given so much."""
    asked = Asked(target=4 * GIB + gift, at=NOW - ago, nearest=4 * GIB, moved_at=NOW - ago, change=gift)
    filling = Filling(gifts={'uuid-given': Gift(amount=gift, unfilled=gift, backed=HELD)} if gift else {}, at=NOW - 1)
    return LadderState(watching=True, asked={'uuid-given': dataclasses.replace(asked, **changes)}, filling=filling)


def the_host(now, available, held, growth, actual=8 * GIB):
    given = a_guest('given', maximum=16 * GIB, actual=actual, target=actual, resident=held, usable=None, stats_age=None)
    idle = a_guest('idle', maximum=8 * GIB, actual=8 * GIB, resident=8 * GIB, usable=5 * GIB, stats_age=1.0)
    return a_host(given, idle, total=64 * GIB, swap_total=64 * GIB, swap_free=64 * GIB, available=available,
                  growth=float(growth), taken_at=now)


def passes(rate, gift, available, shock=0, seconds=8.0):
    """(seconds, level, actions) of the passes that looks every 0.2 s bring about, while the gift is filled at a rate
    and others take memory at another (bytes a second)."""
    state, found = just_given(gift), []

    def at(seconds):
        filled = int(min(gift, max(0.0, seconds) * rate))
        return filled, int(available - filled - max(0.0, seconds) * shock)
    last, snapshot = NOW, the_host(NOW, available, HELD, 0, 4 * GIB + gift)
    for step in range(1, int(seconds * 5)):
        after = step * 0.2
        (filled, left), (_, before) = at(after), at(after - 1.0)
        recent = Recent(available=left, growth=float(before - left), stall=None)
        if pressure.urgent(recent, snapshot, state.level, NOW + after - last, OPTIONS) or (
                NOW + after - last >= OPTIONS.tick):
            last = NOW + after
            snapshot = the_host(last, left, HELD + filled, before - left, 4 * GIB + gift)
            plan, state = ladder.decide_host(snapshot, state, OPTIONS, last)
            found.append((after, plan.level, plan.actions))
    return found


@pytest.mark.parametrize('rate', [GIB // 2, GIB, 3 * GIB // 2, 4 * GIB])
def test_a_guest_that_fills_what_it_was_given_brings_nobody_else_into_need(rate):
    """However fast: looks bring the passes closer together than the second of which growth tells."""
    found = passes(rate, 2 * GIB, 5 * GIB)
    assert {level for _, level, _ in found} == {Level.CLEAR}
    assert not [a for _, _, actions in found for a in actions if isinstance(a, ReclaimGuest) or a.target < a.previous]


@pytest.mark.parametrize('rate', [0, GIB // 4, GIB // 2, 4 * GIB])
def test_it_hides_nobody_elses_shock(rate):
    """A gift of 1 GiB hid a shock of 200 MB/s for ten seconds: nothing was done until 540 MB were left."""
    shock, left = 300 * MIB, 4 * GIB
    found = passes(rate, GIB, left, shock)
    raised = next(seconds for seconds, level, _ in found if level > Level.CLEAR)
    # By the shock alone: SOFT is where memory is used up in two ticks.
    due = next(step / 10 for step in range(200) if left - min(GIB, step / 10 * rate) - step / 10 * shock
               < 2 * OPTIONS.tick * shock)
    assert raised <= max(due, 0.6) + 1.6


@pytest.mark.parametrize('actual', [8 * GIB + 8 * MIB, 8 * GIB - 8 * MIB])
def test_a_gift_of_long_ago_that_was_never_filled_hides_nothing_when_the_guests_size_moves(actual):
    state = just_given(4 * GIB, ago=9000.0, nearest=8 * GIB)
    host = the_host(NOW, 4 * GIB, HELD, 3 * GIB // 2, actual)
    plan, _ = ladder.decide_host(host, state, OPTIONS, NOW)
    assert plan.level is Level.HARD


def test_a_guest_that_grows_out_of_its_balloon_has_not_been_given_that():
    state = just_given(0, nearest=4 * GIB, change=-GIB)
    plan, _ = ladder.decide_host(the_host(NOW, 2 * GIB, HELD, 600 * MIB, 6 * GIB), state, OPTIONS, NOW)
    assert plan.level is Level.HARD


def test_the_same_look_is_judged_alike_again():
    """As "ovc explain" does, with what is remembered after the pass."""
    host = the_host(NOW, 3 * GIB, HELD + GIB, GIB)
    plan, after = ladder.decide_host(host, just_given(2 * GIB), OPTIONS, NOW)
    assert plan.level is Level.CLEAR and after.filling.recent == (Filled(at=NOW, amount=GIB, seconds=1.0),)
    told = why.explain(host, after, OPTIONS, NOW + 3, 'given', ladder.decide_host, {})
    assert (told['level'], told['reason']) == (plan.level.name, plan.reason)


def test_what_was_given_is_kept_over_a_restart_and_goes_with_its_guest_or_its_failure():
    host = the_host(NOW, 20 * GIB, HELD, 0, 8 * GIB)
    _, state = ladder.decide_host(host, just_given(4 * GIB), OPTIONS, NOW)
    assert states.from_dict(states.to_dict(state)).filling.gifts == state.filling.gifts != {}
    assert states.without(state, ['uuid-given']).filling.gifts == {}
    _, gone = ladder.decide_host(dataclasses.replace(host, guests=host.guests[1:]), state, OPTIONS, NOW + 5)
    assert gone.filling.gifts == {}


def test_a_guest_that_is_given_memory_is_remembered_with_what_its_host_backs():
    short = a_guest('given', reservation=GIB, actual=GIB // 2, target=GIB // 2, resident=GIB // 2, swapped=MIB)
    plan, state = ladder.decide_host(a_host(short), LadderState(), OPTIONS, NOW)
    given = next(a for a in plan.actions if isinstance(a, SetBalloon))
    more = given.target - given.previous
    assert state.filling.gifts == {short.uuid: Gift(amount=more, unfilled=more, backed=GIB // 2 + MIB)}
