# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The writes that need root, behind our own oslo.privsep context: page sharing and per-guest swap.

Nothing here takes a file name to write: page sharing takes a name from a list and a number, and reclaim takes a
directory that must be one guest's memory group below a mounted hierarchy.

A limit that is lowered to reclaim is put back at once, by a watchdog should the helper die meanwhile, and by
:func:`lift_leftovers` should that be killed too: see ``leases``.
"""
from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import os
import pathlib
import sys
import threading
import time
import typing
import warnings

from oslo_config import cfg

with warnings.catch_warnings():
    if 'nova' not in sys.modules:  # as in rpc: it brings in eventlet where that is there, which warns of itself
        warnings.simplefilter('ignore')
    from oslo_privsep import capabilities, comm, priv_context

from ovc_plugin import leases, pages, squeeze

KSM = pathlib.Path('/sys/kernel/mm/ksm')
LEASES = pathlib.Path('/run/ovc-plugin')
# Seconds within which the helper must have done what takes it no time, and be there at all: a pass waits for it.
ANSWERS, STARTS = 5.0, 20.0
MOST_SECONDS = 10.0  # of one call, whatever is asked: far less than the watchdog waits (leases.DEADLINE)
# run=2, which unmerges everything at once and needs the memory for it, is not in the list.
KSM_KNOBS = {'run': (0, 1), 'pages_to_scan': (1, 1_000_000), 'smart_scan': (0, 1), 'use_zero_pages': (0, 1),
             'merge_across_nodes': (0, 1)}

SECTION, READING = 'ovc_privileged', 'ovc_privileged_pages'
CAPABILITIES = {SECTION: [capabilities.CAP_DAC_OVERRIDE],
                READING: [capabilities.CAP_DAC_READ_SEARCH, capabilities.CAP_SYS_PTRACE]}
_TITLES = {
    SECTION: 'The helper for root actions (page sharing, swapping of single guests), as oslo.privsep has its options',
    READING: 'The helper that reads guests\' pages where [ovc_host] sample_pages is set',
}

context = priv_context.PrivContext(
    'ovc_plugin', cfg_section=SECTION, pypath=f'{__name__}.context', capabilities=CAPABILITIES[SECTION])
# Apart, since it may read guests' memory: its helper is started only where pages are sampled ([ovc_host] sample_pages).
reading = priv_context.PrivContext(
    'ovc_plugin', cfg_section=READING, pypath=f'{__name__}.reading', capabilities=CAPABILITIES[READING])


class _Start:
    """A helper's start, by sudo mostly: apart, as that may hang like any other program. ``alive`` is an entry point of
    that helper, ``section`` has its options."""

    def __init__(self, helper: priv_context.PrivContext, section: str, alive: typing.Callable[[], None]) -> None:
        self._helper, self._section, self._alive = helper, section, alive
        self._lock, self._thread, self._until, self._error = threading.Lock(), None, 0.0, None

    def done(self) -> None:
        """Return once there is a helper.

        :raises TimeoutError: not within :data:`STARTS`; whoever asks later is told so at once, until it has ended.
        """
        helper = self._helper
        if not helper.client_mode or helper.channel is not None and helper.channel.running:
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._start, name='ovc-helper', daemon=True)
                self._until, self._error = time.monotonic() + STARTS, None
                self._thread.start()
            thread = self._thread
        thread.join(max(0.0, self._until - time.monotonic()))
        if thread.is_alive():
            raise TimeoutError(f'the root helper has not started within {STARTS:g} s: look whether sudo, or what '
                               f'[{self._section}] helper_command names, hangs, and end it')
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        try:
            self._alive()
        except Exception as error:  # for whoever waits
            self._error = error


@context.entrypoint
def alive() -> None:
    """Nothing: the helper is there once this returns."""


@reading.entrypoint
def reads() -> None:
    """The same of the second helper."""


_start, _start_reading = _Start(context, SECTION, alive), _Start(reading, READING, reads)
Call = typing.TypeVar('Call', bound=typing.Callable[..., typing.Any])


def _asked(helper: priv_context.PrivContext, start: _Start) -> typing.Callable[[Call], Call]:
    """An entry point of this helper that is not waited for without end, should it hang.

    :raises TimeoutError: no answer within :data:`ANSWERS`, so that it may be carried out later; or no helper.
    """
    def awaited(call: Call) -> Call:
        ask = helper.entrypoint_with_timeout(ANSWERS)(call)

        @functools.wraps(ask)
        def asked(*arguments: typing.Any) -> typing.Any:
            start.done()
            try:
                return ask(*arguments)
            except comm.PrivsepTimeout:
                raise TimeoutError(f'the root helper has not answered within {ANSWERS:g} s: look whether its process '
                                   'hangs, and end it; another one is started then') from None
        return typing.cast(Call, asked)
    return awaited


_awaited, _read = _asked(context, _start), _asked(reading, _start_reading)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """What the sections of the two helpers may hold, for who shows or checks names: oslo.privsep registers them."""
    found = []
    for section, kept in CAPABILITIES.items():
        options = copy.deepcopy(priv_context.OPTS)
        for option in options:
            if option.dest == 'capabilities':
                option.default = [capabilities.CAPS_BYVALUE[one] for one in kept]
        found.append((cfg.OptGroup(section, help=_TITLES[section]), options))
    return found


def prepare(conf: cfg.ConfigOpts, become_root: list[str] | None = None) -> None:
    """As root, start the helper directly instead of through sudo, unless the operator has set a command.

    ``become_root`` is what goes before it otherwise, where no program of nova's has told oslo.privsep.
    """
    priv_context.init(root_helper=become_root)
    for group in CAPABILITIES:
        if os.geteuid() == 0 and conf[group].helper_command is None:
            helper = pathlib.Path(sys.executable).parent / 'privsep-helper'
            if helper.exists():
                conf.set_default('helper_command', str(helper), group=group)


@_awaited
def set_ksm(name: str, value: int) -> None:
    """Write one KSM knob.

    :raises ValueError: not a knob of ours, or out of bounds.
    :raises OSError: the kernel refuses, or the helper does not answer.
    """
    write_knob(KSM, name, value)


@context.entrypoint
def reclaim(wanted: list[tuple[str, int, int]], seconds: float, brake: bool) -> list[tuple[int, str | None]]:
    """Move memory of guests out of their groups, for at most ``seconds``: (group, amount, floor) of each, in bytes.

    ``brake`` keeps the groups from growing meanwhile, where the kernel can (version 2).

    :returns: bytes by which each group shrank, and what went wrong with it.
    """
    return reclaim_of(wanted, seconds, brake)


def reclaim_of(wanted: list[tuple[str, int, int]], seconds: float, brake: bool) -> list[tuple[int, str | None]]:
    found: list[tuple[int, str | None]] = []
    groups = []
    for group, amount, floor in wanted:
        try:
            groups.append((leases.checked(group), int(amount), int(floor)))
            found.append((0, None))
        except ValueError as error:
            found.append((0, str(error)))
    _watchdog(LEASES).rouse()
    freed = iter(squeeze.reclaim(groups, min(max(0.0, seconds), MOST_SECONDS), LEASES, brake))
    return [one if one[1] else next(freed) for one in found]


@functools.cache
def _watchdog(directory: pathlib.Path) -> leases.Watchdog:
    """The one of this helper."""
    return leases.Watchdog(directory)


@_awaited
def lift_leftovers() -> list[str]:
    """Put back every limit that a killed process left lowered; returns the groups."""
    return leases.lift(LEASES)


@_read
def page_hashes(pid: int, size: int, first: int, count: int, salt: str, below: int) -> tuple[int, list[int]]:
    """Hashes of a guest's pages; see :func:`ovc_plugin.pages.hashes`. At most 65536 pages at once.

    :raises ValueError: the process is no guest, or its memory cannot be found.
    :raises OSError: it is gone.
    """
    return page_hashes_of(pathlib.Path('/proc'), pid, size, first, count, salt, below)


def _key(salt: str) -> bytes:
    """As long as a key of the hash may be, whatever the trust domain is called: none is told from another by what a
    name begins with."""
    return hashlib.blake2b(salt.encode()).digest()


def page_hashes_of(proc: pathlib.Path, pid: int, size: int, first: int, count: int, salt: str,
                   below: int) -> tuple[int, list[int]]:
    if size <= 0 or first < 0:
        raise ValueError(f'memory of {size} bytes from page {first} on cannot be')
    with pages.pinned(pid, proc) as root:
        return pages.hashes(root, int(size), int(first), min(int(count), 65536), _key(salt), int(below),
                            lambda: pages.checked(root))


@_awaited
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
