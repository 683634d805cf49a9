# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The cloud on which guests are placed, and the states it is in meanwhile: a part of benchmarks/paths."""
from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
import typing

from onebox_cloud import cgroup, parts
from onebox_cloud.cloud import Cloud
from onebox_cloud.demo import watch
from onebox_cloud.hosts import Host
from onebox_cloud.process import Part
from onebox_cloud.progress import Progress

from benchmarks import hog, stored
from benchmarks.paths_watch import MB, RESERVE, Watch

SMALL, SHARE = 192, 0.25             # MB, and what of it is guaranteed
# Seconds. Reports of a quiet host are up to 6 ticks and an audit old, and older where the machine is busy.
STALE_AFTER, TICK, AUDIT = 30, 2, 2
STATES = ('fits', 'does not fit', 'stale', 'HARD')
THIRD = 'node3'                      # the host that is stale or HARD


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A flavor: MB and the share that is guaranteed."""

    name: str
    mb: int
    share: float


class Stage:
    """The cloud, what is on it, and how to wait for what was asked of it."""

    def __init__(self, cloud: Cloud, say: Progress) -> None:
        import libvirt
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        self.cloud, self.say = cloud, say
        self.connection = cloud.connect()
        self.compute = self.connection.compute
        self.image = cloud.ensure_image('guest', 'console=ttyS0 quiet')
        room = cloud.options.host_memory_mb - RESERVE // MB
        self.small = Kind('small', SMALL, SHARE)
        self.mid = Kind('mid', 400, SHARE)
        # Two of these do not fit on a host, and placement's ratio alone would let them.
        self.half = Kind('half', room // 2 - 60, 1.0)
        self.flavors = {kind.name: cloud.ensure_flavor(f'paths-{kind.name}', kind.mb,
                                                       {'ovc:reservation': f'{kind.share:.0%}'})
                        for kind in (self.small, self.mid, self.half)}
        self.owed: dict[str, int] = {}
        self.halted: set[str] = set()
        self.number = 0
        self.watch = Watch(cloud, self.owed)
        self.bus = watch.Watcher(cloud, {}, None)
        self.watch.start()

    # -- asking ---------------------------------------------------------------------------------------------------
    def boot(self, kind: Kind, wait: bool = True, **more: typing.Any) -> str:
        self.number += 1
        server = self.compute.create_server(
            name=f'p{self.number}', image_id=self.image.id, flavor_id=self.flavors[kind.name].id, networks='none',
            **more)
        self.owe(server.id, kind)
        if wait:
            self.settle([server.id])
        return server.id

    def owe(self, uuid: str, kind: Kind) -> None:
        self.owed[uuid] = max(self.owed.get(uuid, 0), int(kind.mb * MB * kind.share))

    def settle(self, uuids: list[str], seconds: float = 120, until: tuple[str, ...] = ()) -> None:
        """Until nova has done with them: no task, and no state of passage."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [self.compute.get_server(uuid) for uuid in uuids]
            if all(s.task_state is None and s.status not in ('BUILD', 'RESIZE', 'MIGRATING', 'REBUILD')
                   and (not until or s.status in until) for s in found):
                return
            time.sleep(0.7)
        self.say(f'not settled within {seconds:g} s: ' + ', '.join(
            f'{s.name} {s.status} {s.task_state}' for s in found))

    def where(self, uuid: str) -> str:
        """The host it is on, or nova's word for why it is nowhere."""
        server = self.compute.get_server(uuid)
        if server.status in ('ACTIVE', 'VERIFY_RESIZE', 'SHUTOFF'):
            return str(server.compute_host)
        return f'no host ({server.status})'

    def delete(self, uuids: typing.Iterable[str]) -> None:
        uuids = list(uuids)
        for uuid in uuids:
            self.compute.delete_server(uuid, ignore_missing=True)
        deadline = time.monotonic() + 300
        while True:
            left = {server.id for server in self.compute.servers(details=False)} & set(uuids)
            for uuid in set(uuids) - left:  # one that is still there is owed what it was
                self.owed.pop(uuid, None)
            if not left:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f'waited 300 s in vain for {len(left)} guests to be deleted')
            time.sleep(0.5)
        self.fresh()

    def fresh(self) -> None:
        """Until every host that answers has reported what it holds now, as nova-scheduler reads it: a pass, which a
        quiet host makes every few ticks, then an audit. The next request is judged by that."""
        began, deadline = time.time(), time.monotonic() + 120
        while True:
            time.sleep(1)
            told = {name: report.taken_at for name, report in stored.reports(self.cloud).items()}
            late = [h.name for h in self.cloud.hosts if h.name not in self.halted and told.get(h.name, 0.0) < began]
            if not late:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f'waited 120 s in vain for a new report of {", ".join(late)}')

    # -- the states -----------------------------------------------------------------------------------------------
    def host(self, name: str) -> Host:
        return next(h for h in self.cloud.hosts if h.name == name)

    def halt(self, name: str) -> None:
        os.kill(self.cloud.pid(f'compute-{name}'), signal.SIGSTOP)
        self.halted.add(name)
        time.sleep(STALE_AFTER + 5)

    def go_on(self, name: str) -> None:
        os.kill(self.cloud.pid(f'compute-{name}'), signal.SIGCONT)
        self.halted.discard(name)

    def lock_memory(self, name: str, leave: int = 40 * MB) -> subprocess.Popen[str]:
        """A process in the host's group that locks all but ``leave`` bytes of what is there."""
        process = hog.lock(self.host(name), leave)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.bus.levels().get(name) in ('HARD', 'CRITICAL'):
                self.fresh()
                return process
            time.sleep(1)
        return process

    def crash(self, name: str) -> None:
        """The host is gone: its nova-compute and its guests are killed, and the operator says so."""
        os.kill(self.cloud.pid(f'compute-{name}'), signal.SIGKILL)
        self.halted.add(name)
        for group in self.host(name).guests().values():
            for pid in cgroup.pids(group):
                os.kill(pid, signal.SIGKILL)
        self.force_down(name, True)

    def force_down(self, name: str, down: bool) -> None:
        service = next(s for s in self.compute.services(binary='nova-compute') if s.host == name)
        answer = self.compute.put(f'/os-services/{service.id}', json={'forced_down': down}, microversion='2.53')
        answer.raise_for_status()

    def revive(self, name: str) -> None:
        """Its nova-compute alone: another host may be halted, and the whole cloud's start would wait for that."""
        part = parts.compute(self.cloud.runner, name)
        self.cloud.runner.start(part)
        self.cloud.runner.wait(part)
        self.force_down(name, False)
        self.halted.discard(name)
        self.fresh()
        time.sleep(TICK + AUDIT)

    def second_scheduler(self) -> None:
        """A second nova-scheduler, as on a second controller."""
        runner = self.cloud.runner
        own = self.cloud.state.etc / 'second.conf'
        own.write_text('[DEFAULT]\nhost = controller2\n')
        first = parts.scheduler(runner, self.cloud.options)
        part = Part(name='nova-scheduler-2', polite=6, command=lambda: [*first.command(), '--config-file', str(own)],
                    ready=lambda: 'Starting scheduler node' in runner.log('nova-scheduler-2').read_text())
        runner.start(part)
        runner.wait(part)

    def answers(self) -> dict[str, int]:
        """How many requests each scheduler has served."""
        return {name: self.cloud.log(name).read_text(errors='replace').count('Starting to schedule for instances')
                for name in ('nova-scheduler', 'nova-scheduler-2')}


@contextlib.contextmanager
def made(stage: Stage, state: str) -> typing.Iterator[str]:
    """The state, for as long as the block lasts; yields why it could not be made, or ''."""
    hog = None
    why = ''
    try:
        if state == 'does not fit':
            places = sorted(stage.where(s) for s in [stage.boot(stage.half) for _ in range(3)])
            stage.fresh()
            if places != ['node1', 'node2', 'node3']:
                why = f'one filler should be on each host, they are on {places}'
        elif state == 'stale':
            stage.halt(THIRD)
        elif state == 'HARD':
            hog = stage.lock_memory(THIRD)
            level = stage.bus.levels().get(THIRD)
            why = '' if level in ('HARD', 'CRITICAL') else f'{THIRD} is {level}'
        yield why
    finally:
        if state == 'stale':
            stage.go_on(THIRD)
        if hog is not None:
            hog.kill()
            hog.wait()
        stage.delete([s.id for s in stage.compute.servers(details=False)])
