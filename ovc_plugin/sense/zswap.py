# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Memory that compressed swap takes: zswap's pool, and zram devices."""
from __future__ import annotations

import pathlib

from ovc_plugin.sense.proc import table


def held(proc: pathlib.Path, block: pathlib.Path = pathlib.Path('/sys/block')) -> int | None:
    """Bytes of memory; ``None`` where the kernel tells of neither (zswap's part since Linux 5.19).

    :raises OSError: the host's memory cannot be read.
    """
    pool = table((proc / 'meminfo').read_text()).get('Zswap')
    zram = [size for device in sorted(block.glob('zram*')) if (size := _zram(device)) is not None]
    if pool is None and not zram:
        return None
    return (pool or 0) * 1024 + sum(zram)


def _zram(device: pathlib.Path) -> int | None:
    """The third field of ``mm_stat`` is what the device takes of memory, its own overhead included."""
    try:
        return int((device / 'mm_stat').read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return None
