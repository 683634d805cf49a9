# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A guest that tells what it needs: our script and QEMU's real guest agent in a real guest, read as a host reads it."""
from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import python_guest
from patience import until

from ovc_plugin.hypervisor import guest_file
from ovc_plugin.sense.published import PATH

MB = 1 << 20
SCRIPT = '''
import glob, os, pathlib, subprocess, sys, time
port = next(path for path in glob.glob('/sys/class/virtio-ports/*')
            if pathlib.Path(path, 'name').read_text().strip() == 'org.qemu.guest_agent.0')
subprocess.Popen(['/bin/qemu-ga', '-m', 'virtio-serial', '-p', '/dev/' + os.path.basename(port), '-t', '/run'])
subprocess.Popen([sys.executable, '/bin/ovc-working-set', '--every', '1'])
while not os.path.exists('/run/go'):
    time.sleep(0.2)
held = os.urandom(1 << 20) * 100
time.sleep(3000)
'''


@pytest.fixture(scope='module')
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """QEMU's guest agent, as Debian ships it; it is not installed on this machine."""
    if (found := shutil.which('qemu-ga')) is not None:
        return Path(found)
    work = tmp_path_factory.mktemp('agent')
    done = subprocess.run(['apt-get', '-qq', '-o', 'APT::Sandbox::User=root', 'download', 'qemu-guest-agent'], cwd=work,
                          capture_output=True, text=True)
    packages = list(work.glob('*.deb'))
    if not packages:
        pytest.skip(f'needs the package qemu-guest-agent: {done.stderr[-200:]}')
    subprocess.run(['dpkg', '-x', packages[0], work / 'x'], check=True)
    return work / 'x' / 'usr' / 'sbin' / 'qemu-ga'


def test_the_host_reads_through_the_real_agent_what_a_real_guest_needs_and_sees_it_grow(tmp_path, guest_images, agent):
    channel = tmp_path / 'agent'
    process = python_guest.start(
        tmp_path, guest_images, SCRIPT, '-chardev', f'socket,id=ga,path={channel},server=on,wait=off', '-device',
        'virtio-serial', '-device', 'virtserialport,chardev=ga,name=org.qemu.guest_agent.0', programs=(agent,))
    try:
        before = told(channel, lambda amount, number: True)
        # The next one, of when nothing starts any more.
        first = told(channel, lambda amount, number: number > before[1] and 20 * MB < amount < 250 * MB)
        until(lambda: begun(channel), 'the guest to be told')
        grown = told(channel, lambda amount, number: first[0] + 90 * MB < amount < first[0] + 140 * MB)
    finally:
        process.kill()
        process.communicate()
    assert grown[1] > first[1], (first, grown)
    print(f'first {first[0] / MB:.0f} MB, grown {grown[0] / MB:.0f} MB')


def told(channel: Path, wanted) -> tuple[int, int]:
    """(bytes, number) once they are as wanted; each look is a connection of its own, as libvirt's is not."""
    last: list[object] = []

    def look() -> tuple[int, int] | None:
        try:
            amount, number = map(int, guest_file.read(lambda request: ask(channel, request), PATH).split())
            last[:] = [(amount, number)]
            return (amount, number) if wanted(amount, number) else None
        except (OSError, ValueError) as error:
            last[:] = [error]
            return None
    try:
        return until(look)
    except AssertionError as error:
        raise AssertionError(f'{error}; at last: {last}') from None


def begun(channel: Path) -> bool:
    """Tell the guest to take its memory."""
    try:
        ask(channel, json.dumps({'execute': 'guest-file-open', 'arguments': {'path': '/run/go', 'mode': 'w'}}))
        guest_file.read(lambda request: ask(channel, request), '/run/go')
        return True
    except (OSError, ValueError):  # it is not there, or that was the answer to something earlier
        return False


def ask(channel: Path, request: str) -> str:
    """One request over the agent's channel, as a line; the answer is a line."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(20)
        line.connect(str(channel))
        line.sendall(request.encode() + b'\n')
        answer = b''
        while not answer.endswith(b'\n'):
            if not (more := line.recv(4096)):
                raise OSError('the channel was closed')
            answer += more
    return answer.decode()
