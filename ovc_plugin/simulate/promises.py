# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The promises, checked on a modelled host at every pass, against what is true and not only what was told."""
from __future__ import annotations

import collections
import dataclasses

from ovc_plugin import report
from ovc_plugin.decide import balloon, placement, progress
from ovc_plugin.decide import host as ladder
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, InFlight, Level, Plan, ReclaimGuest, Request, SetBalloon
from ovc_plugin.settings import HostSettings, SchedulerSettings, SharedSettings
from ovc_plugin.simulate.habit import Habit
from ovc_plugin.simulate.policy import Ours, Reading
from ovc_plugin.simulate.world import World

NAMES = {
    '1 guarantee': 'guarantees within memory outside the reserve',
    '2 backed': 'maximums within memory and swap; nobody is killed',
    '3 floor': 'no target below the reservation, nor below need and cushion before HARD',
    '5 free before give': 'what is given was free before, counting what is still being taken up',
    '6 unknown holds': 'who has not spoken is not shrunk; a stale report admits nobody',
    '7 untouchables': 'never ballooned, swapped or merged',
    '9 isolation': 'bad guests and failing calls change nothing for the others',
    '10 settles': 'under constant load at most one target change per guest after settling'}


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

    def _holds(self, promise: str, kept: bool, time: float, what: str) -> None:
        self.checked[promise] += 1
        if not kept and promise not in self.breaches:
            self.breaches[promise] = Breach(promise=promise, time=time, what=what)

    def watch(self, world: World, reading: Reading, plan: Plan) -> None:
        snapshot, time = reading.snapshot, world.time
        self._report = report.of(
            snapshot, plan, reclaimable=ladder.reclaimable(snapshot, self.settings), swap_usable=snapshot.swap_total,
            backed=True, dry_run=False)
        self._reported = {g.uuid for g in snapshot.guests}
        self._sums(world, snapshot, time)
        known = {g.uuid: g for g in snapshot.guests}
        for action in plan.actions:
            if isinstance(action, SetBalloon):
                self._target(world, known[action.guest], action, plan.level, time)
            elif isinstance(action, ReclaimGuest):
                guest = known[action.guest]
                self._holds('7 untouchables', guest.untouchable is None, time, f'{guest.name} is swapped')
                self._holds('1 guarantee', (guest.resident or 0) - action.amount >= guest.reservation, time,
                            f'{guest.name} is swapped below its reservation')
        self._given(world, snapshot, plan, time)
        self._isolation(world, snapshot, plan, time)
        for one in world.guests:
            if one.habit.untouchable:
                self._holds('7 untouchables', not one.swapped and not one.merged, time, f'{one.habit.name} was touched')

    def finish(self, world: World) -> None:
        """What can only be said at the end: with a constant load, every guest was left alone."""
        if self.settled is not None:
            for guest in world.guests:
                self._holds('10 settles', self._changes[guest.habit.name] <= 1, world.time, f'{guest.habit.name} moves')

    def _sums(self, world: World, snapshot: HostSnapshot, time: float) -> None:
        memory = snapshot.total - snapshot.reserve
        owed = sum(g.guaranteed for g in snapshot.guests)
        self._holds('1 guarantee', owed <= memory, time, f'{owed // MIB} MB owed > {memory // MIB} MB')
        most = sum(g.committed for g in snapshot.guests)
        self._holds('2 backed', most <= memory + snapshot.swap_total and not world.kernel.killed, time,
                    f'{most // MIB} MB committed of {(memory + snapshot.swap_total) // MIB} MB, '
                    f'killed: {world.kernel.killed}')

    def _target(self, world: World, guest: GuestSnapshot, action: SetBalloon, level: Level, time: float) -> None:
        self._holds('7 untouchables', guest.untouchable is None, time, f'{guest.name} is ballooned')
        self._holds('3 floor', guest.reservation <= action.target <= guest.maximum, time,
                    f'{guest.name} is asked for {action.target // MIB} MB')
        one = next(g for g in world.guests if g.uuid == guest.uuid)
        if self.settled is not None and time >= self.settled and one.habit.reachable:
            self._changes[guest.name] += 1
            if self._changes[guest.name] > 1:
                self._holds('10 settles', False, time, f'{guest.name} is asked again: {action.reason}')
        if action.target >= action.previous:
            return
        cushion = self.settings.cushion * guest.maximum if level < Level.HARD else 0
        self._holds('3 floor', action.target >= min(guest.maximum, one.told_need + cushion) - MIB, time,
                    f'{guest.name} is asked for {action.target // MIB} MB at {level.name}, and needed '
                    f'{one.told_need // MIB} MB + {cushion / MIB:.0f} MB when it last spoke')
        age = world.time - one.told_at
        self._holds('6 unknown holds', age <= self.settings.stats_max_age and not (
            one.habit.garbled and guest.usable is None), time, f'{guest.name} is shrunk, and spoke {age:.0f} s ago')

    def _given(self, world: World, snapshot: HostSnapshot, plan: Plan, time: float) -> None:
        given = sum(a.target - a.previous for a in plan.actions if isinstance(a, SetBalloon) and a.target > a.previous)
        if given:
            coming = sum(g.coming(time) for g in world.guests if g.alive)
            self._holds('5 free before give', given + coming <= snapshot.available, time,
                        f'{given // MIB} MB given, {coming // MIB} MB under way, {snapshot.available // MIB} MB free')

    def _isolation(self, world: World, snapshot: HostSnapshot, plan: Plan, time: float) -> None:
        """Taking the guests that cannot be understood out of the picture asks the others for the same."""
        policy = world.policy
        assert isinstance(policy, Ours)
        asked = progress.follow(snapshot, policy.before.asked, world.now)
        bad = {g.uuid for g in snapshot.guests if (g.actual is None or g.usable is None) and g.uuid not in asked}
        if not bad or plan.level is Level.CLEAR:
            return
        rest = dataclasses.replace(snapshot, guests=tuple(g for g in snapshot.guests if g.uuid not in bad))
        short = ladder.shortage(snapshot, plan.level, self.settings)
        with_, without = (
            {(a.guest, a.target) for a in balloon.shrink(s, plan.level, short, asked, self.settings, world.now).actions}
            for s in (snapshot, rest))
        self._holds('9 isolation', with_ == without, time, f'{bad} change what others are asked: {with_ ^ without}')

    def door(self, world: World, habit: Habit) -> bool:
        """Admission as the product does it: by the last report, with a late check; a stale one admits nobody."""
        request = Request(memory=habit.maximum, reservation=habit.reservation, overcommit=habit.untouchable is None)
        if self._report is None:
            world.run_pass()
        assert self._report is not None
        shared, scheduler = SharedSettings(), SchedulerSettings()
        late = self._report.taken_at + shared.report_max_age + 1
        stale = placement.fits(self._report, request, InFlight(), scheduler, shared, late)
        self._holds('6 unknown holds', not stale.ok, world.time, 'a stale report admits a guest')
        arrived = [g.habit for g in world.guests if g.alive and g.uuid not in self._reported]
        flying = InFlight(guests=len(arrived), memory=sum(h.maximum for h in arrived),
                          reserved=sum(h.maximum if h.untouchable else h.reservation for h in arrived))
        return placement.fits(self._report, request, flying, scheduler, shared, world.now).ok
