# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How fast a real host answers a shock, and what it costs to be ready for one."""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox'), str(CHECKOUT / 'tests' / 'real')]

MB = 1 << 20
ANSWER_GOAL, CPU_GOAL, MEMORY_GOAL = 1.0, 0.5, 60.0   # seconds, % of a core, MB
SHOCK = 0.75  # of the rate asked for that the guests must reach: on a busy machine they do not, and nothing is shown
LOOK = 0.02
CONTEXT = b'ovc_plugin.privileged'
DESCRIPTION = """\
A private libvirtd with a limit on memory and swap, real guests, and ovc-agent with its defaults. First a quiet time, in
which the processor time of ovc-agent and its root helper is counted, and their memory beside that of a bare Python
process that talks to the same libvirtd. Beside it stands what touching a page costs after a rest: a virtual machine
whose host takes resting pages away pays for that in every pass, whatever is done in it. Then the shock: from --free
percent of the host's memory available, all guests together fill --rate MB/s until each holds --fill MB. Told is what
was really filled, seconds from the shock's begin (and from the moment when available memory fell below where SOFT
begins) until the first pass and the first action, the lowest available memory, the level over time, and whether any
guest was killed or lost a byte.
Exit status 0: the guests did fill that fast (on a busy machine they cannot, and nothing is shown), first action
within 1 s of the shock's begin, at under 0.5 % of a core while nothing happened, no guest killed, no byte lost, and
under 60 MB more than the bare process and a nova-compute's own libraries take. Needs root.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/speed', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('host-memory', 1500, 'MB'), ('host-swap', 1280, 'MB'), ('guests', 4, 'real guests'),
                              ('guest-memory', 512, 'MB of each'), ('free', 30, 'percent available before the shock'),
                              ('fill', 400, 'MB that each guest holds after it'),
                              ('rate', 200, 'MB/s, all guests together'),
                              ('quiet', 60, 'seconds of quiet, in which processor time is counted'),
                              ('watch', 40, 'seconds watched after the shock\'s begin')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--picture', metavar='FILE', type=Path, help='draw the shock as a PNG')
    top.add_argument('--set', metavar='OPTION=VALUE', action='append', default=[], help='an option of [ovc_host]')
    top.add_argument('--agent', nargs=2, metavar=('CONFIG', 'RECORD'), help=argparse.SUPPRESS)
    return top


# -- the process under test -----------------------------------------------------------------------------------------

def agent(config: str, record: str) -> int:
    """ovc-agent as it is, with one line written for each pass."""
    from ovc_plugin.act import actuator, reclaimer
    from ovc_plugin.cmd import agent as command
    from ovc_plugin.controller import Controller
    one_pass, done = Controller.run_pass, []
    for owner, name in ((actuator.balloon, 'apply'), (reclaimer.Reclaimer, '_round')):
        setattr(owner, name, timed(getattr(owner, name), done))

    def recorded(self: Controller) -> Any:
        began = time.time()
        plan, outcomes = one_pass(self)
        kinds = [type(o.action).__name__ for o in outcomes if o.done]
        snapshot = self._snapshot
        with open(record, 'a', encoding='utf-8') as file:
            file.write(json.dumps({
                'at': began, 'end': time.time(), 'level': int(plan.level), 'reason': plan.reason, 'done': kinds,
                'failed': [o.error for o in outcomes if o.error], 'freed': sum(o.freed or 0 for o in outcomes),
                'available': snapshot.available if snapshot else None,
                'acted': [done.pop(0) for _ in range(len(done))]}) + '\n')
        return plan, outcomes

    Controller.run_pass = recorded  # type: ignore[method-assign]
    return command.main(['--config-file', config])


def timed(call: Any, ended: list[float]) -> Any:
    def both(*words: Any) -> Any:
        try:
            return call(*words)
        finally:
            ended.append(time.time())
    return both


# -- processes ------------------------------------------------------------------------------------------------------

def helpers_of(pid: int) -> list[int]:
    """The root helpers of a process that leads its session."""
    found = []
    for directory in Path('/proc').glob('[0-9]*'):
        try:
            if CONTEXT in (directory / 'cmdline').read_bytes() and os.getsid(int(directory.name)) == pid:
                found.append(int(directory.name))
        except OSError:
            continue
    return found


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf('SC_CLK_TCK')


def memory_of(pid: int, what: str = 'Pss') -> float:
    """MB of a process; "Pss" counts what it shares in part, "Private_Dirty" what is its alone."""
    for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
        if line.startswith(f'{what}:'):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


def bare(code: str, *words: str) -> float:
    """Resident MB of a Python process that has run this code."""
    command = [sys.executable, '-W', 'ignore', '-c', f'{code}\nprint("ready", flush=True)\ninput()', *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as one:
        assert one.stdout is not None and one.stdin is not None
        if not any('ready' in line for line in one.stdout):
            raise SystemExit(f'speed: the bare process did not start: {code}')
        size = memory_of(one.pid, 'Rss')
        one.stdin.write('\n')
        one.stdin.flush()
    return size


TALKS = 'import sys, libvirt\nconnection = libvirt.open(sys.argv[1])\nconnection.getAllDomainStats(0, 0)'
# What nova-compute has loaded without us; then what the plugin loads and keeps in the same process.
NOVA = ('import sys, os\nos.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "1")\n'
        'import libvirt, nova.compute.manager, nova.virt.libvirt.driver, oslo_privsep.daemon\n'
        'connection = libvirt.open(sys.argv[1])\nconnection.getAllDomainStats(0, 0)')
PLUGIN = NOVA + ('\nimport ovc_plugin.nova.driver, ovc_plugin.assembly, ovc_plugin.rpc\n'
                 'from ovc_plugin.settings import HostSettings, Settings\n'
                 'one = ovc_plugin.assembly.build("h", Settings(host=HostSettings(boundary=sys.argv[2], '
                 'run_path=sys.argv[3], state_path=sys.argv[4], ksm="leave")), lambda: connection, 0)\n'
                 'for _ in range(20): one.run_pass()')


# -- the scene ------------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Watched:
    """What was seen from outside, every few hundredths of a second: (time, available, swapped) in bytes."""

    group: Path
    points: list[tuple[float, int, int]] = dataclasses.field(default_factory=list)
    ending: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ending.wait(LOOK):
            available, swapped = look(self.group)
            self.points.append((time.time(), available, swapped))


def look(group: Path) -> tuple[int, int]:
    """(available, swapped) of the boundary."""
    from ovc_plugin.sense import cgroup, proc
    memory = cgroup.boundary(group, proc.memory(Path('/proc')))
    return memory.available, memory.swap_total - memory.swap_free


def kills(group: Path) -> int:
    """Processes that the kernel has killed in this group and below it."""
    total = 0
    for file in group.rglob('memory.oom_control'):
        words = dict(line.split() for line in file.read_text().splitlines())
        total += int(words.get('oom_kill', 0))
    return total


def configure(host: Any, scratch: Path, options: argparse.Namespace) -> Path:
    config = scratch / 'ovc.conf'
    config.write_text('\n'.join((
        '[ovc_host]', 'dry_run = false', f'boundary = {host.group}', f'run_path = {host.root}/run/qemu',
        f'state_path = {scratch}/state', 'reserve_mb = 0', 'ksm = leave', *options.set,
        '[ovc_agent]', f'connection_uri = {host.uri}', 'host = speed', '')))
    return config


def start_agent(config: Path, record: Path, log: Path) -> subprocess.Popen[bytes]:
    with open(log, 'wb') as output:
        return subprocess.Popen([sys.executable, '-W', 'ignore', __file__, '--agent', str(config), str(record)],
                                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)


def passes(record: Path) -> list[dict[str, Any]]:
    text = record.read_text() if record.exists() else ''
    return [json.loads(line) for line in text[:text.rfind('\n') + 1].splitlines()]


def settle(host: Any, booted: list[Any], options: argparse.Namespace) -> list[int]:
    """Fill the guests until as much is available as the shock begins with; what each holds, in MB."""
    from guest import client
    held = [0] * len(booted)
    wanted = options.host_memory * MB * options.free // 100
    for _ in range(12):
        missing = (look(host.group)[0] - wanted) // MB
        if missing < 8 * len(booted):
            return held
        for number, (domain, _console) in enumerate(booted):
            # Its kernel has touched pages that a program gets first: less than what is asked for is new to the host.
            step = min(options.fill // 2 - held[number], max(8, missing // len(booted) // 2))
            if step > 0 and client.do(domain, f'touch {step}') == client.DONE:
                held[number] += step
        time.sleep(1)
    return held


@dataclasses.dataclass(kw_only=True)
class Quiet:
    """Processor use in % of a core, resident MB of the agent, its helper, and of the bare process."""

    percent: float
    passes: int
    agent: float
    helper: float
    bare: float
    added: float


@dataclasses.dataclass(kw_only=True)
class Shock:
    """Times are seconds since the shock's begin; ``crossed`` is when SOFT's threshold was crossed."""

    rate: float
    before: int
    crossed: float | None
    passed: float | None
    acted: float | None
    lowest: int
    back: float | None
    stuck: float
    killed: int
    lost: list[str]
    points: list[tuple[float, int, int]]
    levels: list[tuple[float, int]]
    failed: list[str]


def quiet(host: Any, process: subprocess.Popen[bytes], record: Path, scratch: Path,
          options: argparse.Namespace) -> Quiet:
    pids = [process.pid, *helpers_of(process.pid)]
    if len(pids) != 2:
        raise SystemExit(f'speed: ovc-agent has {len(pids) - 1} root helpers, expected 1')
    used, before, began = cpu_seconds(pids), len(passes(record)), time.monotonic()
    time.sleep(options.quiet)
    used, elapsed = cpu_seconds(pids) - used, time.monotonic() - began
    places = (host.uri, str(host.group), f'{host.root}/run/qemu', str(scratch / 'other'))
    nova = bare(NOVA, *places)
    helper = memory_of(pids[1])
    return Quiet(percent=used / elapsed * 100, passes=len(passes(record)) - before,
                 agent=memory_of(pids[0], 'Rss'), helper=helper, bare=bare(TALKS, *places),
                 added=bare(PLUGIN, *places) - nova + helper)


def shock(host: Any, booted: list[Any], held: list[int], record: Path, options: argparse.Namespace) -> Shock:
    from guest import client

    from ovc_plugin.decide import pressure
    from ovc_plugin.settings import HostSettings
    begun_passes, before = len(passes(record)), look(host.group)[0]
    watched = Watched(host.group)
    watcher = threading.Thread(target=watched.run)
    watcher.start()
    rate = options.rate / len(booted)
    told = time.time()
    numbers = [client.tell(domain, f'touch {options.fill - have} rate={rate:g}')
               for (domain, _), have in zip(booted, held, strict=True)]
    time.sleep(max(0.0, told + options.watch - time.time()))
    watched.ending.set()
    watcher.join()
    points = watched.points
    began = next((when for when, available, _ in points if available < before - 8 * MB), told)
    soft = pressure.enter_soft(options.host_memory * MB, HostSettings())
    crossed = next((when - began for when, available, _ in points if available < soft), None)
    after = passes(record)[begun_passes:]
    first = next((one['at'] - began for one in after if one['at'] > began and one['level'] > 0), None)
    acted = next((when - began for one in after for when in sorted(one['acted']) if when > began), None)
    # The speed of filling while nobody resists: the first second.
    early = [(when, available) for when, available, _ in points if 0 <= when - began <= 1.0]
    lost = [domain.name() for (domain, _), number in zip(booted, numbers, strict=True)
            if not domain.isActive() or client.wait(domain, number, 120) != client.DONE
            or client.do(domain, 'verify', 120) != client.DONE]
    low = [when - began for when, available, _ in points if available < soft]
    levels = [(one['at'] - began, one['level']) for one in passes(record)[max(0, begun_passes - 1):]
              if one['at'] <= told + options.watch]
    ends = [at for at, _ in levels[1:]] + [points[-1][0] - began]
    critical = sum(end - at for (at, level), end in zip(levels, ends, strict=True) if level == 3)
    return Shock(rate=(early[0][1] - early[-1][1]) / MB / (early[-1][0] - early[0][0]), before=before, crossed=crossed,
                 passed=first, acted=acted, lowest=min(available for _, available, _ in points),
                 back=low[-1] if low else None, stuck=critical, killed=kills(host.group), lost=lost,
                 points=[(when - began, available, swapped) for when, available, swapped in points], levels=levels,
                 failed=sorted({text for one in after for text in one['failed']}))


def measure(options: argparse.Namespace) -> tuple[Quiet, Shock]:
    from cost import _own
    from guest import direct
    from libvirt_host import libvirt_host
    with tempfile.TemporaryDirectory() as name, \
            libvirt_host(memory=options.host_memory * MB, swap=options.host_swap * MB) as host:
        scratch = Path(name)
        images, record, log = direct.build(scratch), scratch / 'record', scratch / 'log'
        booted = [host.boot(f'speed{number}', images, memory=options.guest_memory * MB)
                  for number in range(options.guests)]
        for domain, console in booted:
            console.wait_beats(2, timeout=300)
            _own(domain)
        held = settle(host, booted, options)
        process = start_agent(configure(host, scratch, options), record, log)
        try:
            deadline = time.monotonic() + 60
            while len(passes(record)) < 2:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f'speed: ovc-agent does not run:\n{log.read_text()[-2000:]}')
                time.sleep(0.2)
            calm = quiet(host, process, record, scratch, options)
            hit = shock(host, booted, held, record, options)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        if os.environ.get('OVC_SPEED_LOG'):
            Path(os.environ['OVC_SPEED_LOG']).write_text(log.read_text() + record.read_text())
        return calm, hit


# -- what is told -----------------------------------------------------------------------------------------------------

def seconds(value: float | None) -> str:
    return 'never' if value is None else f'{value:.2f} s'


def told_levels(levels: list[tuple[float, int]]) -> str:
    from ovc_plugin.model import Level
    changes, before = [], None
    for at, level in levels:
        if level != before:
            changes.append(f'{max(0.0, at):.1f} s {Level(level).name}')
        before = level
    return ', '.join(changes)


def rows(options: argparse.Namespace, calm: Quiet, hit: Shock) -> list[tuple[str, str, str, bool | None]]:
    import rested
    return [
        ('quiet: ovc-agent and helper', f'{calm.percent:.2f} % of a core over {options.quiet} s, {calm.passes} passes',
         f'< {CPU_GOAL} %', calm.percent < CPU_GOAL),
        rested.told(0.0, 0.2, 5.0),
        ('memory beyond nova-compute\'s own', f'{calm.added:.0f} MB, {calm.helper:.0f} of it the root helper',
         f'< {MEMORY_GOAL:.0f} MB', calm.added < MEMORY_GOAL),
        ('memory of ovc-agent', f'{calm.agent:.0f} MB resident; a bare Python that talks to libvirt has '
         f'{calm.bare:.0f} MB', '', None),
        ('shock', f'{hit.rate:.0f} MB/s in its first second, from {hit.before // MB} MB available of '
         f'{options.host_memory} MB', f'>= {SHOCK * options.rate:.0f} MB/s', hit.rate >= SHOCK * options.rate),
        ('SOFT\'s threshold crossed after', seconds(hit.crossed), '', None),
        ('first pass above CLEAR after', seconds(hit.passed), f'< {ANSWER_GOAL:.0f} s',
         hit.passed is not None and hit.passed < ANSWER_GOAL),
        ('first action done after', seconds(hit.acted), f'< {ANSWER_GOAL:.0f} s',
         hit.acted is not None and hit.acted < ANSWER_GOAL),
        ('lowest available', f'{hit.lowest // MB} MB', '', None),
        ('last below SOFT\'s threshold after', seconds(hit.back), '', None),
        ('at CRITICAL', f'{hit.stuck:.1f} s', '', None),
        ('levels', told_levels(hit.levels), '', None),
        ('actions that failed', '; '.join(hit.failed) or 'none', '', None),
        ('guests killed', str(hit.killed), '0', hit.killed == 0),
        ('guests that lost data or did not fill', ', '.join(hit.lost) or 'none', 'none', not hit.lost)]


def picture(path: Path, options: argparse.Namespace, hit: Shock) -> None:
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    from ovc_plugin.decide import pressure
    from ovc_plugin.model import Level
    from ovc_plugin.settings import HostSettings
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6), height_ratios=(3, 1))
    times = [at for at, _, _ in hit.points]
    above.plot(times, [available / MB for _, available, _ in hit.points], label='available')
    above.plot(times, [swapped / MB for _, _, swapped in hit.points], label='in swap')
    above.axhline(pressure.enter_soft(options.host_memory * MB, HostSettings()) / MB, color='grey', linestyle=':',
                  label='where SOFT begins')
    above.axvline(hit.acted or 0, color='green', linestyle='--', label='first action done')
    above.set_ylabel('MB')
    above.legend()
    above.set_title(f'{hit.rate:.0f} MB/s on a host of {options.host_memory} MB')
    below.step([at for at, _ in hit.levels], [level for _, level in hit.levels], where='post')
    below.set_yticks(range(4), [level.name for level in Level])
    below.set_xlim(-1, times[-1])
    below.set_xlabel('seconds since the shock\'s begin')
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    options = parser().parse_args()
    if options.agent:
        return agent(*options.agent)
    calm, hit = measure(options)
    table = rows(options, calm, hit)
    for what, figure, goal, held in table:
        print(f'{what:38}  {figure:70}  {goal:8}  {"" if held is None else "holds" if held else "FAILS"}'.rstrip())
    if options.picture:
        picture(options.picture, options, hit)
        print(f'picture: {options.picture}')
    print(f'speed: guests={options.guests} rate={hit.rate:.0f} free_percent={options.free} '
          f'first_pass={seconds(hit.passed).split()[0]} first_action={seconds(hit.acted).split()[0]} '
          f'lowest_mb={hit.lowest // MB} critical_seconds={hit.stuck:.1f} killed={hit.killed} lost={len(hit.lost)} '
          f'quiet_percent={calm.percent:.2f} added_mb={calm.added:.0f}')
    return 1 if any(row[3] is False for row in table) else 0


if __name__ == '__main__':
    sys.exit(main())
