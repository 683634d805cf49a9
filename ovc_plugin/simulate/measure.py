# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a policy cost and brought on one modelled host."""
from __future__ import annotations

import dataclasses

from ovc_plugin.model import MIB
from ovc_plugin.simulate.guest import Guest

CALM = 30.0      # seconds without anybody waiting after which a shock counts as under control
WAITS = 0.05     # share of its time that a guest waits for the host's memory, above which it is not calm


@dataclasses.dataclass(slots=True, kw_only=True)
class Measures:
    """Sums over one run. ``lost`` of ``lived`` guest seconds were spent waiting; ``freed`` is in byte seconds.

    ``lost`` in parts: ``starved`` (the kernel had no page), ``squeezed`` (the guest's own balloon gave way too slowly),
    ``paged`` (pages from swap) and ``missed`` (files read again, for want of cache). ``dead`` is the time after a kill.
    ``trouble`` is when a guest waited noticeably for the host's memory. ``targets`` holds each guest's last target, and
    which way it went.
    """

    seconds: float = 0.0
    lived: float = 0.0
    lost: float = 0.0
    starved: float = 0.0
    squeezed: float = 0.0
    paged: float = 0.0
    missed: float = 0.0
    dead: float = 0.0
    freed: float = 0.0
    asks: int = 0
    reversals: int = 0
    passes: int = 0
    trouble: list[float] = dataclasses.field(default_factory=list)
    available: list[int] = dataclasses.field(default_factory=list)
    targets: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def second(self, when: float, seconds: float, guests: list[Guest], room: int) -> tuple[int, int]:
        """Count one step; returns what is available then, of the bytes that guests share among them, and what is in
        swap."""
        self.seconds += seconds
        worst, held, swapped = 0.0, 0, 0
        for guest in guests:
            self.lived += seconds
            if not guest.alive:
                self.dead += seconds
                continue
            if guest.lost:
                self._lose(guest)
                if guest.waited > worst:
                    worst = guest.waited
            away = guest.warm + guest.cold
            swapped += away
            backed = guest.backed - away - guest.merged
            held += backed + guest.habit.own_overhead
            self.freed += (guest.full - backed) * seconds
        if worst > WAITS * seconds:
            self.trouble.append(when)
        self.available.append(room - held)
        return room - held, swapped

    def _lose(self, guest: Guest) -> None:
        self.lost += guest.lost
        self.starved += guest.starved
        self.squeezed += guest.squeezed
        self.paged += guest.paged
        self.missed += guest.missed

    def asked(self, guest: str, target: int, before: int) -> None:
        """A balloon target was set; it is a reversal if it goes the other way than the last change did."""
        last, way = self.targets.get(guest, (before, 0))
        if target == last:
            return
        self.asks += 1
        now = 1 if target > last else -1
        self.reversals += way == -now
        self.targets[guest] = (target, now)

    @property
    def slowdown(self) -> float:
        """Share of guest time lost to waiting; the time after a kill is lost altogether."""
        return (self.lost + self.dead) / self.lived if self.lived else 0.0

    @property
    def freed_mb(self) -> float:
        """Mean of what was kept out of memory by balloon, swap and sharing, in MiB."""
        return self.freed / self.seconds / MIB if self.seconds else 0.0

    def controlled(self, shock: float) -> float:
        """Seconds from ``shock`` until nobody waited for the next half minute; up to the end where that never was."""
        since = shock
        for when in self.trouble:
            if when < shock:
                continue
            if when - since >= CALM:
                break
            since = when
        return since - shock
