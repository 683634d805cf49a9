# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Time on one modelled host: the kernel steps each second, and the policy passes when it is due."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.model import (
    MIB,
    Action,
    AskMigration,
    GuestSnapshot,
    HostSnapshot,
    Outcome,
    Plan,
    ReclaimGuest,
    SetBalloon,
    TuneKsm,
)
from ovc_plugin.samples import Recent
from ovc_plugin.simulate.guest import PAGE, Guest
from ovc_plugin.simulate.habit import Habit
from ovc_plugin.simulate.kernel import Kernel, Machine, Order
from ovc_plugin.simulate.measure import Measures
from ovc_plugin.simulate.policy import Policy, Reading

START = 1_000_000.0
STEP = 1.0
LEAST_PAUSE = 1.0       # between two passes brought forward
_INSISTS = 60.0         # seconds for which somebody else tries to shrink a guest
_NOTICED = 8 * MIB      # by which a guest must have shrunk to be sure that it was asked to

Watch = typing.Callable[['World', Reading, Plan], None]
Door = typing.Callable[['World', Habit], bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The policy's process ends at a time and is back after so many seconds, with what it ``kept`` or without."""

    at: float
    seconds: float
    kept: bool


Began = typing.Callable[[Restart], None]


class World:
    """One host, its guests and one policy. ``watch`` sees each plan before it is carried out; ``door`` says of each
    guest that arrives whether it may (everybody may where there is none); ``began`` is told of each of the policy's
    ``restarts``, which are in order. ``outcomes``: what became of the swapping that the pass before asked for, and when
    the policy was told."""

    def __init__(self, machine: Machine, habits: typing.Iterable[Habit], policy: Policy, *,
                 watch: Watch | None = None, door: Door | None = None, restarts: typing.Iterable[Restart] = (),
                 began: Began | None = None) -> None:
        self.machine, self.policy, self.watch, self.door, self.began = machine, policy, watch, door, began
        self.restarts, self._back = list(restarts), 0.0
        self.coming = sorted(habits, key=lambda h: h.arrives)
        self.guests: list[Guest] = []
        self.kernel = Kernel(machine, self.guests)
        self.measures = Measures()
        self.time = 0.0
        self.refused: list[str] = []
        self.outcomes: list[tuple[float, Outcome]] = []
        self.recent = Recent(available=self.kernel.room)
        self._looked: tuple[int, int] | None = None
        self._due, self._passed = 0.0, -1e9
        self._earlier: tuple[float, int, int] | None = None
        self._ins: dict[str, int] = {}
        self._stalled: dict[str, float] = {}
        self._merged: dict[str, int] = {}
        self._begun: list[tuple[ReclaimGuest, Order | None]] = []
        self._meddled: dict[Guest, int] = {}

    @property
    def now(self) -> float:
        return START + self.time

    def run(self, seconds: float) -> World:
        end = self.time + seconds
        while self.time < end:
            self.step()
        return self

    def step(self) -> None:
        self._welcome()
        if self._meddled:
            self._meddle()
        self.kernel.step(self.time, STEP)
        for guest in self.guests:
            if guest.swap_ins and guest.alive:
                self._ins[guest.uuid] = self._ins.get(guest.uuid, 0) + guest.swap_ins
        self._look(*self.measures.second(self.time, STEP, self.guests, self.kernel.room))
        self.time += STEP
        if self.restarts and self.time >= self.restarts[0].at:
            self._restart(self.restarts.pop(0))
        if self.time < self._back:
            return
        if self.time >= self._due or (self.time - self._passed >= LEAST_PAUSE
                                      and self.policy.wakes(self.recent, self.machine.total, self.time - self._passed)):
            self.run_pass()

    def _restart(self, restart: Restart) -> None:
        """What was under way ends with the process, nobody learns what became of it, and there are no rates at first.
        """
        self._back = self._due = self.time + restart.seconds
        self._begun.clear()
        self.kernel.orders.clear()
        self._earlier = self._looked = None
        self.policy.restarted(self.now + restart.seconds, kept=restart.kept)
        if self.began:
            self.began(restart)

    def _look(self, available: int, swapped: int) -> None:
        """What a watch between two passes sees: demand is what is used, in memory and in swap together."""
        demand, before = swapped - available, self._looked
        growth = (demand - before[1]) / STEP if before else None
        self._looked = available, demand
        self.recent = Recent(available=available, growth=growth, stall=self.kernel.waiting)

    def _welcome(self) -> None:
        while self.coming and self.coming[0].arrives <= self.time:
            habit = self.coming.pop(0)
            if self.door is None or self.door(self, habit):
                guest = Guest(habit)
                if habit.arrives or guest.resident > self.kernel.available - self.machine.watermark:
                    guest.boot()
                    if not habit.arrives:  # nothing of it is touched yet, but its size was set all the same
                        guest.size = guest.target = habit.starts_at or habit.maximum
                self.guests.append(guest)
                if habit.meddled_to:
                    self._meddled[guest] = 0  # not before somebody has seen its size: who then looks knows no other
            else:
                self.refused.append(habit.name)

    def _meddle(self) -> None:
        """What somebody else asks of guests, each once, as soon as that will be seen by who last saw its size; not at
        all where that is not soon."""
        for guest, size in list(self._meddled.items()):
            since, habit = self.time - guest.habit.meddled_at, guest.habit
            least = max(habit.meddled_to, habit.least, guest.anon)
            if since >= 0 and guest.answers(self.time) and min(guest.size, guest.target, size) - least > _NOTICED:
                guest.target = habit.meddled_to
            elif since < _INSISTS:
                continue
            del self._meddled[guest]

    def _settle(self) -> None:
        """Tell the policy what became of swapping, as the actuator does: that nothing was moved is known only where it
        was tried to the end, or failed at once."""
        outcomes = [Outcome(action=action, done=False, error='the guest cannot be reached') if order is None else
                    Outcome(action=action, done=True, freed=order.freed if order.freed or order.tried else None)
                    for action, order in self._begun]
        self._begun.clear()
        self.outcomes = [(self.time, outcome) for outcome in outcomes]
        self.policy.settled(outcomes, self.now)

    def run_pass(self) -> None:
        """One pass of the policy, as the controller does it: read, decide, act, shrink first and grow last."""
        self._settle()
        reading = self.read()
        plan = self.policy.decide(reading, self.now)
        self.measures.passes += 1
        if self.watch:
            self.watch(self, reading, plan)
        known = {g.uuid: g for g in self.guests}
        self.kernel.orders.clear()
        untold = {a.guest for a in sorted(plan.actions, key=_order)
                  if not self._act(a, known) and isinstance(a, SetBalloon)}
        self.policy.failed(untold)
        self._passed, self._due = self.time, self.time + self.policy.tick

    def _act(self, action: Action, known: dict[str, Guest]) -> bool:
        """Carry one action out; false when the call fails."""
        if isinstance(action, TuneKsm):
            self.kernel.ksm_run = action.run
            self.kernel.ksm_pages = action.pages_to_scan or self.kernel.ksm_pages
            return True
        guest = known[action.guest]
        if isinstance(action, ReclaimGuest):
            order = Order(guest, action.amount, action.floor) if guest.habit.reachable else None
            self._begun.append((action, order))
            if order is not None:
                self.kernel.orders.append(order)
            return order is not None
        if not guest.habit.reachable or isinstance(action, AskMigration):  # one host alone: there is no cloud to ask
            return False
        if isinstance(action, SetBalloon):
            self.measures.asked(guest.uuid, action.target, guest.target)
            guest.target = action.target
        return True

    def read(self) -> Reading:
        """The host as a sensor would have it, with rates since the reading before."""
        kernel, alive = self.kernel, [g for g in self.guests if g.alive]
        available = max(0, kernel.available)
        before = self._earlier
        seconds = self.time - before[0] if before else 0.0
        swap_in = swap_out = evaporation = None
        if before and seconds > 0:
            evaporation = sum(max(0, self._merged.get(g.uuid, 0) - g.merged) for g in alive) / seconds
            swap_in, swap_out = (kernel.swap_ins - before[1]) / seconds, (kernel.swap_outs - before[2]) / seconds
        guests = tuple(_seen(g, self.now, self._ins.get(g.uuid, 0) / PAGE / seconds if seconds else None,
                             min(1.0, (g.stalled - self._stalled.get(g.uuid, 0.0)) / seconds) if seconds else None)
                       for g in alive)
        self._stalled = {g.uuid: g.stalled for g in alive}
        self._earlier = (self.time, kernel.swap_ins, kernel.swap_outs)
        self._meddled = {g: g.size for g in self._meddled}
        self._ins, self._merged = {}, {g.uuid: g.merged for g in alive}
        snapshot = HostSnapshot(
            host='modelled', taken_at=self.now, total=self.machine.total, available=available,
            reserve=self.machine.reserve, swap_total=self.machine.swap, swap_free=kernel.swap_free, swap_in=swap_in,
            swap_out=swap_out, stall=max(kernel.stall, kernel.waiting), growth=self.recent.growth,
            evaporation=evaporation, ksm=kernel.ksm, guests=guests)
        return Reading(snapshot=snapshot, unused={g.uuid: g.told_unused for g in alive},
                       active={g.uuid: g.active for g in alive} if self.policy.samples else {})


def _order(action: Action) -> int:
    if isinstance(action, SetBalloon):
        return 0 if action.target < action.previous else 3
    return 1 if isinstance(action, ReclaimGuest) else 2


def _seen(guest: Guest, now: float, refaults: float | None, pressure: float | None) -> GuestSnapshot:
    """A guest as the rules see it: its size at once, its words as old as they are."""
    habit = guest.habit
    usable = None if (nonsense := guest.babbles(now - START)) else guest.told_usable
    working = None if nonsense else guest.told_working
    return GuestSnapshot(
        uuid=guest.uuid, name=habit.name, maximum=habit.maximum, reservation=habit.reservation,
        overhead=habit.overhead, weight=habit.weight, target=guest.target,
        actual=guest.size if habit.has_balloon and not nonsense else None, usable=usable,
        unused=None if usable is None else guest.told_unused,
        stats_age=None if usable is None else now - START - guest.told_at, resident=guest.resident,
        published=None if working is None else max(habit.reservation, min(working, habit.maximum)),
        published_age=None if working is None else now - START - guest.told_at,
        swap_room=max(0, habit.swap_limit - guest.swapped) if habit.limited else None,
        swapped=guest.swapped, saved=guest.merged, refaults=refaults, pressure=pressure,
        major_faults=None if usable is None else guest.told_faults,
        can_balloon=habit.has_balloon and not habit.untouchable, can_share=habit.alike > 0,
        can_swap=not habit.untouchable, untouchable=habit.untouchable, trust_domain=habit.trust_domain)
