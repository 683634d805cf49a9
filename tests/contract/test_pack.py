# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""benchmarks/pack places guests as nova's scheduler would by our filter and our weigher."""
from __future__ import annotations

import pathlib
import random
import time

import nova.conf
import pytest
from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import weights as nova_weights

from ovc_plugin import report as reports
from ovc_plugin.decide import learned
from ovc_plugin.model import MIB
from ovc_plugin.nova import book, current, filters, kept, weights
from ovc_plugin.settings import SchedulerSettings, Settings

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture
def acting(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(book, 'BOOK', learned.Book())
    current.conf.register(nova.conf.CONF)
    nova.conf.CONF.set_override('dry_run', False, 'ovc_scheduler')
    current.forget()
    kept.HOSTS.clear()
    yield
    nova.conf.CONF.clear_override('dry_run', 'ovc_scheduler')
    current.forget()
    kept.HOSTS.clear()


def in_novas_eyes(host, cloud) -> host_manager.HostState:
    """The same host in nova: its report as text, and the guests that nova has there."""
    state = host_manager.HostState(host.name, host.name, 'cell')
    claimed = sum(int(g.full * MIB) for g in host.guests.values()) // MIB
    state.stats = {'ovc': reports.encode(host.report)}
    state.total_usable_ram_mb, state.num_instances = int(cloud.size.memory), len(host.guests)
    state.free_ram_mb = state.total_usable_ram_mb - claimed
    state.instances = {uuid: objects.Instance(uuid=uuid, project_id='tenant', image_ref=f'image {guest.image}')
                       for uuid, guest in host.guests.items()}
    return state


def test_what_fits_and_what_each_host_is_worth_is_what_nova_is_told(acting):
    import pack_cloud
    import pack_world
    objects.register_all()
    chance = random.Random(1)
    of = pack_world.tree(chance, 2)
    size = pack_world.Size(memory=8192, swap=8192, reserve=512, overhead=128, share=0.5)
    coming = [pack_world.Guest(g.number, g.image, g.own, float(int(g.full))) for g in pack_world.guests(chance, of, 60)]
    cloud = pack_cloud.Cloud(of=of, size=size, pages=pack_cloud.Pages(of, 1), settings=Settings(), hourly=0.1,
                             merges=True)
    hosts = [pack_cloud.Host(number, cloud) for number in range(4)]
    for guest in coming[:14]:
        chance.choice(hosts[:3]).add(guest)
    now = time.time()
    for host in hosts:
        host.report = reports.decode(reports.encode(host.report).replace(
            f'"taken_at":{host.report.taken_at}', f'"taken_at":{now}'))
    scheduler = pack_cloud.Scheduler(cloud, affinity=SchedulerSettings().sharing_affinity_weight_multiplier)
    chooser, weigher = filters.OvercommitFilter(), weights.OvercommitWeigher()
    seen = set()
    for guest in coming[14:]:
        spec = objects.RequestSpec(
            project_id='tenant', numa_topology=None, pci_requests=None, image=objects.ImageMeta(
                id=f'image {guest.image}', properties=objects.ImageMetaProps()),
            flavor=objects.Flavor(memory_mb=int(guest.full), name='m1', extra_specs={'ovc:reservation': '50%'}))
        states = [in_novas_eyes(host, cloud) for host in hosts]
        passed = list(chooser.filter_all(states, spec))
        scheduler.best(hosts, guest)
        fitting = scheduler.fitting(hosts, guest)
        assert [s.host for s in passed] == [h.name for h in fitting]
        votes = weigher.votes([nova_weights.WeighedHost(s, 0.0) for s in passed], spec)
        assert votes == pytest.approx([scheduler._votes(h, guest) for h in fitting], abs=1e-3)
        seen.update(round(vote, 3) for vote in votes)
    assert len(seen) > 20
