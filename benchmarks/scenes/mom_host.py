# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""MOM's policy on a real host: senses and acts through our own edges, decides by ``benchmarks.policies.mom``.

Started within a pretend host's view, beside a plain nova-compute. Prints each action and each failure. It looks and
acts as often as MOM's own sample configuration has it (every 5 s and every 10 s); oVirt's, with 15 s for both, would
judge by the mean of 150 s, which is longer than a scene.
"""
from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.policies.mom import Mom  # noqa: E402
from ovc_plugin import privileged  # noqa: E402
from ovc_plugin.act.actuator import Actuator  # noqa: E402
from ovc_plugin.hypervisor.connection import Connection  # noqa: E402
from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor  # noqa: E402
from ovc_plugin.sense.derive import derive  # noqa: E402
from ovc_plugin.sense.sensor import Sensor  # noqa: E402
from ovc_plugin.settings import HostSettings, Settings, SharedSettings  # noqa: E402
from ovc_plugin.simulate.policy import Reading  # noqa: E402

MB = 1 << 20


def unused(connect: typing.Callable[[], typing.Any]) -> dict[str, int | None]:
    """What each running guest calls free, its file cache not included: MOM's own reading."""
    import libvirt
    found = connect().getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BALLOON,
                                        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
    return {domain.UUIDString(): stats['balloon.unused'] * 1024 if 'balloon.unused' in stats else None
            for domain, stats in found}


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument('--host', required=True)
    top.add_argument('--boundary', default='/sys/fs/cgroup/memory')
    top.add_argument('--reserve', type=int, default=64, help='MB')
    top.add_argument('--reservation', default='25%')
    top.add_argument('--look', type=float, default=5.0, help='seconds between two readings, of which ten make a mean')
    top.add_argument('--act', type=int, default=2, help='act at each such reading')
    options = top.parse_args()
    privileged.context.set_client_mode(False)  # already root: no helper in between
    connect = Connection('qemu:///system')
    hypervisor = LibvirtHypervisor(connect)
    sensor = Sensor(options.host, hypervisor, options.boundary)
    actuator, policy, earlier = Actuator(hypervisor, sensor.group_of), Mom(), None
    settings = dataclasses.replace(Settings(), shared=SharedSettings(default_reservation=options.reservation),
                                   host=HostSettings(boundary=options.boundary))
    print('mom: ready', flush=True)
    for turn in itertools.count():
        try:
            sample = sensor.sample(time.time())
            snapshot = derive(earlier, sample, {}, options.reserve * MB, settings)
            plan = policy.decide(Reading(snapshot=snapshot, unused=unused(connect)), time.time())
            for outcome in actuator.apply(plan, dry_run=False) if turn % options.act == 0 else ():
                print(f'{time.strftime("%H:%M:%S")} {plan.reason}: {outcome.action} {outcome.error or "done"}',
                      flush=True)
            earlier = sample
        except Exception as error:  # as MOM: the next round tries again
            print(f'failed: {type(error).__name__}: {error}', flush=True)
        time.sleep(options.look)


if __name__ == '__main__':
    sys.exit(main())
