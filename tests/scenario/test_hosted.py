# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The real controller over modelled hosts: it decides as the rules alone do, keeps its promises, and bad sensors, bad
guests and bad calls stop nothing (promise 9)."""
from __future__ import annotations

import dataclasses
import random
import shutil

import pytest

from benchmarks.hosted import Hosted
from ovc_plugin import privileged
from ovc_plugin.act import reclaimer
from ovc_plugin.model import MIB, Level, SetBalloon
from ovc_plugin.settings import HostSettings
from ovc_plugin.simulate import generate, manners
from ovc_plugin.simulate.dues import FRUITLESS, OWED
from ovc_plugin.simulate.habit import Demand, Habit
from ovc_plugin.simulate.kernel import Machine
from ovc_plugin.simulate.promises import Watcher
from tests.builders import GIB
from tests.waiting import LONG


@pytest.fixture
def hosted(tmp_path, monkeypatch):
    """A maker of hosts; the root helper is the model's for as long as the test lasts."""
    for name in ('reclaim', 'set_ksm'):
        monkeypatch.setattr(privileged, name, getattr(privileged, name))
    monkeypatch.setattr(reclaimer, 'SLICE', LONG)  # else a call during which the machine stands still is made again
    made = []

    def make(machine, habits, options, **hooks):
        root = tmp_path / str(len(made))
        root.mkdir()
        made.append(Hosted(machine, habits, options, root, **hooks))
        return made[-1]
    return make


@pytest.mark.parametrize('seed', range(8))
def test_the_controller_keeps_the_promises_that_the_rules_keep(hosted, seed):
    recipe = generate.recipe(f'hosted {seed}', guests=8, ticks=40)
    watcher = Watcher(recipe.settings)
    world = hosted(recipe.machine, recipe.habits, recipe.settings, watch=watcher.watch, door=watcher.door)
    world.run(recipe.seconds)
    watcher.finish(world)
    assert not watcher.breaches
    assert watcher.checked['1 guarantee'] >= world.measures.passes > 10
    assert world.controller.status()['tick']['error'] is None


def a_full_host(hosted, **faults):
    """Six guests on a host that holds two thirds of what they use; two of them grow."""
    chance = random.Random(3)
    habits = [Habit(name=f'g{n}', manner='growing', maximum=2 * GIB, reservation=GIB // 2, cache=GIB // 2,
                    demand=Demand(base=GIB // 2, peak=3 * GIB // 2 if n < 2 else 0, rise=8 * MIB)) for n in range(5)]
    habits.append(manners.guest(faults.pop('manner', 'ideal'), 'odd', chance, 600.0, maximum=2 * GIB))
    return hosted(Machine(total=6 * GIB, reserve=512 * MIB, swap=14 * GIB), habits, HostSettings())


def shrunk(world):
    return {g.habit.name for g in world.guests if g.target < g.habit.maximum}


@pytest.mark.parametrize('manner', ['silent', 'garbled', 'unreachable', 'dead', 'no balloon', 'stuck'])
def test_one_odd_guest_costs_the_others_nothing(hosted, manner):
    world = a_full_host(hosted, manner=manner).run(180)
    assert shrunk(world) & {f'g{n}' for n in range(5)} and not world.kernel.killed
    assert world.measures.passes >= 36 and world.controller.status()['tick']['error'] is None
    assert world.controller.report.level <= Level.SOFT


def test_a_guest_that_others_shrank_is_raised_and_one_of_which_nothing_moves_is_left_alone(hosted):
    chance = random.Random(4)
    habits = [manners.guest('ideal', 'small', chance, 600.0, maximum=2 * GIB, reservation=GIB, starts_at=GIB // 2,
                            demand=Demand(base=GIB // 4), speaks=False),
              *(Habit(name=name, manner='silent', maximum=2 * GIB, reservation=GIB // 4, speaks=False, locked=locked,
                      demand=Demand(base=GIB, peak=2 * GIB, start=60.0, rise=8 * MIB))
                for name, locked in (('locked', True), ('a', False), ('b', False), ('c', False)))]
    options = HostSettings()
    watcher = Watcher(options)
    world = hosted(Machine(total=6 * GIB, reserve=512 * MIB, swap=12 * GIB), habits, options, watch=watcher.watch)
    small, locked = world.run(30).guests[:2]
    assert small.target == GIB and small.size > GIB // 2
    world.run(300)
    assert not watcher.breaches and watcher.checked[OWED] and watcher.checked[FRUITLESS]
    assert not locked.swapped and world.controller._state.probes[locked.uuid].misses > 1
    assert sum(guest.taken for guest in world.guests) > GIB and not world.kernel.killed


BROKEN = {
    'libvirt restarts': lambda world, on: setattr(world.connection, 'down', on),
    'a control group vanishes': lambda world, on: on and shutil.rmtree(world.files.group(world.domains()[0])),
    'pressure is not told': lambda world, on: on and shutil.rmtree(world.files.root / 'proc/pressure'),
    'page sharing cannot be read': lambda world, on: on and shutil.rmtree(world.files.root / 'ksm'),
    'a process id file is torn': lambda world, on: on and (world.files.root / 'run/g1.pid').write_text('12x'),
    'the state cannot be written': lambda world, on: on and shutil.rmtree(world.files.root / 'lib')}


@pytest.mark.parametrize('fault', BROKEN)
def test_one_broken_source_stops_nothing(hosted, fault):
    """The fault lasts for ten passes in the middle of a growing shortage; then all files are there again."""
    world = a_full_host(hosted)
    world.run(40)
    write, passes = world.files.write, world.measures.passes

    def torn():
        repair(world, write)
        BROKEN[fault](world, True)
    world.files.write = torn
    world.run(50)
    during = world.measures.passes - passes
    BROKEN[fault](world, False)
    world.files.write = lambda: repair(world, write)
    world.run(120)
    assert during >= 10 and not world.kernel.killed
    assert shrunk(world) and world.controller.report.level <= Level.SOFT
    assert world.controller.status()['tick']['error'] is None


def repair(world, write):
    """Make again what a fault removed."""
    for name in ('proc/pressure', 'ksm', 'lib'):
        (world.files.root / name).mkdir(exist_ok=True)
    world.files._known.clear()
    for group in world.files.root.glob('cgroup/machine.slice/*'):
        shutil.rmtree(group)
    for process in world.files.root.glob('proc/[0-9]*'):
        shutil.rmtree(process)
    write()


def test_targets_that_libvirt_refused_are_not_remembered(hosted):
    world = a_full_host(hosted, manner='unreachable').run(100)
    odd = next(g for g in world.guests if g.habit.name == 'odd')
    assert odd.target == odd.habit.maximum and odd.uuid not in world.controller._state.targets()


def test_the_plan_is_what_the_rules_plan_for_the_same_host(hosted):
    """The files say what the model is: what the controller asks for is near what the rules ask of the model itself."""
    from ovc_plugin.decide import host as ladder
    seen = []

    def watch(world, reading, plan):
        alone, _ = ladder.decide_host(reading.snapshot, world.controller._state, world.options, world.now)
        seen.append((plan.level, alone.level, *({a.guest for a in p.actions if isinstance(a, SetBalloon)}
                                                for p in (plan, alone))))
    chance = random.Random(5)
    habits = [dataclasses.replace(manners.guest('bursty', f'g{n}', chance, 600.0), stirs=0.0) for n in range(6)]
    most = sum(h.maximum + h.overhead for h in habits)
    hosted(Machine(total=most // 2, reserve=512 * MIB, swap=most), habits, HostSettings(), watch=watch).run(200)
    assert sum(level == alone for level, alone, _, _ in seen) >= 0.9 * len(seen)
    assert sum(asked == alone for _, _, asked, alone in seen) >= 0.8 * len(seen)
    assert any(asked for _, _, asked, _ in seen)
