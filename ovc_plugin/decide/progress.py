# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which guests move towards the balloon target they were asked for, how fast, and which are stuck."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide.state import Asked
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, SetBalloon
from ovc_plugin.settings import HostSettings

ARRIVED = 4 * MIB
HEARS = 10.0          # seconds within which a guest hears what it is asked: until then it may go where it was going
CAUTIOUS = 64 * MIB   # bytes a second that a balloon of unknown speed is trusted to move


def follow(snapshot: HostSnapshot, asked: typing.Mapping[str, Asked], now: float) -> dict[str, Asked]:
    """What was asked, with each guest's progress noted; guests that are gone or stopped are forgotten.

    A guest that was restarted has its full size again: its old target is forgotten too, so that it is asked anew. One
    that grew beyond what it was asked to be, and has not its full size, took what it needs out of its balloon. One that
    is smaller than it was asked to be, and than it was since, was asked by somebody else, or gave back what it had
    taken so: what it has now is what it is asked for.
    """
    followed = {}
    for guest in snapshot.running:
        before = asked.get(guest.uuid)
        if before is None:
            continue
        if before.moved_at > now:
            before = dataclasses.replace(before, at=min(before.at, now), moved_at=now)
        actual = guest.actual
        if actual is None:
            followed[guest.uuid] = before
        elif actual > max(before.nearest, before.target) + ARRIVED:
            if actual < guest.maximum - ARRIVED:
                followed[guest.uuid] = _stays_at(actual, before, now, asked_at=now, gave_way_at=now)
        elif actual < min(before.nearest, before.target) - ARRIVED and now - before.at >= HEARS:
            followed[guest.uuid] = _stays_at(actual, before, now, asked_at=before.at, gave_way_at=before.gave_way_at)
        elif abs(actual - before.target) < abs(before.nearest - before.target):
            # One that went further than it was asked to has been where it was asked to be, and is seen to have gone on.
            nearest = max(actual, before.target) if before.nearest >= before.target else actual
            followed[guest.uuid] = Asked(target=before.target, at=before.at, nearest=nearest, moved_at=now,
                                         change=before.change, speed=_speed(before, actual, now),
                                         gave_way_at=before.gave_way_at)
        else:
            followed[guest.uuid] = before
    return followed


def _stays_at(actual: int, before: Asked, now: float, *, asked_at: float, gave_way_at: float | None) -> Asked:
    """What it has now is what it is asked for. All is spelled out, here and above, as dataclasses.replace() takes
    several times as long: on a busy host many guests move in each pass."""
    return Asked(target=actual, at=asked_at, nearest=actual, moved_at=now, change=actual - before.target,
                 speed=before.speed, gave_way_at=gave_way_at)


def _speed(before: Asked, actual: int, now: float) -> float | None:
    """Bytes per second, half of it from this look. One that has arrived may have been faster than can be told."""
    seconds, moved = now - before.moved_at, abs(before.nearest - actual)
    if seconds <= 0 or moved < MIB:
        return before.speed
    seen = moved / seconds
    if before.speed is None:
        return seen
    return max(before.speed, seen) if abs(actual - before.target) <= ARRIVED else (before.speed + seen) / 2


def asked_now(action: SetBalloon, before: Asked | None, now: float) -> Asked:
    """What is remembered of a balloon target that is asked for now. A target that was not reached is raised as it is:
    the guest stays where it was, and has not grown by itself if that is above the new one."""
    nearest = action.previous
    if before is not None and before.target == action.previous < action.target:
        nearest = before.nearest
    return Asked(target=action.target, at=now, nearest=nearest, moved_at=now,
                 change=action.target - action.previous, speed=before.speed if before else None)


def shrinking(actual: int | None, asked: Asked | None) -> int:
    """Bytes that a guest still owes of what it was asked to give up."""
    if actual is None or asked is None:
        return 0
    owed = actual - asked.target
    return owed if owed > ARRIVED else 0


def stuck(actual: int | None, asked: Asked | None, settings: HostSettings, now: float) -> bool:
    """Asked to give up memory, not there, and no nearer for ``stuck_after`` seconds."""
    return bool(asked and shrinking(actual, asked) and now - asked.moved_at >= settings.stuck_after)


def deaf(guest: GuestSnapshot, asked: Asked | None, settings: HostSettings, now: float) -> bool:
    """Given memory that it has not taken for ``stuck_after`` seconds: more would not be taken either."""
    return (asked is not None and guest.actual is not None and asked.change > 0
            and asked.target - guest.actual > ARRIVED and now - asked.moved_at >= settings.stuck_after)


def backed(guest: GuestSnapshot) -> int | None:
    """What the guest has made its host back, with memory of its own, with swap, or with a page that it shares: bytes,
    with its overhead; ``None`` where that is not known."""
    return None if guest.resident is None else guest.resident + (guest.swapped or 0) + (guest.saved or 0)


def taking(snapshot: HostSnapshot, asked: typing.Mapping[str, Asked], settings: HostSettings, now: float) -> int:
    """Bytes that guests were given and are still taking up: they look free, and are handed out already (promise 5).
    Of one whose size is not known any more that is what its host does not back: it cannot be seen to be stuck."""
    coming = 0
    for guest in snapshot.running:
        if (mine := asked.get(guest.uuid)) is None:
            continue
        if guest.actual is None:
            inside = (backed(guest) or 0) - guest.overhead
            coming += max(0, mine.target - max(mine.nearest, inside)) if mine.change > 0 else 0
        elif now - mine.moved_at < settings.stuck_after:
            coming += max(0, mine.target - guest.actual)
    return coming
