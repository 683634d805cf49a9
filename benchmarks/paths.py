# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Every way in which nova places a guest, on the one-machine cloud, and whether a promise was ever broken by it."""
from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox'), str(CHECKOUT / 'benchmarks')]

import hog  # noqa: E402
from onebox_cloud import cgroup, parts  # noqa: E402
from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.demo import watch  # noqa: E402
from onebox_cloud.hosts import Host  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.process import Part  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402

MB = 1 << 20
RESERVE, OVERHEAD = 64 * MB, 128 * MB  # nova's reserved_host_memory_mb there, and [ovc] default_overhead_mb
SMALL, SHARE = 192, 0.25               # MB, and what of it is guaranteed
STALE_AFTER, TICK, AUDIT = 15, 2, 2     # seconds
ANSWERS_WITHIN = 10                    # looks, a second apart, after which a host that is silent counts as unseen

PATHS = ('boot', 'multi-create of 5', 'resize up', 'live migrate', 'evacuate', 'unshelve', 'forced host',
         'two schedulers, 20 boots', 'server group')
STATES = ('fits', 'does not fit', 'stale', 'HARD')

DESCRIPTION = f"""\\
Three hosts. Each way of placing a guest ({', '.join(PATHS)}) is gone in each of four states:

fits          all hosts are well
does not fit  every host holds one guest to which half of it is guaranteed, and another such is asked for
stale         the nova-compute of the third host is halted, so that its report grows old
HARD          a process on the third host locks its memory, so that it reports HARD

Where the guest landed is told by nova. While all this happens, and after each step, the hosts themselves are asked
(libvirt's domains, their memory groups, the kernel's count of kills; not our report) whether on each of them the sum of
reservation + overhead is within memory - reserve, the sum of memory + overhead within memory - reserve + swap, each
guest's size at or above its reservation, and nobody killed. Overhead is {OVERHEAD // MB} MB or, where more, what the
guest really takes. A guest counts from when its QEMU runs to when it does not. Exit status 0: every guest landed where
it may, no promise was ever broken, and after each step every host answered.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/paths', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument('--host-memory', type=int, default=1200, help='MB of each of the three hosts (default 1200)')
    top.add_argument('--host-swap', type=int, default=1000, help='MB each may swap (default 1000)')
    top.add_argument('--paths', nargs='+', metavar='WORD', default=[], help='only ways that have one of these words')
    top.add_argument('--states', nargs='+', choices=STATES, default=list(STATES), help='default: all')
    top.add_argument('--minutes', type=float, default=0, help='begin nothing more after so long (default: no end)')
    top.add_argument('--keep', action='store_true', help='leave the cloud up')
    return top


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A flavor: MB and the share that is guaranteed."""

    name: str
    mb: int
    share: float


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


def real_size(host: Host, name: str) -> int:
    """What the guest's memory group holds in memory and swap without file pages, in bytes; 0 when it is not there."""
    group = host.guests().get(name)
    try:
        stat = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines()) if group else {}
        return int(stat.get('total_rss', 0)) + int(stat.get('total_swap', 0))
    except (OSError, ValueError):
        return 0


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
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            left = {server.id for server in self.compute.servers(details=False)}
            if not left & set(uuids):
                break
            time.sleep(0.5)
        for uuid in uuids:
            self.owed.pop(uuid, None)
        self.fresh()

    def fresh(self) -> None:
        """Until every host that answers has reported what it holds now: a pass, then an audit."""
        time.sleep(TICK + AUDIT + 1)

    # -- the states -----------------------------------------------------------------------------------------------
    def host(self, name: str) -> Host:
        return next(h for h in self.cloud.hosts if h.name == name)

    def halt(self, name: str) -> None:
        os.kill(self.cloud.pid(f'compute-{name}'), signal.SIGSTOP)
        time.sleep(STALE_AFTER + 5)

    def go_on(self, name: str) -> None:
        os.kill(self.cloud.pid(f'compute-{name}'), signal.SIGCONT)

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


@dataclasses.dataclass
class Cell:
    """What became of one way in one state. ``good``: as it may be."""

    told: str
    good: bool


THIRD = 'node3'


def landed(stage: Stage, state: str, places: list[str]) -> Cell:
    """Guests that must be on a host: not on the third one where that is stale or HARD; none where none fits."""
    counts = ', '.join(f'{places.count(place)} {place}' if len(places) > 1 else place for place in sorted(set(places)))
    nowhere = [p for p in places if p.startswith('no host')]
    if state == 'does not fit':
        return Cell(counts, len(nowhere) == len(places))
    return Cell(counts, not nowhere and (state == 'fits' or THIRD not in places))


def stayed(stage: Stage, state: str, before: str, after: str) -> Cell:
    """A guest that moves: away, or where no other host may have it, not at all."""
    if state == 'does not fit':
        return Cell(f'stayed on {after}' if after == before else f'{before} -> {after}', after == before)
    good = after != before and not after.startswith('no host') and (state == 'fits' or after != THIRD)
    return Cell(f'{before} -> {after}', good)


def boot(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.small
    servers = [stage.boot(kind)]
    cell = landed(stage, state, [stage.where(s) for s in servers])
    stage.delete(servers)
    return cell


def multi_create(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.small
    before = {s.id for s in stage.compute.servers(details=False)}
    # With min_count alone openstacksdk returns the first; the others are found by what is new.
    stage.boot(kind, wait=False, min_count=5, max_count=5)
    servers = [s.id for s in stage.compute.servers(details=False) if s.id not in before]
    for server in servers:
        stage.owe(server, kind)
    stage.settle(servers)
    cell = landed(stage, state, [stage.where(s) for s in servers])
    cell.good = cell.good and len(servers) == 5
    stage.delete(servers)
    return cell


def resize(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.mid
    server = stage.boot(stage.small)
    before = stage.where(server)
    stage.owe(server, kind)
    if state == 'does not fit':  # it keeps its old size, and is owed that
        stage.owed[server] = int(stage.small.mb * MB * stage.small.share)
    stage.compute.resize_server(server, stage.flavors[kind.name].id)
    stage.settle([server], 90)
    after = stage.where(server)
    if stage.compute.get_server(server).status == 'VERIFY_RESIZE':
        stage.compute.confirm_server_resize(server)
        stage.settle([server])
    cell = stayed(stage, state, before, after)
    stage.delete([server])
    return cell


def live_migrate(stage: Stage, state: str) -> Cell:
    return moved(stage, state, lambda server: stage.compute.live_migrate_server(server, host=None,
                                                                                block_migration='auto'))


def evacuate(stage: Stage, state: str) -> Cell:
    crashed: list[str] = []

    def away(server: str) -> None:
        crashed.append(stage.where(server))
        stage.crash(crashed[0])
        stage.compute.evacuate_server(server)

    try:
        return moved(stage, state, away)
    finally:
        for name in crashed:
            stage.revive(name)
            if state == 'does not fit':  # it died with its host: another one takes its place
                stage.delete([s.id for s in stage.compute.servers() if s.compute_host == name])
                stage.boot(stage.half)


def moved(stage: Stage, state: str, move: typing.Callable[[str], None]) -> Cell:
    """A guest made to leave its host: one that holds half of it where it must not fit elsewhere."""
    if state == 'does not fit':
        server = next(s.id for s in stage.compute.servers() if s.compute_host in ('node1', 'node2')
                      and s.status == 'ACTIVE')
    else:
        server = stage.boot(stage.small)
    before = stage.where(server)
    try:
        move(server)
    except Exception as error:  # of a live migration nova may say so at once, and by no state of the guest
        if state != 'does not fit' or 'No valid host was found' not in str(error):
            raise
    for _ in range(2):  # nova ends an evacuated guest's task before it names the new host
        time.sleep(4)
        stage.settle([server], 90)
    if stage.compute.get_server(server).status == 'SHUTOFF':  # nova leaves evacuated guests shut off
        stage.compute.start_server(server)
        time.sleep(2)
        stage.settle([server])
    found = stage.compute.get_server(server)
    after = str(found.compute_host)
    cell = stayed(stage, state, before, after)
    if state != 'does not fit':
        cell.good = cell.good and found.status == 'ACTIVE'
        stage.delete([server])
    return cell


def unshelve(stage: Stage, state: str) -> Cell:
    """Shelved and offloaded while there was room. In the second state its place is taken meanwhile."""
    if state == 'does not fit':
        server = next(s.id for s in stage.compute.servers() if s.compute_host == 'node1' and s.status == 'ACTIVE')
    else:
        server = stage.boot(stage.small)
    stage.compute.shelve_server(server)
    stage.settle([server], 120, until=('SHELVED_OFFLOADED', 'ERROR'))
    stage.fresh()
    if state == 'does not fit':
        stage.boot(stage.half)
        stage.fresh()
    stage.compute.unshelve_server(server)
    time.sleep(3)
    stage.settle([server], 90)
    cell = landed(stage, state, [stage.where(server)])
    stage.delete([server])  # in the second state, the other has its place now
    return cell


def forced(stage: Stage, state: str) -> Cell:
    """The administrator names the third host: no filter is asked, only the host itself."""
    kind = stage.half if state == 'does not fit' else stage.small
    server = stage.boot(kind, wait=False, availability_zone=f'nova:{THIRD}')
    if state == 'stale':
        time.sleep(8)
        waiting = stage.compute.get_server(server).status
        stage.go_on(THIRD)
        stage.settle([server])
        cell = Cell(f'waited ({waiting}) for {THIRD}, which then judged it itself: {stage.where(server)}',
                    waiting == 'BUILD')
    else:
        stage.settle([server])
        place = stage.where(server)
        refused = place.startswith('no host')
        cell = Cell(f'{THIRD} itself refused it' if refused else place, refused == (state != 'fits'))
    stage.delete([server])
    if state == 'stale':
        stage.halt(THIRD)
    return cell


def race(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.mid
    before = stage.answers()
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        servers = list(pool.map(lambda _: stage.boot(kind, wait=False), range(20)))
    stage.settle(servers, 240)
    stage.watch.look('two schedulers')
    places = [stage.where(s) for s in servers]
    served = {name: count - before[name] for name, count in stage.answers().items()}
    counts = ', '.join(f'{places.count(place)} {place}' for place in sorted(set(places)))
    on = [p for p in places if not p.startswith('no host')]
    good = (not on if state == 'does not fit' else bool(on) and (state == 'fits' or THIRD not in on))
    stage.delete(servers)
    return Cell(f'{counts}; served {served["nova-scheduler"]} + {served["nova-scheduler-2"]}',
                good and all(served.values()))


def group(stage: Stage, state: str) -> Cell:
    """Anti-affinity of three guests; where none fits, affinity to a guest on a full host."""
    if state == 'does not fit':
        made = stage.compute.create_server_group(name=f'g{time.time():.0f}', policy='affinity')
        first = stage.boot(stage.small, scheduler_hints={'group': made.id})
        second = stage.boot(stage.half, scheduler_hints={'group': made.id})
        places = [stage.where(first), stage.where(second)]
        cell = Cell(f'first {places[0]}, second {places[1]}',
                    not places[0].startswith('no host') and places[1].startswith('no host'))
        servers = [first, second]
    else:
        made = stage.compute.create_server_group(name=f'g{time.time():.0f}', policy='anti-affinity')
        servers = [stage.boot(stage.small, scheduler_hints={'group': made.id}) for _ in range(3)]
        places = [stage.where(s) for s in servers]
        on = [p for p in places if not p.startswith('no host')]
        good = len(set(on)) == len(on) == (3 if state == 'fits' else 2) and (state == 'fits' or THIRD not in on)
        cell = Cell(', '.join(places), good)
    stage.delete(servers)
    stage.compute.delete_server_group(made.id)
    return cell


GO = dict(zip(PATHS, (boot, multi_create, resize, live_migrate, evacuate, unshelve, forced, race, group), strict=True))


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


def _said(error: Exception) -> str:
    """The end of it: openstacksdk begins with the address, and nova's own words come last."""
    return ' '.join(str(error).split())[-120:]


def in_state(stage: Stage, state: str, chosen: list[str], deadline: float) -> dict[str, Cell]:
    """All ways in one state."""
    stage.say(f'state: {state}')
    cells: dict[str, Cell] = {}
    with made(stage, state) as why:
        fillers = {s.id for s in stage.compute.servers(details=False)}
        for path in chosen:
            if time.monotonic() > deadline:
                break
            try:
                cells[path] = Cell(f'not tried: {why}', False) if why else GO[path](stage, state)
            except Exception as error:
                cells[path] = Cell(f'{type(error).__name__}: {_said(error)}', False)
                stage.delete([s.id for s in stage.compute.servers(details=False) if s.id not in fillers])
            stage.watch.look_after(f'{path}, {state}')
            stage.say(f'  {path}: {cells[path].told}{"" if cells[path].good else "  WRONG"}')
    return cells


def play(cloud: Cloud, options: argparse.Namespace, say: Progress) -> tuple[dict[str, dict[str, Cell]], Watch]:
    stage = Stage(cloud, say)
    chosen = [p for p in PATHS if not options.paths or any(word in p for word in options.paths)]
    try:
        if 'two schedulers, 20 boots' in chosen:
            stage.second_scheduler()
        deadline = time.monotonic() + (options.minutes * 60 if options.minutes else float('inf'))
        table = {state: in_state(stage, state, chosen, deadline) for state in STATES
                 if state in options.states and time.monotonic() < deadline}
    finally:
        stage.watch.stop()
        stage.bus.close()
    return table, stage.watch


def main() -> int:
    options = parser().parse_args()
    say = Progress()
    cloud = Cloud(say=say, options=Options(
        hosts=3, host_memory_mb=options.host_memory, host_swap_mb=options.host_swap,
        settings=(('ovc', 'report_max_age', str(STALE_AFTER)), ('DEFAULT', 'service_down_time', '900'),
                  ('DEFAULT', 'update_resources_interval', str(AUDIT)), ('ovc_host', 'tick', str(TICK)))))
    cloud.up()
    try:
        table, looked = play(cloud, options, say)
    finally:
        if not options.keep:
            cloud.wipe()
    failed = 0
    for path in PATHS:
        cells = {state: column[path] for state, column in table.items() if path in column}
        for state, cell in cells.items():
            failed += not cell.good
            print(f'{path:26} {state:13} {cell.told:84} {"" if cell.good else "WRONG"}'.rstrip())
    asked = len(options.states) * sum(not options.paths or any(w in p for w in options.paths) for p in PATHS)
    print(f'\nlooked {looked.looks} times at each host itself; fullest: guarantees {looked.fullest["guaranteed"]:.0%}, '
          f'what may be touched {looked.fullest["backed"]:.0%} of what there is')
    for what in looked.broken:
        print(f'BROKEN: {what}')
    if looked.blind:
        print(f'{looked.blind} looks at a host had no answer, last {looked.why_blind}; after {looked.blind_after} '
              'steps a host never had one')
    cells_run = sum(len(column) for column in table.values())
    print(f'paths: cells={cells_run}/{asked} wrong={failed} looks={looked.looks} promises_broken={len(looked.broken)} '
          f'blind={looked.blind_after} '
          f'guarantees_max={looked.fullest["guaranteed"]:.2f} backing_max={looked.fullest["backed"]:.2f}')
    return 0 if cells_run == asked and not failed and not looked.broken and not looked.blind_after else 1


if __name__ == '__main__':
    sys.exit(main())
