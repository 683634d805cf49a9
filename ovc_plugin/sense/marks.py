# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The kernel's alarm on the memory of a control group v1: it rings when what is charged crosses one of many marks.

The kernel's Documentation/admin-guide/cgroup-v1/memory.rst describes it as "memory thresholds". Control groups v2 have
nothing like it.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
import weakref

COUNT = 64  # up to the group's limit; setting one takes the kernel some milliseconds


class Marks:
    """Rings, until it is hushed, once the group's memory has crossed a mark in either direction.

    ``total`` is the group's limit in bytes, over which the marks are spread evenly.

    :raises OSError: the kernel grants none; its word is the reason.
    """

    def __init__(self, group: pathlib.Path, total: int) -> None:
        self.total = total
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.close = weakref.finalize(self, os.close, bell)  # with it the kernel forgets the marks
        self._bell = bell
        try:
            _set(group, bell, total)
        except OSError:
            self.close()
            raise

    @property
    def step(self) -> int:
        """Bytes from one mark to the next."""
        return self.total // COUNT

    def fileno(self) -> int:
        return self._bell

    def hush(self) -> bool:
        """Whether it rang since the last time."""
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self._bell) > 0
        return False


def _set(group: pathlib.Path, bell: int, total: int) -> None:
    usage = os.open(group / 'memory.usage_in_bytes', os.O_RDONLY | os.O_CLOEXEC)
    try:
        control = os.open(group / 'cgroup.event_control', os.O_WRONLY | os.O_CLOEXEC)
        try:
            for number in range(1, COUNT + 1):
                os.write(control, f'{bell} {usage} {total * number // COUNT}'.encode())
        finally:
            os.close(control)
    finally:
        os.close(usage)
