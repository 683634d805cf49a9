# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One hypervisor for tests: a libvirtd of its own, with a limit on RAM and on swap.

It lives in its own mount, UTS and cgroup namespaces: its sockets, configuration and logs are in a
directory of ours, and each guest gets a memory cgroup below the host's. A test that was killed
leaves its host running; the next test that starts one ends and removes it.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guest import direct
from guest.client import Console
from onebox_cloud import cgroup, ending, ksm, mounts, state, swap

PREFIX = "ovc-real-"

_LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""

_QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ "memory" ]
namespaces = [ ]
stdio_handler = "file"
"""

# libvirt refuses the mix of a v1 memory controller and a bare v2 tree, so the latter is hidden from
# it. The host's group is mounted as the root of the memory controller: else libvirt, which builds
# its paths from the root, would put the guests outside of the host's limit.
_INIT = """\
set -e
echo $$ >{group}/cgroup.procs
mount --bind {root}/run /run/libvirt
mount --bind {root}/etc /etc/libvirt
mount --bind {root}/lib /var/lib/libvirt
mount --bind {root}/cache /var/cache/libvirt
mount --bind {root}/log /var/log/libvirt
hostname {name}
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
mount --bind {group} /sys/fs/cgroup/memory
exec unshare --cgroup /usr/sbin/libvirtd --pid-file /run/libvirt/libvirtd.pid
"""


@dataclass
class LibvirtHost:
    """A running hypervisor. memory and swap are its limits in bytes; group is its memory cgroup."""

    name: str
    root: Path
    group: Path
    memory: int
    swap: int
    connection: Any = None
    domains: list[Any] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.root}/run/libvirt-sock"

    def boot(self, name: str, images: Path, *, memory: int, start: str = "") -> tuple[Any, Console]:
        """Start a test guest (direct.boot_direct); it is removed with the host, if not before."""
        domain, console = direct.boot_direct(self.connection, name, images, self.root / f"{name}.log",
                                             memory=memory, start=start)
        self.domains.append(domain)
        return domain, console

    def discard(self, domain: Any) -> None:
        """End a guest and forget it."""
        import libvirt

        with suppress(libvirt.libvirtError):
            domain.destroy()
        with suppress(libvirt.libvirtError):
            domain.undefine()
        if domain in self.domains:
            self.domains.remove(domain)

    def pid(self, domain: Any) -> int:
        """Of the guest's QEMU."""
        return int((self.root / "run" / "qemu" / f"{domain.name()}.pid").read_text())

    def guest_group(self, domain: Any) -> Path:
        """The guest's memory cgroup. Raises LookupError where it has none."""
        return guest_group(self.group, domain.ID(), domain.name())


def guest_group(group: Path, number: int, name: str) -> Path:
    """Where libvirt has put a running guest below the host's group. Raises LookupError."""
    start = f"qemu-{number}-{name[:20]}"
    for directory, names, _files in os.walk(group):
        for found in names:
            if found.startswith(start) and found.endswith(".libvirt-qemu"):
                return Path(directory, found)
    raise LookupError(f"no group {start}*.libvirt-qemu below {group}: are libvirt's memory cgroups on?")


def _base() -> Path:
    return state.cache_dir() / "real"


def _remove(root: Path, group_name: str) -> None:
    """End and remove all of a host; to be called with any part of it missing."""
    for group in cgroup.find(group_name):
        cgroup.kill(group, timeout=200)
        cgroup.remove(group, timeout=200)
    swap.deactivate(root)
    ksm.restore(root / "ksm.json")
    mounts.uncover(root / "covered")
    shutil.rmtree(root, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove the hosts of test processes that are gone."""
    for root in _base().glob("[0-9]*-*"):
        owner = root.name.split("-")[0]
        if not Path(f"/proc/{owner}").exists():
            _remove(root, PREFIX + root.name)


def _prepare(root: Path, host: LibvirtHost) -> None:
    for name in ("run", "etc", "lib/qemu", "cache", "log"):
        (root / name).mkdir(parents=True)
    (root / "etc" / "qemu").mkdir()
    (root / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
    (root / "etc" / "qemu.conf").write_text(_QEMU_CONF)
    (root / "init.sh").write_text(_INIT.format(root=root, group=host.group, name=host.name))
    mounts.cover(root / "covered")
    ksm.remember(root / "ksm.json")
    if host.swap:
        swap.activate(root / "swap", host.swap + swap.SLACK)
    cgroup.create(host.group, host.memory, host.swap)


def _start(root: Path) -> subprocess.Popen[bytes]:
    with open(root / "log" / "start.log", "wb") as log:
        return subprocess.Popen(["unshare", "--uts", "--mount", "--propagation", "private", "bash", root / "init.sh"],
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _connect(host: LibvirtHost, process: subprocess.Popen[bytes], timeout: float = 200.0) -> Any:
    import libvirt

    # Errors are raised as exceptions as well; printed, they would only litter the tests' output.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    deadline = time.monotonic() + timeout
    while True:
        try:
            return libvirt.open(host.uri)
        except libvirt.libvirtError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                logs = "".join(path.read_text(errors="replace")[-1000:] for path in (host.root / "log").glob("*.log"))
                raise RuntimeError(f"libvirtd does not answer at {host.uri}: {error}\n{logs}") from error
            time.sleep(0.1)


@contextmanager
def libvirt_host(*, memory: int, swap: int) -> Iterator[LibvirtHost]:
    """Start a hypervisor with limits in bytes; everything of it is gone afterwards. Needs root.

    Raises OneboxError where the machine lacks what it needs, RuntimeError where libvirtd does not start.
    """
    ending.as_interrupted()
    remove_leftovers()
    name = f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
    root = _base() / name
    root.mkdir(parents=True)
    host = LibvirtHost(name=PREFIX + name, root=root, group=cgroup.own_group() / (PREFIX + name),
                       memory=memory, swap=swap)
    process = None
    try:
        _prepare(root, host)
        process = _start(root)
        host.connection = _connect(host, process)
        yield host
    finally:
        for domain in list(host.domains):
            host.discard(domain)
        if host.connection is not None:
            host.connection.close()
        _remove(root, PREFIX + name)
        if process is not None:
            process.wait(timeout=200)
