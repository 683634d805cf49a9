# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Memory pressure stall (PSI): its averages, its counter, and the kernel's own alarm where it grants one.

The format is that of the kernel's Documentation/accounting/psi.rst.
"""
from __future__ import annotations

import os
import pathlib
import select
import typing

# Microseconds of stall, of each window. The first needs CAP_SYS_RESOURCE; the second, with a window of whole 2 s, may
# be had by anybody since Linux 6.6.
RUNG = 0.15  # the share of time that either of them says has been reached
TRIGGERS = (b'some 150000 1000000\0', b'some 300000 2000000\0')


def stall(text: str) -> float:
    """Share of time (0..1) in which some task waited for memory, 10 s average (``some avg10``).

    :raises ValueError: not the text of a pressure file.
    """
    return float(_field(text, 'avg10=')) / 100


def total(text: str) -> float:
    """Seconds since boot in which some task waited for memory.

    :raises ValueError: not the text of a pressure file.
    """
    return int(_field(text, 'total=')) / 1e6


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        if line.startswith('some '):
            for field in line.split():
                if field.startswith(name):
                    return field[len(name):]
    raise ValueError(f'no "some {name}" in the pressure file')


class Trigger:
    """The kernel's alarm on one pressure file, to be polled for ``events``; an error there says that the file is gone.

    :raises OSError: the kernel grants none; its word is the reason.
    """

    def __init__(self, path: pathlib.Path, events: int = getattr(select, 'POLLPRI', 0)) -> None:
        if not hasattr(select, 'poll'):
            raise OSError('this process runs on eventlet, which has no poll()')
        self.path, self.events = path, events
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            self._ask()
        except OSError:
            os.close(self._fd)
            raise

    def _ask(self) -> None:
        for number, words in enumerate(TRIGGERS):
            try:
                os.write(self._fd, words)
                return
            except OSError:
                if number + 1 == len(TRIGGERS):
                    raise

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def trigger(path: pathlib.Path, make: typing.Callable[[pathlib.Path], Trigger] = Trigger) -> tuple[Trigger | None, str]:
    """A trigger where the kernel grants one, and in words what is used."""
    try:
        return make(path), f'the kernel rings at pressure in {path}'
    except OSError as error:
        return None, f'the counter in {path} is looked at, as the kernel grants no alarm ({error.strerror or error})'
