# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""MOM's balloon and KSM policy, by its own rules (doc/balloon.rules, doc/ksm.rules) at the interval of oVirt's vdsm.

Every 15 s, of means over the last 10 readings: with less than 20 % of the host free every guest shrinks, otherwise
every guest grows. Shrinking leaves a guest used + g * current, with g = 20 % * (host free / 20 %), or host free - 5 %
where less than 5 % is free; growing leaves it used + 20 % * current; never by more than 5 % of its size at once, not
for less than 0.25 %. KSM runs when less than 20 % is free or when guests could fill 80 %: pages at a wake-up by
+300 / -50 in 64..1250, and wake-ups 10 ms apart on 16 GiB or more, in proportion more on smaller hosts. (vdsm's text
grows a guest by the host's free share where this has 20 %: in our worlds that comes to the same.) Left out: the defect
by which one guest without statistics stops it for all; such guests are passed over here.
"""
from __future__ import annotations

import collections
import statistics
import typing

from benchmarks.policies.base import Periodic, balloon, plan
from ovc_plugin.model import GuestSnapshot, HostSnapshot, Plan, SetBalloon, TuneKsm
from ovc_plugin.simulate.kernel import SCAN_WAKEUP
from ovc_plugin.simulate.policy import Reading

THRESHOLD, CRITICAL, LEAST_FREE = 0.20, 0.05, 0.20
MOST_CHANGE, LEAST_CHANGE = 0.05, 0.0025
SAMPLES = 10
PAGES, SLEEP, SLEEP_ON = (64, 1250), 0.010, 16 << 30


class Mom(Periodic):
    name = 'mom'
    tick = 15.0

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], collections.deque[int]] = {}
        self._pages = PAGES[0]

    def _mean(self, guest: str, what: str, value: int) -> float:
        seen = self._means.setdefault((guest, what), collections.deque(maxlen=SAMPLES))
        seen.append(value)
        return statistics.fmean(seen)

    def decide(self, reading: Reading, now: float) -> Plan:
        snapshot = reading.snapshot
        free = self._mean('', 'free', snapshot.available) / snapshot.total
        actions: list[typing.Any] = []
        for guest in snapshot.running:
            unused = reading.unused.get(guest.uuid)
            if guest.actual is None or unused is None or not guest.can_balloon:
                continue
            size = self._mean(guest.uuid, 'size', guest.actual)
            used = size - self._mean(guest.uuid, 'unused', unused)
            if action := _shrink(guest, guest.actual, used, free) if free < THRESHOLD else _grow(
                    guest, guest.actual, used):
                actions.append(action)
        actions += self._share(snapshot, free)
        return plan(actions, f'{free:.0%} of the host is free')

    def _share(self, snapshot: HostSnapshot, free: float) -> list[TuneKsm]:
        if snapshot.ksm is None:
            return []
        committed = sum(g.committed for g in snapshot.running)
        if THRESHOLD * snapshot.total + committed < snapshot.total and free > THRESHOLD:
            return [TuneKsm(run=0, pages_to_scan=None, reason='enough is free')]
        self._pages = max(PAGES[0], min(PAGES[1], self._pages + (300 if free < THRESHOLD else -50)))
        sleep = SLEEP * max(1.0, SLEEP_ON / snapshot.total)
        return [TuneKsm(run=1, pages_to_scan=int(self._pages * SCAN_WAKEUP / sleep),
                        reason='guests could fill the host')]


def _shrink(guest: GuestSnapshot, size: int, used: float, free: float) -> SetBalloon | None:
    left = free - CRITICAL if free <= CRITICAL else LEAST_FREE * free / THRESHOLD
    floor = max(guest.reservation, used + left * size)
    target = max((1 - MOST_CHANGE) * size, floor)
    if target <= size and size - target > LEAST_CHANGE * size:
        return balloon(guest.uuid, target, size, f'{free:.1%} free')
    return None


def _grow(guest: GuestSnapshot, size: int, used: float) -> SetBalloon | None:
    if size >= guest.maximum:
        return None
    floor = max(guest.reservation, used + LEAST_FREE * size)
    target = min(max((1 + MOST_CHANGE) * size, floor), guest.maximum)
    return balloon(guest.uuid, target, size, 'enough is free') if target - size > LEAST_CHANGE * size else None
