# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""nova starts with the nova.conf that DevStack and the plugin write together."""
from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests.devstack.world import STACK, World

# As nova-scheduler and nova-compute read it: nova's options, our own settings, the classes by nova's own loaders.
LOAD = '''
import dataclasses, json, os, sys
os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = '1'
from nova import monkey_patch; monkey_patch.patch()
import nova.conf, nova.config
nova.config.parse_args(['nova', '--config-file', sys.argv[1]], configure_db=False, init_rpc=False)
CONF = nova.conf.CONF
from ovc_plugin import conf
conf.register(CONF)
loaded = conf.load(CONF)
from nova.scheduler import filters, weights
from nova.virt import driver
scheduler, names = CONF.filter_scheduler, lambda classes: sorted(found.__name__ for found in classes)
print(json.dumps({
    'host': dataclasses.asdict(loaded.host), 'scheduler': dataclasses.asdict(loaded.scheduler),
    'available': names(filters.HostFilterHandler().get_matching_classes(scheduler.available_filters)),
    'enabled': scheduler.enabled_filters,
    'weighers': names(weights.HostWeightHandler().get_matching_classes(scheduler.weight_classes)),
    'driver': type(driver.load_compute_driver(None, CONF.compute_driver)).__module__,
    'ratio': CONF.initial_ram_allocation_ratio, 'fixed_ratio': CONF.ram_allocation_ratio,
    'period': CONF.libvirt.mem_stats_period_seconds}))
'''


def load(file: pathlib.Path) -> dict[str, object]:
    done = subprocess.run([sys.executable, '-c', LOAD, str(file)], capture_output=True, text=True, cwd='/')
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    return World(tmp_path)


def test_nova_loads_what_was_written(world: World) -> None:
    world.run(*STACK, OVC_DRY_RUN='False')
    told = load(world.path / 'nova-cpu.conf')
    assert told['host']['dry_run'] is False and told['scheduler']['dry_run'] is False
    assert told['host']['state_path'] == str(world.state)
    assert set(told['enabled']) <= set(told['available']) and told['enabled'][-1] == 'OvercommitFilter'
    assert {'OvercommitWeigher', 'RAMWeigher'} <= set(told['weighers'])
    assert told['driver'] == 'ovc_plugin.nova.driver'
    assert (told['ratio'], told['fixed_ratio'], told['period']) == (1.0, None, 10)


def test_once_taken_out_nova_is_novas_own(world: World) -> None:
    world.run(*STACK)
    world.run('unstack')
    told = load(world.path / 'nova-cpu.conf')
    assert told['driver'] == 'nova.virt.libvirt.driver'
    assert 'OvercommitFilter' not in told['available'] + told['enabled'] and 'OvercommitWeigher' not in told['weighers']
    assert set(told['enabled']) <= set(told['available']) and 'RAMWeigher' in told['weighers']
