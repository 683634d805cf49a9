# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Modelled hosts with a cloud beside them: what lasts is ended by moving a guest, what does not is carried."""
from __future__ import annotations

import dataclasses

from ovc_plugin.model import MIB, AskMigration, Departure, SetBalloon
from ovc_plugin.settings import HostSettings
from ovc_plugin.simulate.habit import Demand, Habit
from ovc_plugin.simulate.kernel import Machine
from ovc_plugin.simulate.policy import Ours
from ovc_plugin.simulate.world import World
from tests.builders import GIB

MACHINE = Machine(total=16 * GIB, reserve=GIB, swap=16 * GIB)


class WithCloud(Ours):
    """The host's rules, and a cloud that takes the guest that it is asked to, as fast as the network allows."""

    def __init__(self, refuses: bool = False):
        super().__init__(HostSettings(migrate=True))
        self.refuses, self.asked, self.told, self.leaves = refuses, [], None, 0.0
        self.world: World | None = None
        self.on_its_way: list[object] = []

    def decide(self, reading, now):
        guests = tuple(dataclasses.replace(g, can_migrate=True) for g in reading.snapshot.guests)
        if self.told and not self.refuses and now >= self.leaves:
            self.world.guests[:] = [g for g in self.world.guests if g.uuid != self.told.guest]
            guests = tuple(g for g in guests if g.uuid != self.told.guest)
            self.told = None
        departures = (self.told,) if self.told else ()
        plan = super().decide(dataclasses.replace(reading, snapshot=dataclasses.replace(
            reading.snapshot, guests=guests, departures=departures)), now)
        if self.told:
            self.on_its_way += [a for a in plan.actions if isinstance(a, SetBalloon) and a.guest == self.told.guest]
            self.told = None if self.told.ended else self.told
        for action in plan.actions:
            if isinstance(action, AskMigration):
                self.asked.append((now, action.guest))
                self.leaves = now + action.cost / self.settings.migrate_bandwidth
                self.told = Departure(guest=action.guest, ended=self.refuses,
                                      error='No valid host was found' if self.refuses else None)
        return plan


def a_world(policy, *demands):
    habits = [Habit(name=f'g{number}', manner='busy', maximum=4 * GIB, reservation=GIB, demand=demand, stirs=0.02,
                    hot=0.9) for number, demand in enumerate(demands)]
    policy.world = World(MACHINE, habits, policy)
    return policy.world


def reading_back(world, seconds=300):
    before = world.kernel.swap_ins
    world.run(seconds)
    return (world.kernel.swap_ins - before) * 4096 / seconds / MIB


def test_a_shortage_that_lasts_is_ended_by_one_move():
    policy = WithCloud()
    world = a_world(policy, *[Demand(base=int(3.6 * GIB))] * 5)
    world.run(500)
    assert not policy.asked and reading_back(world, 60) > policy.settings.migrate_swap_in / MIB
    world.run(600)
    assert len(policy.asked) == 1 and not policy.on_its_way
    assert reading_back(world) < 1 and len(world.guests) == 4 and not world.kernel.killed
    world.run(3000)
    assert len(policy.asked) == 1


def test_bursts_are_carried_without_a_move():
    policy = WithCloud()
    burst = Demand(base=2 * GIB, peak=int(3.6 * GIB), start=100.0, period=2400.0, length=400.0)
    world = a_world(policy, *[burst] * 5)
    world.run(7200)
    assert not policy.asked and not world.kernel.killed


def test_a_cloud_without_room_is_asked_less_and_less():
    policy = WithCloud(refuses=True)
    world = a_world(policy, *[Demand(base=int(3.6 * GIB))] * 5)
    world.run(6 * 3600)
    times = [at for at, _ in policy.asked]
    assert len(world.guests) == 5 and not world.kernel.killed
    assert len({guest for _, guest in policy.asked}) == 5
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) >= 600
    first, last = (sum(a <= at - times[0] < a + 7200 for at in times) for a in (0, 14400))
    assert last < first / 2
