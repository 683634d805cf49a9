# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What it costs here to touch memory that has rested, and how to keep that out of a figure.

In a virtual machine whose host takes pages away that are not in use, or counts who uses them, the first touch of a page
after a rest costs a fault of the host's. The machine's own clocks count that as processor time of whoever touches it.
"""
from __future__ import annotations

import ctypes
import mmap
import time

PAGE, HUGE = 4096, 2 << 20
_COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1
_BLOCK = bytes(range(256)) * (HUGE // 256)


def microseconds(seconds: float, pages: int = 1000, times: int = 5) -> float:
    """Processor time to read a byte of a page that has rested that long; the mean over pages, the least of ``times``,
    as other work can only add to it."""
    import numpy
    with mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        bytes_of = numpy.frombuffer(area, dtype=numpy.uint8)[::PAGE]
        numpy.frombuffer(area, dtype=numpy.uint8)[::PAGE] = 1
        found = []
        for _ in range(times):
            time.sleep(seconds)
            began = time.thread_time()
            bytes_of.sum()
            found.append(time.thread_time() - began)
        del bytes_of
    return min(found) / pages * 1e6


def told(*rests: float) -> tuple[str, str, str, None]:
    """A row of a benchmark's table: what a page costs after so many seconds of rest."""
    return ('a page of this machine, touched', ', '.join(
        f'{microseconds(rest, times=3):.2f} us after {rest:g} s' for rest in rests), '', None)


def use_huge_pages() -> int:
    """Put this process's data into pages of 2 MB, as far as it fills such; bytes that are."""
    kernel, total = ctypes.CDLL(None, use_errno=True), 0
    with open('/proc/self/maps', encoding='ascii') as maps:
        lines = maps.read().splitlines()
    for line in lines:
        place, rights, *_, inode = line.split()[:5]
        if not rights.startswith('rw-p') or inode != '0':
            continue
        begin, end = (int(word, 16) for word in place.split('-'))
        begin, end = -(-begin // HUGE) * HUGE, end // HUGE * HUGE
        for at in range(begin, end, HUGE):
            kernel.madvise(ctypes.c_void_p(at), ctypes.c_size_t(HUGE), mmap.MADV_HUGEPAGE)
            total += HUGE * (kernel.madvise(ctypes.c_void_p(at), ctypes.c_size_t(HUGE), _COLLAPSE) == 0)
    return total


def backed(amount: int) -> None:
    """Have this machine's own host give it that many bytes in pages of 2 MB, and leave them free: who takes memory
    within the next second or two pays for a page what it costs on a machine that has its memory."""
    whole = -(-amount // HUGE) * HUGE
    with mmap.mmap(-1, whole, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_HUGEPAGE)
        for _ in range(2):  # those that came first have rested while the others came
            for at in range(0, whole, HUGE):
                area[at:at + HUGE] = _BLOCK
