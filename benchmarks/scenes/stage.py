# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Lets scenes happen under one policy on a small host of the one-machine cloud."""
from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import threading
import time
import typing
from pathlib import Path

from guest.client import GuestError, tell
from onebox_cloud import hosts
from onebox_cloud.cloud import Cloud
from onebox_cloud.errors import OneboxError
from onebox_cloud.options import Options
from onebox_cloud.process import Part
from onebox_cloud.progress import Progress

from benchmarks import stored
from benchmarks.scenes.look import GuestLook, Look, Looker
from benchmarks.scenes.table import Guest, Scene

MB = 1 << 20
TELL = 10.0
PATIENCE = 600.0  # seconds for guests to boot, or to go: emulated processors on a busy machine take minutes
LATE = 10.0  # seconds in which a guest that did not answer may show that it has heard
KSM = Path('/sys/kernel/mm/ksm/run')
#: Stock nova admits by a ratio; this one lets the same guests in that our host promises to hold.
RATIO = 4.0
#: The host of all scenes, in MB. Its swap can hold what the guests may fill, so that our host promises to hold them.
HOST_MEMORY, HOST_SWAP = 1500, 2048
POLICIES = ('ovc', 'mom', 'nothing')
IMAGES = {True: ('guest', 'console=ttyS0 quiet'), False: ('guest-mute', 'console=ttyS0 quiet ovc.balloon=off')}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """What a guest told by itself: ``up`` in seconds of its own clock, ``work`` in bytes, ``gap`` the longest time
    between two beats, ``stall`` the longest by which one came late, ``probe`` the longest look at one of its pages,
    ``oom`` the processes that its own kernel has killed for want of memory; ``None``: it never told."""

    gap: float
    stall: float
    probe: float
    work: list[tuple[float, int]]
    oom: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of a scene under one policy. ``reservation`` in bytes. ``events`` are lines worth keeping: what was
    told to guests and what they said to it. ``alive``: guests whose heartbeat was heard at the end."""

    scene: str
    policy: str
    reservation: int
    maximum: dict[str, int]
    looks: list[Look]
    beats: dict[str, Beats]
    alive: list[str]
    refused: list[str]
    events: list[str]

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, file: Path) -> Record:
        """Raises OSError, ValueError, TypeError where there is none that can be read."""
        data = json.loads(file.read_text())
        looks = [Look(**{**look, 'guests': {n: GuestLook(**g) for n, g in look['guests'].items()}})
                 for look in data.pop('looks')]
        beats = {n: Beats(**{**b, 'work': [tuple(w) for w in b['work']]}) for n, b in data.pop('beats').items()}
        return cls(**data, looks=looks, beats=beats)


def mom(cloud: Cloud, scene: Scene) -> Part:
    """MOM's policy within the host's view, as nova-compute is."""
    runner, name = cloud.runner, cloud.hosts[0].name

    def command() -> list[str]:
        return ['/usr/bin/nsenter', '-t', str(runner.pid(hosts.part_name(name))), '-u', '-m', '--wd=/', sys.executable,
                str(Path(__file__).with_name('mom_host.py')), '--host', name, '--reservation', scene.reservation]

    def ready() -> bool:
        return 'mom: ready' in runner.log('mom').read_text(errors='replace')

    return Part(name='mom', command=command, ready=ready, polite=3)


class Stage:
    """One cloud with one host, on which scenes follow each other; the guests of one are gone before the next begins.

    Use as a context manager: the cloud is taken down at the end, whatever happened.
    """

    def __init__(self, policy: str, logs: Path, say: Progress) -> None:
        self.policy, self.logs, self.say = policy, logs, say
        self.cloud = Cloud(options=Options(hosts=1, host_memory_mb=HOST_MEMORY, host_swap_mb=HOST_SWAP,
                                           ratio=None if policy == 'ovc' else RATIO), say=say)

    def __enter__(self) -> Stage:
        self._up = self.cloud.while_up()
        self._up.__enter__()
        return self

    def __exit__(self, *raised: typing.Any) -> None:
        self._up.__exit__(*raised)

    def play(self, scene: Scene) -> Record:
        """Raises OneboxError."""
        self.say(f'== {scene.name}, {self.policy}: {scene.says}')
        part = mom(self.cloud, scene)
        try:
            if self.policy != 'ovc':
                KSM.write_text('2')  # as a machine that nobody has told to merge; its own setting comes back at the end
            if self.policy == 'mom':
                self.cloud.runner.start(part)
                self.cloud.runner.wait(part)
            return _Play(self.cloud, scene, self.policy, self.say).run()
        finally:
            self.cloud.runner.stop([part])
            self._clear(self.logs / f'{scene.name}-{self.policy}')

    def _clear(self, target: Path) -> None:
        """Keep the logs, and take the guests away."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.cloud.state / 'log', target)
        compute = self.cloud.connect().compute
        for server in compute.servers():
            compute.delete_server(server.id, force=True)
        deadline = time.monotonic() + PATIENCE
        while left := [*self.cloud.hosts[0].guests(), *(server.name for server in compute.servers())]:
            if time.monotonic() > deadline:  # the next scene would be measured with them
                raise OneboxError(f'guests do not go: {", ".join(left)} {PATIENCE:.0f} s after their deletion')
            time.sleep(0.5)
        if self.policy == 'ovc':
            self._reported(time.time(), deadline)

    def _reported(self, since: float, deadline: float) -> None:
        """Until the host has looked again: by what it saw before, the next scene's guests come beside these."""
        host = self.cloud.hosts[0].name
        while (known := stored.reports(self.cloud).get(host)) is None or known.taken_at < since:
            if time.monotonic() > deadline:
                raise OneboxError(f'{host} has not reported since its guests were deleted')
            time.sleep(0.5)


class _Play:
    def __init__(self, cloud: Cloud, scene: Scene, policy: str, say: Progress) -> None:
        self.cloud, self.scene, self.policy, self.say = cloud, scene, policy, say
        self.names: dict[str, str] = {}
        self.events: list[str] = []
        self.over = threading.Event()

    def run(self) -> Record:
        servers, refused = self._boot()
        looker = self._looker(servers)
        self._await_beats(looker)
        time.sleep(self.scene.rest)
        looker.begin()
        tellers = [threading.Thread(target=self._tell, args=(looker, guest), daemon=True)
                   for guest in self.scene.guests if guest.name in servers]
        for teller in tellers:
            teller.start()
        try:
            looks = self._watch(looker)
        finally:
            self.over.set()
        last = looks[-1]
        record = Record(
            scene=self.scene.name, policy=self.policy, reservation=_reservation(self.scene), looks=looks,
            maximum={g.name: g.memory * MB for g in self.scene.guests if g.name in servers},
            beats={name: self._beats(looker, name) for name in servers}, refused=refused, events=self.events,
            alive=[n for n, g in last.guests.items() if g.running and g.silent is not None and g.silent < 12])
        for teller in tellers:
            teller.join(15)
        looker.close()
        return record

    def _boot(self) -> tuple[dict[str, str], list[str]]:
        """Ask nova for all guests; the identities of those it placed, and words on those it refused."""
        cloud, scene = self.cloud, self.scene
        compute = cloud.connect().compute
        specs = {'ovc:reservation': scene.reservation}
        flavors = {m: cloud.ensure_flavor(f'scene-{m}', m, specs) for m in {g.memory for g in scene.guests}}
        images = {balloon: cloud.ensure_image(*IMAGES[balloon]) for balloon in {g.balloon for g in scene.guests}}
        asked = {g.name: compute.create_server(name=g.name, image_id=images[g.balloon].id, networks='none',
                                               flavor_id=flavors[g.memory].id).id for g in scene.guests}
        deadline = time.monotonic() + PATIENCE
        while True:
            found = {name: compute.get_server(uuid) for name, uuid in asked.items()}
            if all(s.status != 'BUILD' for s in found.values()) or time.monotonic() > deadline:
                break
            time.sleep(1)
        refused = [f'{n}: {((s.fault or {}).get("message") or s.status).strip()}' for n, s in found.items()
                   if s.status != 'ACTIVE']
        self.names = {n: s.instance_name for n, s in found.items() if s.status == 'ACTIVE'}
        self.say(f'{len(self.names)} of {len(asked)} guests placed {"; ".join(refused)}'.rstrip())
        return {n: asked[n] for n in self.names}, refused

    def _looker(self, servers: dict[str, str]) -> Looker:
        return Looker(self.cloud, self.cloud.hosts[0], self.names, servers)

    def _await_beats(self, looker: Looker, timeout: float = PATIENCE) -> None:
        for name in looker.servers:
            looker.console(name).wait_beats(1, timeout)

    def _tell(self, looker: Looker, guest: Guest) -> None:
        """Give one guest its commands in time; what it refuses or does not answer is noted."""
        import libvirt
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # else it writes errors to stderr, too
        console = looker.console(guest.name)
        for at, command in guest.steps:
            if self.over.wait(max(0.0, at - looker.now)):
                return
            told, heard = f'{guest.name} told "{command}"', len(console.events('told'))
            for _attempt in range(3):
                try:
                    connection = libvirt.open(self.cloud.hosts[0].uri)
                    try:
                        tell(connection.lookupByName(looker.names[guest.name]), command)
                    finally:
                        connection.close()
                    break
                except (GuestError, libvirt.libvirtError) as error:
                    # Told twice, a guest does it twice, and one that is slow to answer may have accepted it.
                    if has_heard(console, heard, self.over, LATE):
                        told = f'{guest.name} told "{command}", though: {error}'
                        break
                    told = f'{guest.name} could not be told "{command}": {error}'
            self.events.append(f'{looker.now:.0f} s: {told}')

    def _watch(self, looker: Looker) -> list[Look]:
        looks: list[Look] = []
        said = -TELL
        while looker.now < self.scene.seconds:
            began = time.monotonic()
            looks.append(looker.look())
            if looks[-1].at - said >= TELL:
                said = looks[-1].at
                self.say(f'{self.scene.name}, {self.policy}: {_line(looks[-1], self.scene)}')
            time.sleep(max(0.05, 1.0 - (time.monotonic() - began)))
        self.say(f'{self.scene.name}, {self.policy}: {_line(looks[-1], self.scene)}')
        return looks

    def _beats(self, looker: Looker, name: str) -> Beats:
        console = looker.console(name)
        beats = console.beats()
        self.events += [f'{name}: {event.name} {" ".join(event.words)} {event.fields}'
                        for event in typing.cast(typing.Any, _events(console))]
        ups = [beat.up for beat in beats]
        gaps = [later - earlier for earlier, later in zip(ups, ups[1:], strict=False)]
        return Beats(gap=max(gaps, default=0.0), stall=max((b.stall for b in beats), default=0.0),
                     probe=max((b.probe for b in beats), default=0.0), work=[(b.up, b.work) for b in beats],
                     oom=max((b.oom for b in beats), default=None))


def has_heard(console: typing.Any, before: int, over: threading.Event, seconds: float) -> bool:
    """Whether the guest's console tells of more accepted commands than before, waited for."""
    deadline = time.monotonic() + seconds
    while len(console.events('told')) <= before:
        if time.monotonic() > deadline or over.wait(0.2):
            return len(console.events('told')) > before
    return True


def _events(console: typing.Any) -> list[typing.Any]:
    from guest.client import parse_events
    return [event for event in parse_events(console.text()) if event.name not in ('beat', 'told', 'start')]


def _reservation(scene: Scene) -> int:
    from ovc_plugin.decide.guarantee import reservation
    return reservation(scene.reservation, scene.guests[0].memory * MB)


def _line(look: Look, scene: Scene) -> str:
    ballooned = sum(max(0, _maximum(scene, n) - g.actual) for n, g in look.guests.items() if g.actual)
    return (f'{look.at:4.0f} s | {look.available // MB:4d} of {HOST_MEMORY} MB available {look.level or "":8} | '
            f'balloon {ballooned // MB:4d}  ksm {look.saved // MB:4d}  swap {look.swapped // MB:4d} MB | '
            f'{sum(g.running for g in look.guests.values())} run, {look.kernel_kills} killed, full {look.full}')


def _maximum(scene: Scene, name: str) -> int:
    return next(g.memory for g in scene.guests if g.name == name) * MB
