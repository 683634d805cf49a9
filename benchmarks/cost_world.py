# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The hosts, reports and requests in which benchmarks/cost_placement.py measures; it says what is in them."""
from __future__ import annotations

import datetime
import functools
import json
import os
import random
import time
from typing import Any

GUESTS, PROJECTS, FLAVORS = 40, 8, 12
IMAGES = 12  # of each project
SAMPLES, MIXED = 2, 8  # one host in so many samples pages, and has guests of several trust domains
REASON = '312 MB available of 65536 MB < 411 MB: memory is short; better for 5 s of 15 s'


@functools.cache
def sketch_of(project: int, image: int, half: int) -> Any:
    """Of one guest of 1 GiB; those of one image have half of their pages in common, those of one project a quarter."""
    from ovc_plugin.decide import sketch
    found: list[int] = []
    for part, pages in ((f'p{project}', 65536), (f'p{project} {image}', 65536), (f'p{project} {image} {half}', 131072)):
        chance, at = random.Random(part), 0.0
        for _ in range(sketch.KEPT + 1):  # the smallest of so many evenly spread hashes, without drawing the others
            at += chance.expovariate(pages)
            found.append(int(at * sketch.SPACE))
    return sketch.of(found)


def contents(number: int, turn: int) -> str:
    """What a host tells of page contents, by the product's own code."""
    from ovc_plugin import report
    from ovc_plugin.decide import sketch
    project, chance = number % PROJECTS, random.Random(number)
    names = {sketch.image_name(f'p{project}', f'image{image}'): image for image in range(IMAGES)}
    here = dict(chance.sample(sorted(names.items()), 8))
    told = {name: sketch_of(project, image, number) for name, image in here.items()}
    saved = {name: chance.uniform(0, 0.4) for name in here if chance.random() < 0.7}
    return sketch.encode(sketch.Contents(images=frozenset(here), sketches=told if number % SAMPLES == 0 else {},
                                         saved=saved), report.LONGEST_SKETCH, turn)


def report_text(number: int, taken_at: float, chance: random.Random, turn: int = 0, reason: str = REASON) -> str:
    """The report of a host with anything from nothing to nearly all committed; all that a report can say is in it."""
    from ovc_plugin import report
    from ovc_plugin.model import Level
    domains = sorted(report.domain_name(f'p{(number + other) % PROJECTS}')
                     for other in range(1 if number % MIXED else report.MOST_DOMAINS))
    total = chance.choice((128, 256, 512)) << 30
    committed = (int(total * chance.uniform(0, 2.2)) >> 20) << 20
    return report.encode(report.HostReport(
        host=f'compute{number}.example.org', taken_at=taken_at, level=chance.choice(list(Level)[:2]),
        total=total, reserve=total // 50, available=int(total * chance.uniform(0.1, 0.9)), committed=committed,
        reserved=committed // 2, claimed=committed, guests=GUESTS, reclaimable=total // 10, saved=total // 20,
        swap_usable=total // 2, swap_used=total // 20, nova_reserved=512 << 20, reason=reason,
        predicted_peak=int(total * chance.uniform(0.3, 0.9)), growth=chance.gauss(0, 3e6),
        evaporation=total // 100, domains=tuple(domains), sketch=contents(number, turn)))


class World:
    """Hosts as nova has them, and a clock that goes on from request to request."""

    def __init__(self, hosts: int, seed: int) -> None:
        from nova import objects
        self.chance, self.count, self.now = random.Random(seed), hosts, time.time()
        self.due = [self.now - self.chance.uniform(0, 60) for _ in range(hosts)]
        self.texts = [report_text(number, at, self.chance) for number, at in enumerate(self.due)]
        self.came = [0] * hosts  # in MB, since the host's report
        pool = [[objects.Instance(uuid=f'00000000-0000-0000-{project:04d}-{number:012d}', project_id=f'p{project}',
                                  image_ref=f'image{number % IMAGES}', instance_type_id=number % 7)
                 for number in range(400)] for project in range(PROJECTS)]
        self.guests = [{i.uuid: i for i in self.chance.sample(pool[number % PROJECTS], GUESTS)}
                       for number in range(hosts)]
        self.zones = [objects.Aggregate(id=number, name=f'a{number}', metadata={'availability_zone': f'az{number}'})
                      for number in range(6)]
        self.nodes = [self._node(number) for number in range(hosts)]
        for number in range(hosts):
            self._count(number)

    def _node(self, number: int) -> Any:
        from nova import objects
        from oslo_utils import uuidutils
        return objects.ComputeNode(
            id=number, uuid=uuidutils.generate_uuid(), host=f'compute{number}', hypervisor_hostname=f'compute{number}',
            memory_mb=256 << 10, free_ram_mb=64 << 10, vcpus=64, vcpus_used=40, local_gb=1000, local_gb_used=100,
            free_disk_gb=900, disk_available_least=800, updated_at=None, numa_topology=None, pci_device_pools=None,
            host_ip='10.0.0.1', hypervisor_type='QEMU', hypervisor_version=8002002, cpu_info='{}', metrics='[]',
            supported_hv_specs=[objects.HVSpec(arch='x86_64', hv_type='kvm', vm_mode='hvm')],
            cpu_allocation_ratio=4.0, ram_allocation_ratio=1.0, disk_allocation_ratio=1.0)

    def _count(self, number: int) -> None:
        """Have nova count what the host reports and what came since."""
        told, node = json.loads(self.texts[number]), self.nodes[number]
        node.memory_mb = told['total'] >> 20
        # As nova stores it, to the second.
        node.updated_at = datetime.datetime.fromtimestamp(int(self.now), datetime.UTC)
        node.free_ram_mb = node.memory_mb - ((told['claimed'] + told['nova_reserved']) >> 20) - self.came[number]

    def pass_time(self, seconds: float) -> int:
        """Let hosts report whose minute is over, and guests come; how many hosts have changed."""
        if not seconds:
            return 0
        self.now += seconds
        new = [number for number, at in enumerate(self.due) if at + 60 <= self.now]
        for number in new:
            self.due[number] += 60 * ((self.now - self.due[number]) // 60)
            self.texts[number] = report_text(number, self.due[number], self.chance, int(self.now // 60))
            self.came[number] = 0
            self._count(number)
        grown = self.chance.sample(range(self.count), max(1, self.count // 100))
        for number in grown:
            self.came[number] += self.chance.choice((1024, 2048, 4096))
            self._count(number)
        return len({*new, *grown})

    def states(self) -> tuple[list[Any], float]:
        """HostStates as nova makes them for a request, and the processor seconds that it took."""
        from nova.scheduler import host_manager
        from oslo_utils import timeutils
        seen = timeutils.utcnow()
        service = {'disabled': False, 'disabled_reason': None, 'last_seen_up': seen, 'updated_at': seen,
                   'created_at': seen, 'forced_down': False, 'topic': 'compute', 'binary': 'nova-compute',
                   'version': 66}
        for node, text, came in zip(self.nodes, self.texts, self.came, strict=True):
            # From the database comes another string each time.
            node.stats = {'num_instances': str(GUESTS + bool(came)), 'io_workload': '0', 'failed_builds': '0',
                          'ovc': text.encode().decode()}
        made, began = [], time.thread_time()
        for number, node in enumerate(self.nodes):
            state = host_manager.HostState(node.host, node.hypervisor_hostname, 'cell')
            state.update(node, {**service, 'host': node.host},
                         [self.zones[number % 3], self.zones[3 + number % 3]], self.guests[number])
            made.append(state)
        return made, time.thread_time() - began


def prepare() -> None:
    """nova in this process, without its configuration files."""
    os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', '1')
    from nova import monkey_patch
    monkey_patch.patch()
    from nova import config, objects
    config.parse_args(['cost'], default_config_files=[], configure_db=False, init_rpc=False)
    objects.register_all()


def a_request(number: int) -> Any:
    from nova import objects
    size = number % FLAVORS
    flavor = objects.Flavor(id=size, name='m', memory_mb=1024 * (1 + size), vcpus=2, root_gb=0, ephemeral_gb=0, swap=0,
                            extra_specs={'ovc:reservation': '50%'} if size % 2 else {})
    return objects.RequestSpec(
        flavor=flavor, instance_uuid=f'00000000-0000-0000-0000-{number:012d}', project_id=f'p{number % PROJECTS}',
        num_instances=1, scheduler_hints={}, is_bfv=False, instance_group=None, pci_requests=None, numa_topology=None,
        requested_destination=None, image=objects.ImageMeta(id=f'image{number % IMAGES}',
                                                            properties=objects.ImageMetaProps()))
