# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The ladder: one pass over a host, from a snapshot and what is remembered to a plan."""
from __future__ import annotations

from ovc_plugin.decide import balloon, evacuate, evaporation, ksm, pressure, progress, scanning, swap
from ovc_plugin.decide.state import Asked, LadderState
from ovc_plugin.model import Action, HostSnapshot, Level, Plan, SetBalloon
from ovc_plugin.settings import HostSettings

_CRUMB = 16 << 20  # rounding to whole MiB leaves the like of this; the next pass sees whether it is still missing


def decide_host(snapshot: HostSnapshot, state: LadderState, settings: HostSettings,
                now: float) -> tuple[Plan, LadderState]:
    """What to do now, and what to remember.

    Below HARD, guests that need more than they have are given it first. CLEAR hands memory back. SOFT asks balloons,
    and swaps what they cannot give. HARD asks down to bare need. At CRITICAL the balloon, which takes seconds, is given
    no credit: swap covers the whole shortage. What guests take up and merged pages may take back is not free.
    """
    asked = progress.follow(snapshot, state.asked, now)
    judged = pressure.judge(snapshot, state, settings, now)
    level = judged.level
    departing, snapshot = evacuate.look(snapshot, level, state.departing, settings, now)
    actions: list[Action] = []
    looking = scanning.follow(state.scanning, snapshot, level, settings)
    if sharing := ksm.tune(snapshot, settings, looking):
        actions.append(sharing)
    dissolving = evaporation.follow(state.evaporation, snapshot, settings)
    taken = balloon.taking(snapshot, asked, settings, now) + evaporation.reserve_against(snapshot, dissolving, settings)
    lifted = balloon.Ballooning(actions=(), credit=0)
    if level < Level.HARD:
        lifted = balloon.relieve(snapshot, max(0, spare(snapshot, settings) - taken), asked, settings, now)
        actions += lifted.actions
    if (short := shortage(snapshot, level, settings)) and (short := short - lifted.credit):
        credit = 0
        if settings.balloon:
            balloons = balloon.shrink(snapshot, level, short, asked, settings, now)
            actions += balloons.actions
            credit = balloons.credit if level < Level.CRITICAL else 0
        if settings.swap and short - credit > (_CRUMB if level < Level.HARD else 0):
            actions += swap.reclaim(snapshot, level, short - credit, asked, settings, now)
    elif level is Level.CLEAR and not lifted.actions and (over := surplus(snapshot, settings) - taken) > 0:
        actions += balloon.grow(snapshot, over, asked, settings).actions
    if away := evacuate.evacuate(snapshot, level, departing, settings, now):
        actions.append(away)
        departing = evacuate.asked(departing, away, now)
    asked |= {a.guest: Asked(target=a.target, at=now, nearest=a.previous, moved_at=now)
              for a in actions if isinstance(a, SetBalloon)}
    plan = Plan(level=level, actions=tuple(actions), reason=judged.reason)
    return plan, LadderState(level=level, better_since=judged.better_since, asked=asked, evaporation=dissolving,
                             departing=departing, scanning=looking)


def shortage(snapshot: HostSnapshot, level: Level, settings: HostSettings) -> int:
    """Bytes to be found: up to the goal, and what will be gone by the next pass at the present speed."""
    if level is Level.CLEAR:
        return 0
    coming = int(max(0.0, snapshot.growth or 0.0) * settings.tick)
    return max(0, pressure.goal(snapshot.total, settings) + coming - snapshot.available)


def spare(snapshot: HostSnapshot, settings: HostSettings) -> int:
    """Bytes that may go to guests in need: what is available beyond the minimum, and beyond the reserve."""
    keep = max(pressure.minimum(snapshot.total, settings.level_scale), snapshot.reserve)
    return max(0, snapshot.available - keep)


def surplus(snapshot: HostSnapshot, settings: HostSettings) -> int:
    """Bytes that can be handed back: what is available beyond twice the minimum, and beyond the reserve."""
    keep = max(2 * pressure.minimum(snapshot.total, settings.level_scale), snapshot.reserve)
    return max(0, snapshot.available - keep)


def reclaimable(snapshot: HostSnapshot, settings: HostSettings) -> int:
    """Bytes that balloon and swap could free within a minute without breaking a guarantee or believing silence."""
    ballooned = swapped = 0
    for guest in snapshot.running:
        spare = balloon.givable(guest, Level.SOFT, settings) if settings.balloon else 0
        ballooned += spare
        swapped += max(0, swap.swappable(guest) - spare) if settings.swap else 0
    return ballooned + min(swapped, snapshot.swap_free)
