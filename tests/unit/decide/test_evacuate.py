# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whom to ask away, and when: each test is a shortage that lasts, or one that does not."""
from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovc_plugin.decide import evacuate, state
from ovc_plugin.decide.departing import Departing, Setback, from_dict, to_dict
from ovc_plugin.decide.host import decide_host
from ovc_plugin.model import MIB, AskMigration, Departure, Level, Outcome, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

SETTINGS = HostSettings(migrate=True)
TICK = 5.0


def a_mover(name='g1', **changes):
    """A guest of 1 GiB that can go, writes a little, and has a quarter of it in swap."""
    return a_guest(name, **dict(can_migrate=True, dirty_rate=10.0 * MIB, resident=GIB * 3 // 4, swapped=GIB // 4,
                                refaults=0.0) | changes)


def thrashing(*guests, rate=8.0 * MIB, **changes):
    """A host with enough available, whose guests keep reading back what was swapped."""
    return a_host(*guests, **dict(swap_in=rate, departures=()) | changes)


class Watched:
    """A host looked at every few seconds."""

    def __init__(self, settings=SETTINGS, departing=None, level=Level.SOFT):
        self.settings, self.level, self.now = settings, level, NOW
        self.departing = departing or Departing()

    def look(self, snapshot, seconds=TICK):
        self.now += seconds
        self.departing = evacuate.follow(snapshot, self.level, self.departing, self.settings, self.now)
        action = evacuate.evacuate(snapshot, self.level, self.departing, self.settings, self.now)
        if action:
            self.departing = evacuate.asked(self.departing, action, self.now)
        return action

    def run(self, snapshot, seconds):
        """Look for so long; the first request and after how many seconds it came."""
        began = self.now
        while self.now - began < seconds:
            if action := self.look(snapshot):
                return action, self.now - began
        return None, None


# -- when --------------------------------------------------------------------------------------------------------

def test_a_guest_is_asked_away_once_the_shortage_has_lasted():
    action, after = Watched().run(thrashing(a_mover()), 1000)
    assert action.guest == 'uuid-g1' and 600 <= after < 660
    assert action.relief == GIB and GIB < action.cost < 1.2 * GIB
    assert 's >= 600 s' in action.reason and 'MB/s read back from swap' in action.reason and 'g1' in action.reason


def test_a_burst_is_carried_by_the_others():
    watched = Watched()
    assert watched.run(thrashing(a_mover()), 540) == (None, None)
    assert watched.run(thrashing(a_mover(), rate=0.0), 600) == (None, None)
    assert watched.departing.short_since is None


def test_bursts_with_calm_between_them_are_no_shortage_that_lasts():
    watched = Watched()
    for _ in range(6):
        assert watched.run(thrashing(a_mover()), 300) == (None, None)
        assert watched.run(thrashing(a_mover(), rate=0.0), 240) == (None, None)


def test_a_moment_of_calm_does_not_end_a_shortage():
    watched = Watched()
    watched.run(thrashing(a_mover()), 400)
    watched.run(thrashing(a_mover(), rate=0.0), 20)
    action, _ = watched.run(thrashing(a_mover()), 300)
    assert action


def test_nobody_goes_in_a_moment_of_calm():
    """A guest was asked back by the host that it had come to: 20 s of HARD on its arrival, and 40 s of CLEAR since."""
    watched = Watched(dataclasses.replace(SETTINGS, migrate_after=60.0), level=Level.HARD)
    host = a_host(a_mover(), departures=(), swap_in=0.4 * MIB)
    watched.run(host, 20)
    watched.level = Level.CLEAR
    assert watched.run(host, 55) == (None, None)
    watched.level = Level.HARD
    assert watched.look(host), 'the shortage goes on'


def test_level_hard_is_a_shortage_without_any_swap():
    action, after = Watched(level=Level.HARD).run(a_host(a_mover(), departures=(), swap_in=0.0), 1000)
    assert action and after >= 600


def test_at_critical_one_waits_a_fifth_of_it():
    _, after = Watched(level=Level.CRITICAL).run(a_host(a_mover(), departures=()), 1000)
    assert 120 <= after < 130


def test_a_moment_at_critical_is_no_reason_to_wait_less():
    watched = Watched()
    watched.run(thrashing(a_mover()), 200)
    watched.level = Level.CRITICAL
    assert watched.run(thrashing(a_mover()), 100) == (None, None)
    watched.level = Level.HARD
    _, after = watched.run(thrashing(a_mover()), 1000)
    assert after > 250


def test_guests_own_refaults_tell_where_the_host_does_not():
    action, _ = Watched().run(a_host(a_mover(refaults=2000.0), departures=(), swap_in=None), 1000)
    assert action


def test_a_shortage_that_gets_better_is_waited_for():
    watched = Watched()
    watched.run(thrashing(a_mover(), rate=50.0 * MIB), 500)
    assert watched.run(thrashing(a_mover(), rate=10.0 * MIB), 300) == (None, None)


def test_a_shortage_that_ends_before_the_guest_would_have_gone_is_waited_for():
    soon = a_host(a_mover(), departures=(), available=100 * MIB, growth=-500.0 * MIB)
    assert Watched(level=Level.HARD).run(soon, 1000) == (None, None)
    late = dataclasses.replace(soon, growth=-1.0 * MIB)
    assert Watched(level=Level.HARD).run(late, 1000)[0]


def test_nobody_is_asked_where_it_is_off_or_there_is_nobody_to_ask():
    assert Watched(HostSettings(migrate=False)).run(thrashing(a_mover()), 2000) == (None, None)
    assert Watched().run(thrashing(a_mover(), departures=None), 2000) == (None, None)


def test_a_clock_that_was_set_back_asks_nobody_and_is_got_over():
    watched = Watched()
    watched.run(thrashing(a_mover()), 300)
    watched.now -= 86400
    assert watched.look(thrashing(a_mover())) is None
    action, after = watched.run(thrashing(a_mover()), 1500)
    assert action and after < 1300


def test_a_clock_that_was_set_back_prolongs_no_rest_and_no_setback():
    """It may have been years ahead: the pause after a migration must not last as long."""
    ahead = NOW + 10 * 365 * 86400
    rested = Watched(departing=Departing(here_since={}, rest_until=ahead, setbacks={
        'uuid-g1': Setback(count=1, until=ahead)}))
    assert rested.run(thrashing(a_mover()), SETTINGS.migrate_cooldown)[0] is None
    action, _ = rested.run(thrashing(a_mover()), 2 * SETTINGS.migrate_cooldown)
    assert action.guest == 'uuid-g1'


# -- who ---------------------------------------------------------------------------------------------------------

def chosen(*guests, level=Level.SOFT, **changes):
    action, _ = Watched(level=level).run(thrashing(*guests, **changes), 2000)
    return action and action.guest.removeprefix('uuid-')


def test_of_two_alike_the_one_that_writes_less_goes():
    assert chosen(a_mover('busy', dirty_rate=80.0 * MIB), a_mover('calm', dirty_rate=1.0 * MIB)) == 'calm'


def test_a_guest_that_writes_faster_than_the_network_stays():
    assert chosen(a_mover(dirty_rate=200.0 * MIB)) is None


def test_a_guest_that_shares_much_stays_with_those_it_shares_with():
    assert chosen(a_mover('alike', saved=GIB // 2), a_mover('single', saved=0)) == 'single'


def test_not_more_is_moved_than_the_host_lacks():
    small, large = a_mover('small', resident=GIB, swapped=0), a_mover('large', maximum=64 * GIB, resident=64 * GIB,
                                                                      swapped=0)
    hot = a_mover('hot', can_migrate=False, refaults=500.0, swapped=GIB)
    assert chosen(small, large, hot) == 'small'


def test_of_two_too_small_ones_the_larger_goes():
    hot = a_mover('hot', can_migrate=False, refaults=500.0, swapped=8 * GIB)
    assert chosen(a_mover('small', resident=GIB // 4), a_mover('large', resident=2 * GIB), hot) == 'large'


@pytest.mark.parametrize('why', [dict(can_migrate=False), dict(managed=False), dict(running=False),
                                 dict(resident=None), dict(resident=0, swapped=0)])
def test_who_cannot_go_or_would_free_nothing_stays(why):
    assert chosen(a_mover('stays', **why)) is None
    assert chosen(a_mover('stays', **why), a_mover('goes')) == 'goes'


def test_a_guest_whose_migration_takes_longer_than_the_shortage_has_lasted_stays_until_it_has():
    huge = a_mover('huge', maximum=128 * GIB, resident=128 * GIB, swapped=0, dirty_rate=0.0)
    _, after = Watched().run(thrashing(huge), 3000)
    assert after > 128 * GIB / SETTINGS.migrate_bandwidth > 1000


def test_where_nobody_could_measure_a_guest_counts_as_writing_a_good_deal():
    known, unknown = a_mover('known', dirty_rate=1.0 * MIB), a_mover('unknown', dirty_rate=None)
    assert chosen(known, unknown) == 'known'
    assert chosen(unknown) == 'unknown'


def test_who_has_just_come_stays_lest_two_hosts_pass_it_to_and_fro():
    watched = Watched(HostSettings(migrate=True, migrate_cooldown=3000.0))
    watched.run(thrashing(a_mover('old', can_migrate=False)), 60)
    both = thrashing(a_mover('old', can_migrate=False), a_mover('new'))
    assert watched.run(both, 2900) == (None, None)
    assert watched.run(both, 300)[0].guest == 'uuid-new'


def test_dirty_rates_are_measured_only_of_those_who_may_go_soon():
    watched, host = Watched(), thrashing(a_mover(), a_mover('stays', can_migrate=False))
    watched.run(host, 50)
    assert watched.departing.measure == ()
    watched.run(host, 60)
    assert watched.departing.measure == ('uuid-g1',)
    assert watched.run(host, 600)[0] and watched.departing.measure == ()


# -- what becomes of it ------------------------------------------------------------------------------------------

def test_one_at_a_time_and_then_the_host_rests():
    watched, both = Watched(), thrashing(a_mover('a'), a_mover('b'))
    first, _ = watched.run(both, 1000)
    on_its_way = dataclasses.replace(both, departures=(Departure(guest=first.guest),))
    assert watched.run(on_its_way, 1500) == (None, None)
    left = thrashing(*(g for g in both.guests if g.uuid != first.guest))
    second, after = watched.run(left, 2000)
    assert second and second.guest != first.guest and after >= 600


def test_the_guest_on_its_way_is_neither_ballooned_nor_swapped():
    snapshot = a_host(a_mover('goes', usable=GIB // 2), available=300 * MIB, departures=())
    before = state.LadderState(departing=evacuate.asked(
        Departing(), AskMigration(guest='uuid-goes', cost=1, relief=1, reason=''), NOW))
    for available, level in ((500 * MIB, Level.SOFT), (200 * MIB, Level.HARD)):
        plan, _ = decide_host(dataclasses.replace(snapshot, available=available), before, SETTINGS, NOW + 5)
        assert plan.level is level and not [a for a in plan.actions if getattr(a, 'guest', None)]
    plan, _ = decide_host(dataclasses.replace(snapshot, available=0), before, SETTINGS, NOW + 5)
    assert plan.level is Level.CRITICAL and not [a for a in plan.actions if isinstance(a, SetBalloon)]


def fail(watched, snapshot, guest):
    """Nova says that the guest stays."""
    watched.look(dataclasses.replace(snapshot, departures=(Departure(guest=guest, ended=True, error='no host'),)))


def test_a_guest_that_could_not_go_is_left_alone_twice_as_long_each_time():
    watched, host = Watched(), thrashing(a_mover())
    waits = []
    for _ in range(3):
        action, after = watched.run(host, 20000)
        waits.append(after)
        fail(watched, host, action.guest)
    assert waits[1] == pytest.approx(1200, abs=15) and waits[2] == pytest.approx(2400, abs=15)


def test_after_a_failure_another_guest_has_its_turn():
    watched, host = Watched(), thrashing(a_mover('a'), a_mover('b'))
    first, _ = watched.run(host, 1000)
    fail(watched, host, first.guest)
    second, after = watched.run(host, 2000)
    assert second.guest != first.guest and after >= 600 - TICK


def test_a_request_of_which_nothing_is_heard_any_more_is_given_up():
    watched, host = Watched(), thrashing(a_mover())
    action, _ = watched.run(host, 1000)
    for _ in range(800):
        watched.look(host)
    assert watched.departing.awaited is None and watched.departing.setbacks[action.guest].count == 1


@pytest.mark.parametrize('outcome, setbacks', [(dict(error='ConnectionError: down'), 1), (dict(dry=True), 0)])
def test_who_could_not_be_asked_is_not_awaited(outcome, setbacks):
    watched, host = Watched(), thrashing(a_mover())
    action, _ = watched.run(host, 1000)
    after = evacuate.settle(state.LadderState(departing=watched.departing),
                            [Outcome(action=action, done=False, **outcome)], SETTINGS, watched.now)
    assert after.departing.awaited is None and len(after.departing.setbacks) == setbacks
    watched.departing = after.departing
    assert watched.run(host, 550) == (None, None)


def test_a_restart_does_not_forget_whom_the_cloud_moves():
    watched, host = Watched(), thrashing(a_mover('a'), a_mover('b'))
    first, _ = watched.run(host, 1000)
    fail(watched, host, first.guest)
    second, _ = watched.run(host, 2000)
    again = from_dict(to_dict(watched.departing))
    assert again.guest == second.guest and again.setbacks == watched.departing.setbacks
    assert from_dict(None) == from_dict({}) == Departing()
    assert state.from_dict({'level': 'CLEAR', 'asked': {}}).departing == Departing()
    assert state.from_dict(state.to_dict(state.LadderState(departing=again))).departing == again


# -- the formula -------------------------------------------------------------------------------------------------

def test_copied_is_the_sum_over_the_rounds():
    memory, bandwidth, dirty = 1000.0 * MIB, 100.0 * MIB, 50.0 * MIB
    rounds = [memory * 0.5 ** n for n in range(6)]  # 1000 + 500 + … until the rest fits in half a second: 50 MB
    assert evacuate.copied(int(memory), dirty, bandwidth) == pytest.approx(sum(rounds))


@given(memory=st.integers(0, 1 << 42), dirty=st.floats(0, 1e10), bandwidth=st.floats(1e6, 1e10))
def test_copying_never_sends_less_than_the_guest_has_nor_for_ever(memory, dirty, bandwidth):
    sent = evacuate.copied(memory, dirty, bandwidth)
    assert sent is None or memory <= sent * (1 + 1e-9) <= 32 * (memory + 1)
    if dirty >= bandwidth and memory > bandwidth:
        assert sent is None
