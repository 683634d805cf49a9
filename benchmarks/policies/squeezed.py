# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""XenServer's squeezed.

All memory outside the host's own and a slush fund of 9 MiB is given to guests, each at the same (target - least) /
(most - least). A guest that made no visible progress for 5 s is inactive: it counts at what it has, and others take
up the slack. First what must shrink shrinks; only then is anything given. Every 10 s. There a guest's memory is
taken when it is given; here only when it is touched, which this policy does not know of.
"""
from __future__ import annotations

from benchmarks.policies.base import Periodic, balloon, plan
from ovc_plugin.model import MIB, GuestSnapshot, Plan
from ovc_plugin.simulate.policy import Reading

SLUSH, INACTIVE_AFTER, ARRIVED = 9 * MIB, 5.0, 4 * MIB


class Squeezed(Periodic):
    name = 'squeezed'
    tick = 10.0

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def decide(self, reading: Reading, now: float) -> Plan:
        snapshot = reading.snapshot
        active = {g: g.actual for g in snapshot.running if g.actual is not None and self._active(g, g.actual, now)}
        held = sum((g.actual or g.maximum) for g in snapshot.running if g not in active)
        overhead = sum(g.overhead for g in snapshot.running)
        pool = snapshot.total - snapshot.reserve - SLUSH - overhead - held
        least, most = sum(g.reservation for g in active), sum(g.maximum for g in active)
        part = max(0.0, min(1.0, (pool - least) / (most - least))) if most > least else 1.0
        wanted = {g: g.reservation + int(part * (g.maximum - g.reservation)) for g in active}
        moves = {g: t for g, t in wanted.items() if t != g.target}
        shrink = {g: t for g, t in moves.items() if t < active[g]}
        busy = any(active[g] > wanted[g] + ARRIVED for g in active)
        return plan((balloon(g.uuid, t, active[g], f'all guests at {part:.0%} of their range')
                     for g, t in (shrink if busy else moves).items()), 'equal parts')

    def _active(self, guest: GuestSnapshot, size: int, now: float) -> bool:
        if not guest.can_balloon:
            return False
        if guest.target is None or abs(size - guest.target) <= ARRIVED:
            self._seen.pop(guest.uuid, None)
            return True
        before = self._seen.get(guest.uuid)
        if before is None or abs(before[0] - size) > 0:
            self._seen[guest.uuid] = (size, now)
            return True
        return now - before[1] < INACTIVE_AFTER
