# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A modelled guest at work: how it answers its balloon, and what shortage costs it.

Memory in use is ``anon`` (cannot be given up) and ``cache`` (can, at the price of reading files again). The host backs
``backed`` bytes, of which ``warm`` and ``cold`` are in swap (of pages in steady use, and of others) and ``merged`` are
shared away. Bytes and seconds.
"""
from __future__ import annotations

import math

from ovc_plugin.model import MIB
from ovc_plugin.simulate.habit import Habit

PAGE = 4096
TOUCH_SPEED = 400 * MIB    # a guest filling memory as fast as one busy process does
READ_SPEED = 100 * MIB     # file cache fills as fast as a disk reads
RELEASE_SPEED = 64 * MIB   # a balloon that must give way to a guest out of memory does so in small pieces
SWAP_IN_SECONDS = 150e-6   # one page back from an SSD, with the fault around it
MISS_SECONDS = 25e-6       # one page of a file read again: an SSD with readahead
SAMPLED = 30.0             # seconds after which a page that was not touched counts as idle, for who can see that


class Guest:
    """The moving part: ``step`` moves one guest by some seconds, then the kernel grants what it asked for.

    Of each step ``lost`` is the time in which the guest waited, in parts: ``starved`` while the kernel had no page for
    it, ``squeezed`` while its own balloon gave way, ``paged`` for pages from swap, ``missed`` for files read again.
    ``waited`` is all of this but the files; ``stalled`` sums up what the host sees of it. ``taken`` is all that
    policies moved to swap, ``refaulted`` all that came back. A guest ``rests`` when another step would change nothing.
    """

    __slots__ = ('habit', 'uuid', 'size', 'target', 'anon', 'cache', 'backed', 'warm', 'cold', 'merged', 'alive',
                 'full', 'taken', 'refaulted', 'lost', 'waited', 'starved', 'squeezed', 'paged', 'missed', 'stalled',
                 'wants', 'swap_ins', 'told_usable', 'told_unused', 'told_working', 'told_at', 'told_need',
                 'told_faults', 'speaks_at', '_ins', '_parts', '_steady', '_moves', '_constant')

    def __init__(self, habit: Habit) -> None:
        self.habit, self.uuid = habit, f'uuid-{habit.name}'
        self.size = self.target = habit.starts_at or habit.maximum
        self.anon = min(habit.demand.at(0.0), self.size)
        self.cache = min(habit.cache, self.size - self.anon)
        self.backed = self._used()
        self.warm = self.cold = self.merged = self.taken = self.refaulted = 0
        self.alive = True
        self.lost = self.waited = self.starved = self.squeezed = self.paged = self.missed = self.stalled = 0.0
        self.wants = self.swap_ins = self._ins = self._parts = 0
        self.full = self._unballooned()
        self.told_usable: int | None = None
        self.told_unused: int | None = None
        self.told_working: int | None = None
        self.told_need = 0
        self.told_faults: float | None = None
        self.told_at = -1e9
        self.speaks_at = 0.0 if habit.speaks or habit.publishes else 1e18
        self._steady = False
        self._moves = habit.has_balloon and habit.answers > 0
        self._constant = habit.demand.constant and not habit.reboots

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
    def active(self) -> int:
        """Bytes touched within the last half minute, as a hypervisor finds that samples pages."""
        habit = self.habit
        stirred, read = (1 - math.exp(-SAMPLED * rate) for rate in (habit.stirs, habit.reuse))
        return int(self.anon * (habit.hot + (1 - habit.hot) * stirred) + self.cache * read)

    @property
    def swappable(self) -> int:
        if self.habit.locked or not self.alive:
            return 0
        away = self.warm + self.cold
        return max(0, min(self.backed - away - self.merged, self.habit.swap_limit - away))

    @property
    def rests(self) -> bool:
        return self._steady and (self.target == self.size or not self._moves)

    def boot(self) -> None:
        """Nothing is touched yet: all of it is still to come. A guest that was started anew is as large as it can be,
        whatever it was asked for, and has not spoken yet."""
        self.anon = self.cache = self.backed = self.warm = self.cold = self.merged = 0
        self.size = self.target = self.habit.maximum
        self.told_usable = self.told_unused = self.told_working = self.told_faults = None
        self.told_at, self.told_need = -1e9, 0

    def _unballooned(self) -> int:
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
        if habit.reboots and when and when % habit.reboots < seconds:
            self.boot()
            self.speaks_at = when + habit.stats_period if habit.speaks or habit.publishes else 1e18
        size, before = self.size, self.cache
        self.squeezed = 0.0
        if self.target != size:
            self._move_balloon(when, seconds)
            size = self.size
        wish = min(habit.demand.base if self._constant else habit.demand.at(when), habit.maximum)
        grown = min(wish, self.anon + int(TOUCH_SPEED * seconds))
        if grown > size:  # out of memory inside: the balloon gives way, slowly (deflate on OOM)
            room = min(grown, size + int(RELEASE_SPEED * seconds))
            self.squeezed = seconds * (grown - room) / max(1, grown - self.anon)
            self.size = size = grown = room
        self.anon = grown
        self.cache = cache = max(0, min(habit.cache, size - grown, before + int(READ_SPEED * seconds)))
        used = grown + cache
        if habit.fill:
            used += int(habit.fill * (size - used))
        if used < self.backed:
            self._give_back(used)
        wants = used - self.backed
        self.wants = min(wants, int((TOUCH_SPEED + READ_SPEED) * seconds)) if wants > 0 else 0
        self._ins = cooled = 0
        if self.warm or self.cold:
            cooled = max(0, self.warm - self.hot)
            self.cold += cooled
            self.warm -= cooled
            back = int(self.warm * min(1.0, seconds / 2) + self.cold * habit.stirs * seconds)
            self._ins = back if back >= PAGE else 0
        self._parts = min(self.merged, int(habit.rewrites * seconds)) if self.merged else 0
        self._steady = (self._constant and grown == wish and cache == before and not self.asks and not cooled
                        and not habit.rewrites and not self.squeezed)

    def _move_balloon(self, when: float, seconds: float) -> None:
        if not self.answers(when):
            return
        habit = self.habit
        goal = max(min(self.target, max(habit.most, self.size)), min(self.size, max(self.anon, habit.least)))
        step = int(habit.speed * seconds)
        self.size += max(-step, min(step, goal - self.size))

    def answers(self, when: float) -> bool:
        habit = self.habit
        return habit.has_balloon and when % 60 < 60 * habit.answers and when < habit.hangs

    def babbles(self, when: float) -> bool:
        """Whether what the guest says makes no sense just now."""
        return self.habit.garbled and when % 60 >= 30

    def coming(self, when: float) -> int:
        """Bytes by which the guest is still growing towards what it was given."""
        return max(0, min(self.target, self.habit.most) - self.size) if self.answers(when) else 0

    def _give_back(self, used: int) -> None:
        """Return pages to the host: less is used than is backed."""
        part = used / self.backed
        self.warm, self.cold, self.merged = int(self.warm * part), int(self.cold * part), int(self.merged * part)
        self.backed = used

    @property
    def asks(self) -> int:
        """Bytes of host memory wanted in this step: new pages, pages back from swap, and own copies of merged ones."""
        return self.wants + self._ins + self._parts

    def grant(self, part: float, seconds: float) -> None:
        """The kernel grants this share of what was asked for; the rest is waited for."""
        habit = self.habit
        self.starved = seconds * (1 - part) if self.wants or self._parts else 0.0
        self.merged -= int(self._parts * part)  # evaporation: what is written to needs a page of its own
        if self.wants:
            # What was not granted is asked for again: use stays within what is backed.
            missing = self.wants - int(self.wants * part)
            self.backed += self.wants - missing
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
        self.refaulted += back
        self.full = self._unballooned()
        missed = habit.reuse * max(0, habit.cache - self.cache) * seconds / PAGE * MISS_SECONDS
        self._count(missed, self._ins / PAGE * SWAP_IN_SECONDS, seconds)

    def _count(self, missed: float, paged: float, seconds: float) -> None:
        """The time lost in this step, and its parts; nobody loses more time than passes."""
        if self.squeezed >= self.starved:  # both at once: the longer counts
            self.starved, waiting = 0.0, self.squeezed
        else:
            self.squeezed, waiting = 0.0, self.starved
        self.waited = min(seconds, waiting + paged)  # for the host's memory, not for its own files
        self.lost = min(seconds, self.waited + missed)
        self.paged, self.missed = self.waited - waiting, self.lost - self.waited
        self.stalled += self.starved + self.paged

    def swap_out(self, amount: int) -> int:
        """Move bytes to swap. The kernel mostly finds idle pages; one in ten that it takes is in use."""
        amount = min(amount, self.swappable)
        self._steady = False
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
        self.anon = self.cache = self.backed = self.warm = self.cold = self.merged = 0
        self.wants = self._ins = self._parts = 0
        self.lost = self.waited = self.starved = self.squeezed = self.paged = self.missed = 0.0

    def tell(self, when: float) -> None:
        """Publish statistics, which are due at ``speaks_at``."""
        habit = self.habit
        if when >= habit.hangs or not self.alive:
            self.speaks_at = 1e18
            return
        self.told_at, self.told_need = when, self.anon
        self.speaks_at = when + habit.stats_period
        if habit.publishes:  # with the files that it read within the last half minute
            self.told_working = self.anon + int(habit.cache * (1 - math.exp(-SAMPLED * habit.reuse)))
        if not habit.speaks:
            return
        self.told_usable = self.size - self.anon
        self.told_unused = self.size - self.anon - self.cache
        self.told_faults = habit.mapped * habit.reuse * max(0, habit.cache - self.cache) / PAGE
