# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the filter and the weigher cost nova-scheduler for each host."""
from __future__ import annotations

import time

import nova.conf
import pytest
from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import weights as nova_weights

from ovc_plugin import report as reports
from ovc_plugin.model import MIB
from ovc_plugin.nova import current, filters, weights
from tests.contract.cloud import GB, a_report

HOSTS = 1000
LIMIT_US = 30.0


@pytest.fixture
def acting():
    current.conf.register(nova.conf.CONF)
    nova.conf.CONF.set_override('dry_run', False, 'ovc_scheduler')
    current.forget()
    yield
    nova.conf.CONF.clear_override('dry_run', 'ovc_scheduler')
    current.forget()


def a_state(number: int) -> host_manager.HostState:
    state = host_manager.HostState(f'host{number}', f'host{number}', 'cell')
    report = a_report(f'host{number}', total=64 * GB, available=20 * GB + number, committed=30 * GB, reserved=20 * GB,
                      claimed=28 * GB, guests=14, swap_usable=32 * GB, nova_reserved=512 * MIB)
    state.stats = {'ovc': reports.encode(report)}
    state.total_usable_ram_mb = 65536
    state.free_ram_mb = 65536 - 512 - 28 * 1024 - 2048 * (number % 3)
    state.num_instances = 14 + number % 3
    return state


def measure() -> float:
    """Microseconds of processor time per host, every report being new to the scheduler."""
    objects.register_all()
    hosts = [a_state(number) for number in range(HOSTS)]
    spec = objects.RequestSpec(instance_uuid='u', numa_topology=None, pci_requests=None, flavor=objects.Flavor(
        memory_mb=2048, name='m1', extra_specs={'ovc:reservation': '50%'}))
    chooser, weigher = filters.OvercommitFilter(), weights.HeadroomWeigher()
    reports.decode.cache_clear()
    began = time.process_time()
    passed = list(chooser.filter_all(hosts, spec))
    weighed = [nova_weights.WeighedHost(host, 0.0) for host in passed]
    scores = weigher.weigh_objects(weighed, spec)
    strengths = [weigher.weight_multiplier(host.obj) for host in weighed]
    seconds = time.process_time() - began
    assert len(passed) == len(set(scores)) == len(strengths) == HOSTS  # all were judged, none alike
    return seconds / HOSTS * 1e6


def test_filter_and_weigher_together_stay_below_30_microseconds_a_host(acting):
    best = min(measure() for _ in range(20))  # others use this machine too: the least is the cost
    print(f'{best:.1f} µs per host')
    assert best < LIMIT_US
