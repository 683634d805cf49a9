# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A modelled guest: what it wants of memory, how it answers its balloon, and what shortage costs it.

Memory in use is ``anon`` (cannot be given up) and ``cache`` (can, at the price of reading files again). The host backs
``backed`` bytes, of which ``warm`` and ``cold`` are in swap (of pages in steady use, and of others) and ``merged`` are
shared away. Bytes and seconds.
"""
from __future__ import annotations

import dataclasses

from ovc_plugin.model import MIB, GuestSnapshot

PAGE = 4096
TOUCH_SPEED = 400 * MIB    # a guest filling memory as fast as one busy process does
READ_SPEED = 100 * MIB     # file cache fills as fast as a disk reads
RELEASE_SPEED = 64 * MIB   # a balloon that must give way to a guest out of memory does so in small pieces
SWAP_IN_SECONDS = 150e-6   # one page back from an SSD, with the fault around it
MISS_SECONDS = 25e-6       # one page of a file read again: an SSD with readahead


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """``base`` bytes; from ``start`` on up to ``peak``: by ``rise`` bytes a second, or for ``length`` of every
    ``period`` seconds."""

    base: int
    peak: int = 0
    start: float = 0.0
    rise: float = 0.0
    period: float = 0.0
    length: float = 0.0

    def at(self, when: float) -> int:
        since = when - self.start
        if since < 0 or self.peak <= self.base:
            return self.base
        if self.rise:
            return min(self.peak, self.base + int(self.rise * since))
        return self.peak if not self.period or since % self.period < self.length else self.base

    @property
    def constant(self) -> bool:
        return self.peak <= self.base


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What a guest is and does. ``manner`` names it for a reader; the figures decide.

    ``cache`` bytes of files would serve it, of which the share ``reuse`` is read each second; the share ``hot`` of its
    anonymous memory is in steady use, and ``stirs`` of what is in swap otherwise is wanted each second. ``fill`` is the
    share of its free memory that it has touched and not told the host of (0: free page reporting). ``alike`` bytes
    equal those of all guests with the same ``image``; ``rewrites`` is how many of them it writes each second. The
    balloon moves by ``speed`` bytes a second while it answers: for the share ``answers`` of each minute; it does not go
    below ``least`` or above ``most``. Until it ``hangs`` it tells statistics every ``stats_period`` seconds, if it
    ``speaks``. ``garbled``: in every other half minute what it says makes no sense. ``reachable``: the hypervisor's
    calls to it succeed.
    """

    name: str
    manner: str
    maximum: int
    reservation: int
    demand: Demand
    overhead: int = 128 * MIB
    own_overhead: int = 48 * MIB
    weight: float = 1.0
    cache: int = 0
    reuse: float = 0.01
    hot: float = 0.3
    stirs: float = 0.0005
    fill: float = 0.0
    alike: int = 0
    image: str = ''
    rewrites: float = 0.0
    speed: int = 256 * MIB
    answers: float = 1.0
    least: int = 0
    most: int = 1 << 60
    speaks: bool = True
    hangs: float = 1e18
    stats_period: float = 10.0
    garbled: bool = False
    reachable: bool = True
    has_balloon: bool = True
    untouchable: str | None = None
    trust_domain: str = 'tenant'
    arrives: float = 0.0


class Guest:
    """The moving part: ``step`` moves one guest by some seconds, then the kernel grants what it asked for."""

    __slots__ = ('habit', 'uuid', 'size', 'target', 'anon', 'cache', 'backed', 'warm', 'cold', 'merged', 'alive',
                 'lost', 'waited', 'wants', 'swap_ins', 'told_usable', 'told_unused', 'told_at', 'told_need', '_ins')

    def __init__(self, habit: Habit) -> None:
        self.habit, self.uuid = habit, f'uuid-{habit.name}'
        self.size = self.target = habit.maximum
        self.anon = min(habit.demand.at(0.0), habit.maximum)
        self.cache = min(habit.cache, self.size - self.anon)
        self.backed = self._used()
        self.warm = self.cold = self.merged = 0
        self.alive = True
        self.lost = self.waited = 0.0
        self.wants = self.swap_ins = self._ins = 0
        self.told_usable: int | None = None
        self.told_unused: int | None = None
        self.told_need = 0
        self.told_at = -1e9

    @property
    def swapped(self) -> int:
        return self.warm + self.cold

    @property
    def resident(self) -> int:
        """Host memory that the guest holds, with its own overhead."""
        return self.backed - self.warm - self.cold - self.merged + self.habit.own_overhead if self.alive else 0

    @property
    def hot(self) -> int:
        return int(self.habit.hot * self.anon + self.habit.reuse * self.cache)

    @property
    def swappable(self) -> int:
        if self.habit.untouchable or not self.alive:
            return 0
        return max(0, self.backed - self.warm - self.cold - self.merged)

    def unballooned(self) -> int:
        """Bytes that the guest would have backed at its full size, with nothing in swap and nothing merged."""
        habit = self.habit
        used = min(habit.maximum, self.anon + habit.cache)
        return used + int(habit.fill * (habit.maximum - used))

    def _used(self) -> int:
        used = self.anon + self.cache
        return used + int(self.habit.fill * (self.size - used))

    def step(self, when: float, seconds: float) -> None:
        """Move the balloon and the guest's use; ``wants`` is then what it would like to be granted in new pages."""
        habit = self.habit
        self.waited = 0.0
        self._move_balloon(when, seconds)
        wish = min(habit.demand.at(when), habit.maximum)
        grown = min(wish, self.anon + int(TOUCH_SPEED * seconds))
        if grown > self.size:  # out of memory inside: the balloon gives way, slowly (deflate on OOM)
            size = min(grown, self.size + int(RELEASE_SPEED * seconds))
            self.waited = seconds * (grown - size) / max(1, grown - self.anon)
            self.size = grown = size
        self.anon = grown
        self.cache = max(0, min(habit.cache, self.size - grown, self.cache + int(READ_SPEED * seconds)))
        self.wants = min(max(0, self._shrink_to(self._used())), int((TOUCH_SPEED + READ_SPEED) * seconds))
        warm = min(self.warm, self.hot)
        self.cold += self.warm - warm
        self.warm = warm
        self._ins = int(self.warm * min(1.0, seconds / 2) + self.cold * habit.stirs * seconds)

    def _move_balloon(self, when: float, seconds: float) -> None:
        habit = self.habit
        if self.target == self.size or not self._answers(when):
            return
        goal = max(min(self.target, max(habit.most, self.size)), min(self.size, max(self.anon, habit.least)))
        step = int(habit.speed * seconds)
        self.size += max(-step, min(step, goal - self.size))

    def _answers(self, when: float) -> bool:
        habit = self.habit
        return habit.has_balloon and when % 60 < 60 * habit.answers and when < habit.hangs

    def coming(self, when: float) -> int:
        """Bytes by which the guest is still growing towards what it was given."""
        return max(0, min(self.target, self.habit.most) - self.size) if self._answers(when) else 0

    def _shrink_to(self, used: int) -> int:
        """Give pages back to the host when less is used; returns how many more are wanted."""
        if used < self.backed:
            part = used / self.backed
            self.warm, self.cold, self.merged = int(self.warm * part), int(self.cold * part), int(self.merged * part)
            self.backed = used
        return used - self.backed

    @property
    def asks(self) -> int:
        """Bytes of host memory wanted in this step: new pages, and pages back from swap."""
        return self.wants + self._ins

    def grant(self, part: float, seconds: float) -> None:
        """The kernel grants this share of what was asked for; the rest is waited for."""
        habit = self.habit
        if self.wants:
            # What was not granted is asked for again: use stays within what is backed.
            missing = self.wants - int(self.wants * part)
            self.backed += self.wants - missing
            self.waited = max(self.waited, seconds * (1 - part))
            dropped = min(missing, self.cache)
            self.cache -= dropped
            self.anon -= min(self.anon, missing - dropped)
        back = int(self._ins * part)
        total = self.warm + self.cold
        if back and total:
            warm = min(self.warm, int(self.warm * min(1.0, seconds / 2) * part))
            self.cold -= min(self.cold, back - warm)
            self.warm -= warm
        self.swap_ins = back
        missed = habit.reuse * max(0, habit.cache - self.cache) * seconds / PAGE * MISS_SECONDS
        swap = self._ins / PAGE * SWAP_IN_SECONDS
        self.waited = min(seconds, self.waited + swap)  # for the host's memory, not for its own files
        self.lost = min(seconds, self.waited + missed)

    def swap_out(self, amount: int) -> int:
        """Move bytes to swap. The kernel mostly finds idle pages; one in ten that it takes is in use."""
        amount = min(amount, self.swappable)
        hot = max(0, min(self.hot - self.warm, amount))
        idle = max(0, self.swappable - hot)
        cold = min(idle, amount * 9 // 10) if hot else amount
        cold = max(cold, amount - hot)
        self.cold += cold
        self.warm += amount - cold
        return amount

    def end(self) -> None:
        """Killed: nothing of it is left."""
        self.alive = False
        self.anon = self.cache = self.backed = self.warm = self.cold = self.merged = self.wants = self._ins = 0
        self.lost = self.waited = 0.0

    def tell(self, when: float) -> None:
        """Publish statistics when they are due."""
        habit = self.habit
        if habit.speaks and when < habit.hangs and self.alive and when - self.told_at >= habit.stats_period:
            self.told_at, self.told_need = when, self.anon
            self.told_usable = self.size - self.anon
            self.told_unused = self.size - self.anon - self.cache

    def snapshot(self, now: float, refaults: float | None, epoch: float) -> GuestSnapshot:
        """The guest as the rules see it: its size at once, its words as old as they are. ``epoch``: when time began."""
        habit = self.habit
        usable = None if (nonsense := habit.garbled and now % 60 >= 30) else self.told_usable
        return GuestSnapshot(
            uuid=self.uuid, name=habit.name, maximum=habit.maximum, reservation=habit.reservation,
            overhead=habit.overhead, weight=habit.weight, target=self.target,
            actual=self.size if habit.has_balloon and not nonsense else None, usable=usable,
            stats_age=None if usable is None else now - epoch - self.told_at, resident=self.resident,
            swapped=self.swapped, refaults=refaults, can_balloon=habit.has_balloon and not habit.untouchable,
            can_share=habit.alike > 0,
            can_swap=not habit.untouchable, untouchable=habit.untouchable, trust_domain=habit.trust_domain)
