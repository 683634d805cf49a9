# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Readings of memory control groups, version 1 and 2, and where a process's group is to be found.

A group is version 2 when it has ``memory.current``. Limits that exceed the machine count as none.
"""
from __future__ import annotations

import pathlib
import re
import typing

from ovc_plugin import leases
from ovc_plugin.samples import GroupSample, MemorySample
from ovc_plugin.sense import psi
from ovc_plugin.sense.proc import table

_OCTAL = re.compile(r'\\([0-7]{3})')
_ABSURD = 1 << 50


def _number(path: pathlib.Path) -> int | None:
    """The number in a limit file; ``None`` for "max"."""
    text = path.read_text().strip()
    return None if text == 'max' else int(text)


def _optional(path: pathlib.Path) -> int | None:
    try:
        return _number(path)
    except (OSError, ValueError):
        return None


def _amount(file: pathlib.Path, swapped: int | None = None) -> int:
    """Bytes charged, as a file says, beside those in swap.

    :raises ValueError: they cannot be, as of a kernel that has counted below 0.
    """
    found = int(file.read_text())
    if not 0 <= found < _ABSURD or not 0 <= (swapped or 0) < _ABSURD:
        raise ValueError(f'{file.name} or what is in swap is less than none or more than any machine has, which cannot '
                         'be: see the kernel\'s log')
    return found


def is_v2(group: pathlib.Path) -> bool:
    return (group / 'memory.current').exists()


def group(path: pathlib.Path) -> GroupSample:
    """One guest's group.

    :raises OSError: the group is gone, or has no memory controller.
    """
    if is_v2(path):
        stat = table((path / 'memory.stat').read_text())
        pages, guessed = _read_back(stat, '')
        swapped, (room, barred) = _optional(path / 'memory.swap.current'), _swap_room(path)
        return GroupSample(
            usage=_amount(path / 'memory.current', swapped), swapped=swapped, refault_pages=pages,
            refaults_guessed=guessed, cached=_cached(stat, ''), compressed=stat.get('zswap', 0),
            pressure=_pressure(path / 'memory.pressure'),
            can_reclaim=not barred and any((path / name).exists() for name in ('memory.reclaim', 'memory.high')),
            swap_room=room)
    stat = table((path / 'memory.stat').read_text())
    pages, guessed = _read_back(stat, 'total_')
    # With swappiness 0 limit reclaim swaps nothing, only the host's own does at the wall. memory.memsw.limit_in_bytes
    # bars nothing: a page moved to swap was charged to it before too (the kernel's cgroup-v1/memory.rst, 2.4 and 5.3).
    return GroupSample(usage=_amount(path / 'memory.usage_in_bytes', stat.get('total_swap')),
                       swapped=stat.get('total_swap'),
                       refault_pages=pages, refaults_guessed=guessed, cached=_cached(stat, 'total_'),
                       can_reclaim=_optional(path / 'memory.swappiness') != 0)


def _swap_room(path: pathlib.Path) -> tuple[int | None, bool]:
    """The bytes of swap that the limits of the group and of those around it still let it take, ``None`` without any;
    and whether one lets it take none ever."""
    room, barred = None, False
    for group in (path, *path.parents):
        if not is_v2(group):  # the root of the hierarchy
            break
        most = _optional(group / 'memory.swap.max')
        if most is not None:
            left = max(0, most - (_optional(group / 'memory.swap.current') or 0))
            room, barred = left if room is None else min(left, room), barred or most == 0
    return room, barred


def _read_back(stat: dict[str, int], prefix: str) -> tuple[int | None, bool]:
    """Pages read back from swap, and whether they are guessed.

    Not every kernel counts them for groups of version 1. A guest's process faults for its memory and little else, so
    its major faults are then taken: each brings back at least a page.
    """
    pages = stat.get(f'{prefix}workingset_refault_anon')
    if pages is not None:
        return pages, False
    faults = stat.get(f'{prefix}pgmajfault')
    return faults, faults is not None


def _pressure(path: pathlib.Path) -> float | None:
    try:
        return psi.stall(path.read_text())
    except (OSError, ValueError):  # switched off by psi=0 or cgroup.pressure
        return None


def refaults(path: pathlib.Path) -> int | None:
    """Pages of the group and those below it that were dropped or swapped and wanted again, since it was made.

    :raises OSError: the group is gone.
    """
    stat, prefix = table((path / 'memory.stat').read_text()), '' if is_v2(path) else 'total_'
    found = [stat[name] for kind in ('anon', 'file') if (name := f'{prefix}workingset_refault_{kind}') in stat]
    return sum(found) if found else None


def _cached(stat: dict[str, int], prefix: str) -> int:
    return stat.get(f'{prefix}inactive_file', 0) + stat.get(f'{prefix}active_file', 0)


class _Bound(typing.NamedTuple):
    """What one group leaves to those in it, in bytes; ``None`` where it sets no limit. ``allowance`` is of swap."""

    limit: int | None
    usage: int
    droppable: int
    swapped: int
    allowance: int | None


def boundary(path: pathlib.Path, machine: MemorySample) -> MemorySample:
    """The memory of the group that holds all guests; without a limit, the machine's own.

    Available = limit - charged + file pages that can be dropped. Swap is the group's allowance as far as the machine
    has it. Groups around it count with what is charged to them, its neighbours' too: the least of each holds.

    :raises OSError: the group cannot be read.
    """
    stat = table((path / 'memory.stat').read_text())
    v2 = is_v2(path)
    own = _bound_v2(path, stat) if v2 else _bound_v1(path, stat)
    total, available, swap_free = machine.total, machine.available, machine.swap_free
    for bound in (own, *_around(path, machine.total, v2)):
        limit = machine.total if bound.limit is None else min(bound.limit, machine.total)
        total = min(total, limit)
        available = min(available, max(0, limit - bound.usage) + bound.droppable)
        if bound.allowance is not None:
            swap_free = min(swap_free, max(0, bound.allowance - bound.swapped))
    return MemorySample(total=total, available=available, swap_total=own.swapped + swap_free, swap_free=swap_free,
                        swap_in_pages=_read_back(stat, '' if v2 else 'total_')[0], swap_out_pages=None, group=True)


def _around(path: pathlib.Path, most: int, v2: bool) -> typing.Iterator[_Bound]:
    """The groups around it that set a limit, as far as they can be seen; of others not much is read."""
    for group in path.parents:
        if not (group / ('memory.current' if v2 else 'memory.usage_in_bytes')).exists():
            return  # the root of a hierarchy, or what holds it
        if not v2 and _optional(group / 'memory.use_hierarchy') == 0:
            return
        limit = _limit_v2(group) if v2 else _optional(group / 'memory.limit_in_bytes')
        if limit is not None and limit < most or v2 and _optional(group / 'memory.swap.max') is not None:
            stat = table((group / 'memory.stat').read_text())
            yield _bound_v2(group, stat) if v2 else _bound_v1(group, stat)


def _least(group: pathlib.Path, *names: str) -> int | None:
    return min((limit for name in names if (limit := _optional(group / name)) is not None), default=None)


def _limit_v2(group: pathlib.Path) -> int | None:
    """Beyond ``memory.high`` processes are held up and their pages taken: no more is to be had than that."""
    return _least(group, 'memory.max', 'memory.high')


def _bound_v1(path: pathlib.Path, stat: dict[str, int]) -> _Bound:
    # the hierarchical limits hold those of groups that cannot be seen, as from inside a container
    limits = [_number(path / 'memory.limit_in_bytes'), stat.get('hierarchical_memory_limit')]
    both = [_optional(path / 'memory.memsw.limit_in_bytes'), stat.get('hierarchical_memsw_limit')]
    limit = min((one for one in limits if one is not None), default=None)
    together = min((one for one in both if one is not None and one < 1 << 60), default=None)
    return _Bound(
        limit=limit, usage=_amount(path / 'memory.usage_in_bytes'),
        droppable=stat.get('total_inactive_file', 0) + stat.get('total_active_file', 0) // 2,
        swapped=stat.get('total_swap', 0),
        allowance=max(0, together - limit) if together is not None and limit is not None else None)


def _bound_v2(path: pathlib.Path, stat: dict[str, int]) -> _Bound:
    return _Bound(
        limit=_limit_v2(path), usage=_amount(path / 'memory.current'),
        droppable=stat.get('inactive_file', 0) + stat.get('active_file', 0) // 2,
        swapped=_optional(path / 'memory.swap.current') or 0, allowance=_optional(path / 'memory.swap.max'))


def of_process(proc: pathlib.Path, pid: int) -> pathlib.Path | None:
    """The directory of a guest's memory group, given its QEMU process; ``None`` when it shares one with others.

    The group's name in ``/proc/PID/cgroup`` is matched with the roots of the mounted hierarchies, so that it is found
    from inside another mount namespace too. Sub-groups that libvirt makes for threads are climbed out of.

    :raises OSError: the process is gone.
    """
    names = _controller_paths((proc / str(pid) / 'cgroup').read_text())
    for kind, mountpoint, root in reversed(_mounts((proc / 'self' / 'mountinfo').read_text())):
        name = names.get(kind)
        if name is None or not (name + '/').startswith(root.rstrip('/') + '/'):
            continue
        relative = pathlib.PurePosixPath(name[len(root.rstrip('/')):].lstrip('/'))
        for depth, part in enumerate(relative.parts):
            if leases.GUEST.match(part):
                found = pathlib.Path(mountpoint, *relative.parts[:depth + 1])
                if (found / 'memory.stat').exists():
                    return found
    return None


def _controller_paths(text: str) -> dict[str, str]:
    """{'cgroup': path in the v1 memory hierarchy, 'cgroup2': path in the unified one}."""
    paths = {}
    for line in text.splitlines():
        number, controllers, path = line.split(':', 2)
        if number == '0':
            paths['cgroup2'] = path
        elif 'memory' in controllers.split(','):
            paths['cgroup'] = path
    return paths


def _mounts(text: str) -> list[tuple[str, str, str]]:
    """(kind, mount point, root) of each mounted hierarchy that may hold memory groups, in mount order."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(' - ')
        fields, tail = left.split(), right.split()
        if not tail or tail[0] not in ('cgroup', 'cgroup2'):
            continue
        if tail[0] == 'cgroup' and 'memory' not in tail[-1].split(','):
            continue
        root, mountpoint = (_OCTAL.sub(lambda m: chr(int(m[1], 8)), field) for field in fields[3:5])
        found.append((tail[0], mountpoint, root))
    return found
