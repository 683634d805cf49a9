# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Readings of page sharing: the host's truth, what its scanner costs, and each process's part.

What a process says of itself (``ksm_process_profit``) counts the one copy that stays as saved too, once for each user:
the sum over all processes exceeds what the host has saved. So only its count of merged pages is read, and the host's
savings are divided by it (:func:`ovc_plugin.sense.derive.apportioned`).
"""
from __future__ import annotations

import dataclasses
import os
import pathlib
import typing

from ovc_plugin.model import KsmState
from ovc_plugin.samples import GuestFacts, GuestSample, MergedPages
from ovc_plugin.sense.proc import PAGE, table

_KTHREADD = '2'
_AGAIN = 300.0  # seconds until a root helper that did not answer is asked again

Helper = typing.Callable[[list[int]], 'dict[int, tuple[int, int]]']


def _number(path: pathlib.Path) -> int:
    return int(path.read_text())


def _optional(path: pathlib.Path) -> int | None:
    try:
        return _number(path)
    except (OSError, ValueError):
        return None


def read(root: pathlib.Path) -> KsmState:
    """The state of KSM; zero pages merged away count as saved.

    :raises OSError: this kernel has no KSM, or it may not be read.
    """
    zero_pages = _optional(root / 'ksm_zero_pages')  # before Linux 6.6 the kernel does not tell
    sleep_ms = _optional(root / 'sleep_millisecs')
    try:
        advisor = '[none]' not in (root / 'advisor_mode').read_text()
    except OSError:
        advisor = False  # before Linux 6.8
    return KsmState(
        run=_number(root / 'run'), saved=(_number(root / 'pages_sharing') + (zero_pages or 0)) * PAGE,
        shared=_number(root / 'pages_shared') * PAGE, pages_to_scan=_number(root / 'pages_to_scan'), advisor=advisor,
        smart_scan=_optional(root / 'smart_scan'), use_zero_pages=_optional(root / 'use_zero_pages'),
        merge_across_nodes=_optional(root / 'merge_across_nodes'),
        zero=None if zero_pages is None else zero_pages * PAGE, profit=_optional(root / 'general_profit'),
        sleep=None if sleep_ms is None else sleep_ms / 1000, scanned=_optional(root / 'pages_scanned'),
        full_scans=_optional(root / 'full_scans'))


def dissolved(vmstat: str) -> int | None:
    """Merged pages copied since boot, by a write or by being read back from swap; ``None`` before Linux 5.19."""
    counters = table(vmstat)
    if 'cow_ksm' not in counters:
        return None
    return counters['cow_ksm'] + counters.get('ksm_swpin_copy', 0)


def process(proc: pathlib.Path, pid: int) -> MergedPages:
    """One process's merged pages.

    :raises PermissionError: it belongs to another user.
    :raises OSError: the process is gone, or the kernel does not tell (before Linux 5.19).
    """
    try:
        stat = table((proc / str(pid) / 'ksm_stat').read_text())
    except FileNotFoundError:
        stat = {}
    merging = stat.get('ksm_merging_pages')
    if merging is None:  # before Linux 6.5
        merging = _number(proc / str(pid) / 'ksm_merging_pages')
    return MergedPages(merging=merging, zero=stat.get('ksm_zero_pages', 0))


class Source:
    """Page sharing of one host. ``helper`` reads as root what this process may not: (merging, zero) by process id."""

    def __init__(self, root: pathlib.Path, proc: pathlib.Path, helper: Helper | None = None,
                 nodes: pathlib.Path = pathlib.Path('/sys/devices/system/node'), ticks: float = 0.0) -> None:
        self._root, self._proc, self._nodes, self._helper = root, proc, nodes, helper
        self._ticks = ticks or float(os.sysconf('SC_CLK_TCK'))
        self._scanner: pathlib.Path | None = None
        self._looked = False
        self._not_before, self._failed = 0.0, ''

    def read(self) -> KsmState:
        """The host's truth and the scanner's processor time.

        :raises OSError: this kernel has no KSM, or it may not be read.
        """
        try:
            copied = dissolved((self._proc / 'vmstat').read_text())
        except OSError:
            copied = None
        return dataclasses.replace(read(self._root), dissolved=copied, cpu=self._cpu(),
                                   nodes=max(1, sum(1 for _ in self._nodes.glob('node[0-9]*'))))

    def divide(self, state: KsmState | None, guests: tuple[GuestSample, ...] | None,
               pid_of: typing.Callable[[GuestFacts], int], now: float,
               notes: list[str]) -> tuple[GuestSample, ...] | None:
        """The guests with their merged pages, as far as they can be known; nothing is read while nothing is merged."""
        if state is None or not guests or not state.saved:
            return guests
        found: dict[str, MergedPages] = {}
        barred: dict[str, int] = {}
        for facts in (g.facts for g in guests if g.facts.running):
            try:
                pid = pid_of(facts)
            except (OSError, ValueError):
                continue  # it ended, or its process may not be known to us: what it has merged stays unknown
            try:
                found[facts.uuid] = process(self._proc, pid)
            except PermissionError:
                barred[facts.uuid] = pid
            except (OSError, ValueError):
                continue  # it ended, or the kernel does not tell
        if barred:
            told = self._helped(list(barred.values()), now, notes)
            found |= {uuid: MergedPages(merging=told[pid][0], zero=told[pid][1])
                      for uuid, pid in barred.items() if pid in told}
        return tuple(dataclasses.replace(g, merged=found.get(g.facts.uuid)) for g in guests)

    def _helped(self, pids: list[int], now: float, notes: list[str]) -> dict[int, tuple[int, int]]:
        """As root, where there is a helper that works; one that failed is left alone for some minutes."""
        if self._helper is not None and not 0 < self._not_before - now <= _AGAIN:
            try:
                return self._helper(pids)
            except Exception as error:  # whatever keeps the helper from working, the host is managed without it
                self._not_before, self._failed = now + _AGAIN, f' ({error})'
        notes.append('what each guest has merged is not known: only root may read /proc/PID/ksm_stat of another user, '
                     f'and there is no root helper for it{self._failed}; the host\'s own figures hold')
        return {}

    def _cpu(self) -> float | None:
        """Processor seconds of ksmd; ``None`` where it cannot be seen, as from inside a container."""
        if not self._looked:
            self._looked, self._scanner = True, _scanner(self._proc)
        if self._scanner is None:
            return None
        try:
            fields = self._scanner.read_text().rpartition(')')[2].split()
            return (int(fields[11]) + int(fields[12])) / self._ticks
        except (OSError, ValueError, IndexError):
            return None


def _scanner(proc: pathlib.Path) -> pathlib.Path | None:
    """The ``stat`` file of the kernel thread ksmd: it lives as long as the kernel, so it is looked for once."""
    for stat in proc.glob('[0-9]*/stat'):
        try:
            head, _, tail = stat.read_text().rpartition(')')
        except OSError:
            continue
        if head.partition('(')[2] == 'ksmd' and tail.split()[1] == _KTHREADD:
            return stat
    return None
