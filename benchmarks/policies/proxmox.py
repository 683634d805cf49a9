# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Proxmox VE's automatic ballooning, and the ksmtuned that comes with it.

Every 10 s the host is steered to 80 % use, if it is more than 10 MiB off. To hand out, guests under pressure come
first, to take, guests with more than 25 % of their least free; all of them only where that moves nobody. Each is to
have its part by shares of what these guests hold beyond their least, and what is over or short, within [least, most];
what bounds leave over is shared out again, among those that still moved. At most 100 MiB a guest and pass. While
something is handed out, who has more than its part gives it up.

Each minute, pages are shared when less than 20 % is free, or guests hold so much that less could be: 300 pages more at
a wake-up while less is free, 50 fewer otherwise, in 64..1250, and wake-ups 100 ms apart on 16 GiB, in proportion less
on larger hosts (at least 10 ms).
"""
from __future__ import annotations

from benchmarks.policies.base import Periodic, balloon, plan
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, Plan, TuneKsm
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
        if abs(goal) <= DEAD_BAND or not guests:
            return plan((), 'the host is used as it should be')
        roomy = {g: s for g, s in guests.items()
                 if (reading.unused.get(g.uuid) or 0) > ROOMY * g.reservation and s >= g.reservation}
        first = {g: s for g, s in guests.items() if g not in roomy} if goal > 0 else roomy
        # Nobody moved, or some gave more than others were given: then everybody is asked.
        targets, left = _move(first, {}, goal)
        if (left >= goal) if goal > 0 else (left <= goal):
            targets, _ = _move(guests, targets, left)
        return plan((balloon(g.uuid, targets[g], size, 'towards its share') for g, size in guests.items()
                     if targets.get(g, size) != size),
                    f'{abs(goal) // MIB} MB to {"hand out" if goal > 0 else "take"}')


def _move(guests: dict[GuestSnapshot, int], before: dict[GuestSnapshot, int],
          rest: int) -> tuple[dict[GuestSnapshot, int], int]:
    """Targets of these guests, some of which have one from ``before``, and what of ``rest`` bytes is then left."""
    targets, moving, growing, moved = {**guests, **before}, set(guests), rest > 0, 1
    while rest and moved:  # what is to be had by each stays the same until one of them moves no more: this ends
        excess = sum(targets[g] - g.reservation for g in moving) + rest
        shares, moved = sum(g.weight for g in moving), 0
        for guest in [g for g in guests if g in moving]:
            wanted = guest.reservation + int(excess * guest.weight / shares)
            wanted = max(guest.reservation, min(wanted, guest.maximum))
            if wanted == guests[guest] or (wanted > guests[guest] and not growing):
                moving.discard(guest)
                continue
            target = max(guests[guest] - STEP, min(guests[guest] + STEP, wanted))
            change = target - targets[guest]
            targets[guest], rest, moved = target, rest - change, moved + abs(change)
    return targets, rest
