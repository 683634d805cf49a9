# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the plugin costs, measured on nova's own objects and on real guests."""
from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), *(str(CHECKOUT / part) for part in ('benchmarks', 'devstack/onebox', 'tests/real'))]

MB = 1 << 20
CONTROLLER_GOAL_PERCENT = 1.0
SHORT, PLENTY = 200.0, 0.1  # level_scale: the minimum of available memory is beyond the host, or next to nothing

DESCRIPTION = """\
Measures, over nova's own HostState objects and through nova's own handlers, our filter and our weigher beside nova's
default filters and weighers, at several numbers of hosts; see benchmarks/cost_placement.py for what is in a request.
Then the host controller's processor time beside real guests of a private libvirtd, its root helper included: once
while all is well, and once while shortage and plenty are made to take turns, so that it acts. Prints a table and one
line of figures. Exit status 0: at each number of hosts at most 10 us a host and 5 % of what nova's default set costs,
a report below 2 KB, and, while all is well, under 1 % of one core; 1: not. What acting costs is told without a goal.
The controller's part needs root.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/cost', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument('--hosts', type=int, nargs='+', default=[1000, 10000],
                     help='HostStates in a request (default 1000 10000)')
    top.add_argument('--interval', type=float, default=1.0,
                     help='seconds between requests; each host reports once a minute, so this is the part of the '
                     'reports that is new to a request: 1 in 60/SECONDS (default 1)')
    top.add_argument('--small-pages', action='store_true', help='leave this process\'s data in pages of 4 KB')
    for name, value, help in (('requests', 12, 'requests timed'), ('seed', 1, 'seed of the hosts\' figures'),
                              ('guests', 10, 'real guests; 0 leaves the controller out'),
                              ('guest-memory', 128, 'MB of each real guest'),
                              ('tick', 5, 'seconds between two passes'),
                              ('seconds', 60, 'seconds for which the controller is watched, twice')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    return top


class Counted:
    """A controller's passes while watched: how many changed a guest, what they did, and their processor seconds.

    With ``turning`` it is made to act: shortage and plenty take turns, each as soon as a pass finds nothing to do.
    """

    def __init__(self, controller: Any, helpers: list[int], *, turning: bool) -> None:
        self.start()
        self._controller, self._one_pass = controller, controller.run_pass
        self._helpers, self._turning = helpers, turning
        controller.run_pass = self._counting
        if turning:
            self._turn(SHORT)

    def start(self) -> None:
        """Count from here on."""
        self.passes = self.acted = self.failed = 0
        self.acting_own = self.acting_helper = 0.0
        self.kinds: collections.Counter[str] = collections.Counter()

    def _counting(self) -> object:
        own, helper = _used(), helper_seconds(self._helpers)
        plan, outcomes = self._one_pass()
        own, helper = _used() - own, helper_seconds(self._helpers) - helper
        self.passes += 1
        if any(outcome.done for outcome in outcomes):
            self.acted += 1
            self.acting_own += own
            self.acting_helper += helper
        elif self._turning:
            self._turn(PLENTY if self._controller.settings.host.level_scale == SHORT else SHORT)
        self.failed += sum(not outcome.done for outcome in outcomes)
        self.kinds.update(type(outcome.action).__name__ for outcome in outcomes if outcome.done)
        return plan, outcomes

    def _turn(self, scale: float) -> None:
        settings = self._controller.settings
        self._controller.settings = dataclasses.replace(
            settings, host=dataclasses.replace(settings.host, level_scale=scale))


@dataclasses.dataclass(kw_only=True)
class Spent:
    """What a controller cost while it was watched. ``helper`` is its root helper's part of the seconds."""

    seconds: float
    helper: float
    elapsed: float
    counted: Counted

    @property
    def percent(self) -> float:
        return self.seconds / self.elapsed * 100

    @property
    def each_ms(self) -> float:
        return self.seconds / self.counted.passes * 1000

    @property
    def acting_ms(self) -> float:
        """Of a pass that acted, the helper's part included."""
        return (self.counted.acting_own + self.counted.acting_helper) / max(1, self.counted.acted) * 1000


def controller_cost(options: argparse.Namespace) -> tuple[Spent, Spent]:
    """What the controller costs while all is well, and while it is made to act."""
    from guest import direct
    from libvirt_host import libvirt_host
    size = options.guest_memory * MB
    with tempfile.TemporaryDirectory() as scratch, \
            libvirt_host(memory=options.guests * (size + 192 * MB), swap=options.guests * size) as host:
        images = direct.build(Path(scratch))
        # Every other guest has no balloon and keeps writing: it can only be swapped, and comes back.
        half = options.guest_memory // 2
        start = ('ovc.touch=16', f'ovc.balloon=off ovc.touch={half} ovc.rewrite={half},rate=8')
        booted = [host.boot(f'cost{number}', images, memory=size, start=start[number % 2])
                  for number in range(options.guests)]
        for _, console in booted:
            console.wait_beats(2, timeout=300)
        for domain, _ in booted:
            _own(domain)
        return (_watched(host, Path(scratch) / 'calm', options, turning=False),
                _watched(host, Path(scratch) / 'acting', options, turning=True))


def _own(domain: Any) -> None:
    """Say in the guest's definition what it is owed, as nova's metadata does: it may then be acted on."""
    import libvirt
    names = 'https://ovc-plugin/xmlns/domain/1.0'
    told = f'<guest xmlns="{names}" trust-domain="cost" reservation="25%"/>'
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, told, 'ovc', names, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _watched(host: Any, kept: Path, options: argparse.Namespace, *, turning: bool) -> Spent:
    from ovc_plugin import assembly
    from ovc_plugin.settings import HostSettings, Settings, SharedSettings
    settings = Settings(shared=SharedSettings(default_overhead=64 * MB), host=HostSettings(
        dry_run=False, boundary=str(host.group), tick=float(options.tick), ksm='leave', state_path=str(kept),
        run_path=str(host.root / 'run' / 'qemu'), dwell=0.0 if turning else 15.0))
    controller = assembly.build(host.name, settings, lambda: host.connection, reserve=0)
    pids = helpers()
    if not pids:
        raise SystemExit('cost: the controller\'s root helper is not running, so its cost cannot be told: see the log')
    counted = Counted(controller, pids, turning=turning)
    controller.start()
    time.sleep(2 * options.tick)
    counted.start()
    own, helper, began = _used(), helper_seconds(pids), time.monotonic()
    time.sleep(options.seconds)
    own, helper, elapsed = _used() - own, helper_seconds(pids) - helper, time.monotonic() - began
    controller.stop()
    if not counted.passes or len(controller.status()['guests']) != options.guests:
        raise SystemExit(f'cost: {counted.passes} passes, {counted.acted} acted, '
                         f'{len(controller.status()["guests"])} guests seen: {controller.status()["tick"]}')
    return Spent(seconds=own + helper, helper=helper, elapsed=elapsed, counted=counted)


def _used() -> float:
    """Processor seconds of this process (which does nothing but run the controller) and its ended children."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def helpers(proc: Path = Path('/proc')) -> list[int]:
    """The living root helpers of this process.

    A helper is no descendant: the process that we start leaves it behind and ends. It stays in our session and is
    younger than we are, and its command line names our context.
    """
    found, born = [], _stat(proc, os.getpid())[19]
    for directory in proc.glob('[0-9]*'):
        try:
            pid = int(directory.name)
            if (b'ovc_plugin.privileged' in (directory / 'cmdline').read_bytes()
                    and os.getsid(pid) == os.getsid(0) and _stat(proc, pid)[19] >= born):
                found.append(pid)
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return found


def helper_seconds(pids: list[int]) -> float:
    """Processor seconds of these processes, and of the children they have waited for."""
    return sum(sum(_stat(Path('/proc'), pid)[11:15]) for pid in pids) / os.sysconf('SC_CLK_TCK')


def _stat(proc: Path, pid: int) -> list[int]:
    """The numbers of /proc/PID/stat from the parent's id on, after the name and the state; index 0 is not one."""
    fields = (proc / str(pid) / 'stat').read_text().rpartition(')')[2].split()
    return [0, *map(int, fields[1:])]


def controller_rows(options: argparse.Namespace, calm: Spent, acting: Spent) -> list[tuple[str, str, str, bool | None]]:
    def told(spent: Spent) -> str:
        counted = spent.counted
        return (f'{spent.percent:.2f} % of a core ({spent.each_ms:.1f} ms a pass, {counted.passes} passes; helper '
                f'{spent.helper / spent.elapsed * 100:.2f} %)')

    done = acting.counted
    kinds = [f'{count} {kind}' for kind, count in sorted(done.kinds.items())] + [f'{done.failed} failed']
    return [(f'controller, {options.guests} guests, {options.tick} s tick', told(calm),
             f'< {CONTROLLER_GOAL_PERCENT:.0f} %', calm.percent < CONTROLLER_GOAL_PERCENT),
            ('the same, made to act', told(acting), '', None),
            ('of these, a pass that acts', 'not shown: the guests had nothing more to give' if not done.acted else
             f'{acting.acting_ms:.1f} ms (helper {done.acting_helper / done.acted * 1000:.1f}); were it each, '
             f'{acting.acting_ms / options.tick / 10:.2f} % of a core', '', None if done.acted else False),
            ('', f'{done.acted} passes of {done.passes} acted: {", ".join(kinds)}', '', None)]


def main() -> int:
    options = parser().parse_args()
    import cost_placement
    rows, line = cost_placement.rows(options)
    line = f'cost: {line}'
    if options.guests:
        calm, acting = controller_cost(options)
        rows += controller_rows(options, calm, acting)
        line += (f' guests={options.guests} tick={options.tick} controller_percent={calm.percent:.2f} '
                 f'pass_ms={calm.each_ms:.1f} acting_percent={acting.percent:.2f} '
                 f'acting_pass_ms={acting.acting_ms:.1f} acting_passes={acting.counted.acted}/{acting.counted.passes}')
    for what, figure, goal, held in rows:
        print(f'{what:36}  {figure:78}  {goal:8}  {"" if held is None else "holds" if held else "FAILS"}'.rstrip())
    print(line)
    return 1 if any(row[3] is False for row in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
