# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""ovc-agent as it is measured, and what it takes in a quiet time: a part of benchmarks/speed."""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMAND = Path(__file__).with_name('speed.py')  # starts as the agent with --agent
CONTEXT = b'ovc_plugin.privileged'


def agent(config: str, record: str) -> int:
    """ovc-agent as it is, with one line written for each pass."""
    from ovc_plugin.act import actuator, reclaimer
    from ovc_plugin.cmd import agent as command
    from ovc_plugin.controller import Controller
    one_pass, done = Controller.run_pass, []
    actuator.balloon.apply = timed(actuator.balloon.apply, done)
    reclaimer.Reclaimer._round = timed(reclaimer.Reclaimer._round, done, freed)  # type: ignore[method-assign]

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


def timed(call: Any, ended: list[float], got: Any = None) -> Any:
    """``call``, noting when it ended: only where it did something. That is where it raised nothing, and where ``got``,
    if given, tells more of its arguments than before."""
    def both(*words: Any) -> Any:
        before = got(*words) if got else None
        answer = call(*words)
        if got is None or got(*words) > before:
            ended.append(time.time())
        return answer
    return both


def freed(_self: Any, going: Any, *_: Any) -> int:
    """Bytes that have been moved for these entries of the reclaimer, which keeps its errors to itself."""
    return sum(entry.freed for entry in going)


def configure(host: Any, scratch: Path, options: argparse.Namespace) -> Path:
    config = scratch / 'ovc.conf'
    config.write_text('\n'.join((
        '[ovc_host]', 'dry_run = false', f'boundary = {host.group}', f'run_path = {host.root}/run/qemu',
        f'state_path = {scratch}/state', 'reserve_mb = 0', 'ksm = leave', *options.set,
        '[ovc_agent]', f'connection_uri = {host.uri}', 'host = speed', '')))
    return config


def start_agent(config: Path, record: Path, log: Path) -> subprocess.Popen[bytes]:
    """``agent`` in a process of its own, which is benchmarks/speed once more, and leads its session."""
    with open(log, 'wb') as output:
        return subprocess.Popen([sys.executable, '-W', 'ignore', str(COMMAND), '--agent', str(config), str(record)],
                                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)


def passes(record: Path) -> list[dict[str, Any]]:
    text = record.read_text() if record.exists() else ''
    return [json.loads(line) for line in text[:text.rfind('\n') + 1].splitlines()]


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


@dataclasses.dataclass(kw_only=True)
class Quiet:
    """Processor use in % of a core, resident MB of the agent, its helper, and of the bare process."""

    percent: float
    passes: int
    agent: float
    helper: float
    bare: float
    added: float


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
