# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""No check of a promise that cannot fail: each rule is broken on purpose, a little, and the check must see it.

Two ways to break a rule: the rules are lied to (a guest's silence is hidden from them, say), or their plan is bent.
Either way the rules stay as they are, and the worlds are the ones in which the promises are checked.
"""
from __future__ import annotations

import dataclasses

import pytest

from benchmarks import promises
from ovc_plugin.model import MIB, Level, ReclaimGuest, SetBalloon
from ovc_plugin.simulate import generate
from ovc_plugin.simulate.dues import FRUITLESS, OWED
from ovc_plugin.simulate.habit import Demand
from ovc_plugin.simulate.policy import Ours
from ovc_plugin.simulate.promises import NAMES, Watcher
from ovc_plugin.simulate.world import World

WORLDS = 300  # a mutant is looked for in so many, which few need; the rules as they are must stand the first 60


def broken(policy, open_door=False, worlds=range(WORLDS), wanted=None):
    """The promises that break in the first worlds, up to the one in which the wanted one does."""
    found = {}
    for number in worlds:
        recipe = generate.recipe(f'mutants {number}', guests=10, ticks=120)
        watcher = Watcher(recipe.settings, recipe.seconds * promises.SETTLED if recipe.constant else None)
        # Slow balloons: what was asked is still under way at the next pass.
        habits = tuple(dataclasses.replace(h, speed=16 * MIB) for h in recipe.habits)
        world = World(recipe.machine, habits, policy(recipe.settings), watch=watcher.watch,
                      door=(lambda *_: True) if open_door else watcher.door).run(recipe.seconds)
        watcher.finish(world)
        found |= watcher.breaches
        if wanted in found:
            break
    return found


class Lied(Ours):
    """Sees every guest through ``lie``."""

    lie = None

    def decide(self, reading, now):
        guests = tuple(dataclasses.replace(g, **type(self).lie(g)) for g in reading.snapshot.guests)
        return super().decide(dataclasses.replace(reading, snapshot=dataclasses.replace(
            reading.snapshot, guests=guests)), now)


class Bent(Ours):
    """Each action of a plan goes through ``bend``."""

    bend = None

    def decide(self, reading, now):
        plan, known = super().decide(reading, now), {g.uuid: g for g in reading.snapshot.guests}
        actions = tuple(type(self).bend(a, known.get(getattr(a, 'guest', '')), plan) for a in plan.actions)
        return dataclasses.replace(plan, actions=tuple(a for a in actions if a is not None))


def lied(lie):
    return type('Lied', (Lied,), {'lie': staticmethod(lie)})


def bent(bend):
    return type('Bent', (Bent,), {'bend': staticmethod(bend)})


def shrinks(action):
    return isinstance(action, SetBalloon) and action.target < action.previous


def below_reservation(action, guest, plan):
    return dataclasses.replace(action, target=guest.reservation - MIB) if shrinks(action) else action


def cushion_forgotten(action, guest, plan):
    if not shrinks(action) or plan.level >= Level.HARD:
        return action
    return dataclasses.replace(action, target=max(guest.reservation, guest.actual - guest.usable))


def all_at_once(action, guest, plan):
    grows = isinstance(action, SetBalloon) and action.target > action.previous
    return dataclasses.replace(action, target=guest.maximum) if grows else action


def swapped_too_far(action, guest, plan):
    if not isinstance(action, ReclaimGuest):
        return action
    return dataclasses.replace(action, amount=guest.resident - guest.reservation + MIB, floor=0)


class Optimist(Ours):
    """Hands out what it expects to be free soon."""

    def decide(self, reading, now):
        soon = dataclasses.replace(reading.snapshot, available=2 * reading.snapshot.available)
        return super().decide(dataclasses.replace(reading, snapshot=soon), now)


class Restless(Ours):
    """Asks one guest for a little more, then for a little less."""

    def decide(self, reading, now):
        plan = super().decide(reading, now)
        one = next((g for g in reading.snapshot.guests if g.can_balloon and g.actual == g.maximum), None)
        if one is None or plan.actions:
            return plan
        up = SetBalloon(guest=one.uuid, target=one.maximum, previous=one.maximum - MIB, reason='restless')
        return dataclasses.replace(plan, actions=(up if now % 2 else dataclasses.replace(up, target=up.previous),))


class Startled(Ours):
    """Asks everybody for twice as much while somebody makes no sense."""

    def decide(self, reading, now):
        plan = super().decide(reading, now)
        if all(g.usable is not None for g in reading.snapshot.guests):
            return plan
        return dataclasses.replace(plan, actions=tuple(
            dataclasses.replace(a, target=2 * a.target - a.previous) if shrinks(a) else a for a in plan.actions))


class Cowed(Ours):
    """Hands nothing back on a clear host while somebody makes no sense."""

    def decide(self, reading, now):
        plan = super().decide(reading, now)
        silent = any(g.can_balloon and (g.actual is None or g.usable is None) for g in reading.snapshot.guests)
        return dataclasses.replace(plan, actions=()) if silent and plan.level is Level.CLEAR else plan


def configured(**changes):
    """Rules that go by other settings than they were given."""
    return lambda settings: Ours(dataclasses.replace(settings, **changes))


class Blithe(Ours):
    """Calls CLEAR what is SOFT."""

    def decide(self, reading, now):
        plan = super().decide(reading, now)
        return dataclasses.replace(plan, level=Level.CLEAR) if plan.level is Level.SOFT else plan


class Fickle(Ours):
    """Changes the level every other minute."""

    def decide(self, reading, now):
        plan = super().decide(reading, now)
        return dataclasses.replace(plan, level=Level.SOFT) if plan.level is Level.CLEAR and now % 240 < 120 else plan


def limit_forgotten(action, guest, plan):
    limited = isinstance(action, ReclaimGuest) and guest.swap_room is not None
    return dataclasses.replace(action, amount=guest.swap_room + MIB) if limited else action


def never_raised(action, guest, plan):
    lacks = isinstance(action, SetBalloon) and action.previous < guest.reservation
    return None if lacks else action


class Impatient(Ours):
    """Hands a little to somebody else while a guest waits for its reservation."""

    def decide(self, reading, now):
        plan = super().decide(reading, now)
        asked = {getattr(a, 'guest', '') for a in plan.actions}
        small = [g for g in reading.snapshot.guests if g.can_balloon and g.actual and g.uuid not in asked]
        lacking = [g for g in small if max(g.actual, g.target) < g.reservation]
        other = next((g for g in small if g.reservation <= max(g.actual, g.target) < g.maximum), None)
        if not lacking or other is None:
            return plan
        return dataclasses.replace(plan, actions=(*plan.actions, SetBalloon(
            guest=other.uuid, target=other.maximum, previous=other.actual, reason='impatient')))


class Stubborn(Ours):
    """Forgets whom it tried to swap in vain."""

    def settled(self, outcomes, now):
        pass


class Hopeful(Ours):
    """Knows whom it tried to swap in vain, and tries that one again instead of all others."""

    def decide(self, reading, now):
        plan = super().decide(reading, now)
        vain = [ReclaimGuest(guest=g.uuid, amount=MIB, floor=g.reservation + g.overhead, reason='hopeful')
                for g in reading.snapshot.guests if (probe := self.state.probes.get(g.uuid)) and probe.misses > 1
                and g.resident > g.reservation + g.overhead + MIB]
        others = tuple(a for a in plan.actions if not isinstance(a, ReclaimGuest))
        return dataclasses.replace(plan, actions=(*others, *vain)) if vain and others != plan.actions else plan


class Confused(Ours):
    """Fails over a guest that says nothing, as careless arithmetic would."""

    def decide(self, reading, now):
        sum(g.actual - g.usable for g in reading.snapshot.guests)
        return super().decide(reading, now)


MUTANTS = [
    ('1 guarantee', bent(swapped_too_far)),
    ('1 guarantee', lied(lambda g: {'reservation': g.reservation // 2, 'overhead': 0})),
    ('3 floor', bent(below_reservation)),
    ('3 floor', bent(cushion_forgotten)),
    ('3 floor', lied(lambda g: {'reservation': g.reservation * 9 // 10})),
    ('3 floor', lied(lambda g: {'usable': None if g.usable is None else min(g.maximum, g.usable + 64 * MIB)})),
    ('5 free before give', bent(all_at_once)),
    ('5 free before give', Optimist),
    ('6 unknown holds', lied(lambda g: {'stats_age': None if g.stats_age is None else 0.0})),
    ('6 unknown holds', lied(lambda g: {} if g.usable is not None else {
        'actual': g.target, 'usable': g.maximum // 2, 'stats_age': 0.0})),
    ('7 untouchables', lied(lambda g: {'untouchable': None, 'can_balloon': True})),
    ('7 untouchables', lied(lambda g: {'untouchable': None, 'can_swap': True})),
    ('7 untouchables', lied(lambda g: {'untouchable': None, 'trust_domain': 'one'})),
    ('8 trust', lied(lambda g: {'trust_domain': 'one'})),
    ('8 trust', configured(ksm='all-tenants-despite-side-channels')),
    ('9 isolation', Startled),
    ('9 isolation', Cowed),
    (OWED, bent(never_raised)),
    (OWED, lied(lambda g: {'reservation': min(g.reservation, g.actual or g.reservation)})),
    (OWED, Impatient),
    (FRUITLESS, Stubborn),
    (FRUITLESS, Hopeful),
    (FRUITLESS, bent(limit_forgotten)),
    ('10 settles', Restless),
    ('10 settles', configured(dwell=0.0)),
    ('10 settles', Blithe),
    ('10 settles', Fickle)]


@pytest.mark.parametrize('promise, policy', MUTANTS, ids=[f'{p} {n}' for n, (p, _) in enumerate(MUTANTS)])
def test_a_rule_that_is_broken_a_little_is_found(promise, policy):
    assert promise in broken(policy, wanted=promise)


@pytest.mark.parametrize('promise', ['1 guarantee', '2 backed'])
def test_a_host_that_admits_everybody_is_found(promise):
    assert promise in broken(Ours, open_door=True, wanted=promise)


def test_a_host_on_which_a_guest_is_killed_is_found():
    recipe = generate.recipe('mutants 1', guests=10, ticks=120)
    habits = tuple(dataclasses.replace(h, demand=Demand(base=h.maximum), cache=0, arrives=0.0) for h in recipe.habits)
    machine = dataclasses.replace(recipe.machine, total=sum(h.maximum for h in habits) // 2, swap=0)
    watcher = Watcher(recipe.settings)
    world = World(machine, habits, Ours(recipe.settings)).run(60)
    watcher.finish(world)
    assert world.kernel.killed and 'killed' in watcher.breaches['2 backed'].what


def test_the_rules_as_they_are_break_none_of_these():
    assert not broken(Ours, worlds=range(60))


def test_every_promise_has_a_mutant():
    assert {promise for promise, _ in MUTANTS} | {'2 backed'} == set(NAMES)


def test_an_exception_in_the_rules_is_a_breach_with_its_place(monkeypatch):
    monkeypatch.setattr(promises, 'Ours', Confused)
    found = [breach for number in range(20) for breach in promises.run(f'mutants {number}', 10, 20).breaches
             if breach.promise == '9 isolation']
    assert found and all('TypeError' in breach.what for breach in found)
