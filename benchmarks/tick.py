# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What one full pass of the host controller costs: processor time, and memory that does not grow."""
from __future__ import annotations

import argparse
import cProfile
import gc
import io
import logging
import os
import pstats
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT)]

from benchmarks import arguments  # noqa: E402

CPU_MS, MEMORY_MB, GROWTH_KB = 50.0, 60.0, 1024.0
DESCRIPTION = f"""\
The real controller over a modelled host of --guests guests: sensor, watch, derivation, rules, actions, report,
prediction, decision log and state file are the product's, and read real files (/proc, /sys/kernel/mm/ksm, a control
group of version 2 for each guest) that the model writes before each pass. libvirt is answered by the model; its wire is
not counted. Guests are of all manners, on a host that holds little more than half of what they may use, so that it
works all the time.

Told are the processor time of a pass (all threads of the process), what the watch takes between two passes, and the
memory that the controller adds to a process that has imported what nova-compute has anyway. Exit status 0: the 95th
percentile is under {CPU_MS:.0f} ms, memory under {MEMORY_MB:.0f} MB, and less than {GROWTH_KB:.0f} KB more is held
after the last quarter of all passes than before it.
"""
LOOKS = 5    # of the watch, each second
BARE = ('import resource, oslo_config.cfg, oslo_log.log, oslo_privsep.daemon, lxml.etree, json, logging, threading, '
        'argparse, tempfile, subprocess, xml.etree.ElementTree')


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/tick', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, least, help in (('guests', 100, 1, 'modelled guests'), ('passes', 1000, 40, 'passes')):
        top.add_argument(f'--{name}', type=arguments.number(int, least), default=value,
                         help=f'{help} (default {value})')
    top.add_argument('--seed', type=int, default=1, help='seed of the guests (default 1)')
    top.add_argument('--verbose', action='store_true', help='tell what holds the memory')
    top.add_argument('--profile', action='store_true', help='tell where the processor time goes')
    return top


def resident() -> float:
    """Of this process now, in MiB."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / (1 << 20)


def bare() -> float:
    """MiB of a process that has imported what is there without us, and has answered this question."""
    code = (f'try:\n    {BARE}\nexcept ImportError:\n    pass\n'
            "print(int(open('/proc/self/statm').read().split()[1]))")
    pages = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    return int(pages.stdout) * os.sysconf('SC_PAGE_SIZE') / (1 << 20)


def host(options: argparse.Namespace, root: Path):
    from benchmarks.hosted import Hosted
    from ovc_plugin.settings import HostSettings
    from ovc_plugin.simulate.kernel import Machine
    from ovc_plugin.simulate.manners import GIB, MANNERS, guest
    chance = random.Random(f'tick {options.seed}')
    habits = [guest(chance.choice(tuple(MANNERS)), f'instance-{n:08x}', chance, options.passes * 5.0,
                    trust_domain='one', stirs=chance.uniform(0, 0.001)) for n in range(options.guests)]
    most = sum(h.maximum + h.overhead for h in habits)
    machine = Machine(total=int(0.55 * most), reserve=GIB, swap=most)
    return Hosted(machine, habits, HostSettings(), root)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def profiled(world, passes: int) -> None:
    found = cProfile.Profile()
    run_pass = world.controller.run_pass
    world.controller.run_pass = lambda: found.runcall(run_pass)
    while len(world.cpu) < passes:
        world.step()
    text = io.StringIO()
    pstats.Stats(found, stream=text).sort_stats('cumulative').print_stats(45)
    print(text.getvalue().replace(str(CHECKOUT) + '/', ''))


def run(options: argparse.Namespace, root: Path) -> dict[str, float]:
    """Drive the world until so many passes were made; what they cost."""
    world, counted = host(options, root), {}
    looks, actions, half = [], [], options.passes // 2
    seen = world.actuator.apply
    world.actuator.apply = lambda plan, dry_run: actions.append(len(plan.actions)) or seen(plan, dry_run=dry_run)
    if options.profile:
        profiled(world, options.passes)
        return {}
    while len(world.cpu) < options.passes:
        world.step()
        began = time.process_time()
        for _ in range(LOOKS):
            world.watching.recent(look=True)
        looks.append((time.process_time() - began) / LOOKS)
        if len(world.cpu) >= half and not counted:
            gc.collect()
            tracemalloc.start()
            counted = {'rss': resident()}
        if len(world.cpu) >= options.passes * 3 // 4 and 'kept' not in counted:
            counted['kept'] = kept(False)
    grown = kept(options.verbose) - counted['kept']
    tracemalloc.stop()
    # Tracing makes the second half slower: times are those of the first.
    times = world.cpu[5:half]
    return {'mean': 1e3 * statistics.fmean(times), 'p95': 1e3 * percentile(times, 0.95), 'most': 1e3 * max(times),
            'look': 1e6 * statistics.fmean(looks[:len(looks) // 2]), 'rss': counted['rss'], 'grown': grown / 1024,
            'actions': statistics.fmean(actions), 'guests': sum(g.alive for g in world.guests)}


def kept(tell: bool) -> int:
    """Bytes that were allocated since tracing began and are still held, but for what the model and this file hold."""
    gc.collect()
    ours = [tracemalloc.Filter(False, str(CHECKOUT / part)) for part in ('benchmarks/*', 'ovc_plugin/simulate/*')]
    found = tracemalloc.take_snapshot().filter_traces([*ours, tracemalloc.Filter(False, tracemalloc.__file__)])
    lines = found.statistics('lineno')
    for line in lines[:12] if tell else ():
        print(f'  {line.size / 1024:8.1f} KB in {line.count:6d}: {line.traceback}')
    return sum(line.size for line in lines)


def main() -> int:
    options = parser().parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix='ovc-tick-', dir='/dev/shm' if Path('/dev/shm').is_dir() else None) as root:
        found = run(options, Path(root))
    if options.profile:
        return 0
    memory = found['rss'] - bare()
    failed = [line for wrong, line in (
        (found['p95'] >= CPU_MS, f'a pass takes {found["p95"]:.1f} ms >= {CPU_MS:.0f} ms at the 95th percentile'),
        (not found['actions'], 'no pass had anything to do, so that acting was not measured: more --guests'),
        (memory >= MEMORY_MB, f'{memory:.1f} MB more than a bare process >= {MEMORY_MB:.0f} MB'),
        (found['grown'] >= GROWTH_KB, f'memory grew by {found["grown"]:.0f} KB >= {GROWTH_KB:.0f} KB')) if wrong]
    print(f'{found["guests"]:.0f} guests, {options.passes} passes, {found["actions"]:.1f} actions each')
    print(f'processor time of a pass: mean {found["mean"]:.1f} ms, p95 {found["p95"]:.1f} ms, '
          f'most {found["most"]:.1f} ms')
    print(f'processor time of a look: {found["look"]:.0f} us; with {LOOKS} a second and a pass each 5 s '
          f'{100 * (LOOKS * found["look"] / 1e6 + found["mean"] / 5e3):.2f} % of a core')
    print(f'memory: {found["rss"]:.1f} MB with the model, {memory:.1f} MB more than a bare process; it grew by '
          f'{found["grown"]:.0f} KB in the last {options.passes - options.passes * 3 // 4} passes')
    for line in failed:
        print(line)
    print('tick: ' + ' '.join(f'{name}={value}' for name, value in (
        ('guests', f'{found["guests"]:.0f}'), ('passes', options.passes), ('cpu_ms_mean', f'{found["mean"]:.2f}'),
        ('cpu_ms_p95', f'{found["p95"]:.2f}'), ('cpu_ms_most', f'{found["most"]:.2f}'),
        ('look_us', f'{found["look"]:.0f}'), ('memory_mb', f'{memory:.1f}'), ('grown_kb', f'{found["grown"]:.0f}'),
        ('actions', f'{found["actions"]:.1f}'), ('seed', options.seed), ('goals_failed', len(failed)))))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
