# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The promises, checked on a modelled host at every pass, against what is true and not only what was told."""
from __future__ import annotations

import collections
import dataclasses

from ovc_plugin import report
from ovc_plugin.decide import evaporation, placement
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import (
    MIB,
    Action,
    GuestSnapshot,
    HostSnapshot,
    InFlight,
    Level,
    Plan,
    ReclaimGuest,
    Request,
    SetBalloon,
    TuneKsm,
)
from ovc_plugin.settings import HostSettings, SchedulerSettings, SharedSettings
from ovc_plugin.simulate import dues
from ovc_plugin.simulate.guest import Guest
from ovc_plugin.simulate.habit import Habit
from ovc_plugin.simulate.policy import Ours, Reading
from ovc_plugin.simulate.world import Restart, World

_SELDOM = 8  # passes of which one is looked at, where nothing is asked of anybody: that costs as much as the pass

NAMES = {
    '1 guarantee': 'guarantees within memory outside the reserve; nobody is swapped below its own',
    dues.OWED: 'who is found below its reservation is given all of it first, once so much is free',
    '2 backed': 'maximums within memory and swap; nobody is killed',
    '3 floor': 'no target below the reservation, nor below need, nor below need and cushion before HARD',
    dues.GIVEN: 'what is given was free before, counting what is still being taken up',
    '6 unknown holds': 'who has not spoken is not shrunk and earns no credit; a stale report admits nobody',
    '7 untouchables': 'never ballooned, swapped or merged',
    '8 trust': 'sharing does not run while guests of two trust domains can merge',
    '9 isolation': 'the loop never stops, and a guest that makes no sense changes nothing for the others',
    dues.FRUITLESS: 'whom nothing can be swapped of is asked ever less, and after all others',
    dues.SETTLES: 'levels rise at once and fall after a dwell; constant load: one target change per guest'}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    promise: str
    time: float
    what: str


class Watcher:
    """Give :meth:`watch` and :meth:`door` to a world; ``breaches`` holds the first of each promise, ``checked`` counts.

    ``settled`` is when a constant load must have settled (None: the load is not constant). Call :meth:`finish` last.
    """

    def __init__(self, settings: HostSettings, settled: float | None = None) -> None:
        self.settings, self.settled = settings, settled
        self.breaches: dict[str, Breach] = {}
        self.checked: collections.Counter[str] = collections.Counter()
        self._changes: collections.Counter[str] = collections.Counter()
        self._report: report.HostReport | None = None
        self._reported: set[str] = set()
        self._looked = 0
        self._no_swap = dataclasses.replace(settings, swap=False)
        self._owed, self._fruitless = dues.Owed(settings, self._holds), dues.Fruitless(settings, self._holds)
        self._levels, self._given = dues.Levels(settings, settled, self._holds), dues.Given(settings, self._holds)

    def breach(self, promise: str, time: float, what: str) -> None:
        if promise not in self.breaches:
            self.breaches[promise] = Breach(promise=promise, time=time, what=what)

    def _holds(self, promise: str, kept: bool, time: float, what: str) -> None:
        self.checked[promise] += 1
        if not kept:
            self.breach(promise, time, what)

    def watch(self, world: World, reading: Reading, plan: Plan) -> None:
        """One pass: what was planned, before it is carried out."""
        snapshot, time, known = reading.snapshot, world.time, getattr(world.policy, 'state', LadderState())
        self._report = report.of(
            snapshot, plan, swap_usable=snapshot.swap_total, backed=True, dry_run=False,
            reclaimable=ladder.reclaimable(snapshot, self.settings, known),
            evaporation=evaporation.reserve_against(snapshot, known.evaporation, self.settings))
        self._reported = {g.uuid for g in snapshot.guests}
        self._sums(world, time)
        seen, true = {g.uuid: g for g in snapshot.guests}, {g.uuid: g for g in world.guests if g.alive}
        self._given.look(true, snapshot, plan, time)
        self._owed.look(true, snapshot, plan, time)
        self._fruitless.look(true, snapshot, plan, world.outcomes, time)
        for action in plan.actions:
            if isinstance(action, SetBalloon):
                self._target(true[action.guest], seen[action.guest], action, plan.level, time)
            elif isinstance(action, ReclaimGuest):
                self._swapped(true[action.guest], action, time)
        self._silent(true, snapshot, known, time)
        self._sharing(true, snapshot, plan, time)
        self._isolation(world, snapshot, plan, time)
        self._levels.look(snapshot, plan.level, time)
        self._untouched(world, time)

    def restarted(self, restart: Restart) -> None:
        for one in (self._owed, self._fruitless, self._levels, self._given):
            one.restarted(kept=restart.kept)

    def finish(self, world: World) -> None:
        """What can only be said at the end: nobody was killed or touched in the last pass, and, with a constant load,
        every guest was left alone."""
        self._holds('2 backed', not world.kernel.killed, world.time, f'killed: {world.kernel.killed}')
        self._untouched(world, world.time)
        if self.settled is not None:
            for guest in world.guests:
                self._holds('10 settles', self._changes[guest.uuid] <= 1, world.time, f'{guest.habit.name} moves')

    def _sums(self, world: World, time: float) -> None:
        machine, here = world.machine, [g.habit for g in world.guests if g.alive]
        memory, owed = machine.total - machine.reserve, sum(_owed(h) + h.overhead for h in here)
        self._holds('1 guarantee', owed <= memory, time, f'{owed // MIB} MB owed > {memory // MIB} MB')
        most = sum(h.maximum + h.overhead for h in here)
        self._holds('2 backed', most <= memory + machine.swap and not world.kernel.killed, time,
                    f'{most // MIB} MB committed of {(memory + machine.swap) // MIB} MB, killed: {world.kernel.killed}')

    def _untouched(self, world: World, time: float) -> None:
        for one in world.guests:
            if one.habit.untouchable:
                self._holds('7 untouchables', not (one.taken or one.merged) and one.target == one.habit.maximum, time,
                            f'{one.habit.name} was touched')

    def _target(self, one: Guest, guest: GuestSnapshot, action: SetBalloon, level: Level, time: float) -> None:
        self._holds('7 untouchables', one.habit.untouchable is None, time, f'{guest.name} is ballooned')
        self._holds('3 floor', one.habit.reservation <= action.target <= one.habit.maximum, time,
                    f'{guest.name} is asked for {action.target // MIB} MB')
        if self.settled is not None and time >= self.settled and one.habit.reachable and action.target != one.target:
            self._changes[guest.uuid] += 1
            if self._changes[guest.uuid] > 1:
                self.breach('10 settles', time, f'{guest.name} is asked again: {action.reason}')
        if action.target >= min(one.size, one.target):
            return  # it is not asked to give up more than it was
        cushion = self.settings.cushion * guest.maximum if level < Level.HARD else 0
        self._holds('3 floor', action.target >= min(guest.maximum, one.told_need + cushion) - MIB, time,
                    f'{guest.name} is asked for {action.target // MIB} MB at {level.name}, and needed '
                    f'{one.told_need // MIB} MB + {cushion / MIB:.0f} MB when it last spoke')
        self._holds('6 unknown holds', self._understood(one, time), time,
                    f'{guest.name} is shrunk, and spoke {time - one.told_at:.0f} s ago')

    def _swapped(self, one: Guest, action: ReclaimGuest, time: float) -> None:
        name = one.habit.name
        self._holds('7 untouchables', one.habit.untouchable is None, time, f'{name} is swapped')
        # The floor is what the kernel is held to, whatever else the guest gives up meanwhile.
        self._holds('1 guarantee', action.floor >= one.habit.reservation and (
            one.resident - action.amount >= one.habit.reservation), time,
            f'{name} is swapped below its reservation: {action.amount // MIB} MB of {one.resident // MIB} MB')
        if one.habit.limited:
            room = one.habit.swap_limit - one.swapped
            self._holds(dues.FRUITLESS, action.amount <= room, time,
                        f'{name} is asked for {action.amount // MIB} MB, and its limit lets {room // MIB} MB go')

    def _understood(self, one: Guest, time: float) -> bool:
        told = one.told_usable is not None or one.told_working is not None
        return (told and not one.babbles(time)
                and time - one.told_at <= self.settings.stats_max_age)

    def _silent(self, true: dict[str, Guest], snapshot: HostSnapshot, known: LadderState, time: float) -> None:
        """Of guests that have not spoken, nothing is promised but what swap takes without asking."""
        silent = tuple(g for g in snapshot.guests if not self._understood(true[g.uuid], time))
        if silent:
            credit = ladder.reclaimable(dataclasses.replace(snapshot, guests=silent), self._no_swap, known)
            self._holds('6 unknown holds', not credit, time,
                        f'{credit // MIB} MB of guests that do not speak count as reclaimable')

    def _sharing(self, true: dict[str, Guest], snapshot: HostSnapshot, plan: Plan, time: float) -> None:
        run = [a.run for a in plan.actions if isinstance(a, TuneKsm)]
        if self.settings.ksm != 'auto':
            self._holds('8 trust', not run, time, 'sharing is not left alone')
        elif snapshot.ksm is not None:
            domains = {g.habit.trust_domain for g in true.values() if g.habit.alike}
            self._holds('8 trust', (run or [snapshot.ksm.run])[-1] != 1 or len(domains) < 2, time,
                        f'pages of {sorted(domains)} are merged')

    def _isolation(self, world: World, snapshot: HostSnapshot, plan: Plan, time: float) -> None:
        """A guest that makes no sense costs the others what one without a balloon would: not more, and not less. One
        that somebody else has shrunk is owed its reservation, and may have what is over on a clear host."""
        policy, notes = world.policy, getattr(plan, 'notes', ())
        self._holds('9 isolation', not notes, time, f'a rule failed: {notes}')
        if not isinstance(policy, Ours):
            return
        bad = {g.uuid for g in snapshot.guests if g.can_balloon and (
            g.actual is None or (g.usable is None and g.published is None and g.actual >= (
                g.maximum if plan.level is Level.CLEAR else g.reservation)))
            and g.uuid not in policy.before.asked}
        self._looked += 1
        if not bad or (plan.level is Level.CLEAR and not plan.actions and self._looked % _SELDOM):
            return
        plain = dataclasses.replace(snapshot, guests=tuple(
            dataclasses.replace(g, actual=None, usable=None, stats_age=None, can_balloon=False)
            if g.uuid in bad else g for g in snapshot.guests))
        other, _ = ladder.decide_host(plain, policy.before, self.settings, world.now)
        with_, without = ({_what(a) for a in p.actions if getattr(a, 'guest', '') not in bad} for p in (plan, other))
        self._holds('9 isolation', with_ == without and plan.level == other.level, time,
                    f'{bad} change what others are asked: {with_ ^ without}')

    def door(self, world: World, habit: Habit) -> bool:
        """Admission as the product does it: by the last report, with a late check; a stale one admits nobody."""
        request = Request(memory=habit.maximum, reservation=habit.reservation, overcommit=habit.untouchable is None)
        if self._report is None:
            world.run_pass()
        assert self._report is not None
        shared, scheduler = SharedSettings(), SchedulerSettings()
        arrived = [g.habit for g in world.guests if g.alive and g.uuid not in self._reported]
        flying = InFlight(guests=len(arrived), memory=sum(h.maximum for h in arrived),
                          reserved=sum(map(_owed, arrived)))
        verdict = placement.fits(self._report, request, flying, scheduler, shared, world.now)
        if verdict.ok:  # else it would be refused anyway
            late = self._report.taken_at + shared.report_max_age + 1
            stale = placement.fits(self._report, request, flying, scheduler, shared, late)
            self._holds('6 unknown holds', not stale.ok, world.time, 'a stale report admits a guest')
        return verdict.ok


def _owed(habit: Habit) -> int:
    """Bytes of its memory that a guest is guaranteed; what may not be touched is owed whole."""
    return habit.maximum if habit.untouchable else habit.reservation


def _what(action: Action) -> tuple[str, str, int]:
    """An action without its reason."""
    match action:
        case SetBalloon():
            return 'balloon', action.guest, action.target
        case ReclaimGuest():
            return 'swap', action.guest, action.amount
        case TuneKsm():
            return 'sharing', '', action.run
        case _:
            return 'move', action.guest, 0
