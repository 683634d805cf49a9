# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Builders of snapshots and readings for tests: each test says only what it is about."""
from __future__ import annotations

import pathlib

from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, KsmState, Level
from ovc_plugin.report import HostReport
from ovc_plugin.samples import GroupSample, GuestFacts, GuestSample, HostSample, MemorySample

GIB = 1 << 30
NOW = 1_000_000.0


def a_guest(name: str = 'g1', **changes) -> GuestSnapshot:
    """A willing guest of 1 GiB, half of it idle, that spoke two seconds ago."""
    fields = dict(uuid=f'uuid-{name}', name=name, maximum=GIB, reservation=GIB // 4, overhead=128 * MIB, target=GIB,
                  actual=GIB, usable=GIB // 2, stats_age=2.0, resident=GIB, swapped=0, refaults=0.0, can_balloon=True,
                  can_share=True, can_swap=True, trust_domain='p1')
    return GuestSnapshot(**fields | changes)


def a_host(*guests: GuestSnapshot, **changes) -> HostSnapshot:
    """A host of 28 GiB (so that the sliding minimum is 899 MiB) with plenty available."""
    fields = dict(host='h1', taken_at=NOW, total=28 * GIB, available=10 * GIB, reserve=512 * MIB, swap_total=8 * GIB,
                  swap_free=8 * GIB, guests=guests,
                  ksm=KsmState(run=1, saved=0, shared=0, pages_to_scan=500))
    return HostSnapshot(**fields | changes)


def a_report(**changes) -> HostReport:
    """An empty host of 16 GiB with 8 GiB of swap that reported just now."""
    fields = dict(host='h1', taken_at=NOW, level=Level.CLEAR, total=16 * GIB, reserve=512 * MIB, available=16 * GIB,
                  committed=0, reserved=0, claimed=0, guests=0, reclaimable=0, saved=0, swap_usable=8 * GIB,
                  swap_used=0)
    return HostReport(**fields | changes)


def facts(name: str = 'g1', **changes) -> GuestFacts:
    fields = dict(uuid=f'uuid-{name}', name=name, running=True, maximum=GIB, actual=GIB, usable=GIB // 2,
                  last_update=NOW - 2, has_balloon=True, managed=True, project='p1')
    return GuestFacts(**fields | changes)


def a_sample(*guests: GuestSample, **changes) -> HostSample:
    fields = dict(host='h1', taken_at=NOW, guests=guests,
                  memory=MemorySample(total=28 * GIB, available=10 * GIB, swap_total=8 * GIB, swap_free=8 * GIB))
    return HostSample(**fields | changes)


def sampled(name: str = 'g1', usage: int = GIB, swapped: int = 0, refaults: int = 0, **changes) -> GuestSample:
    return GuestSample(facts=facts(name, **changes),
                       group=GroupSample(usage=usage, swapped=swapped, refault_pages=refaults))


class FakeHypervisor:
    """Guests in a list; ``broken`` names guests whose calls fail, ``down`` makes every call fail."""

    def __init__(self, *guests: GuestFacts) -> None:
        self.list = list(guests)
        self.asked: list[tuple[str, int]] = []
        self.broken: set[str] = set()
        self.down = False

    def guests(self) -> list[GuestFacts]:
        if self.down:
            raise ConnectionError('hypervisor is down')
        return list(self.list)

    def set_balloon(self, uuid: str, target: int) -> None:
        if self.down or uuid in self.broken:
            raise ConnectionError(f'no answer for {uuid}')
        self.asked.append((uuid, target))


def a_proc(root: pathlib.Path, total: int = 28 * GIB, available: int = 10 * GIB, swap: int = 8 * GIB,
           psi: str | None = 'some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n') -> pathlib.Path:
    """A small /proc tree."""
    (root / 'self').mkdir(parents=True, exist_ok=True)
    (root / 'self' / 'mountinfo').write_text('')
    (root / 'meminfo').write_text(f'MemTotal: {total // 1024} kB\nMemFree: 0 kB\nMemAvailable: {available // 1024} kB\n'
                                  f'SwapTotal: {swap // 1024} kB\nSwapFree: {swap // 1024} kB\n')
    (root / 'vmstat').write_text('pswpin 0\npswpout 0\n')
    if psi is not None:
        (root / 'pressure').mkdir(exist_ok=True)
        (root / 'pressure' / 'memory').write_text(psi)
    return root


def a_ksm(root: pathlib.Path, **values) -> pathlib.Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, value in (dict(run=0, pages_sharing=0, pages_shared=0, pages_to_scan=100) | values).items():
        (root / name).write_text(f'{value}\n')
    return root


def a_v1_group(path: pathlib.Path, usage: int, limit: int = 9223372036854771712, memsw: int = 9223372036854771712,
               **stat: int) -> pathlib.Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / 'memory.usage_in_bytes').write_text(f'{usage}\n')
    (path / 'memory.limit_in_bytes').write_text(f'{limit}\n')
    (path / 'memory.memsw.limit_in_bytes').write_text(f'{memsw}\n')
    (path / 'memory.stat').write_text(''.join(f'{name} {value}\n' for name, value in stat.items()))
    return path


def a_v2_group(path: pathlib.Path, usage: int, limit: int | str = 'max', swap: int = 0, swap_max: int | str = 'max',
               high: str | None = None, reclaim: str | None = None, **stat: int) -> pathlib.Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in (('current', usage), ('max', limit), ('swap.current', swap), ('swap.max', swap_max),
                        ('high', high), ('reclaim', reclaim)):
        if value is not None:
            (path / f'memory.{name}').write_text(f'{value}\n')
    (path / 'memory.stat').write_text(''.join(f'{name} {value}\n' for name, value in stat.items()))
    return path
