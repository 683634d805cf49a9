# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One sleep that ends early when an alarm of the kernel rings, or another thread says so."""
from __future__ import annotations

import errno
import os
import select
import threading
import time
import typing
import weakref

from ovc_plugin.sense import marks, psi

AWAKE = 3.0  # seconds for which a mark that was crossed is worth looking at what goes on
LONGEST = 20.0  # seconds after which it is looked whether to stop, should nobody wake who waits
# What a kernel says that has no such alarm, or not for us; after any other error it is asked again.
_NEVER = (errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOSYS)

# Given the marks there are, those there should be: the same, others, or none.
Arm = typing.Callable[[marks.Marks | None], marks.Marks | None]


class Rung(typing.NamedTuple):
    """What ended a sleep: the kernel's alarm on stalls, or memory that crossed a mark."""

    stall: bool = False
    mark: bool = False


class Sleeper:
    """``trigger`` is the kernel's alarm on stalls and ``means`` what is said of it, ``arm`` makes the one on memory;
    without either it sleeps all the same. ``awake``: seconds for which marks are not listened to once one was crossed.
    """

    def __init__(self, trigger: psi.Trigger | None = None, arm: Arm | None = None,
                 clock: typing.Callable[[], float] = time.monotonic, *, means: str = '', awake: float = AWAKE) -> None:
        self._trigger, self._arm, self._clock, self._awake = trigger, arm, clock, awake
        self._of_stalls, self._of_memory = means, ''
        self.marks: marks.Marks | None = None
        self._listening: int | None = None
        self._rang_at = -awake
        self._poll = select.poll() if hasattr(select, 'poll') else None  # not on eventlet
        if self._poll is not None:
            self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            weakref.finalize(self, os.close, self._waker)
            self._poll.register(self._waker, select.POLLIN)
            if trigger is not None:
                self._poll.register(trigger.fileno(), trigger.events)

    @property
    def means(self) -> str:
        """What can ring, in words."""
        of_memory = 'the kernel rings at memory' if self.marks is not None else self._of_memory
        return '; '.join(filter(None, (self._of_stalls, of_memory)))

    @property
    def listening(self) -> bool:
        return self._listening is not None

    def wake(self) -> None:
        """End the sleep that is, or else the next one."""
        if self._poll is not None:
            os.eventfd_write(self._waker, 1)

    def prepare(self) -> None:
        """Have the marks where they should be; to set them takes the kernel half a second."""
        if self._arm is None or self._poll is None:
            return
        try:
            found = self._arm(self.marks)
        except OSError as error:
            found, self._of_memory = None, f'the kernel does not ring at memory ({error.strerror or error})'
            if error.errno in _NEVER:
                self._arm = None
        if found is not self.marks:
            self.forget()
            self.marks = found

    def forget(self) -> None:
        """The group that has the marks may be another one."""
        self.listen(False)
        if self.marks is not None:
            self.marks.close()
            self.marks = None

    def listen(self, wanted: bool) -> bool:
        """Whether marks will end a sleep: they are wanted and there, and none was crossed a moment ago."""
        found = self.marks
        if not wanted or found is None or self._clock() - self._rang_at < self._awake:
            if self._listening is not None and self._poll is not None:
                self._poll.unregister(self._listening)
                self._listening = None
            return False
        if self._listening is None and self._poll is not None:
            found.hush()
            self._listening = found.fileno()
            self._poll.register(self._listening, select.POLLIN)
        return True

    def sleep(self, seconds: float, stopping: threading.Event) -> Rung:
        """Sleep so long, and no longer than :data:`LONGEST`, or until something rings or wakes; what rang. Who sets
        ``stopping`` should wake it."""
        if self._poll is None:
            stopping.wait(seconds)
            return Rung()
        stall = mark = False
        for number, events in self._poll.poll(min(seconds, LONGEST) * 1000):
            if number == self._waker:
                os.eventfd_read(self._waker)
            elif number == self._listening and self.marks is not None:
                mark = self.marks.hush() or mark
            elif self._trigger is not None:
                stall = self._stalled(self._trigger, events)
        if stall or mark:
            self._rang_at = self._clock()
        return Rung(stall, mark)

    def _stalled(self, trigger: psi.Trigger, events: int) -> bool:
        if not events & select.POLLERR:
            return True
        assert self._poll is not None
        self._poll.unregister(trigger.fileno())
        self._trigger = None
        self._of_stalls = f'the alarm on stalls is gone with {trigger.path}; its counter is looked at'
        return False
