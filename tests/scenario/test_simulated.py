# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The promises on simulated hosts, and that the simulation is one in which they could break."""
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import promises
from benchmarks.policies.mom import Mom
from benchmarks.policies.squeezed import Squeezed
from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.state import Asked, LadderState
from ovc_plugin.model import MIB, SetBalloon
from ovc_plugin.settings import HostSettings
from ovc_plugin.simulate import generate
from ovc_plugin.simulate.guest import Guest
from ovc_plugin.simulate.habit import Demand, Habit
from ovc_plugin.simulate.kernel import Machine
from ovc_plugin.simulate.policy import Nothing, Ours
from ovc_plugin.simulate.world import Restart, World
from tests.builders import GIB, NOW, a_guest, a_host


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_every_promise_holds_in_random_worlds(seed):
    """The smaller version of ``benchmarks/promises``, which names a world that breaks one and runs it alone."""
    assert promises.run(f'test {seed}', guests=12, ticks=300).breaches == []


def test_the_same_seed_is_the_same_world():
    first, second = (promises.run('7', guests=10, ticks=60) for _ in range(2))
    assert first == second and first.sums['passes']


def told(world):
    """Everything that a run ends with."""
    fields = [name for name in Guest.__slots__ if name not in ('habit', '_steady')]
    return world.measures, world.kernel.killed, world.kernel.swap_ins, world.kernel.stall, [
        [getattr(guest, name) for name in fields] for guest in world.guests]


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('policy', [Nothing, Mom, Squeezed, Ours])
def test_passing_over_guests_at_rest_changes_nothing(monkeypatch, seed, policy):
    """The simulator leaves out steps that would change nothing; every figure is the same as with all of them."""
    recipe = generate.recipe(seed, guests=12, ticks=60)
    quick = World(recipe.machine, recipe.habits, policy()).run(recipe.seconds)
    assert any(guest.rests for guest in quick.guests) or not recipe.constant
    monkeypatch.setattr(Guest, 'rests', False)
    assert told(World(recipe.machine, recipe.habits, policy()).run(recipe.seconds)) == told(quick)


@given(st.integers(0, 10**9))
@settings(max_examples=20, deadline=None)
def test_the_parts_of_the_time_lost_sum_up(seed):
    recipe = generate.recipe(seed, guests=8, ticks=40)
    measured = World(recipe.machine, recipe.habits, Squeezed()).run(recipe.seconds).measures
    assert measured.starved + measured.squeezed + measured.paged + measured.missed == pytest.approx(measured.lost)


@given(st.integers(0, 10**9))
@settings(max_examples=20, deadline=None)
def test_no_byte_is_made_or_lost(seed):
    """Whatever happens, no guest holds more than its size or has more away than it has, and swap is not overfull."""
    recipe = generate.recipe(seed, guests=8, ticks=40)
    world = World(recipe.machine, recipe.habits, Ours(recipe.settings))
    while world.time < recipe.seconds:
        world.step()
        assert world.kernel.swap_free >= 0 and world.kernel.available >= 0
        for guest in world.guests:
            assert 0 <= guest.anon + guest.cache <= guest.size <= guest.habit.maximum
            assert min(guest.warm, guest.cold, guest.merged) >= 0
            assert guest.warm + guest.cold + guest.merged <= guest.backed <= guest.habit.maximum


def test_what_is_still_being_taken_up_is_not_given_again():
    growing = a_guest('growing', actual=GIB, maximum=8 * GIB, usable=900 * MIB)
    asked = {growing.uuid: Asked(target=3 * GIB, at=NOW, nearest=GIB, moved_at=NOW)}
    small = a_guest('small', actual=GIB, maximum=8 * GIB, usable=900 * MIB)

    def given(known):
        plan, _ = decide_host(a_host(growing, small, available=4 * GIB), LadderState(asked=known), HostSettings(), NOW)
        return sum(a.target - a.previous for a in plan.actions if isinstance(a, SetBalloon))
    assert given({}) > GIB and given(asked) <= 4 * GIB - 2 * 899 * MIB - 2 * GIB


def a_full_host(swap):
    """Four guests that grow to twice what the host has."""
    habits = [Habit(name=f'g{n}', manner='leaking', maximum=2 * GIB, reservation=GIB // 2, demand=Demand(
        base=GIB // 2, peak=2 * GIB, rise=8 * MIB)) for n in range(4)]
    return World(Machine(total=4 * GIB, reserve=512 * MIB, swap=swap), habits, Nothing()).run(600)


def test_without_swap_the_kernel_kills():
    assert a_full_host(swap=0).kernel.killed


def test_with_every_byte_backed_nobody_is_killed_but_all_are_slow():
    world = a_full_host(swap=6 * GIB)
    assert not world.kernel.killed and world.measures.slowdown > 0.01


def test_equal_guests_save_memory_until_they_write():
    def saved(rewrites):
        habits = [Habit(name=f'g{n}', manner='alike', maximum=2 * GIB, reservation=GIB, demand=Demand(base=GIB),
                        alike=GIB // 2, image='common', rewrites=rewrites) for n in range(4)]
        world = World(Machine(total=16 * GIB, reserve=GIB, swap=0), habits, Ours(HostSettings())).run(120)
        return world.kernel.ksm.saved
    assert saved(0.0) >= 3 * GIB // 2 * 0.9
    assert saved(400.0 * MIB) < saved(0.0) / 2


def sharing(alike: int, seconds: int):
    """Four guests of 1 GiB each that hold so much alike, and ours on them."""
    habits = [Habit(name=f'g{n}', manner='alike', maximum=2 * GIB, reservation=GIB, demand=Demand(base=GIB),
                    alike=alike, image='common') for n in range(4)]
    return World(Machine(total=16 * GIB, reserve=GIB, swap=0), habits, Ours(HostSettings())).run(seconds).kernel


def test_the_scanner_of_a_modelled_host_counts_its_rounds_and_what_they_cost():
    earlier, later = sharing(MIB, 60).ksm, sharing(MIB, 120).ksm
    assert later.scanned > earlier.scanned > 0 and later.full_scans > earlier.full_scans
    assert 0 < later.cpu < 120 and later.dissolved == 0


def test_a_scanner_that_finds_next_to_nothing_is_slowed_down_and_one_that_does_is_not_at_first():
    fast = sharing(GIB // 2, 30).ksm_pages
    assert sharing(MIB, 1200).ksm_pages < fast / 4


def test_what_guests_write_of_merged_pages_is_counted_as_dissolved():
    habits = [Habit(name=f'g{n}', manner='alike', maximum=2 * GIB, reservation=GIB, demand=Demand(base=GIB),
                    alike=GIB // 2, image='common', rewrites=40.0 * MIB) for n in range(4)]
    world = World(Machine(total=16 * GIB, reserve=GIB, swap=0), habits, Ours(HostSettings())).run(120)
    assert world.kernel.ksm.dissolved > 0


@pytest.mark.parametrize('seed', range(6))
def test_a_quick_look_finds_urgent_what_a_full_one_does(monkeypatch, seed):
    recipe = generate.recipe(f'looks {seed}', guests=10, ticks=60)
    quick = World(recipe.machine, recipe.habits, Ours(recipe.settings)).run(recipe.seconds)
    monkeypatch.setattr(Ours, '_no_worse', lambda policy, recent: False)
    assert told(World(recipe.machine, recipe.habits, Ours(recipe.settings)).run(recipe.seconds)) == told(quick)


@pytest.mark.parametrize('speaks', [True, False])
def test_a_guest_that_publishes_its_working_set_gives_the_rest_and_keeps_that(speaks):
    """Self-ballooning: its statistics say less, or nothing at all. A guest that says nothing keeps everything."""
    def size(**changes):
        habit = Habit(name='g', manner='', maximum=2 * GIB, reservation=GIB // 2, demand=Demand(base=GIB // 2),
                      cache=GIB, reuse=0.02, fill=1.0, **changes)
        filler = Habit(name='f', manner='', maximum=2 * GIB, reservation=GIB // 4, demand=Demand(base=2 * GIB),
                       speaks=False)
        machine = Machine(total=3 * GIB + GIB // 2, reserve=GIB // 8, swap=4 * GIB)
        world = World(machine, [habit, filler], Ours(HostSettings(dry_run=False, swap=False))).run(900)
        return world.guests[0].size
    assert size(speaks=False) == 2 * GIB
    working = GIB // 2 + int(GIB * 0.45)
    assert working <= size(speaks=speaks, publishes=True) < 2 * GIB - GIB // 4


def shrunk_by_others(**changes):
    """Two guests of 4 GiB, the first of which others have shrunk or will, on a host with room; what it was asked."""
    fields = dict(manner='', maximum=4 * GIB, reservation=2 * GIB, demand=Demand(base=GIB // 4))
    habits = [Habit(name='small', **fields | changes), Habit(name='other', **fields, starts_at=3 * GIB)]
    asked = []

    def watch(world, reading, plan):
        asked.extend((world.time, a.guest, a.target) for a in plan.actions if isinstance(a, SetBalloon))
    options = HostSettings(dry_run=False)
    world = World(Machine(total=8 * GIB, reserve=GIB, swap=8 * GIB), habits, Ours(options), watch=watch)
    return world, asked


@pytest.mark.parametrize('word', [{}, {'speaks': False}])
def test_a_guest_that_others_shrank_before_is_found_so_and_is_raised_first(word):
    world, asked = shrunk_by_others(starts_at=GIB, **word)
    world.run(60)
    assert asked[0] == (1.0, 'uuid-small', 2 * GIB) and world.guests[0].size == 2 * GIB


def test_a_guest_that_others_shrink_later_is_raised_again_and_once_only():
    world, asked = shrunk_by_others(meddled_at=100.0, meddled_to=GIB, speed=4 * GIB)
    sizes = [world.run(1).guests[0].size for _ in range(300)]
    assert set(sizes[:100]) == {4 * GIB} and min(sizes) == GIB and sizes[-1] == 2 * GIB
    assert [target for _, guest, target in asked if guest == 'uuid-small'] == [2 * GIB]


@pytest.mark.parametrize('changes', [{'answers': 0.0}, {'least': 4 * GIB}, {'demand': Demand(base=4 * GIB)}])
def test_what_others_ask_of_a_guest_that_does_not_shrink_cannot_be_seen_and_is_left_out(changes):
    world, asked = shrunk_by_others(meddled_at=100.0, meddled_to=GIB, **changes)
    assert world.run(300).guests[0].target == 4 * GIB and 'uuid-small' not in {guest for _, guest, _ in asked}


def swapped(*habits, policy=Ours, seconds=600):
    """(seconds, bytes or what failed) of all swapping that was tried on a host of 4 GiB, by guest."""
    found: dict[str, list[tuple[float, object]]] = {}

    def watch(world, reading, plan):
        for _, outcome in world.outcomes:
            found.setdefault(outcome.action.guest, []).append((world.time, outcome.error or outcome.freed))
    world = World(Machine(total=4 * GIB, reserve=512 * MIB, swap=8 * GIB), habits,
                  policy(HostSettings(dry_run=False)), watch=watch).run(seconds)
    assert not world.kernel.killed
    return found, world


def a_silent_guest(name, **changes):
    return Habit(name=name, manner='', maximum=2 * GIB, reservation=GIB // 4, speaks=False, hot=0.0, stirs=0.0,
                 **{'demand': Demand(base=3 * GIB // 2)} | changes)


def test_the_rules_are_told_what_swapping_brought_and_ask_in_vain_ever_less():
    class Forgetful(Ours):
        def settled(self, outcomes, now):
            pass
    grows = Demand(base=3 * GIB // 2, peak=2 * GIB, rise=MIB)
    guests = [a_silent_guest('locked', locked=True), a_silent_guest('gives', demand=grows), a_silent_guest('other'),
              a_silent_guest('lost', reachable=False)]
    (told, world), (untold, _) = swapped(*guests), swapped(*guests, policy=Forgetful)
    assert {freed for _, freed in told['uuid-locked']} == {0} and world.guests[0].swapped == 0
    assert {freed for _, freed in told['uuid-lost']} == {'the guest cannot be reached'}
    assert sum(freed for _, freed in told['uuid-gives'] if freed) > GIB // 4
    assert len(told['uuid-locked']) < len(untold['uuid-locked']) / 2


def test_a_guest_has_no_more_in_swap_than_its_limit_lets_it():
    found, world = swapped(a_silent_guest('limited', swap_limit=100 * MIB), a_silent_guest('gives'),
                           a_silent_guest('other'))
    limited = found['uuid-limited']
    assert 95 * MIB < world.guests[0].swapped <= 100 * MIB and sum(freed or 0 for _, freed in limited) <= 101 * MIB
    assert max(when for when, _ in limited) < 120


def test_a_guest_of_which_nothing_moves_at_times_is_asked_again_when_it_does():
    grows = Demand(base=GIB, peak=2 * GIB, rise=MIB / 2)
    found, _ = swapped(a_silent_guest('at times', swaps=0.5, demand=grows), a_silent_guest('growing', demand=grows),
                       a_silent_guest('other'), seconds=1800)
    freed = [freed for _, freed in found['uuid-at times']]
    assert 0 in freed and any(freed[freed.index(0):])


@pytest.mark.parametrize('seed', range(60))
def test_what_swap_cannot_move_of_a_random_world_is_no_more_than_half_of_its_memory(seed):
    recipe = generate.recipe(seed)
    held = [h for h in recipe.habits if h.locked or h.limited or h.swaps < 1.0]
    if any(not h.untouchable for h in held):
        assert sum(h.maximum + h.overhead for h in held) <= (recipe.machine.total - recipe.machine.reserve) / 2


@pytest.mark.parametrize('kept', [True, False])
def test_a_controller_that_is_started_anew_comes_back_with_what_it_kept_or_with_nothing(kept):
    habits = [Habit(name=f'g{n}', manner='ideal', maximum=4 * GIB, reservation=GIB, demand=Demand(base=GIB),
                    cache=3 * GIB) for n in range(4)]
    began, passes = [], []
    world = World(Machine(total=12 * GIB, reserve=GIB // 2, swap=16 * GIB), habits, Ours(HostSettings(dry_run=False)),
                  watch=lambda world, reading, plan: passes.append((world.time, reading.snapshot)),
                  restarts=[Restart(at=15.5, seconds=10.0, kept=kept)], began=began.append)
    world.run(15)
    before = world.policy.state
    assert before.asked and before.level
    world.run(1)
    assert [one.kept for one in began] == [kept] and not world.kernel.orders
    assert world.policy.state.asked == (before.asked if kept else {}) and world.policy.state.watching
    world.run(12)
    (time, first), = [one for one in passes if 16 <= one[0] < 28][:1]
    assert time == 26 and first.swap_in is None and first.evaporation is None
