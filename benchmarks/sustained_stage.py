# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The cloud whose first host is short for as long as its guests live: a part of benchmarks/sustained."""
from __future__ import annotations

import argparse
import dataclasses
import time
import types
import typing
from pathlib import Path

from guest.client import tell
from onebox_cloud.cloud import Cloud
from onebox_cloud.errors import OneboxError
from onebox_cloud.progress import Progress

from benchmarks.scenes.look import Look, Looker
from benchmarks.scenes.stage import mom
from benchmarks.sustained_hearts import Hearts

MB = 1 << 20
MAXIMUM, RESERVATION = 512 * MB, 128 * MB
BEAT = 0.2
PATIENCE = 600  # seconds for a guest to boot: emulated processors on a busy machine take minutes
ANSWER = 60  # seconds for a guest to accept a command
TELL = 10.0
# Two guests that only read what they hold, and one that keeps writing: it costs more to move.
WORK = {'reader1': 'read rate={rate}', 'reader2': 'read rate={rate}', 'writer': 'rewrite rate={rate}'}


@dataclasses.dataclass(kw_only=True)
class Move:
    """What nova has recorded of one live migration, and when it was first seen so; seconds since the scene began."""

    guest: str
    source: str
    target: str | None
    status: str
    begun: float
    ended: float | None = None


class Stage:
    """The cloud with its guests, and how they are looked at."""

    def __init__(self, cloud: Cloud, options: argparse.Namespace, say: Progress, policy: str = 'ovc') -> None:
        self.cloud, self.options, self.say, self.policy = cloud, options, say, policy
        self.hosts = [host.name for host in cloud.hosts]
        self.words: dict[str, list[str]] = {}
        self.until = 0.0
        self.compute = cloud.connect().compute
        self.servers, names = self._boot()
        self.lookers = {host.name: Looker(cloud, host, names, self.servers) for host in cloud.hosts}
        self.names = names
        first = self.lookers[cloud.hosts[0].name]
        self.hearts = Hearts({name: first.console(name).path for name in self.servers})
        for name in self.servers:
            first.console(name).wait_beats(1, PATIENCE)
        if policy == 'mom':
            part = mom(cloud, types.SimpleNamespace(reservation='25%'))
            cloud.runner.start(part)
            cloud.runner.wait(part)
        self.looks: list[dict[str, Look]] = []
        self.moves: dict[int, Move] = {}

    def _boot(self) -> tuple[dict[str, str], dict[str, str]]:
        """All guests on the first host: the others take none until they are there. Ids and libvirt's names by name."""
        others = [s for s in self.compute.services(binary='nova-compute') if s.host != self.cloud.hosts[0].name]
        for service in others:
            self.compute.disable_service(service)
        image = self.cloud.ensure_image('beating', f'console=ttyS0 quiet ovc.beat={BEAT}')
        flavor = self.cloud.ensure_flavor('sustained', MAXIMUM // MB, {'ovc:reservation': '25%'})
        servers = {name: self.compute.create_server(name=name, image_id=image.id, flavor_id=flavor.id,
                                                    networks='none').id for name in WORK}
        names = {}
        for name, uuid in servers.items():
            names[name] = self._started(name, uuid).instance_name
        for service in others:
            self.compute.enable_service(service)
        self.say(f'{len(servers)} guests on {self.cloud.hosts[0].name}, none on {", ".join(s.host for s in others)}')
        return servers, names

    def _started(self, name: str, uuid: str) -> typing.Any:
        deadline = time.monotonic() + PATIENCE
        while (server := self.compute.get_server(uuid)).status != 'ACTIVE':
            if server.status == 'ERROR' or time.monotonic() > deadline:
                raise OneboxError(f'{name} did not start: {(server.fault or {}).get("message") or server.status}')
            time.sleep(1)
        return server

    @property
    def now(self) -> float:
        return next(iter(self.lookers.values())).now

    def begin(self) -> None:
        import libvirt
        for looker in self.lookers.values():  # before anybody fills: no shortage is older than the scene
            looker.begin()
        connection = libvirt.open(self.cloud.hosts[0].uri)
        try:
            for name, work in WORK.items():
                domain = connection.lookupByName(self.names[name])
                tell(domain, f'touch {self.options.touch} rate=20', ANSWER)
                tell(domain, work.format(rate=self.options.rate), ANSWER)
        finally:
            connection.close()
        self.hearts.start()

    def look(self) -> dict[str, Look]:
        look = {name: looker.look() for name, looker in self.lookers.items()}
        self.looks.append(look)
        by_id = {uuid: name for name, uuid in self.servers.items()}
        for found in self.compute.migrations():
            move = self.moves.setdefault(found.id, Move(
                guest=by_id.get(found.server_id, found.server_id), source=found.source_compute, target=None, status='',
                begun=self.now))
            if found.status != move.status:
                self.say(f'{self.now:4.0f} s | nova: migration of {move.guest} {found.status}')
            move.status, move.target = found.status, found.dest_compute
            if move.ended is None and found.status in ('completed', 'error', 'failed', 'cancelled'):
                move.ended = self.now
        return look

    def watch(self) -> None:
        """Until one guest has moved and the time to settle is over, or the limit is reached."""
        said, end = -TELL, self.options.limit
        if self.policy != 'ovc':  # as long as it takes where a guest is moved
            end = 2 * self.options.after + self.options.settle
        while self.now < end:
            began = time.monotonic()
            look = self.look()
            if self.now - said >= TELL:
                said = self.now
                self.say(' | '.join([f'{self.policy} {self.now:4.0f} s', *(_line(one) for one in look.values())]))
            moved = any(m.ended is not None for m in self.moves.values())
            if moved and self.policy == 'ovc' and end == self.options.limit:
                end = self.now + self.options.settle
            time.sleep(max(0.05, 1.0 - (time.monotonic() - began)))

    def end(self) -> None:
        self.until = time.monotonic()
        self.hearts.over.set()
        self.hearts.join(5)
        for looker in self.lookers.values():
            looker.close()
        self.words = {name: told(self.cloud.log(f'compute-{name}')) for name in self.hosts}

    @property
    def pauses(self) -> dict[str, float]:
        return {name: self.hearts.longest(name, self.until) for name in self.servers}

    @property
    def alive(self) -> list[str]:
        """Guests that run, on one host, and beat to the end."""
        last = self.looks[-1]
        return [name for name in self.servers if sum(one.guests[name].running for one in last.values()) == 1
                and self.hearts.beats[name] and self.until - self.hearts.beats[name][-1][0] < 5]

    @property
    def kills(self) -> int:
        return max(one.kernel_kills for one in self.looks[-1].values())

    def below(self) -> list[str]:
        """Guests seen below their reservation, in words."""
        found = set()
        for look in self.looks:
            for host, one in look.items():
                for name, guest in one.guests.items():
                    if guest.actual is not None and guest.actual < RESERVATION:
                        found.add(f'{name} on {host}: balloon at {guest.actual // MB} MB')
                    if guest.resident is not None and guest.swapped is not None and (
                            guest.resident < RESERVATION <= guest.resident + guest.swapped):
                        found.add(f'{name} on {host}: {guest.resident // MB} MB resident')
        return sorted(found)

    @property
    def tail(self) -> int:
        """Looks, of one second each, at the end over which is averaged."""
        return max(2, min(len(self.looks) - 1, 20))

    def swap_in(self, host: str, earlier: int, later: int = -1) -> float:
        """MB/s read back by guests that were on the host at both looks; NaN, which is under no limit, where one of them
        was not read in most of the looks from one to the other."""
        looks = [look[host] for look in self.looks[earlier:len(self.looks) if later == -1 else later + 1]]
        rates = []
        for name, guest in looks[-1].guests.items():
            if not (guest.running and looks[0].guests[name].running):
                continue
            read = [(one.at, back) for one in looks if (back := one.guests[name].swap_in) is not None]
            if len(read) < max(2, len(looks) / 2):
                return float('nan')
            rates.append((read[-1][1] - read[0][1]) / MB / max(0.1, read[-1][0] - read[0][0]))
        return sum(rates)

    def short(self, host: str, begun: float) -> tuple[float, float]:
        """What the kernel had to say of the host in the ``--after`` seconds before: the share of the looks in which at
        most a fifth of its memory was available, and MB/s read back from swap. (0, NaN) without two looks."""
        at = [n for n, look in enumerate(self.looks) if begun - self.options.after <= look[host].at <= begun]
        if len(at) < 2:
            return 0.0, float('nan')
        low = sum(self.looks[n][host].available <= self.options.host_memory * MB / 5 for n in at)
        return low / len(at), self.swap_in(host, at[0], at[-1])

    def seen(self) -> float:
        """Of the looks, the share that has read the size and the memory of the guest that was read least."""
        return min(sum(any(g.running and None not in (g.actual, g.resident, g.swapped)
                           for g in (one.guests[name] for one in look.values())) for look in self.looks)
                   for name in self.servers) / len(self.looks)


def _line(look: Look) -> str:
    return (f'{sum(g.running for g in look.guests.values())} guests, {look.available // MB:4d} MB available '
            f'{look.level or "":8} swap {look.swapped // MB:4d} MB')


def told(log: Path) -> list[str]:
    """What the controller has logged of migrations."""
    lines = log.read_text(errors='replace').splitlines()
    return [line.rpartition('] ')[2] for line in lines if ' ovc_plugin' in line and (
        'to be moved to another host' in line or 'could not be moved away' in line)]
