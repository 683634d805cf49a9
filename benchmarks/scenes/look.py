# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Looking at a host from outside: memory groups, /proc, libvirt, the guests' consoles. Nothing is asked of a policy."""
from __future__ import annotations

import dataclasses
import json
import time
import typing
from pathlib import Path

from guest.client import Console
from onebox_cloud import cgroup
from onebox_cloud.cloud import Cloud
from onebox_cloud.hosts import Host

MB = 1 << 20
PAGE = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestLook:
    """One guest: bytes. ``silent`` is how long ago its console last grew, in seconds; ``swap_in`` and ``work`` count
    since its start. ``None``: it could not be read this time."""

    running: bool
    actual: int | None = None
    resident: int | None = None
    swapped: int | None = None
    swap_in: int | None = None
    merged: int | None = None
    silent: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One host at one time: bytes, and seconds since the scene began. ``saved`` is what page sharing saves on the
    machine, as far as these guests' own pages are merged. ``full`` counts how often the host met its limit,
    ``kernel_kills`` what the kernel killed since then. ``level`` is what our controller has written down."""

    at: float
    used: int
    available: int
    swapped: int
    saved: int
    full: int
    kernel_kills: int
    level: str | None
    guests: dict[str, GuestLook]


def stat(group: Path) -> dict[str, int]:
    """A memory group's counters. Raises OSError when it is gone."""
    lines = (line.split() for line in (group / 'memory.stat').read_text().splitlines())
    return {key: int(value) for key, value in lines}


def kernel_kills() -> int:
    return int(dict(line.split() for line in Path('/proc/vmstat').read_text().splitlines())['oom_kill'])


def shared() -> int:
    """Bytes that page sharing saves on the machine, of which all mergeable pages are guests'."""
    return int(Path('/sys/kernel/mm/ksm/pages_sharing').read_text()) * PAGE


class Looker:
    """``names`` are libvirt's names of the guests, by ours; ``servers`` nova's identities of them."""

    def __init__(self, cloud: Cloud, host: Host, names: dict[str, str], servers: dict[str, str]) -> None:
        self.cloud, self.host, self.names, self.servers = cloud, host, names, servers
        self._libvirt: typing.Any = None
        self.began = time.monotonic()
        self._kills = kernel_kills()
        self._full = cgroup.read(host.cgroup, 'memory.failcnt') or 0

    def begin(self) -> None:
        """The scene begins now."""
        self.began = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def console(self, guest: str) -> Console:
        return Console(Path(self.cloud.state / 'instances' / self.servers[guest] / 'console.log'))

    def look(self) -> Look:
        counters, limit = stat(self.host.cgroup), cgroup.read(self.host.cgroup, 'memory.limit_in_bytes') or 0
        used = self.host.memory_used() or 0
        files = counters['total_inactive_file'] + counters['total_active_file']
        groups, sizes = self.host.guests(), self.balloons()
        guests = {name: self._guest(name, groups.get(known), sizes.get(known)) for name, known in self.names.items()}
        return Look(
            at=self.now, used=used - files, available=limit - used + files, swapped=counters['total_swap'],
            saved=min(shared(), sum(g.merged or 0 for g in guests.values())),
            full=(cgroup.read(self.host.cgroup, 'memory.failcnt') or 0) - self._full,
            kernel_kills=kernel_kills() - self._kills, level=self.level(),
            guests=guests)

    def _guest(self, name: str, group: Path | None, actual: int | None) -> GuestLook:
        silent = self.console(name).silent(time.time())
        if group is None:
            return GuestLook(running=False, silent=silent)
        try:
            counters, pid = stat(group), cgroup.pids(group)[0]
            resident = (cgroup.read(group, 'memory.usage_in_bytes') or 0) - (
                counters['total_inactive_file'] + counters['total_active_file'])
            return GuestLook(
                running=True, actual=actual, resident=resident, swapped=counters['total_swap'],
                swap_in=counters['total_workingset_refault_anon'] * PAGE, silent=silent,
                merged=int(Path(f'/proc/{pid}/ksm_merging_pages').read_text()) * PAGE)
        except (OSError, IndexError, KeyError, ValueError):
            return GuestLook(running=True, actual=actual, silent=silent)

    def balloons(self) -> dict[str, int]:
        """Each guest's size as its own balloon driver reports it to libvirt; {} when libvirt is busy."""
        import libvirt
        try:
            if self._libvirt is None:
                self._libvirt = libvirt.openReadOnly(self.host.uri)
            found = self._libvirt.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BALLOON,
                                                    libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
            return {d.name(): s['balloon.current'] * 1024 for d, s in found if 'balloon.current' in s}
        except libvirt.libvirtError:
            self._libvirt = None
            return {}

    def level(self) -> str | None:
        try:
            return json.loads((self.cloud.state / 'ovc' / f'{self.host.name}.json').read_text())['ladder']['level']
        except (OSError, ValueError, KeyError):
            return None

    def close(self) -> None:
        if self._libvirt is not None:
            self._libvirt.close()
