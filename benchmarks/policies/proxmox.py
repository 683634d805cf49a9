# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Proxmox VE's automatic ballooning, and the ksmtuned that comes with it.

Every 10 s the host is steered to 80 % use. What is over or short is laid on all guests by their shares within [least,
most], so that the excess over the least is in proportion to the shares where the bounds allow; guests with more than
25 % of their least free shrink first. At most 100 MiB a guest and pass; nothing for less than 10 MiB.

Each minute, pages are shared when less than 20 % is free, or guests hold so much that less could be: 300 pages more at
a wake-up while less is free, 50 fewer otherwise, in 64..1250, and wake-ups 100 ms apart on 16 GiB, in proportion less
on larger hosts (at least 10 ms).
"""
from __future__ import annotations

from benchmarks.policies.base import Periodic, balloon, plan
from ovc_plugin.decide.share import Claim, share_out
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, Plan, SetBalloon, TuneKsm
from ovc_plugin.simulate.kernel import SCAN_WAKEUP
from ovc_plugin.simulate.policy import Reading

USE, STEP, DEAD_BAND, ROOMY = 0.80, 100 * MIB, 10 * MIB, 0.25
KSM_EVERY, FREE = 60.0, 0.20


class Proxmox(Periodic):
    name = 'proxmox'
    tick = 10.0

    def __init__(self) -> None:
        self._pages, self._tuned = 100, -1e9

    def decide(self, reading: Reading, now: float) -> Plan:
        balloons = self._balance(reading)
        return plan((*balloons.actions, *self._share(reading.snapshot, now)), balloons.reason)

    def _share(self, snapshot: HostSnapshot, now: float) -> list[TuneKsm]:
        if snapshot.ksm is None or now - self._tuned < KSM_EVERY:
            return []
        self._tuned, least = now, FREE * snapshot.total
        if sum(g.resident or 0 for g in snapshot.running) + least < snapshot.total and snapshot.available > least:
            return [TuneKsm(run=0, pages_to_scan=None, reason='enough is free')]
        self._pages = max(64, min(1250, self._pages + (300 if snapshot.available < least else -50)))
        sleep = max(0.010, 0.100 * (16 << 30) / snapshot.total)
        return [TuneKsm(run=1, pages_to_scan=int(self._pages * SCAN_WAKEUP / sleep), reason='little is free')]

    def _balance(self, reading: Reading) -> Plan:
        snapshot = reading.snapshot
        goal = int(snapshot.total * USE) - (snapshot.total - snapshot.available)
        guests = {g: g.actual for g in snapshot.running if g.can_balloon and g.actual is not None}
        if abs(goal) < DEAD_BAND or not guests:
            return plan((), 'the host is used as it should be')
        if goal > 0:
            return plan(_move(guests, goal), f'{goal // MIB} MB to hand out')
        roomy = {g: s for g, s in guests.items() if (reading.unused.get(g.uuid) or 0) > ROOMY * g.reservation}
        actions = _move(roomy, goal)
        left = goal + sum(a.previous - a.target for a in actions)
        if left <= -DEAD_BAND:
            actions += _move({g: s for g, s in guests.items() if g not in roomy}, left)
        return plan(actions, f'{-goal // MIB} MB to take')


def _move(guests: dict[GuestSnapshot, int], goal: int) -> list[SetBalloon]:
    """Move these guests by ``goal`` bytes in all: the excess over the least is shared out, each guest's by its shares.

    With something to hand out nobody shrinks, and with something to take nobody grows.
    """
    excess = sum(guests.values()) + goal - sum(g.reservation for g in guests)
    shares = share_out([Claim(weight=g.weight, least=0, most=g.maximum - g.reservation) for g in guests],
                       max(0, excess), tax=0.0)
    way, left, actions = (1 if goal > 0 else -1), abs(goal), []
    for (guest, size), more in zip(guests.items(), shares, strict=True):
        step = min(STEP, left, max(0, way * (guest.reservation + more - size)))
        if step > 0:
            actions.append(balloon(guest.uuid, size + way * step, size, 'towards its share'))
            left -= step
    return actions
