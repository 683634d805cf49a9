# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Sampling the pages of real guests through the real root helper."""
from __future__ import annotations

import time

from libvirt_host import LibvirtHost
from oslo_config import cfg

from ovc_plugin import privileged
from ovc_plugin.contents import Sampler
from ovc_plugin.decide import sketch
from tests.builders import NOW, a_guest, a_host

MB = 1 << 20


def test_two_equal_guests_are_seen_to_hold_much_alike_and_are_not_made_larger(host: LibvirtHost, guest_images):
    privileged.prepare(cfg.CONF)
    domains = {}
    for name in ('one', 'two'):
        domains[name], console = host.boot(name, guest_images, memory=256 * MB)
        console.wait_beats(3)
        domains[name].suspend()  # what it has from now on it was not given by its own doing
    before = {name: usage(host, domain) for name, domain in domains.items()}
    sampler = Sampler(privileged.page_hashes, lambda name: host.pid(domains[name]), 4000)
    snapshot = a_host(*(a_guest(name, maximum=256 * MB, image=f'image of {name}') for name in domains))
    began, looks = time.monotonic(), 0
    while len(found := sketch.decode(sampler.told(snapshot, 900)).sketches) < 2:
        sampler.look(snapshot, NOW + looks)
        looks += 1
        assert looks < 100, 'two guests of 65536 pages each were not seen whole'
    print(f'{looks} looks at 4000 pages took {time.monotonic() - began:.2f} s')
    one, two = found.values()
    assert len(one.hashes) == len(two.hashes) == sketch.KEPT
    # They run one kernel and one program; what differs is data.
    assert sketch.held(one, [two]) > 0.3
    for name, domain in domains.items():
        assert usage(host, domain) - before[name] < 8 * MB
        host.discard(domain)


def usage(host: LibvirtHost, domain) -> int:
    return int((host.guest_group(domain) / 'memory.usage_in_bytes').read_text())
