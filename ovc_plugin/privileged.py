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
import sys
import time

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

KSM = pathlib.Path('/sys/kernel/mm/ksm')
LEASES = pathlib.Path('/run/ovc-plugin')
KSM_KNOBS = {'run': (0, 1), 'pages_to_scan': (1, 1_000_000), 'smart_scan': (0, 1)}
CHUNK = 32 << 20

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
    usage_file = path / ('memory.current' if v2 else 'memory.usage_in_bytes')
    first = usage = int(usage_file.read_text())
    goal, deadline = max(floor, first - amount), time.monotonic() + seconds
    while usage > goal and time.monotonic() < deadline:
        step = min(CHUNK, usage - goal)
        moved = _write(path / 'memory.reclaim', str(step)) if v2 else _squeeze(path, usage - step, leases)
        usage = int(usage_file.read_text())
        if not moved:
            break
    return max(0, first - usage)


def _write(file: pathlib.Path, text: str) -> bool:
    """Write; false when the kernel found less to reclaim than asked for."""
    try:
        file.write_text(text)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
            return False
        raise
    return True


def _squeeze(path: pathlib.Path, limit: int, leases: pathlib.Path) -> bool:
    """Lower a version 1 limit and put it back. The kernel takes a limit only once usage is below it."""
    file = path / 'memory.limit_in_bytes'
    before = file.read_text().strip()
    if limit >= int(before):
        return True
    lease = leases / hashlib.sha256(str(path).encode()).hexdigest()[:16]
    leases.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def lift(leases: pathlib.Path) -> list[str]:
    lifted = []
    for lease in sorted(leases.glob('*')) if leases.is_dir() else ():
        try:
            told = json.loads(lease.read_text())
            path = pathlib.Path(told['group'])
            if path.is_dir():
                _put_back(path / 'memory.limit_in_bytes', told['limit'])
                lifted.append(str(path))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        lease.unlink(missing_ok=True)
    return lifted
