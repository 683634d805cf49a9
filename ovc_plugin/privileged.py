# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The writes that need root, behind our own oslo.privsep context: page sharing and per-guest swap.

Nothing here takes a file name to write: page sharing takes a name from a list and a number, and reclaim takes a
directory that must be one guest's memory group below a mounted hierarchy.

A version 1 group has no call for reclaim, so its limit is lowered and put back at once. What the limit was is written
down first, so that a limit left behind by a killed process is put back by :func:`lift_leftovers`.
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import stat
import sys
import time
import typing

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

KSM = pathlib.Path('/sys/kernel/mm/ksm')
LEASES = pathlib.Path('/run/ovc-plugin')
# run=2, which unmerges everything at once and needs the memory for it, is not in the list.
KSM_KNOBS = {'run': (0, 1), 'pages_to_scan': (1, 1_000_000), 'smart_scan': (0, 1), 'use_zero_pages': (0, 1),
             'merge_across_nodes': (0, 1)}
CHUNK = 32 << 20
_FILES_V1 = ('total_inactive_file', 'total_active_file')
_FILES_V2 = ('inactive_file', 'active_file')

context = priv_context.PrivContext(
    'ovc_plugin', cfg_section='ovc_privileged', pypath=f'{__name__}.context',
    capabilities=[capabilities.CAP_DAC_OVERRIDE])


def prepare(conf: cfg.ConfigOpts) -> None:
    """As root, start the helper directly instead of through sudo, unless the operator has set a command."""
    if os.geteuid() == 0 and conf.ovc_privileged.helper_command is None:
        helper = pathlib.Path(sys.executable).parent / 'privsep-helper'
        if helper.exists():
            conf.set_default('helper_command', str(helper), group='ovc_privileged')


@context.entrypoint
def set_ksm(name: str, value: int) -> None:
    """Write one KSM knob.

    :raises ValueError: not a knob of ours, or out of bounds.
    :raises OSError: the kernel refuses.
    """
    write_knob(KSM, name, value)


@context.entrypoint
def reclaim(group: str, amount: int, floor: int, seconds: float) -> int:
    """Move up to ``amount`` bytes of a guest's group out of memory, not below ``floor``, for at most ``seconds``.

    :returns: bytes by which the group shrank.
    :raises ValueError: not a guest's memory group.
    :raises OSError: the group is gone, or the kernel refuses.
    """
    return reclaim_group(checked(group), amount, floor, seconds)


@context.entrypoint
def lift_leftovers() -> list[str]:
    """Put back every limit that a killed process left lowered; returns the groups."""
    return lift(LEASES)


@context.entrypoint
def merged_pages(pids: list[int]) -> dict[int, tuple[int, int]]:
    """Pages that page sharing holds of each process, (merging, zero); those that are gone are left out."""
    return merged_of(pathlib.Path('/proc'), pids)


def merged_of(proc: pathlib.Path, pids: list[int]) -> dict[int, tuple[int, int]]:
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            stat = dict(line.split() for line in (proc / str(int(pid)) / 'ksm_stat').read_text().splitlines()
                        if len(line.split()) == 2)
            merging = stat.get('ksm_merging_pages') or (proc / str(int(pid)) / 'ksm_merging_pages').read_text()
            found[int(pid)] = int(merging), int(stat.get('ksm_zero_pages', 0))
    return found


def write_knob(root: pathlib.Path, name: str, value: int) -> None:
    low, high = KSM_KNOBS.get(name, (1, 0))
    if not low <= value <= high:
        raise ValueError(f'KSM knob {name}={value} is not one that may be set')
    (root / name).write_text(str(value))


def checked(group: str) -> pathlib.Path:
    path = pathlib.Path(group)
    inside = path.is_absolute() and '..' not in path.parts and str(path).startswith('/sys/fs/cgroup/')
    guest = any(part.startswith(('machine-qemu', 'qemu-')) for part in path.parts[4:])
    if not inside or not guest or not (path / 'memory.stat').exists():
        raise ValueError(f'{group} is not the memory control group of one guest')
    return path


def reclaim_group(path: pathlib.Path, amount: int, floor: int, seconds: float, leases: pathlib.Path = LEASES) -> int:
    v2 = (path / 'memory.current').exists()
    first = usage = _resident(path, v2)
    goal, deadline = max(floor, first - amount), time.monotonic() + seconds
    while usage > goal and time.monotonic() < deadline:
        step = min(CHUNK, usage - goal)
        moved = _write(path / 'memory.reclaim', str(step)) if v2 else _squeeze(path, step, leases)
        usage = _resident(path, v2)
        if not moved:
            break
    return max(0, first - usage)


def _resident(path: pathlib.Path, v2: bool) -> int:
    """Bytes charged that are no file pages: the floor is of the guest's own memory."""
    charged = int((path / ('memory.current' if v2 else 'memory.usage_in_bytes')).read_text())
    return charged - sum(int(line.split()[1]) for line in (path / 'memory.stat').read_text().splitlines()
                         if line.split()[0] in (_FILES_V2 if v2 else _FILES_V1))


def _write(file: pathlib.Path, text: str) -> bool:
    """Write; false when the kernel found less to reclaim than asked for."""
    try:
        file.write_text(text)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
            return False
        raise
    return True


def _squeeze(path: pathlib.Path, step: int, leases: pathlib.Path) -> bool:
    """Lower a version 1 limit below usage and put it back. The kernel takes it only once usage is below it."""
    file = path / 'memory.limit_in_bytes'
    before = file.read_text().strip()
    limit = int((path / 'memory.usage_in_bytes').read_text()) - step
    if limit >= int(before):
        return True
    leases.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not own(leases):
        raise PermissionError(f'{leases} belongs to somebody else: remove it')
    lease = leases / hashlib.sha256(str(path).encode()).hexdigest()[:16]
    if told := _told(lease):
        before = told[1]  # a killed process left its limit: what it found is what goes back
    lease.write_text(json.dumps({'group': str(path), 'limit': before}))
    try:
        return _write(file, str(limit))
    finally:
        _put_back(file, before)
        lease.unlink(missing_ok=True)


def _put_back(file: pathlib.Path, before: str) -> None:
    """Restore a limit; the kernel shows "none" as a page-rounded maximum, which it takes back as it is."""
    with contextlib.suppress(FileNotFoundError):  # the guest ended meanwhile, and its group with it
        file.write_text(before)


def own(leases: pathlib.Path) -> bool:
    """Whether the directory is ours alone: what it says is acted on as root."""
    try:
        found = leases.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _told(lease: pathlib.Path) -> tuple[str, str] | None:
    """(group, limit) of a lease; ``None`` where there is none that can be read."""
    try:
        told = json.loads(lease.read_text())
        return str(told['group']), str(int(told['limit']))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lift(leases: pathlib.Path, check: typing.Callable[[str], pathlib.Path] = checked) -> list[str]:
    lifted = []
    for lease in sorted(leases.glob('*')) if own(leases) else ():
        if told := _told(lease):
            with contextlib.suppress(ValueError, OSError):  # the guest, and its group with it, may have ended
                _put_back(check(told[0]) / 'memory.limit_in_bytes', told[1])
                lifted.append(told[0])
        lease.unlink(missing_ok=True)
    return lifted
