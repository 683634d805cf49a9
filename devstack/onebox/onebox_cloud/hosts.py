# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The pretend hypervisors: a memory group, a view of the machine, a libvirtd; and their guests."""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import cgroup, config
from .errors import OneboxError
from .options import MB, Options
from .process import Part, Runner
from .state import cache_dir

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Host:
    """One hypervisor as seen from outside: nova's name of it, libvirt's address, its memory group."""

    name: str
    uri: str
    cgroup: Path
    memory: int
    swap: int

    def guests(self) -> dict[str, Path]:
        """The memory group of each guest whose QEMU runs, by libvirt's name of it (instance-0000000a)."""
        found = {}
        for path in self.cgroup.glob("machine/qemu-*.libvirt-qemu"):
            if cgroup.pids(path):
                found[path.name.removesuffix(".libvirt-qemu").split("-", 2)[2]] = path
        return found

    def memory_used(self) -> int | None:
        return cgroup.read(self.cgroup, "memory.usage_in_bytes")

    def swap_used(self) -> int | None:
        return cgroup.swapped(self.cgroup)

    def oom_kills(self) -> int | None:
        """Processes of this host that the kernel killed for want of memory, since the host was made."""
        try:
            lines = dict(line.split() for line in (self.cgroup / "memory.oom_control").read_text().splitlines())
            return int(lines["oom_kill"])
        except (OSError, KeyError, ValueError):
            return None


def part_name(host: str) -> str:
    return f"libvirtd-{host}"


def group(runner: Runner, name: str) -> Path:
    return runner.group / name


def all_hosts(runner: Runner, options: Options) -> list[Host]:
    return [Host(name=name, uri=f"qemu:///system?socket={runner.state.host(name) / 'run/libvirt-sock'}",
                 cgroup=group(runner, name), memory=options.host_memory_mb * MB, swap=options.host_swap_mb * MB)
            for name in options.names]


def build_shim(runner: Runner) -> Path:
    """Compile sharedfs.c, see there. Raises OneboxError."""
    target = runner.state / "sharedfs.so"
    if not target.exists():
        temporary = target.with_suffix(".so.new")
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(temporary), str(HERE / "sharedfs.c"), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OneboxError(f"compiling sharedfs.c failed: {done.stderr.strip()}")
        temporary.replace(target)
    return target


def known_capabilities() -> Path:
    """What libvirt learned of this QEMU, kept in the cache: asking it takes each new host 8 s.

    libvirt itself throws away what does not fit its version, the QEMU binary or the kernel.
    """
    return cache_dir() / "qemu-capabilities"


def seed_capabilities(runner: Runner, name: str) -> None:
    target = runner.state.host(name) / "cache/qemu/capabilities"
    if known_capabilities().is_dir() and not target.exists():
        shutil.copytree(known_capabilities(), target)


def keep_capabilities(runner: Runner, name: str) -> None:
    source = runner.state.host(name) / "cache/qemu/capabilities"
    temporary = known_capabilities().with_suffix(".new")
    shutil.rmtree(temporary, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, temporary)
        shutil.rmtree(known_capabilities(), ignore_errors=True)
        temporary.rename(known_capabilities())


def prepare(runner: Runner, options: Options) -> None:
    """Groups with their limits, configuration files, the shim. Raises OneboxError."""
    for host in all_hosts(runner, options):
        if not host.cgroup.exists():
            cgroup.create(host.cgroup, host.memory, host.swap)
        config.write_host(runner.state, options, host.name)
        seed_capabilities(runner, host.name)
    build_shim(runner)


def libvirtd(runner: Runner, name: str) -> Part:
    directory = runner.state.host(name)

    def command() -> list[str]:
        return ["/usr/bin/unshare", "--uts", "--mount", "--propagation", "private", str(HERE / "host-init"), name,
                str(directory), str(group(runner, name)), str(runner.state / "lxcfs"),
                str(runner.state / "sharedfs.so"), str(runner.state / "instances")]

    def ready() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(os.fsencode(directory / "run/libvirt-sock"))
            except OSError:
                return False
        return True

    return Part(name=part_name(name), command=command, ready=ready, polite=5,
                more_logs=(directory / "log/libvirtd.log",))
