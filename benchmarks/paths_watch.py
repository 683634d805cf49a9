# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whether a promise is broken on any host, told by the hosts themselves: a part of benchmarks/paths."""
from __future__ import annotations

import threading
import time
import typing

from onebox_cloud import cgroup
from onebox_cloud.cloud import Cloud
from onebox_cloud.demo import watch
from onebox_cloud.hosts import Host

from benchmarks import backing

MB = 1 << 20
RESERVE, OVERHEAD = 64 * MB, 128 * MB  # nova's reserved_host_memory_mb there, and [ovc] default_overhead_mb
ANSWERS_WITHIN = 10                    # looks, a second apart, after which a host that is silent counts as unseen


class Watch(threading.Thread):
    """Looks at the hosts every second and whenever asked; remembers each broken promise."""

    def __init__(self, cloud: Cloud, owed: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self.cloud, self.owed = cloud, owed
        self.broken: list[str] = []
        self.looks = self.blind = self.blind_after = 0
        self.fullest = {'guaranteed': 0.0, 'backed': 0.0}
        self.why_blind = ''
        self._lock, self._over = threading.Lock(), threading.Event()
        self._kills = watch.kernel_kills()

    def run(self) -> None:
        while not self._over.wait(1.0):
            self.look('meanwhile')

    def stop(self) -> None:
        self._over.set()
        self.join(30)

    def look_after(self, step: str) -> None:
        """The look that judges a step: a host that does not answer is asked again for a while, and then counts."""
        for _ in range(ANSWERS_WITHIN):
            if not self.look(step):
                return
            time.sleep(1.0)
        self.blind_after += 1

    def look(self, when: str) -> int:
        """How many hosts did not answer."""
        blind = 0
        with self._lock:
            self.looks += 1
            for host in self.cloud.hosts:
                try:
                    found = list(self._of(host))
                except Exception as error:  # a libvirtd that does not answer; it is asked again in a second
                    blind += 1
                    self.why_blind = f'{host.name}: {error}'
                    continue
                for what in found:
                    told = f'{host.name}: {what}'
                    if told not in {b.partition(' [')[0] for b in self.broken}:
                        self.broken.append(f'{told} [{when}]')
            killed = watch.kernel_kills() - self._kills
            if killed:
                self._kills += killed
                self.broken.append(f'{killed} killed by the kernel [{when}]')
            self.blind += blind
        return blind

    def _of(self, host: Host) -> typing.Iterator[str]:
        guaranteed = touchable = 0
        for name, uuid, maximum, size in domains(host):
            owed = self.owed.get(uuid, maximum)
            cost = max(OVERHEAD, real_size(host, name) - maximum)
            guaranteed += owed + cost
            touchable += maximum + cost
            if size is not None and size < owed:
                yield f'{name} has {size // MB} MB < its reservation of {owed // MB} MB'
            if (held := backed(host, name)) and held.below(owed):
                yield (f'{name} has {held.resident // MB} MB in memory, the rest in swap < its reservation of '
                       f'{owed // MB} MB')
        room = host.memory - RESERVE
        self.fullest['guaranteed'] = max(self.fullest['guaranteed'], guaranteed / room)
        self.fullest['backed'] = max(self.fullest['backed'], touchable / (room + host.swap))
        if guaranteed > room:
            yield f'guarantees need {guaranteed // MB} MB > {room // MB} MB'
        if touchable > room + host.swap:
            yield f'guests may touch {touchable // MB} MB > {(room + host.swap) // MB} MB'


def domains(host: Host) -> list[tuple[str, str, int, int | None]]:
    """(libvirt's name, uuid, maximum, balloon size) of every guest whose QEMU runs, from libvirt; bytes."""
    import libvirt
    connection = libvirt.openReadOnly(host.uri)
    try:
        found = []
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            try:
                _, maximum, size, *_ = domain.info()
                found.append((domain.name(), domain.UUIDString(), maximum * 1024, size * 1024 or None))
            except libvirt.libvirtError:
                continue  # it has ended meanwhile
        return found
    finally:
        connection.close()


def backed(host: Host, name: str) -> backing.Held | None:
    """What the host has given the guest; ``None`` when it has ended."""
    group = host.guests().get(name)
    try:
        return backing.held(group, cgroup.pids(group)[0]) if group else None
    except (OSError, IndexError):
        return None


def real_size(host: Host, name: str) -> int:
    """What the guest's memory group holds in memory and swap without file pages, in bytes; 0 when it is not there."""
    group = host.guests().get(name)
    try:
        stat = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines()) if group else {}
        return int(stat.get('total_rss', 0)) + int(stat.get('total_swap', 0))
    except (OSError, ValueError):
        return 0
