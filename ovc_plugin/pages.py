# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Hashes of what a guest's memory holds, a piece at a time. Reads only what is in memory: nothing is brought back from
swap, and nothing that the guest never touched is made.

Runs as root, since it reads another user's process; it gives away the smallest of some hashes and nothing else.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import struct
import typing

PAGE = 4096
_PRESENT = 1 << 63
_MAPPING = re.compile(r'([0-9a-f]+)-([0-9a-f]+) rw')
_ZERO = bytes(PAGE)
_AT_ONCE = 256  # pages looked up in one read


@contextlib.contextmanager
def pinned(pid: int, proc: pathlib.Path) -> typing.Iterator[pathlib.Path]:
    """The directory of this one process, while it is held: of none that comes to its number after it.

    :raises OSError: it is gone.
    """
    number = os.open(proc / str(int(pid)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield pathlib.Path(f'/proc/self/fd/{number}')
    finally:
        os.close(number)


def checked(root: pathlib.Path) -> None:
    """That the process with this directory is a QEMU.

    :raises ValueError: it is something else.
    :raises OSError: it is gone.
    """
    program = os.path.basename(os.readlink(root / 'exe'))
    if not program.startswith(('qemu-system-', 'qemu-kvm')):
        raise ValueError(f'the process is {program}, not a guest')


def memory_of(maps: str, size: int) -> tuple[int, int]:
    """Where a guest's memory begins and ends: the smallest writable mapping that can hold ``size`` bytes.

    :raises ValueError: there is none.
    """
    found = [(int(m[1], 16), int(m[2], 16)) for line in maps.splitlines() if (m := _MAPPING.match(line))]
    fitting = [(end - start, start, end) for start, end in found if end - start >= size]
    if not fitting:
        raise ValueError(f'no mapping of {size} bytes: the guest\'s memory is in several pieces')
    _, start, end = min(fitting)
    return start, end


def hashes(root: pathlib.Path, size: int, first: int, count: int, salt: bytes, below: int,
           check: typing.Callable[[], object] = lambda: None) -> tuple[int, list[int]]:
    """Look at ``count`` pages from number ``first`` on. ``check`` raises where they are not to be read: it is asked
    when all is open, which then stays that of one program.

    :returns: the number of the page to go on with, 0 when all were seen; and the hashes of 40 bits below ``below``,
        rising. Pages of zeros are left out.
    :raises OSError: the process is gone, or may not be read.
    :raises ValueError: its memory cannot be found.
    """
    found: set[int] = set()
    with (open(root / 'maps') as maps, open(root / 'pagemap', 'rb', buffering=0) as pagemap,
          open(root / 'mem', 'rb', buffering=0) as memory):
        check()
        start, end = memory_of(maps.read(), size)
        last = min(first + count, (end - start) // PAGE)
        for number in range(first, last, _AT_ONCE):
            some = min(_AT_ONCE, last - number)
            entries = struct.unpack(f'<{some}Q', os.pread(pagemap.fileno(), 8 * some, (start // PAGE + number) * 8))
            for offset, entry in enumerate(entries):
                if entry & _PRESENT:
                    page = os.pread(memory.fileno(), PAGE, start + (number + offset) * PAGE)
                    if page != _ZERO:
                        found.add(int.from_bytes(hashlib.blake2b(page, digest_size=5, key=salt).digest(), 'big'))
    return (0 if last >= (end - start) // PAGE else last), sorted(h for h in found if h < below)
