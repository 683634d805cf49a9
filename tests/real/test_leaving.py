# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Leaving a host with real guests: a clean stop, a kill, and ``ovc release`` after it."""
from __future__ import annotations

import io
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from libvirt_host import LibvirtHost
from patience import SECONDS, until

from ovc_plugin import assembly, cli
from ovc_plugin.hypervisor.connection import Connection
from ovc_plugin.settings import HostSettings, Settings, SharedSettings

MB = 1 << 20
FULL = 512 * MB
OWNED = '<guest xmlns="https://ovc-plugin/xmlns/domain/1.0" trust-domain="tests" reservation="25%"/>'


def size(domain) -> int:
    return domain.memoryStats()['actual'] * 1024


@pytest.fixture
def shrunk(host: LibvirtHost, guest_images: Path, tmp_path: Path):
    """A controller that has shrunk an idle guest of 512 MB below 400 MB."""
    import libvirt
    domain, console = host.boot('leaving', guest_images, memory=FULL)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, OWNED, 'ovc', 'https://ovc-plugin/xmlns/domain/1.0',
                       libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    console.wait_beats(3)
    settings = Settings(shared=SharedSettings(default_overhead=64 * MB), host=HostSettings(
        dry_run=False, boundary=str(host.group), tick=1.0, run_path=str(host.root / 'run' / 'qemu'),
        state_path=str(tmp_path), ksm='leave', swap=False, level_scale=200.0))
    controller = assembly.build(host.name, settings, Connection(host.uri), reserve=0)
    until(lambda: (controller.run_pass(), size(domain) < 400 * MB)[1], 'the guest to be shrunk')
    yield controller, domain, settings, tmp_path
    controller.stop()
    host.discard(domain)


def calm(controller, settings) -> None:
    """The host has room now: its minimum is a small one."""
    import dataclasses
    controller.settings = dataclasses.replace(settings, host=dataclasses.replace(settings.host, level_scale=1.0))


def test_a_clean_stop_gives_a_guest_its_full_size_where_there_is_room(shrunk):
    controller, domain, settings, _ = shrunk
    calm(controller, settings)
    controller.stop()
    until(lambda: size(domain) == FULL, 'the full size')


def test_a_clean_stop_gives_nothing_where_there_is_none_and_release_gives_it_later(shrunk, host):
    controller, domain, _, state = shrunk
    before = size(domain)
    controller.stop()  # by its own reckoning this host has no room at all
    time.sleep(2)
    assert size(domain) <= before + 4 * MB
    config = state / 'ovc.conf'
    config.write_text(f'[ovc_host]\nstate_path = {state}\nboundary = {host.group}\nksm = leave\nreserve_mb = 0\n'
                      f'run_path = {host.root / "run" / "qemu"}\n[ovc_agent]\nhost = {host.name}\n')
    with redirect_stdout(io.StringIO()) as said:
        try:
            code = cli.main(['release', '--config-file', str(config), '--connect', host.uri, '--wait', str(SECONDS)])
        except SystemExit as ended:
            code = ended.code
    assert code == 0, said.getvalue()
    until(lambda: size(domain) == FULL, 'the full size')
