# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The ladder: one pass over a host, from a snapshot and what is remembered to a plan. Each rung is a rule."""
from __future__ import annotations

import dataclasses
import math
import typing

from ovc_plugin.decide import (
    balloon,
    evacuate,
    evaporation,
    filling,
    giving,
    ksm,
    need,
    pressure,
    progress,
    scanning,
    swap,
)
from ovc_plugin.decide.departing import closed, stays
from ovc_plugin.decide.pressure import backed
from ovc_plugin.decide.rule import Part, Rule, Situation
from ovc_plugin.decide.rules import BUILT_IN
from ovc_plugin.decide.state import LadderState, Probe
from ovc_plugin.model import (
    MIB,
    Action,
    AskMigration,
    GuestSnapshot,
    HostSnapshot,
    Level,
    Plan,
    ReclaimGuest,
    SetBalloon,
    TuneKsm,
)
from ovc_plugin.settings import HostSettings


def decide_host(snapshot: HostSnapshot, state: LadderState, settings: HostSettings, now: float,
                rules: typing.Sequence[Rule] = BUILT_IN) -> tuple[Plan, LadderState]:
    """What to do now, and what to remember.

    The rules are asked in their order, each for what those before it left. One that fails, or asks for what no rule may
    ask for, is passed over in this pass and named in the plan's notes.
    """
    situation, reason = look(snapshot, state, settings, now)
    actions: list[Action] = []
    notes: list[str] = []
    for rule in rules:
        try:
            part = rule.plan(situation)
            if wrong := _forbidden(part, situation):
                raise ValueError(wrong)
            after = _after(situation, part)
        except Exception as error:  # whoever wrote it: one bad rule must not stop the others
            notes.append(f'rule {rule.name!r} is passed over: {type(error).__name__}: {error}')
            continue
        situation = after
        actions += part.actions
    return Plan(level=situation.level, actions=tuple(actions), reason=reason, notes=tuple(notes)), situation.state


def look(snapshot: HostSnapshot, state: LadderState, settings: HostSettings, now: float) -> tuple[Situation, str]:
    """The situation in which the first rule finds itself, and why its level is what it is."""
    asked = progress.follow(snapshot, state.asked, now)
    filled = filling.follow(snapshot, state.filling, asked, settings, now)
    snapshot = filling.by_itself(snapshot, filled)
    judged = pressure.judge(snapshot, state, settings, now)
    departing, snapshot = evacuate.look(snapshot, judged.level, state.departing, settings, now)
    state = _followed(dataclasses.replace(state, level=judged.level, better_since=judged.better_since,
                                          soft_at=judged.soft_at, asked=asked, departing=departing,
                                          filling=filled),
                      snapshot, settings, now)
    return _situation(snapshot, state, settings, now), judged.reason


def _followed(state: LadderState, snapshot: HostSnapshot, settings: HostSettings, now: float) -> LadderState:
    """With what is known after this look."""
    return dataclasses.replace(
        state, unclear_at=_unclear_at(state, now),
        needs=need.follow(snapshot.running, state.needs, state.asked, settings, now, state.watching),
        probes=swap.follow(snapshot, state.probes, settings, now),
        evaporation=evaporation.follow(state.evaporation, snapshot, settings),
        scanning=scanning.follow(state.scanning, snapshot, state.level, settings))


def _unclear_at(state: LadderState, now: float) -> float | None:
    if state.level is not Level.CLEAR:
        return now
    return None if state.unclear_at is None else min(state.unclear_at, now)  # a clock may have been set back


def _situation(snapshot: HostSnapshot, state: LadderState, settings: HostSettings, now: float) -> Situation:
    # What guests in need still take up, and what merged pages may take back, is available and not free.
    taken = (progress.taking(snapshot, state.asked, settings, now)
             + evaporation.reserve_against(snapshot, state.evaporation, settings))
    free = max(0, spare(snapshot, settings) - taken)
    short, wanted, lacking, owed = shortage(snapshot, state.level, settings), 0, None, False
    if state.level <= Level.SOFT:
        lacking = tuple(giving.wants(snapshot, state, settings, now))
        # On a clear host a guarantee alone is worth what others do not use.
        kept = giving.unkept(lacking)
        due = kept if state.level is Level.CLEAR else sum(lack for _, _, lack in lacking)
        wanted, owed = due - free if due > free else 0, kept > free
    return Situation(
        snapshot=snapshot, level=state.level, short=short + wanted, wanted=wanted,
        until=exhaustion(snapshot, state.level), spare=free, backed=backed(snapshot),
        surplus=max(0, surplus(snapshot, settings) - taken), state=state, settings=settings, now=now, lacking=lacking,
        owed=owed)


def _forbidden(part: Part, situation: Situation) -> str | None:
    """What no rule may ask for, whoever wrote it: promises 1, 3, 6, 7 and 8, and one guest at a time to move."""
    if not part.actions:
        return None
    guests = {g.uuid: g for g in situation.snapshot.running}
    moved = [action.guest for action in part.actions if isinstance(action, AskMigration)]
    if len(moved) > 1:
        return f'{" and ".join(guests[u].name if u in guests else u for u in moved)} are asked away at once'
    for action in part.actions:
        wrong = None
        if isinstance(action, TuneKsm) and action.run:
            why = ksm.refused(situation.snapshot, situation.settings)
            wrong = f'page sharing is switched on: {why}' if why else None
        elif not isinstance(action, TuneKsm):
            guest = guests.get(action.guest)
            wrong = (f'guest {action.guest} is not running here' if guest is None else
                     _not_of(guest, action, situation))
        if wrong:
            return wrong
    return None


def _not_of(guest: GuestSnapshot, action: SetBalloon | ReclaimGuest | AskMigration,
            situation: Situation) -> str | None:
    if isinstance(action, AskMigration):
        looked = situation.state.departing, situation.settings, situation.now
        return closed(situation.snapshot, *looked) or stays(guest, *looked)
    if guest.untouchable:
        return f'{guest.name} must not be touched ({guest.untouchable})'
    if isinstance(action, ReclaimGuest):
        if action.floor < swap.floor(guest):
            return f'{guest.name} is swapped down to {action.floor} bytes < {swap.floor(guest)} guaranteed'
        return None
    if not guest.reservation <= action.target <= guest.maximum:
        return (f'{guest.name} is asked for {action.target} bytes, outside {guest.reservation} (reservation) to '
                f'{guest.maximum} (maximum)')
    if action.guest in situation.turned:
        return f'{guest.name} is asked for a balloon target twice in one pass'
    return _too_small(guest, action, situation) if _shrinks(action, guest, situation) else None


def _too_small(guest: GuestSnapshot, action: SetBalloon, situation: Situation) -> str | None:
    """Why the guest may not be shrunk so far."""
    if not need.fresh(guest, situation.settings):
        return (f'{guest.name} is shrunk by a word of its that is missing or older than '
                f'{situation.settings.stats_max_age:.0f} s (stats_max_age)')
    known, level = situation.state.needs.get(guest.uuid), situation.level
    if need.understood(guest, known, situation.settings, situation.now) is None:
        return f'{guest.name} is shrunk by a word that tells of another size'
    soft = level < Level.HARD
    least = balloon.floor(guest, level, situation.settings, known) if soft else need.amount(guest, known)
    if action.target < least:
        return (f'{guest.name} is shrunk to {action.target // MIB} MB < {least // MIB} MB, its need'
                f'{" and cushion" if soft else ""}, at {level.name}')
    return None


def _shrinks(action: SetBalloon, guest: GuestSnapshot, situation: Situation) -> bool:
    """Whether less is asked of it than it has, and than it was asked for: a target that it never reached may be lifted.
    What the action says was there before is its rule's word alone."""
    mine = situation.state.asked.get(guest.uuid)
    if guest.actual is None:
        return action.target < guest.maximum  # it may be that large
    return action.target < (guest.actual if mine is None else min(guest.actual, mine.target))


def _after(situation: Situation, part: Part) -> Situation:
    """The situation in which the next rule finds itself."""
    if not part.actions and not part.credit:
        return situation
    state, turned, given = situation.state, {}, []
    guests = {g.uuid: g for g in situation.snapshot.running} if part.actions else {}
    for action in part.actions:
        if isinstance(action, SetBalloon):
            turned[action.guest] = progress.asked_now(action, state.asked.get(action.guest), situation.now)
            given.append((guests[action.guest], action.target - action.previous))
        elif isinstance(action, AskMigration):
            state = dataclasses.replace(state, departing=evacuate.asked(state.departing, action, situation.now))
    if turned:
        state = dataclasses.replace(state, asked={**state.asked, **turned},
                                    filling=filling.with_gifts(state.filling, given, situation.now))
    # Only a shortage is short of anything: memory that a guest in need takes on a clear host is free.
    short = max(0, situation.short - part.credit) if situation.short else 0
    return dataclasses.replace(situation, short=short, wanted=min(situation.wanted, short), state=state,
                               turned=situation.turned | turned.keys())


def shortage(snapshot: HostSnapshot, level: Level, settings: HostSettings) -> int:
    """Bytes to be found: up to the goal, and what will be gone by the next pass at the present speed."""
    if level is Level.CLEAR:
        return 0
    coming = int(max(0.0, snapshot.growth or 0.0) * settings.tick)
    goal = pressure.goal(snapshot.total, settings, backed=backed(snapshot))
    return max(0, goal + coming - snapshot.available)


def exhaustion(snapshot: HostSnapshot, level: Level) -> float:
    """Seconds until nothing is available at the present speed; none are left at CRITICAL."""
    if level >= Level.CRITICAL:
        return 0.0
    return snapshot.available / snapshot.growth if snapshot.growth and snapshot.growth > 0 else math.inf


def spare(snapshot: HostSnapshot, settings: HostSettings) -> int:
    """Bytes that may go to guests in need: what is available beyond the minimum, and beyond the reserve."""
    keep = max(pressure.minimum(snapshot.total, settings.level_scale), snapshot.reserve)
    return max(0, snapshot.available - keep)


def surplus(snapshot: HostSnapshot, settings: HostSettings) -> int:
    """Bytes that can be handed back: what is available beyond twice the minimum, and beyond the reserve."""
    keep = max(2 * pressure.minimum(snapshot.total, settings.level_scale), snapshot.reserve)
    return max(0, snapshot.available - keep)


def reclaimable(snapshot: HostSnapshot, settings: HostSettings, state: LadderState | None = None,
                probes: typing.Mapping[str, Probe] | None = None) -> int:
    """Bytes that balloon and swap could free within a minute without breaking a guarantee or believing silence
    (promise 6), and without counting on guests of which swap moved nothing lately (by ``probes``, else by those of
    ``state``), or that read back what it moved: below CRITICAL it leaves them alone."""
    known = state or _followed(LadderState(), snapshot, settings, snapshot.taken_at)
    probes = known.probes if probes is None else probes
    ballooned = swapped = 0
    for guest in snapshot.running:
        if not need.fresh(guest, settings):
            continue
        could = balloon.givable(guest, Level.SOFT, settings, known.needs.get(guest.uuid)) if settings.balloon else 0
        ballooned += could
        if (settings.swap and not swap.harmed(guest, settings)
                and not swap.resting(probes.get(guest.uuid), snapshot.taken_at)):
            swapped += swap.swappable(guest, could)
    return ballooned + min(swapped, snapshot.swap_free, int(60 * swap.SPEED))
