# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The cheap look at the boundary between two passes: files are kept open, and two numbers are read of them."""
from __future__ import annotations

import dataclasses
import os
import pathlib
import time
import typing

from ovc_plugin.samples import MemorySample
from ovc_plugin.sense import psi

_ANEW = 16.0  # seconds after which a group's droppable file pages are read again: they change slowly, and cost most
_FAR = 1.0   # seconds after which the machine around a group is read again, while it has twice as much available


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """``available`` bytes; ``demand`` in bytes from an origin of its own: what is used, in memory and in swap together,
    so that it grows only by what guests want and not by what is moved; ``stalled``: seconds of stall since boot;
    ``bounded``: it is the group's limit that memory runs out at, and far from it the machine around."""

    at: float
    available: int
    demand: int
    stalled: float | None = None
    bounded: bool = False


class Glance:
    """Looks at the machine, or at the control group that bounds the guests.

    ``memory`` is the full reading, from which a group's droppable pages are taken now and then, ``known`` the one that
    a pass has made just now, if any. ``pressure`` is the file of the stall counter, ``None`` to leave it alone.
    """

    def __init__(self, boundary: pathlib.Path | None, memory: typing.Callable[[], MemorySample],
                 proc: pathlib.Path = pathlib.Path('/proc'), pressure: pathlib.Path | None = None,
                 clock: typing.Callable[[], float] = time.monotonic,
                 known: typing.Callable[[], MemorySample | None] = lambda: None) -> None:
        self._boundary, self._memory, self._clock, self._pressure = boundary, memory, clock, pressure
        self._known = known
        self._meminfo = proc / 'meminfo'
        self._open: dict[pathlib.Path, int] = {}
        self._group = _files(boundary) if boundary else None
        self._base: tuple[float, int, int] | None = None  # when, available, used
        self._machine: tuple[float, int] | None = None    # when, available

    def look(self) -> Look:
        """:raises OSError: something cannot be read; it is opened anew at the next look."""
        try:
            now = self._clock()
            stalled = psi.total(self._text(self._pressure)) if self._pressure else None
            if self._group is None:
                machine = self._text(self._meminfo)
                available = _kib(machine, 'MemAvailable:')
                swapped = _kib(machine, 'SwapTotal:') - _kib(machine, 'SwapFree:') - _cached(machine)
                return Look(at=now, available=available, demand=swapped - available, stalled=stalled)
            used, both = self._used(self._group)
            inside = self._inside(now, used)
            around = self._around(now, inside)
            return Look(at=now, available=min(around, inside), demand=both, stalled=stalled,
                        bounded=around >= 2 * inside)
        except (OSError, ValueError) as error:
            self.close()
            raise error if isinstance(error, OSError) else OSError(str(error)) from None

    def close(self) -> None:
        for number in self._open.values():
            os.close(number)
        self._open.clear()
        self._base = None

    def _used(self, group: tuple[pathlib.Path, pathlib.Path, bool]) -> tuple[int, int]:
        """(bytes charged, bytes charged and in swap) of the boundary."""
        used_file, swap_file, together = group
        used = int(self._text(used_file))
        try:
            other = int(self._text(swap_file))
        except (OSError, ValueError):  # swap is not counted for groups here
            return used, used
        return used, other if together else used + other

    def _inside(self, now: float, used: int) -> int:
        known = self._known()
        if known is not None or self._base is None or now - self._base[0] >= _ANEW:
            self._base = now, (known or self._memory()).available, used
        return max(0, self._base[1] - (used - self._base[2]))

    def _around(self, now: float, inside: int) -> int:
        if self._machine is None or now - self._machine[0] >= _FAR or self._machine[1] < 2 * inside:
            self._machine = now, _kib(self._text(self._meminfo), 'MemAvailable:')
        return self._machine[1]

    def _text(self, path: pathlib.Path) -> str:
        number = self._open.get(path)
        if number is None:
            number = self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(number, 4096, 0).decode()


def _files(boundary: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, bool]:
    """(bytes charged, bytes in swap, whether the second holds the first too)."""
    if (boundary / 'memory.current').exists():
        return boundary / 'memory.current', boundary / 'memory.swap.current', False
    return boundary / 'memory.usage_in_bytes', boundary / 'memory.memsw.usage_in_bytes', True


def _cached(text: str) -> int:
    """What is in swap and in memory at once, because it was read back and not written since."""
    return _kib(text, 'SwapCached:') if 'SwapCached:' in text else 0


def _kib(text: str, name: str) -> int:
    """:raises ValueError: there is no such line."""
    begin = text.index(name) + len(name)
    return int(text[begin:text.index('kB', begin)]) * 1024
