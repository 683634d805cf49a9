# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The watch between two passes: cheap looks several times a second, and the kernel's own alarm where it grants one."""
from __future__ import annotations

import collections
import dataclasses
import pathlib
import threading
import time
import typing

from ovc_plugin.samples import HostSample, Recent
from ovc_plugin.sense import marks, psi, sleeper
from ovc_plugin.sense.glance import Glance, Look
from ovc_plugin.sense.sensor import Sensor

WINDOW = 1.0  # seconds over which growth and stall are taken: a burst counts more the longer it has lasted
_LEAST = 0.4  # seconds that two looks must be apart to tell a speed
# A look that differs from the one last judged by no more than that share of available memory, and by that many seconds
# of stall, shows nothing new: at such a growth memory lasts for minutes.
_STILL, _CALM = 1 / 256, 0.005
HEARTBEAT = 5.0  # seconds between two looks at rest: the kernel rings at the group's memory alone

Judge = typing.Callable[[Recent, float], str | None]


class Watch:
    """Keeps the looks of the last second. ``look`` raises where there is nothing to see."""

    def __init__(self, look: typing.Callable[[], Look], trigger: psi.Trigger | None = None, means: str = '',
                 clock: typing.Callable[[], float] = time.monotonic, arm: sleeper.Arm | None = None) -> None:
        self._look, self._clock = look, clock
        self._sleeper = sleeper.Sleeper(trigger, arm, clock, means=means)
        self.blind = False  # whether the last look failed
        self._apart = 0.0
        self._looks: collections.deque[Look] = collections.deque()
        self._counted = self._failed = 0
        self._rang: float | None = None
        self._last: str | None = None
        self._still: Look | None = None  # the look that was judged last, when nothing was due however long one waits
        self._stirred = False

    def stir(self) -> None:
        """Have a look judged at once, whatever it shows: something has changed that looks do not see."""
        self._stirred = True
        self._sleeper.wake()

    def wait(self, seconds: float, pause: float, stopping: threading.Event, judge: Judge, *,
             resting: int | None = None) -> str | None:
        """Sleep until ``seconds`` are over, or until ``judge`` says why a pass is due at once; then why.

        ``pause`` is the time between two looks; with 0 there are none. ``judge`` is given what was seen lately and how
        long this call has lasted; once it has lasted ``WINDOW``, only looks that show something new are judged, unless
        :meth:`stir` says otherwise. So a quiet host is looked at without touching much memory: what rested since the
        last look is in no cache. ``resting``: nothing is going on, so that where the kernel rings at memory that is
        charged, looks are :data:`HEARTBEAT` apart until it does; not with less available than so many bytes.
        """
        began = self._clock()
        self._still = None
        if resting is not None:
            self._sleeper.prepare()
        while (left := began + seconds - self._clock()) > 0:
            self._apart = HEARTBEAT if self._sleeper.listen(self._far(resting)) else pause
            rung = self._sleeper.sleep(min(left, self._apart or left), stopping)
            if stopping.is_set():
                return None
            if rung.stall:
                self._rang = self._clock()
            if rung.mark:
                self._looks.clear()  # what was charged since the last look, and when, is not known
            told = any(rung) or self._stirred
            if not told and (not pause or self._clock() - began >= seconds):  # the pass that is due looks itself
                continue
            last = self._take()
            if last is None or not told and self._unchanged(last):
                continue
            self._stirred = False  # before it is judged: what is stirred meanwhile is for the next look
            lasted = self._clock() - began
            if why := judge(self._seen(last), lasted):
                self._last = why
                return why
            self._still = last if lasted > WINDOW else None
        return None

    def _far(self, least: int | None) -> bool:
        """Whether marks will tell in time: two of them at least are left before anything is short."""
        marks = self._sleeper.marks
        if least is None or marks is None or not self._looks or self.blind:
            return False
        last = self._looks[-1]
        return last.bounded and last.available >= max(least, 2 * marks.step)

    def _unchanged(self, look: Look) -> bool:
        before = self._still
        if before is None:
            return False
        near = before.available * _STILL
        return (abs(look.available - before.available) <= near and abs(look.demand - before.demand) <= near
                and (look.stalled or 0.0) - (before.stalled or 0.0) <= _CALM)

    def recent(self, *, look: bool = False) -> Recent | None:
        """What the last second showed; ``None`` without a look that could be made."""
        stale = look or not self._looks or self._clock() - self._looks[-1].at > 0.1
        if stale and self._take() is None:
            return None
        return self._seen(self._looks[-1])

    def _take(self) -> Look | None:
        try:
            look = self._look()
        except Exception:  # whatever a look trips over: passes can do without
            self._failed += 1
            self.blind = True
            self._sleeper.forget()
            return None
        self.blind = False
        looks = self._looks
        looks.append(look)
        self._counted += 1
        while len(looks) > 1 and (look.at - looks[1].at >= WINDOW
                                  or look.at - looks[0].at > 2 * max(WINDOW, self._apart)):
            looks.popleft()
        return look

    def _seen(self, last: Look) -> Recent:
        first, now = self._looks[0], self._clock()
        seconds = last.at - first.at
        stall = psi.RUNG if self._rang is not None and now - self._rang < WINDOW else None
        if seconds < _LEAST:
            return Recent(available=last.available, stall=stall)
        # Not by how much available memory shrinks: at the wall it shrinks no more, while the kernel swaps; and where
        # pages are read back, to swap others in their place at the same speed is what thrashing is.
        growth = (last.demand - first.demand) / max(seconds, WINDOW)
        if first.stalled is not None and last.stalled is not None:
            stall = max(stall or 0.0, min(1.0, (last.stalled - first.stalled) / max(seconds, WINDOW)))
        return Recent(available=last.available, growth=growth, stall=stall)

    def complete(self, sample: HostSample) -> HostSample:
        """The sample with what the watch knows better than one reading can tell."""
        recent = self.recent()
        if recent is None:
            return sample
        stalls = [one for one in (sample.stall, recent.stall) if one is not None]
        return dataclasses.replace(sample, growth=recent.growth, stall=max(stalls, default=None))

    def fields(self) -> dict[str, typing.Any]:
        """For the status: what is watched and how, how many looks were made and failed, why a pass last came early."""
        return {'means': self._sleeper.means, 'looks': self._counted, 'failed': self._failed, 'early': self._last,
                'resting': self._sleeper.listening}


def plain(sensor: Sensor) -> Watch:
    """A watch that reads the boundary's memory in full at each look."""
    def look() -> Look:
        memory = sensor.memory()
        swapped = memory.swap_total - memory.swap_free
        return Look(at=time.monotonic(), available=memory.available, demand=swapped - memory.available)
    return Watch(look, means='available memory and demand')


def over(sensor: Sensor) -> Watch:
    """The watch over what a sensor senses."""
    pressure = sensor.pressure
    trigger, means = psi.trigger(pressure) if pressure.exists() else (None, f'there is no {pressure}')
    counter: pathlib.Path | None = pressure if pressure.exists() else None
    glance = Glance(sensor.boundary, sensor.memory, sensor.proc, counter, known=sensor.just_read)
    boundary = sensor.boundary
    marked = boundary is not None and (boundary / 'cgroup.event_control').exists()

    def arm(kept: marks.Marks | None) -> marks.Marks | None:
        memory = sensor.last_memory
        if boundary is None or memory is None or kept is not None and kept.total == memory.total:
            return kept
        return marks.Marks(boundary, memory.total)
    return Watch(glance.look, trigger, f'available memory and demand; {means}', arm=arm if marked else None)
