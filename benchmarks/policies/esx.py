# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What is published of VMware ESX: idle tax, sliding minimum, states, 15 s.

Below 64 % of the sliding minimum (899 MB for the first 28 GB, 1 % beyond) balloons are asked, below 32 % the host
swaps (and balloons rest); each state is left only at the next higher threshold. What is short is taken so that shares
/ (pages * (f + k * (1 - f))), k = 1 / (1 - 75 %), becomes equal; a balloon takes at most 65 % of a guest. Pages are
shared from 100 % down. A pass at once when free memory falls below the balloon's threshold. The working set is sampled
by the hypervisor, of all guests, whether they speak or not: here it is the truth of the last half minute. Swapping goes
on from one pass to the next. What ESX swaps it chooses at random; here it finds idle pages as well as all others do.
"""
from __future__ import annotations

import typing

from benchmarks.policies.base import Periodic, balloon, plan
from ovc_plugin.decide.share import Claim, share_out
from ovc_plugin.model import MIB, GuestSnapshot, Plan, ReclaimGuest, TuneKsm
from ovc_plugin.samples import Recent
from ovc_plugin.simulate.policy import Reading

KNEE, AT_KNEE = 28 << 30, 899 * MIB
CLEAR, SOFT, HARD = 1.0, 0.64, 0.32
MOST_BALLOONED = 0.65
TAX = 0.75


def minimum(total: int) -> float:
    return AT_KNEE * min(1.0, total / KNEE) + 0.01 * max(0, total - KNEE)


class Esx(Periodic):
    name = 'esx-like'
    tick = 15.0
    samples = True

    def __init__(self) -> None:
        self._state = 'high'
        self._available = 1 << 60

    def wakes(self, recent: Recent, total: int, since: float) -> bool:
        return recent.available < SOFT * minimum(total) and recent.available < self._available - 8 * MIB

    def decide(self, reading: Reading, now: float) -> Plan:
        snapshot = reading.snapshot
        self._available = snapshot.available
        part = snapshot.available / minimum(snapshot.total)
        self._state = _next(self._state, part)
        actions: list[typing.Any] = []
        if snapshot.ksm is not None and part < CLEAR and snapshot.ksm.run == 0:
            actions.append(TuneKsm(run=1, pages_to_scan=1000, reason='less than the minimum is free'))
        if self._state == 'high':
            actions += _give_back(reading)
        else:
            actions += _take(reading, self._state)
        return plan(actions, f'{part:.0%} of the minimum is free')


def _next(state: str, part: float) -> str:
    if part < HARD or (state == 'hard' and part < SOFT):
        return 'hard'
    return 'soft' if part < SOFT or (state != 'high' and part < CLEAR) else 'high'


def _idle(guest: GuestSnapshot, held: int, reading: Reading) -> float:
    """The share of what a guest holds that it does not use."""
    return max(0.0, 1 - reading.active.get(guest.uuid, held) / held) if held else 0.0


def _take(reading: Reading, state: str) -> list[typing.Any]:
    """Lay the shortage on the guests that pay least for a page."""
    snapshot = reading.snapshot
    held = {g: min(g.resident or 0, g.maximum) for g in snapshot.running if not g.untouchable}
    short = int(minimum(snapshot.total)) - snapshot.available
    if short <= 0 or not held:
        return []
    claims = [Claim(weight=g.weight, least=min(g.reservation, size), most=size, idle=_idle(g, size, reading))
              for g, size in held.items()]
    actions: list[typing.Any] = []
    for (guest, size), target in zip(held.items(), share_out(claims, sum(held.values()) - short, TAX), strict=True):
        if size - target < MIB:
            continue
        lowest = max(guest.reservation, int((1 - MOST_BALLOONED) * guest.maximum))
        if state == 'soft' and guest.can_balloon and guest.actual is not None and guest.usable is not None:
            if max(target, lowest) < guest.actual:
                actions.append(balloon(guest.uuid, max(target, lowest), guest.actual, 'soft'))
        elif guest.can_swap:
            actions.append(ReclaimGuest(guest=guest.uuid, amount=size - target, floor=guest.reservation, reason=state))
    return actions


def _give_back(reading: Reading) -> list[typing.Any]:
    """What is over the minimum goes to those who pay most for a page."""
    snapshot = reading.snapshot
    over = snapshot.available - int(minimum(snapshot.total)) - snapshot.reserve
    lacking = {g: g.actual for g in snapshot.running
               if g.can_balloon and g.actual is not None and g.maximum - g.actual >= MIB}
    if over <= 0 or not lacking:
        return []
    claims = [Claim(weight=g.weight, least=size, most=g.maximum, idle=_idle(g, size, reading))
              for g, size in lacking.items()]
    return [balloon(g.uuid, target, size, 'enough is free') for (g, size), target in
            zip(lacking.items(), share_out(claims, sum(lacking.values()) + over, TAX), strict=True)
            if target - size >= MIB]
