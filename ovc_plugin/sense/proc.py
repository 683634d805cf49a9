# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Readings of ``/proc``: memory, swap counters and pressure stall. The root is an argument."""
from __future__ import annotations

import os
import pathlib

from ovc_plugin.samples import MemorySample

PAGE = 4096
_ABSURD = 1 << 40  # KB: more than any machine has


def table(text: str) -> dict[str, int]:
    """Parse ``name: number`` or ``name number`` lines; lines without a number are passed over."""
    found = {}
    for line in text.splitlines():
        parts = line.replace(':', ' ').split()
        if len(parts) >= 2 and parts[1].isdigit():
            found[parts[0]] = int(parts[1])
    return found


def memory(proc: pathlib.Path) -> MemorySample:
    """The machine's memory. Without ``vmstat`` what is swapped in and out is unknown, and no more than that.

    :raises OSError: ``meminfo`` is missing or may not be read.
    :raises KeyError: the kernel does not tell MemAvailable (before 3.14).
    :raises ValueError: it tells what cannot be.
    """
    info = table((proc / 'meminfo').read_text())
    try:
        vmstat = table((proc / 'vmstat').read_text())
    except OSError:
        vmstat = {}
    if not 0 < info['MemTotal'] < _ABSURD or info['MemAvailable'] > info['MemTotal']:
        raise ValueError(f'{proc / "meminfo"} says MemAvailable > MemTotal, or a MemTotal that no machine has, which '
                         'cannot be: nothing is done by it')
    zram_total, zram_free = zram(proc)
    return MemorySample(
        total=info['MemTotal'] * 1024, available=info['MemAvailable'] * 1024,
        swap_total=max(0, info.get('SwapTotal', 0) * 1024 - zram_total),
        swap_free=max(0, info.get('SwapFree', 0) * 1024 - zram_free),
        swap_in_pages=vmstat.get('pswpin'), swap_out_pages=vmstat.get('pswpout'),
        huge=info['Hugetlb'] * 1024 if 'Hugetlb' in info else None, zram=zram_total - zram_free)


def zram(proc: pathlib.Path) -> tuple[int, int]:
    """(size, free) of swap that is itself memory: it backs no promise."""
    total = free = 0
    try:
        lines = (proc / 'swaps').read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    for line in lines:
        fields = line.split()
        if len(fields) >= 4 and '/zram' in fields[0]:
            total += int(fields[2]) * 1024
            free += (int(fields[2]) - int(fields[3])) * 1024
    return total, free


def age(proc: pathlib.Path, pid: int) -> float:
    """Seconds since a process was started.

    :raises OSError: it is gone.
    :raises ValueError: the kernel's word cannot be understood.
    """
    fields = (proc / str(pid) / 'stat').read_text().rpartition(')')[2].split()
    if len(fields) < 20:
        raise ValueError(f'/proc/{pid}/stat has {len(fields)} fields')
    return float((proc / 'uptime').read_text().split()[0]) - int(fields[19]) / os.sysconf('SC_CLK_TCK')
