# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A shortage that lasts, on the one-machine cloud: the host asks nova to move one guest away, and that ends it."""
from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import sys
import threading
import time
import types
import typing
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox')]

from guest.client import tell  # noqa: E402
from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.errors import OneboxError  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402
from onebox_cloud.state import cache_dir  # noqa: E402

from benchmarks.scenes.look import Look, Looker  # noqa: E402
from benchmarks.scenes.stage import POLICIES, RATIO, mom  # noqa: E402

MB = 1 << 20
MAXIMUM, RESERVATION = 512 * MB, 128 * MB
BEAT = 0.2
TELL = 10.0
LIMIT = 4  # MB/s read back, the default of migrate_swap_in_mb
# Two guests that only read what they hold, and one that keeps writing: it costs more to move.
WORK = {'reader1': 'read rate={rate}', 'reader2': 'read rate={rate}', 'writer': 'rewrite rate={rate}'}
DESCRIPTION = """\
Two hosts, the second one empty. Three guests on the first touch more than it has, and go on touching it: its memory is
short for as long as they live. Balloons have nothing to give, so swap carries it, and pages come back all the time.
Once that has lasted --after seconds the host's controller asks nova to move one guest; nova's scheduler chooses where
to.

Everything is watched from outside: memory groups, nova's own record of the migration, and each guest's console, on
which it beats every 0.2 s. Checked: exactly one guest moves, not the one that writes, to the other host; no heartbeat
pauses for more than --pause seconds; nobody is killed or below its reservation; afterwards the first host is out of its
shortage: at SOFT or better, and less is read back from swap than the limit. Exit status 0: all of that held. The same
guests under MOM's policy beside a plain nova (mom), and under a plain nova (nothing), are shown and not judged.

The product waits ten minutes by default (migrate_after in [ovc_host]); here it is told to wait --after seconds, so that
the scene takes minutes.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/sustained', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('host-memory', 1500, 'MB'), ('host-swap', 1280, 'MB'), ('touch', 400, 'MB each'),
                              ('rate', 20, 'MB/s at which each guest goes through its memory'),
                              ('after', 60, 'seconds of shortage after which a guest is asked away'),
                              ('settle', 60, 'seconds watched after the move'),
                              ('limit', 300, 'seconds to wait for the move'),
                              ('pause', 3, 'longest pause of a heartbeat')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--policies', default=','.join(POLICIES), help='of these only (default %(default)s)')
    top.add_argument('--picture', type=Path, metavar='FILE', default=cache_dir() / 'real' / 'sustained.png',
                     help='where the picture goes (default %(default)s)')
    top.add_argument('--logs', type=Path, metavar='DIR', default=cache_dir() / 'real' / 'sustained',
                     help='where the logs of all services go (default %(default)s)')
    return top


class Hearts(threading.Thread):
    """Listens to guests' consoles and notes when each beat is first seen.

    Both hosts write to the same file, the new one from its beginning, so that the whole of it is read at each change.
    """

    def __init__(self, consoles: dict[str, Path]) -> None:
        super().__init__(daemon=True)
        self.consoles, self.over = consoles, threading.Event()
        self.beats: dict[str, list[tuple[float, int]]] = {name: [] for name in consoles}

    def run(self) -> None:
        seen: dict[str, tuple[int, int]] = {}
        while not self.over.wait(0.02):
            for name, path in self.consoles.items():
                try:
                    stat = path.stat()
                    if seen.get(name) != (seen_now := (stat.st_mtime_ns, stat.st_size)):
                        seen[name] = seen_now
                        self._read(name, path.read_bytes())
                except OSError:
                    continue  # it is being moved; a pause will tell

    def _read(self, name: str, text: bytes) -> None:
        known, now = self.beats[name], time.monotonic()
        last = known[-1][1] if known else 0
        known += [(now, seq) for seq in sorted({int(found) for found in re.findall(rb'ovc-beat seq=(\d+) up=', text)})
                  if seq > last]

    def longest(self, name: str, until: float) -> float:
        """The longest pause between two beats in seconds, that until the end included."""
        times = [at for at, _ in self.beats[name] if at <= until] + [until]
        return max((later - earlier for earlier, later in zip(times, times[1:], strict=False)), default=float('inf'))

    def missed(self, name: str) -> int:
        """Beats that the guest counted and nobody saw."""
        numbers = [seq for _, seq in self.beats[name]]
        return numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0


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
            first.console(name).wait_beats(1, 90)
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
        deadline = time.monotonic() + 120
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
        connection = libvirt.open(self.cloud.hosts[0].uri)
        try:
            for name, work in WORK.items():
                domain = connection.lookupByName(self.names[name])
                tell(domain, f'touch {self.options.touch} rate=20')
                tell(domain, work.format(rate=self.options.rate))
        finally:
            connection.close()
        for looker in self.lookers.values():
            looker.begin()
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
        """MB/s read back by guests that were on the host at both looks."""
        before, after = self.looks[earlier][host], self.looks[later][host]
        back = sum((g.swap_in or 0) - (before.guests[n].swap_in or 0) for n, g in after.guests.items()
                   if g.swap_in is not None and before.guests[n].swap_in is not None)
        return back / MB / max(0.1, after.at - before.at)


def _line(look: Look) -> str:
    return (f'{sum(g.running for g in look.guests.values())} guests, {look.available // MB:4d} MB available '
            f'{look.level or "":8} swap {look.swapped // MB:4d} MB')


def told(log: Path) -> list[str]:
    """What the controller has logged of migrations."""
    lines = log.read_text(errors='replace').splitlines()
    return [line.rpartition('] ')[2] for line in lines if ' ovc_plugin' in line and (
        'to be moved to another host' in line or 'could not be moved away' in line)]


def checks(stage: Stage, options: argparse.Namespace) -> list[tuple[str, str, bool]]:
    """(what, figure, whether it holds) for each thing that must hold with our rules."""
    first, second = stage.hosts
    move = next((m for m in stage.moves.values() if m.status == 'completed'), None)
    last, back = stage.looks[-1][first], stage.swap_in(first, -stage.tail)
    asked, others = (sum('to be moved' in line for line in stage.words[name]) for name in (first, second))
    missed = sum(stage.hearts.missed(name) for name in stage.servers)
    return [
        ('guests asked away', f'{asked} by {first}, {others} by {second}', (asked, others) == (1, 0)),
        ('nova has moved', '; '.join(f'{m.guest} {m.source} -> {m.target}: {m.status}' for m in stage.moves.values())
         or 'nobody', len(stage.moves) == 1 and move is not None and move.target == second),
        ('it is one that writes little', move.guest if move else '-', bool(move and move.guest != 'writer')),
        (f'heartbeats pause at most {options.pause} s', ', '.join(f'{n} {p:.1f} s' for n, p in stage.pauses.items())
         + f'; {missed} beats unseen', max(stage.pauses.values()) <= options.pause),
        ('guests killed', f'{stage.kills} by the kernel, {len(stage.alive)} of {len(stage.servers)} live',
         stage.kills == 0 and len(stage.alive) == len(stage.servers)),
        ('below their reservation', '; '.join(stage.below()[:3]) or 'nobody', not stage.below()),
        ('the shortage is over', f'{last.level}, {last.available // MB} MB available, {back:.1f} MB/s read back in the '
         f'last {stage.tail} s (limit {LIMIT})', last.level in ('CLEAR', 'SOFT') and back < LIMIT)]


def row(stage: Stage) -> tuple[str, ...]:
    first = stage.hosts[0]
    last = stage.looks[-1][first]
    return (stage.policy, f'{sum(m.status == "completed" for m in stage.moves.values())}', f'{stage.kills}',
            f'{len(stage.alive)}/{len(stage.servers)}', f'{len(stage.below())}', f'{last.available // MB}',
            f'{last.swapped // MB}', f'{stage.swap_in(first, 0) * last.at:.0f}',
            f'{stage.swap_in(first, -stage.tail):.1f}', f'{max(stage.pauses.values()):.1f}')


def table(stages: list[Stage]) -> str:
    lines = [('policy', 'moved', 'killed', 'alive', 'below', 'available', 'swapped', 'read back', 'MB/s at end',
              'longest pause'), *map(row, stages)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def last_line(stages: list[Stage]) -> str:
    words = []
    for stage in stages:
        done = [m for m in stage.moves.values() if m.status == 'completed' and m.ended is not None]
        words += [f'{stage.policy}: moved={len(done)} killed={stage.kills} alive={len(stage.alive)} '
                  f'below={len(stage.below())} swap_in_end={stage.swap_in(stage.hosts[0], -stage.tail):.1f} '
                  f'longest_pause={max(stage.pauses.values()):.2f}']
        if done:
            words.append(f'guest={done[0].guest} asked_after={done[0].begun:.0f} '
                         f'move_seconds={done[0].ended - done[0].begun:.1f}')
    return 'sustained: ' + ' '.join(words)


def draw(stages: list[Stage], file: Path) -> None:
    """Both hosts' memory and swap over time with our rules, what is read back with each, and each guest's pauses."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    stage = stages[0]
    figure, axes = pyplot.subplots(len(stage.hosts) + 2, 1, figsize=(9, 8), sharex=True)
    times = [look[stage.hosts[0]].at for look in stage.looks]
    for axis, host in zip(axes, stage.hosts, strict=False):
        _bands(axis, host, stage, times)
    for one in stages:
        rates = [one.swap_in(stage.hosts[0], n, n + 1) for n in range(len(one.looks) - 1)]
        smooth = [sum(rates[max(0, n - 4):n + 1]) / min(5, n + 1) for n in range(len(rates))]
        axes[-2].plot([look[stage.hosts[0]].at for look in one.looks[1:]], smooth, label=one.policy, linewidth=1)
    axes[-2].set_ylabel(f'read back on\n{stage.hosts[0]}, MB/s')
    axes[-2].legend(fontsize=7, ncol=3)
    began = next(iter(stage.lookers.values())).began
    for name, beats in stage.hearts.beats.items():
        at = [when - began for when, _ in beats]
        axes[-1].plot(at[1:], [b - a for a, b in zip(at, at[1:], strict=False)], linewidth=0.7, label=name)
    axes[-1].axhline(stage.options.pause, color='#d00000', linewidth=0.8, linestyle='--')
    axes[-1].set_ylabel('pause between\nbeats, s')
    axes[-1].legend(fontsize=7, ncol=len(stage.servers))
    axes[-1].set_xlabel('seconds')
    for move in stage.moves.values():
        for axis in axes:
            axis.axvspan(move.begun, move.ended or times[-1], color='#9e8cc2', alpha=0.35, linewidth=0)
        axes[0].annotate(f'{move.guest} is moved', (move.begun, axes[0].get_ylim()[1] * 0.9), fontsize=8, ha='right')
    figure.suptitle('a shortage that lasts: swap carries it until one guest has moved', fontsize=10)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def _bands(axis: typing.Any, host: str, stage: Stage, times: list[float]) -> None:
    looks = [look[host] for look in stage.looks]
    ballooned = [sum(max(0, MAXIMUM - g.actual) for g in look.guests.values() if g.running and g.actual) / MB
                 for look in looks]
    axis.stackplot(times, [look.used / MB for look in looks], [look.swapped / MB for look in looks], ballooned,
                   colors=['#4a7fb5', '#b0763a', '#9e8cc2'], labels=['in memory', 'in swap', 'ballooned'])
    axis.axhline(stage.options.host_memory, color='#1f3b57', linewidth=1, linestyle='--')
    for one, following, right in zip(looks, looks[1:], times[1:], strict=False):
        if following.level != one.level and following.level:
            axis.annotate(following.level, (right, stage.options.host_memory), fontsize=6, rotation=90, va='bottom')
    axis.set_ylabel(f'{host}, MB')
    axis.set_ylim(0, stage.options.host_memory + stage.options.host_swap)
    axis.legend(fontsize=7, loc='lower right', ncol=3)


def play(policy: str, options: argparse.Namespace, say: Progress) -> Stage:
    """One run on fresh hosts. Raises OneboxError."""
    settings = (('ovc_host', 'migrate', 'true'), ('ovc_host', 'migrate_after', str(options.after)),
                ('ovc_host', 'migrate_cooldown', str(options.after)),
                ('ovc_host', 'ksm', 'leave'))  # two pretend hosts have one kernel, and would undo each other's setting
    cloud = Cloud(options=Options(hosts=2, host_memory_mb=options.host_memory, host_swap_mb=options.host_swap,
                                  ratio=None if policy == 'ovc' else RATIO,
                                  settings=settings if policy == 'ovc' else ()), say=say)
    try:
        cloud.up()
        stage = Stage(cloud, options, say, policy)
        stage.begin()
        stage.watch()
        stage.end()
        return stage
    finally:
        logs = options.logs / policy
        shutil.rmtree(logs, ignore_errors=True)
        if (cloud.state / 'log').exists():
            shutil.copytree(cloud.state / 'log', logs)
            for console in cloud.state.dir.glob('instances/*/console.log'):
                shutil.copy(console, logs / f'console-{console.parent.name}.log')
        cloud.wipe()


def main() -> int:
    options, say = parser().parse_args(), Progress()
    stages: list[Stage] = []
    rows: list[tuple[str, str, bool]] = []
    for policy in (one for one in POLICIES if one in options.policies.split(',')):
        stages.append(play(policy, options, say))
        if policy == 'ovc':  # said at once: what comes after is only shown beside it
            rows = checks(stages[0], options)
            for text in (line for lines in stages[0].words.values() for line in lines):
                print(f'controller: {text}')
            for what, figure, held in rows:
                print(f'{what:32}  {figure:70}  {"holds" if held else "FAILS"}', flush=True)
    print(table(stages))
    draw(stages, options.picture)
    print(f'picture: {options.picture}\n{last_line(stages)}')
    return 0 if all(held for *_, held in rows) else 1


if __name__ == '__main__':
    try:
        sys.exit(main())
    except OneboxError as error:
        sys.exit(f'sustained: {error}')
