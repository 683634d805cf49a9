# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A modelled host kernel: RAM, swap, page sharing, and who is killed when both are full. Bytes and seconds."""
from __future__ import annotations

import dataclasses
import math

from ovc_plugin.model import MIB, KsmState
from ovc_plugin.simulate.guest import Guest

SWAP_SPEED = 300 * MIB    # an SSD, each way
SCAN_WAKEUP = 0.02        # seconds that ksmd sleeps between two lots of pages
SCAN_LIMIT = 400 * MIB    # what one core can scan in a second
HOT_RESISTS = 0.1         # how much less likely the kernel takes a page in use than an idle one
MOVES_FOR = 120.0         # seconds, in whose first part a guest can be swapped of which that works at times only
PAGE = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """``other`` is what the host uses itself, within its ``reserve``; ``watermark`` is never handed out."""

    total: int
    reserve: int
    swap: int
    other: int = 256 * MIB
    watermark: int = 64 * MIB


@dataclasses.dataclass(slots=True)
class Order:
    """A policy's wish that one guest be swapped: ``amount`` bytes, not below ``floor`` resident ones. ``freed`` is what
    was moved of it, ``tried`` whether the device had come to it."""

    guest: Guest
    amount: int
    floor: int
    freed: int = 0
    tried: bool = False


class Kernel:
    """Grants what guests ask for; reclaims for it by its own lights; kills the largest when nothing is left.

    ``room``: bytes that guests share among them. ``waiting``: the share of the last step in which some guest waited for
    memory, ``stall`` its average over ten seconds. ``orders`` are carried out as fast as the device writes, until the
    policy replaces them; what the kernel swaps by itself takes the rest of the device's time.
    """

    def __init__(self, machine: Machine, guests: list[Guest]) -> None:
        self.machine, self.guests = machine, guests
        self.ksm_run, self.ksm_pages = 0, 100
        self.room = machine.total - machine.other
        self.stall = self.waiting = 0.0
        self.swap_ins = self.swap_outs = 0
        self.killed: list[str] = []
        self.orders: list[Order] = []
        self._writes = 0
        self._when = 0.0
        self._scanned = self._dissolved = 0.0  # bytes
        self._rounds = 0.0

    @property
    def available(self) -> int:
        return self.room - sum(g.resident for g in self.guests)

    @property
    def swap_free(self) -> int:
        return self.machine.swap - sum(g.swapped for g in self.guests)

    @property
    def ksm(self) -> KsmState:
        saved = sum(g.merged for g in self.guests)
        return KsmState(run=self.ksm_run, saved=saved, shared=saved // 4, pages_to_scan=self.ksm_pages,
                        sleep=SCAN_WAKEUP, scanned=int(self._scanned / PAGE), full_scans=int(self._rounds),
                        dissolved=int(self._dissolved / PAGE), cpu=self._scanned / SCAN_LIMIT)

    def step(self, when: float, seconds: float) -> None:
        guests = [g for g in self.guests if g.alive]
        self._writes, self._when = int(SWAP_SPEED * seconds), when
        if self.orders:
            self._carry_out()
        busy = [g for g in guests if not g.rests]
        wanted = 0
        for guest in busy:
            guest.step(when, seconds)
            wanted += guest.asks
        part = self._provide(guests, wanted, seconds) if wanted else 1.0
        waiting = 0.0
        for guest in busy:
            if guest.alive:
                merged = guest.merged
                guest.grant(part, seconds)
                self._dissolved += merged - guest.merged
                self.swap_ins += guest.swap_ins
                waiting = max(waiting, guest.waited)
        for guest in guests:
            if when >= guest.speaks_at:
                guest.tell(when)
        if self.ksm_run == 1:
            self._merge(guests, seconds)
        self.waiting = waiting = waiting / seconds
        self.stall += (waiting - self.stall) * (1 - math.exp(-seconds / 10))

    def _provide(self, guests: list[Guest], wanted: int, seconds: float) -> float:
        """Make room for ``wanted`` bytes; returns the share of them that could be granted."""
        room = self.available - self.machine.watermark
        most = self._writes
        while wanted > room:
            missing = wanted - room
            got = self.reclaim(guests, min(missing, most))
            most -= got
            room += got
            if wanted <= room or most <= MIB:
                break
            if room > MIB:
                break  # the rest waits; what is granted now can be taken in the next step
            if got < min(missing, most + got) - len(guests):  # nothing left to take: not slow, but full
                victim = max((g for g in guests if g.alive), key=lambda g: g.resident + g.swapped)
                wanted -= victim.asks
                self.killed.append(victim.habit.name)
                victim.end()
                room = self.available - self.machine.watermark
        return max(0.0, min(1.0, room / wanted)) if wanted > 0 else 1.0

    def reclaim(self, guests: list[Guest], amount: int) -> int:
        """The kernel's own choice: idle pages of whoever has most of them."""
        amount = min(amount, self.swap_free)
        parts = {g: g.swappable - (1 - HOT_RESISTS) * min(g.hot, g.swappable) for g in guests
                 if self.movable(g)}
        total, got = sum(parts.values()), 0
        if amount <= 0 or total <= 0:
            return 0
        for guest, part in parts.items():
            got += guest.swap_out(min(amount - got, int(amount * part / total) + 1))
        for guest in parts:  # what rounding and small guests left over
            if got < amount:
                got += guest.swap_out(amount - got)
        self.swap_outs += got
        return got

    def _carry_out(self) -> None:
        """All orders at once, each by its part of what the device writes in this step."""
        total = sum(order.amount for order in self.orders)
        part = min(1.0, self._writes / total) if total else 0.0
        for order in self.orders:
            wanted = min(math.ceil(order.amount * part), self._writes, self.swap_free)
            amount = min(wanted, order.guest.resident - order.floor, self.movable(order.guest))
            got = order.guest.swap_out(amount) if amount > 0 else 0
            order.tried = order.tried or self._writes > 0
            order.freed += got
            order.guest.taken += got
            order.amount -= wanted
            self.swap_outs += got
            self._writes -= got
        self.orders = [order for order in self.orders if order.amount > 0]

    def movable(self, guest: Guest) -> int:
        """Bytes of the guest that can be moved to swap just now."""
        part = guest.habit.swaps
        return guest.swappable if part >= 1.0 or self._when % MOVES_FOR < part * MOVES_FOR else 0

    def _merge(self, guests: list[Guest], seconds: float) -> None:
        """Equal pages meet at the speed of the scan, which goes through all that guests hold; of each image, one copy
        stays."""
        groups: dict[str, list[tuple[Guest, int]]] = {}
        for guest in guests:
            if guest.alive and guest.habit.alike:
                size = min(guest.habit.alike, guest.anon, guest.resident - guest.habit.own_overhead + guest.merged)
                groups.setdefault(guest.habit.image, []).append((guest, size))
        total = sum(size for group in groups.values() for _, size in group)
        speed = min(SCAN_LIMIT, self.ksm_pages * PAGE / SCAN_WAKEUP)
        self._scanned += speed * seconds
        self._rounds += speed * seconds / max(PAGE, sum(g.backed - g.warm - g.cold for g in guests if g.alive))
        for group in groups.values():
            for guest, size in group:
                possible = size * (len(group) - 1) // len(group)
                step = int(possible * min(1.0, speed * seconds / max(1, total)))
                guest.merged = max(guest.merged, min(possible, guest.merged + step))
