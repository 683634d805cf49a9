# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Looking at a running cloud from outside: the hosts' memory groups, the guests' consoles, nova, and our report."""
from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from guest.client import Console

from ..cloud import Cloud
from ..hosts import Host

MB = 1 << 20
PAGE = 4096
#: In place of the level of a host that did not say it in time.
NO_ANSWER = 'no answer'


@dataclasses.dataclass(kw_only=True)
class Sample:
    """One look. Bytes and seconds since the request; ``level`` by host where the plugin answers.

    ``kills`` are guests that ran on the host and do not any more, ``kernel_kills`` what the kernel counts on the whole
    machine since the request. (A group's own counter is of no use: libvirt removes the victim's group with it.)

    ``below`` are guests whose balloon, as libvirt tells it, is below their reservation, or that were touched beyond
    it and have less than it resident. ``guests`` were looked at for that, and ``seen`` are those of them whose size and
    memory could be read; of the others nothing is known.
    """

    at: float
    used: dict[str, int]
    swapped: dict[str, int]
    swap_ins: dict[str, int]
    kills: dict[str, int]
    kernel_kills: int
    running: dict[str, int]
    level: dict[str, str]
    touched: int
    below: list[str]
    guests: int
    seen: int


def swap_ins(host: Host) -> int:
    """Bytes that this host's guests read back from swap since the host was made."""
    for line in (host.cgroup / 'memory.stat').read_text().splitlines():
        if line.startswith('total_workingset_refault_anon '):
            return int(line.split()[1]) * PAGE
    return 0


def kernel_kills() -> int:
    """Processes that the kernel has killed for want of memory since the machine started."""
    return int(dict(line.split() for line in Path('/proc/vmstat').read_text().splitlines())['oom_kill'])


class Watcher:
    """Samples a cloud. ``reservation`` in bytes is what each guest is owed."""

    def __init__(self, cloud: Cloud, servers: dict[str, str], reservation: int | None) -> None:
        self.cloud, self.servers, self.reservation = cloud, servers, reservation
        self.began = time.monotonic()
        self._bus: Any = None
        self._seen: dict[str, set[str]] = {}
        self._kernel_kills = kernel_kills()

    def console(self, server: str) -> Console:
        return Console(Path(self.cloud.state / 'instances' / self.servers[server] / 'console.log'))

    def touched(self, server: str) -> bool:
        return bool(self.console(server).events('touched'))

    def beating(self, server: str, within: float = 12.0) -> bool:
        """Whether the guest's heartbeat was heard in the last seconds."""
        silent = self.console(server).silent(time.time())
        return silent is not None and silent <= within and bool(self.console(server).beats())

    def sample(self) -> Sample:
        hosts = self.cloud.hosts
        levels = self.levels() if self.cloud.options.plugin else {}
        running = {h.name: set(h.guests()) for h in hosts}
        for name, guests in running.items():
            self._seen.setdefault(name, set()).update(guests)
        below, guests, seen = self.below(hosts)
        return Sample(
            at=time.monotonic() - self.began, used={h.name: h.memory_used() or 0 for h in hosts},
            swapped={h.name: h.swap_used() or 0 for h in hosts}, swap_ins={h.name: swap_ins(h) for h in hosts},
            kills={name: len(self._seen[name] - guests) for name, guests in running.items()},
            kernel_kills=kernel_kills() - self._kernel_kills, running={name: len(g) for name, g in running.items()},
            level=levels, touched=sum(self.touched(s) for s in self.servers), below=below,
            guests=guests, seen=seen)

    def killed_within(self, server: str) -> int:
        """Processes that the guest's own kernel has killed for want of memory."""
        return max((beat.oom for beat in self.console(server).beats()), default=0)

    def below(self, hosts: list[Host]) -> tuple[list[str], int, int]:
        """Guests below what they are owed, in words; how many were looked at, and how many of these were read."""
        if self.reservation is None:
            return [], 0, 0
        found, guests, seen = [], 0, 0
        for host in hosts:
            sizes = _balloons(host)
            for name, group in host.guests().items():
                usage, swapped = _usage(group)
                guests, seen = guests + 1, seen + (name in sizes and usage is not None)
                if sizes.get(name, self.reservation) < self.reservation:
                    found.append(f'{name} on {host.name}: balloon at {sizes[name] // MB} MB')
                elif usage is not None and usage < self.reservation <= usage + swapped:
                    found.append(f'{name} on {host.name}: {usage // MB} MB resident')
        return found, guests, seen

    def levels(self) -> dict[str, str]:
        answers = self.ask()
        return {host: answer['report']['level'] if isinstance(answer, dict) and answer.get('report') else NO_ANSWER
                for host, answer in answers.items()}

    def close(self) -> None:
        """Leave the message bus, before the cloud that has it goes."""
        if self._bus is not None:
            self._bus.cleanup()

    def ask(self) -> dict[str, Any]:
        """Each host's own status over the message bus, as `ovc status` asks for it."""
        from oslo_config import cfg

        from ovc_plugin import rpc
        if self._bus is None:
            # oslo.messaging reads some of its options from the process-wide object, so ours must be that one.
            cfg.CONF([], default_config_files=[str(path) for path in self.cloud.nova_files('control')])
            self._bus = rpc.transport(cfg.CONF)
        return rpc.ask(self._bus, [h.name for h in self.cloud.hosts], topics=[rpc.COMPUTE_TOPIC], timeout=3)


def _usage(group: Path) -> tuple[int | None, int]:
    try:
        stat = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
        return int((group / 'memory.usage_in_bytes').read_text()), int(stat['total_swap'])
    except (OSError, KeyError, ValueError):
        return None, 0


def _balloons(host: Host) -> dict[str, int]:
    """Each guest's size as its own balloon driver reports it to libvirt; {} when libvirt is busy."""
    import libvirt
    try:
        connection = libvirt.openReadOnly(host.uri)
    except libvirt.libvirtError:
        return {}
    try:
        found = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BALLOON,
                                             libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
        return {d.name(): s['balloon.current'] * 1024 for d, s in found if 'balloon.current' in s}
    except libvirt.libvirtError:
        return {}
    finally:
        connection.close()
