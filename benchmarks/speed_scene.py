# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The real host with its guests, and the shock that they give it, seen from outside: a part of benchmarks/speed."""
from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import rested
from benchmarks.speed_agent import Quiet, configure, passes, quiet, start_agent

MB = 1 << 20
LOOK = 0.02
SHORTEST = 0.3  # seconds over which a rate is taken at the least


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


def all_kills(vmstat: Path = Path('/proc/vmstat')) -> int:
    """Processes that the kernel has killed for want of memory on the whole machine since it started."""
    return int(dict(line.split() for line in vmstat.read_text().splitlines())['oom_kill'])


def kills(group: Path) -> int:
    """Processes that the kernel has killed in this group and below it, as far as their groups are there yet: libvirt
    removes a victim's group, and its count with it."""
    total = 0
    for file in group.rglob('memory.oom_control'):
        words = dict(line.split() for line in file.read_text().splitlines())
        total += int(words.get('oom_kill', 0))
    return total


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


def filled(points: list[tuple[float, int, int]], began: float, acted: float | None) -> float:
    """MB/s at which guests filled memory while nobody resisted: up to the first action (seconds after ``began``), a
    second at the most. What the kernel swaps by itself at the wall is filled, too.

    An action may come before two looks have been made: then a third of a second is taken, as too little of it tells
    nothing, and two looks at the least. 0.0 where nobody looked.
    """
    since = [(when, available - swapped) for when, available, swapped in points if when >= began]
    end = began + max(SHORTEST, min(1.0, acted or 1.0))
    early = [one for one in since if one[0] <= end]
    early = early if len(early) > 1 else since[:2]
    if len(early) < 2 or early[-1][0] <= early[0][0]:
        return 0.0
    return (early[0][1] - early[-1][1]) / MB / (early[-1][0] - early[0][0])


def shock(host: Any, booted: list[Any], held: list[int], record: Path, options: argparse.Namespace,
          killed_before: int) -> Shock:
    from guest import client

    from ovc_plugin.decide import pressure
    from ovc_plugin.settings import HostSettings
    # The shock shall come as fast as on a host that has its memory: pages that lay free for long may cost a virtual
    # machine fifty microseconds each.
    rested.backed(options.host_memory * options.free // 100 * MB)
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
    lost = [domain.name() for (domain, _), number in zip(booted, numbers, strict=True)
            if not domain.isActive() or client.wait(domain, number, 120) != client.DONE
            or client.do(domain, 'verify', 120) != client.DONE]
    low = [when - began for when, available, _ in points if available < soft]
    levels = [(one['at'] - began, one['level']) for one in passes(record)[max(0, begun_passes - 1):]
              if one['at'] <= told + options.watch]
    ends = [at for at, _ in levels[1:]] + [points[-1][0] - began]
    critical = sum(end - at for (at, level), end in zip(levels, ends, strict=True) if level == 3)
    return Shock(rate=filled(points, began, acted), before=before, crossed=crossed, passed=first, acted=acted,
                 lowest=min(available for _, available, _ in points), back=low[-1] if low else None, stuck=critical,
                 killed=max(kills(host.group), all_kills() - killed_before), lost=lost,
                 points=[(when - began, available, swapped) for when, available, swapped in points], levels=levels,
                 failed=sorted({text for one in after for text in one['failed']}))


def measure(options: argparse.Namespace) -> tuple[Quiet, Shock]:
    from cost import _own
    from guest import direct
    from libvirt_host import libvirt_host
    with tempfile.TemporaryDirectory() as name, \
            libvirt_host(memory=options.host_memory * MB, swap=options.host_swap * MB) as host:
        scratch = Path(name)
        images, record, log, killed_before = direct.build(scratch), scratch / 'record', scratch / 'log', all_kills()
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
            hit = shock(host, booted, held, record, options, killed_before)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        if os.environ.get('OVC_SPEED_LOG'):
            Path(os.environ['OVC_SPEED_LOG']).write_text(log.read_text() + record.read_text())
        return calm, hit
