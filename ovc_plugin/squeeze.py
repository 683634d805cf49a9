# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the root helper does to guests' control groups: it moves their memory to swap, several groups in turn.

A group that offers ``memory.reclaim`` (version 2, Linux 5.19) is asked. Of any other one a limit is lowered below what
it uses and put back at once: ``memory.high`` (version 2), or ``memory.limit_in_bytes``; see ``leases``.

Not by libvirt's memtune, which would need no root. ``virDomainSetMemoryParameters`` keeps a limit in the guest's live
definition, where it outlives us and goes along when the guest migrates, and nothing says that it was lent (libvirt's
``domain_cgroup.c``). With version 2 its hard limit is ``memory.max``, at which the kernel kills where it cannot
reclaim, and it has no word for ``memory.reclaim``. Each call holds the guest's job until the kernel has moved what it
can.
"""
from __future__ import annotations

import collections.abc
import contextlib
import errno
import pathlib
import time
import typing

from ovc_plugin.leases import HIGH, V1_LIMIT, lowered, write

_REMEMBERED = 4096
# What one write is to move. It adapts to the swap device, so that one write takes about a tenth of a second: that is as
# long as a newer plan, or the next guest, waits.
CHUNK, LEAST, MOST = 16 << 20, 4 << 20, 256 << 20
_QUICK, _SLOW = 0.06, 0.2
_fitting: dict[pathlib.Path, int] = {}  # what one write was to move lately, of each group
# Charged, and none of the guest's own memory: file pages, and what compressed swap takes for pages moved there.
_OTHERS_V1 = ('total_inactive_file', 'total_active_file')
_OTHERS_V2 = ('inactive_file', 'active_file', 'zswap')
# File pages count as available already: to drop them frees nothing. Linux 6.16 takes "max", 6.9 a number.
_ANON_ONLY = [' swappiness=max', ' swappiness=200', '']


class Group:
    """One group while memory is moved out of it: up to ``amount`` bytes, not below ``floor``.

    :raises OSError: the group is gone.
    """

    def __init__(self, path: pathlib.Path, amount: int, floor: int, leases: pathlib.Path) -> None:
        self._path, self._leases, self._chunk = path, leases, _fitting.get(path, CHUNK)
        self._v2 = (path / 'memory.current').exists()
        self._asks = (path / 'memory.reclaim').exists()
        self._first = self._usage = self._resident()
        self._goal = max(floor, self._first - amount)
        self.error: str | None = None

    @property
    def freed(self) -> int:
        return max(0, self._first - self._usage)

    def step(self) -> bool:
        """Move one chunk; false when there is nothing more to do, or the kernel falls short of it."""
        wanted = min(self._chunk, self._usage - self._goal)
        if wanted <= 0:
            return False
        began = time.monotonic()
        try:
            moved = self._ask(wanted) if self._asks else self._squeeze(wanted)
            self._usage = self._resident()
        except OSError as error:
            self.error = f'{type(error).__name__}: {error}'
            return False
        took = time.monotonic() - began
        if took < _QUICK:
            self._chunk = min(MOST, 2 * self._chunk)
        elif took > _SLOW:
            self._chunk = max(LEAST, self._chunk // 2)
        if len(_fitting) > _REMEMBERED:  # groups of guests that are long gone
            _fitting.clear()
        _fitting[self._path] = self._chunk
        return moved and self._usage > self._goal

    def brake(self) -> contextlib.AbstractContextManager[typing.Any]:
        """Lets the group grow no faster than it frees memory itself, while it is held (version 2)."""
        if not self._v2:
            return contextlib.nullcontext()
        return lowered(self._path / HIGH, self._charged(), self._leases)

    def _ask(self, amount: int) -> bool:
        """:returns: false when the kernel found less to reclaim than asked for."""
        while True:
            try:
                return write(self._path / 'memory.reclaim', f'{amount}{_ANON_ONLY[0]}')
            except OSError as error:
                if error.errno != errno.EINVAL or len(_ANON_ONLY) == 1:
                    raise
                del _ANON_ONLY[0]  # this kernel does not take the argument

    def _squeeze(self, amount: int) -> bool:
        """The kernel takes a version 1 limit only once usage is below it, and reclaims towards ``memory.high``."""
        name = HIGH if self._v2 else V1_LIMIT
        with lowered(self._path / name, self._charged() - amount, self._leases) as done:
            return done

    def _charged(self) -> int:
        return int((self._path / ('memory.current' if self._v2 else 'memory.usage_in_bytes')).read_text())

    def _resident(self) -> int:
        """Bytes charged of the guest's own memory: the floor is of that."""
        others = _OTHERS_V2 if self._v2 else _OTHERS_V1
        return self._charged() - sum(int(line.split()[1]) for line in (self._path / 'memory.stat').read_text()
                                     .splitlines() if line.split()[0] in others)


def reclaim(wanted: collections.abc.Sequence[tuple[pathlib.Path, int, int]], seconds: float, leases: pathlib.Path,
            brake: bool = False) -> list[tuple[int, str | None]]:
    """Move memory of several groups to swap, a chunk of each in turn, until ``seconds`` are over.

    ``wanted`` is (group, amount, floor) of each, in bytes. Returns (bytes freed, error) of each.
    """
    deadline = time.monotonic() + seconds
    groups: list[Group | str] = []
    for path, amount, floor in wanted:
        try:
            groups.append(Group(path, amount, floor, leases))
        except OSError as error:
            groups.append(f'{type(error).__name__}: {error}')
    going = [group for group in groups if isinstance(group, Group)]
    with contextlib.ExitStack() as held:
        if brake:
            for group in going:
                with contextlib.suppress(OSError):  # without a brake the group is reclaimed all the same
                    held.enter_context(group.brake())
        while going and time.monotonic() < deadline:
            going = [group for group in going if time.monotonic() < deadline and group.step()]
    return [(0, group) if isinstance(group, str) else (group.freed, group.error) for group in groups]
