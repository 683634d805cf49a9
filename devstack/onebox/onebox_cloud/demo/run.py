# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One run of the accident on fresh hosts."""
from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cloud import Cloud
from ..progress import Progress
from .watch import NO_ANSWER, Sample, Watcher

if TYPE_CHECKING:
    from . import Accident

MB = 1 << 20
LOOK = 2.0
TELL = 10.0
CALM = ('CLEAR', 'SOFT')


@dataclasses.dataclass(kw_only=True)
class Run:
    """What became of it. ``placed`` by host; times in seconds since the request.

    ``killed`` are placed guests that do not run any more, ``kernel_kills`` what the kernel counts. ``calm_after`` is
    how long after the last touch every host was at SOFT or better and stayed so; ``None`` when that did not happen,
    or without the plugin. ``within`` are guests whose own kernels killed for want of memory, ``seen`` is the share of
    the looks at a guest that read its size and its memory, with the plugin. ``why`` is nova's word on the first guest
    it refused, ``reasons`` ours, by where they are to be read.
    """

    part: str
    asked: int
    placed: dict[str, int]
    killed: int
    kernel_kills: int
    alive: int
    touched_at: float | None
    calm_after: float | None
    below: list[str]
    within: list[str]
    seen: float
    why: str | None
    reasons: dict[str, str]
    samples: list[Sample]

    @property
    def total(self) -> int:
        return sum(self.placed.values())


def play(part: str, accident: Accident, ratio: float | None, out: Path, say: Progress, *, keep: bool) -> Run:
    """Bring a fresh cloud up, let the accident happen, and take the cloud down. Raises OneboxError."""
    cloud = Cloud(options=accident.options(ratio), say=say)
    title = f'stock nova, ram_allocation_ratio {ratio:g}' if ratio else 'the plugin in charge'
    say(f'== {part}: {title}')

    def logs() -> None:
        if (cloud.state / 'log').exists():
            shutil.copytree(cloud.state / 'log', out / f'logs-{part}', dirs_exist_ok=True)
    with cloud.while_up(keep=keep, last=logs):
        return _accident(part, accident, cloud, say)


def _accident(part: str, accident: Accident, cloud: Cloud, say: Progress) -> Run:
    rate = f',rate={accident.rate}' if accident.rate else ''
    image = cloud.ensure_image('guest', f'console=ttyS0 quiet ovc.touch={accident.fill}{rate}')
    flavor = cloud.ensure_flavor('accident', accident.guest_memory, {'ovc:reservation': accident.reservation})
    connection = cloud.connect()
    say(f'{part}: {accident.guests} guests of {accident.guest_memory} MB asked for, each fills {accident.fill} MB')
    servers = {}
    watcher = Watcher(cloud, servers, _reservation(accident) if cloud.options.plugin else None)
    for number in range(accident.guests):
        name = f'vm{number:02d}'
        servers[name] = connection.compute.create_server(
            name=name, image_id=image.id, flavor_id=flavor.id, networks='none').id
        time.sleep(accident.pause)
    hosts, why = _settled(connection, servers, say, part, accident.limit)
    placed = {name: host for name, host in hosts.items() if host}
    samples, touched_at = _watch(watcher, placed, accident, say, part)
    running = {uuid for host in cloud.hosts for uuid in _running(host, connection)}
    counts = {h.name: sum(host == h.name for host in placed.values()) for h in cloud.hosts}
    reasons, within = refusals(cloud, watcher), [name for name in placed if watcher.killed_within(name)]
    watcher.close()
    return Run(
        part=part, asked=accident.guests, placed=counts,
        killed=sum(servers[name] not in running for name in placed), kernel_kills=samples[-1].kernel_kills,
        alive=sum(servers[name] in running and watcher.beating(name) for name in placed), touched_at=touched_at,
        calm_after=_calm_after(samples, touched_at), below=sorted({b for s in samples for b in s.below}),
        within=within, seen=_seen(samples), why=why, reasons=reasons, samples=samples)


def _reservation(accident: Accident) -> int:
    from ovc_plugin.decide.guarantee import reservation

    return reservation(accident.reservation, accident.guest_memory * MB)


def _settled(connection: Any, servers: dict[str, str], say: Progress, part: str,
             limit: float) -> tuple[dict[str, str | None], str | None]:
    """Wait until nova has placed or refused each: its host or None, and why the first was refused."""
    deadline = time.monotonic() + limit
    while True:
        found = {s.name: s for s in connection.compute.servers()}
        open_ones = [s for s in found.values() if s.status == 'BUILD']
        if not open_ones or time.monotonic() > deadline:
            break
        time.sleep(1)
    refused = [s for s in found.values() if s.status != 'ACTIVE' and not _was_started(s)]
    hosts = {name: None if s in refused else s.compute_host for name, s in found.items()}
    message = (connection.compute.get_server(refused[0].id).fault or {}).get('message') if refused else None
    say(f'{part}: {len(servers) - len(refused)} placed, {len(refused)} refused'
        + (f' ({message.strip()})' if message else ''))
    return hosts, message


def _was_started(server: Any) -> bool:
    """A guest that was killed before this look is SHUTOFF by now, or ACTIVE still; one refused is in ERROR."""
    return server.status == 'SHUTOFF' or (server.status == 'ERROR' and bool(server.launched_at))


def _watch(watcher: Watcher, placed: dict[str, str], accident: Accident, say: Progress,
           part: str) -> tuple[list[Sample], float | None]:
    """Sample until every placed guest has filled its memory or is gone, and the settling time after that."""
    samples: list[Sample] = []
    touched_at, told = None, 0.0
    while True:
        sample = watcher.sample()
        samples.append(sample)
        if sample.at - told >= TELL or len(samples) == 1:
            told = sample.at
            say(f'{part}: {_line(sample, accident, len(placed))}')
        gone = len(placed) - sum(sample.running.values())
        if touched_at is None and sample.touched + max(0, gone) >= len(placed):
            touched_at = sample.at
            say(f'{part}: all guests that live have filled their memory after {touched_at:.0f} s')
        if touched_at is not None and sample.at - touched_at >= accident.settle or sample.at > accident.limit:
            say(f'{part}: {_line(sample, accident, len(placed))}')
            return samples, touched_at
        time.sleep(LOOK)


def _line(sample: Sample, accident: Accident, placed: int) -> str:
    hosts = '  '.join(
        f'{name} {used // MB:4d}/{accident.host_memory} MB swap {sample.swapped[name] // MB:4d} '
        f'{sample.running[name]} guests {sample.kills[name]} killed {sample.level.get(name, "")}'.rstrip()
        for name, used in sample.used.items())
    return f'{sample.at:4.0f} s | {hosts} | {sample.touched} of {placed} filled'


def _running(host: Any, connection: Any) -> list[str]:
    """The uuids of the guests whose QEMU lives on a host, from libvirt itself."""
    import libvirt

    one = libvirt.openReadOnly(host.uri)
    try:
        return [d.UUIDString() for d in one.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)]
    finally:
        one.close()


def _calm_after(samples: list[Sample], touched_at: float | None) -> float | None:
    """Seconds from the last touch until every host was calm and stayed so to the end.

    A host that did not answer in time has said nothing: such a look tells neither. Half of those since then must have
    been answered by all, or nothing is known of them.
    """
    since, answered, looks = None, 0, 0
    for sample in samples:
        told = [level for level in sample.level.values() if level != NO_ANSWER]
        complete = bool(told) and len(told) == len(sample.level)
        if any(level not in CALM for level in told):
            since = None
        elif since is None and complete:
            since, answered, looks = sample.at, 0, 0
        answered, looks = answered + complete, looks + 1
    if since is None or touched_at is None or 2 * answered < looks:
        return None
    return max(0.0, since - touched_at)


def _seen(samples: list[Sample]) -> float:
    """Of the looks at a guest, the share that read it; 0 where there was none."""
    return sum(s.seen for s in samples) / max(1, sum(s.guests for s in samples))


def refusals(cloud: Cloud, watcher: Watcher) -> dict[str, str]:
    """Our own words on refusals: the scheduler's and the hosts' logs, and what `ovc status` says of one more guest."""
    if not cloud.options.plugin:
        return {}
    found = {}
    for part in ['nova-scheduler', *(f'compute-{host.name}' for host in cloud.hosts)]:
        lines = [line for line in cloud.log(part).read_text(errors='replace').splitlines()
                 if ' INFO ovc_plugin' in line and ' refused ' in line]
        if lines:
            found[f'log of {part}'] = lines[-1].rpartition('] ')[2].strip()
    for host, answer in watcher.ask().items():
        told = answer.get('next_guest') if isinstance(answer, dict) else None
        if told and not told['ok']:
            found[f'ovc status of {host}'] = f'one more guest of {told["memory"] // MB} MB: {told["reason"]}'
    return found
