# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""ovc-agent on a real libvirt: one pass over real guests, and a libvirtd that hangs and comes back."""
from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from libvirt_host import LibvirtHost

from ovc_plugin.hypervisor.connection import _KEEPALIVE_MISSES, _KEEPALIVE_SECONDS, Connection

MB = 1 << 20
AGENT = pathlib.Path(sys.executable).parent / 'ovc-agent'


@pytest.fixture
def config(host: LibvirtHost, tmp_path: pathlib.Path) -> str:
    """What an operator of this host would write."""
    path = tmp_path / 'ovc.conf'
    path.write_text(f'''
[ovc_host]
boundary = {host.group}
run_path = {host.root}/run/qemu
state_path = {tmp_path}/state
reserve_mb = 128
[ovc_agent]
connection_uri = {host.uri}
host = real
''')
    return str(path)


def test_one_pass_shows_a_real_guest_and_asks_nothing_of_it(host: LibvirtHost, guest_images: pathlib.Path,
                                                            config: str) -> None:
    domain, _console = host.boot('seen', guest_images, memory=256 * MB)
    try:
        done = subprocess.run([AGENT, '--once', '--config-file', config], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        for shown in ('real', 'seen', domain.UUIDString(), 'dry run', 'Plan: level '):
            assert shown in done.stdout, done.stdout
        assert domain.info()[2] == 256 * 1024
    finally:
        host.discard(domain)


@pytest.fixture
def hung(host: LibvirtHost) -> Iterator[int]:
    """The process id of a libvirtd that a test may stop; it runs again afterwards."""
    pid = int((host.root / 'run' / 'libvirtd.pid').read_text())
    yield pid
    os.kill(pid, signal.SIGCONT)


def stopped(pid: int) -> bool:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'T'


def test_a_libvirtd_that_hangs_is_given_up_and_found_again(host: LibvirtHost, hung: int) -> None:
    import libvirt
    connection = Connection(host.uri)
    first = connection()
    assert connection() is first and first.getHostname()
    os.kill(hung, signal.SIGSTOP)
    with pytest.raises(libvirt.libvirtError):
        connection().listAllDomains()
    assert _KEEPALIVE_SECONDS * (_KEEPALIVE_MISSES + 1) <= 20, 'as it is said'
    assert stopped(hung), 'it was given up, and did not answer late'
    os.kill(hung, signal.SIGCONT)
    assert connection().listAllDomains() == []
    assert connection() is not first
