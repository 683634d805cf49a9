# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the plugin costs, measured on nova's own objects and on real guests."""
from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox'), str(CHECKOUT / 'tests' / 'real')]

MB = 1 << 20
PLACEMENT_GOAL_US = 30.0
CONTROLLER_GOAL_PERCENT = 1.0

DESCRIPTION = """\
Measures the filter and the weigher together over nova's HostState objects (each request decodes its reports anew, as
nova rebuilds its HostStates), and the host controller's processor time beside real guests of a private libvirtd, its
root helper included. Prints a table and one line of figures. Exit status 0: under 30 us a host and under 1 % of one
core; 1: not. The controller's part needs root.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/cost', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('hosts', 1000, 'HostStates in a request'), ('requests', 30, 'requests timed'),
                              ('seed', 1, 'seed of the hosts\' figures'),
                              ('guests', 10, 'real guests; 0 leaves the controller out'),
                              ('guest-memory', 128, 'MB of each real guest'),
                              ('tick', 5, 'seconds between two passes'),
                              ('seconds', 60, 'seconds for which the controller is watched')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    return top


def host_texts(count: int, seed: int, now: float) -> list[str]:
    """Reports of hosts with anything from nothing to nearly all committed."""
    from ovc_plugin import report
    from ovc_plugin.model import Level
    chance = random.Random(seed)
    texts = []
    for number in range(count):
        total = chance.choice((128, 256, 512)) << 30
        committed = int(total * chance.uniform(0, 1.4))
        texts.append(report.encode(report.HostReport(
            host=f'compute{number}', taken_at=now - chance.uniform(0, 60), level=chance.choice(list(Level)[:2]),
            total=total, reserve=total // 50, available=int(total * chance.uniform(0.1, 0.9)), committed=committed,
            reserved=committed // 2, claimed=committed, guests=chance.randrange(80), reclaimable=total // 10,
            saved=total // 20, swap_usable=total // 2, swap_used=total // 20, reason='900 MB available >= 575 MB')))
    return texts


def host_states(texts: list[str], specs: object) -> list[object]:
    from nova.scheduler import host_manager
    states = []
    for number, text in enumerate(texts):
        state = host_manager.HostState(f'compute{number}', f'compute{number}', 'cell')
        state.stats = {'ovc': text + ' ' * 0}
        state.total_usable_ram_mb, state.free_ram_mb, state.num_instances = 256 << 10, 64 << 10, 40
        state.aggregates = []
        states.append(state)
    return states


def placement_cost(options: argparse.Namespace) -> tuple[float, float]:
    """Median and largest processor time of filter and weigher per host, in microseconds."""
    os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', '1')
    from nova import monkey_patch
    monkey_patch.patch()
    import nova.conf
    from nova import config, objects
    config.parse_args(['cost'], default_config_files=[], configure_db=False, init_rpc=False)
    objects.register_all()
    from nova.scheduler import weights

    from ovc_plugin.nova.filters import OvercommitFilter
    from ovc_plugin.nova.weights import HeadroomWeigher
    nova.conf.CONF.set_override('dry_run', False, group='ovc_scheduler')
    host_filter, weigher = OvercommitFilter(), HeadroomWeigher()
    flavor = objects.Flavor(name='m', memory_mb=4096, vcpus=2, root_gb=0, ephemeral_gb=0, swap=0,
                            extra_specs={'ovc:reservation': '50%'})
    taken = []
    for number in range(options.requests):
        spec = objects.RequestSpec(flavor=flavor, instance_uuid=f'00000000-0000-0000-0000-{number:012d}',
                                   num_instances=1, scheduler_hints={}, is_bfv=False)
        # other reports each time: none is found decoded already
        states = host_states(host_texts(options.hosts, options.seed + number, time.time()), spec)
        began = time.thread_time()
        passed = list(host_filter.filter_all(states, spec))
        weighed = [weights.WeighedHost(state, 0.0) for state in passed]
        weigher.weigh_objects(weighed, spec)
        taken.append((time.thread_time() - began) / options.hosts * 1e6)
        assert 0 < len(passed) < options.hosts or options.hosts < 10, 'the hosts should be some full, some not'
    return statistics.median(taken), max(taken)


def controller_cost(options: argparse.Namespace) -> tuple[float, float, int]:
    """Per cent of one core, mean milliseconds of processor time a pass, and passes."""
    from guest import direct
    from libvirt_host import libvirt_host

    from ovc_plugin import controller as controllers
    from ovc_plugin.settings import HostSettings, Settings
    size = options.guest_memory * MB
    with tempfile.TemporaryDirectory() as scratch, \
            libvirt_host(memory=options.guests * (size + 192 * MB), swap=512 * MB) as host:
        images = direct.build(Path(scratch))
        consoles = [host.boot(f'cost{number}', images, memory=size, start='ovc.touch=16')[1]
                    for number in range(options.guests)]
        for console in consoles:
            console.wait_beats(2, timeout=300)
        settings = Settings(host=HostSettings(
            dry_run=False, boundary=str(host.group), tick=float(options.tick), ksm='leave', state_path=scratch,
            run_path=str(host.root / 'run' / 'qemu')))
        controller = controllers.build(host.name, settings, lambda: host.connection, reserve=0)
        controller.start()
        time.sleep(2 * options.tick)
        passes, used, began = controller.status()['tick']['passes'], _used(), time.monotonic()
        time.sleep(options.seconds)
        spent, elapsed = _used() - used, time.monotonic() - began
        passes = controller.status()['tick']['passes'] - passes
        assert passes and len(controller.status()['guests']) == options.guests
        controller.stop()
    return spent / elapsed * 100, spent / passes * 1000, passes


def _used() -> float:
    """Processor seconds of this process (which does nothing but run the controller) and its ended children."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def main() -> int:
    options = parser().parse_args()
    median, worst = placement_cost(options)
    rows = [('filter + weigher, per host', f'{median:.1f} us (worst request {worst:.1f})',
             f'< {PLACEMENT_GOAL_US:.0f} us', median < PLACEMENT_GOAL_US)]
    line = f'cost: hosts={options.hosts} filter_weigher_us={median:.1f}'
    if options.guests:
        percent, each, passes = controller_cost(options)
        rows.append((f'controller, {options.guests} guests, {options.tick} s tick',
                     f'{percent:.2f} % of a core ({each:.1f} ms a pass, {passes} passes)',
                     f'< {CONTROLLER_GOAL_PERCENT:.0f} %', percent < CONTROLLER_GOAL_PERCENT))
        line += f' guests={options.guests} tick={options.tick} controller_percent={percent:.2f} pass_ms={each:.1f}'
    for what, figure, goal, held in rows:
        print(f'{what:36}  {figure:46}  {goal:8}  {"holds" if held else "FAILS"}')
    print(line)
    return 0 if all(row[3] for row in rows) else 1


if __name__ == '__main__':
    sys.exit(main())
