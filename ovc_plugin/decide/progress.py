# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which guests move towards the balloon target they were asked for, and which are stuck."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide.state import Asked
from ovc_plugin.model import HostSnapshot
from ovc_plugin.settings import HostSettings

ARRIVED = 4 << 20


def follow(snapshot: HostSnapshot, asked: typing.Mapping[str, Asked], now: float) -> dict[str, Asked]:
    """What was asked, with each guest's progress noted; guests that are gone or stopped are forgotten.

    A guest that was restarted has its full size again: its old target is forgotten too, so that it is asked anew.
    """
    followed = {}
    for guest in snapshot.running:
        before = asked.get(guest.uuid)
        if before is None:
            continue
        before = _not_ahead(before, now)
        if guest.actual is None:
            followed[guest.uuid] = before
        elif guest.actual > max(before.nearest, before.target) + ARRIVED:
            continue  # larger than it has ever been since: it was started anew, at its full size
        elif abs(guest.actual - before.target) < abs(before.nearest - before.target):
            followed[guest.uuid] = dataclasses.replace(before, nearest=guest.actual, moved_at=now)
        else:
            followed[guest.uuid] = before
    return followed


def _not_ahead(asked: Asked, now: float) -> Asked:
    """The same, with no time later than now: a clock that was set back must not make a guest look busy for hours."""
    if asked.moved_at <= now:
        return asked
    return dataclasses.replace(asked, at=min(asked.at, now), moved_at=now)


def shrinking(actual: int | None, asked: Asked | None) -> int:
    """Bytes that a guest still owes of what it was asked to give up."""
    if actual is None or asked is None:
        return 0
    owed = actual - asked.target
    return owed if owed > ARRIVED else 0


def stuck(actual: int | None, asked: Asked | None, settings: HostSettings, now: float) -> bool:
    """Asked to give up memory, not there, and no nearer for ``stuck_after`` seconds."""
    return bool(asked and shrinking(actual, asked) and now - asked.moved_at >= settings.stuck_after)
