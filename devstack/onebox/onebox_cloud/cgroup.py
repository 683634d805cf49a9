# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Memory groups (cgroup v1): one per pretend host, one for the servers.

Everything the cloud starts is in one of them, so that whatever happened, the groups' process
lists are the complete list of what there is to end.
"""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .errors import OneboxError


def memory_mount(mountinfo: str) -> tuple[Path, str] | None:
    """(mount point, the cgroup that is its root) of the v1 memory controller, from mountinfo's text."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _source, options = (right.split() + ["", "", ""])[:3]
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(left.split()[4]), left.split()[3]
    return None


def own_group() -> Path:
    """The directory of this process' memory group. Raises OneboxError where there is no v1 controller."""
    found = memory_mount(Path("/proc/self/mountinfo").read_text())
    if found is None:
        raise OneboxError("this machine has no cgroup v1 memory controller, which gives the hosts their memory "
                          "limit: boot it with systemd.unified_cgroup_hierarchy=0 "
                          "systemd.legacy_systemd_cgroup_controller=1")
    mount, root = found
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            inside = path.removeprefix(root) if root != "/" else path
            return mount / inside.lstrip("/")
    raise OneboxError("/proc/self/cgroup names no memory group")


def find(name: str) -> list[Path]:
    """Every group of that name, wherever a session started it."""
    found = memory_mount(Path("/proc/self/mountinfo").read_text())
    if found is None:
        return []
    hits = []
    for directory, names, _files in os.walk(found[0]):
        if name in names:
            hits.append(Path(directory) / name)
            names.remove(name)
    return hits


def create(path: Path, memory: int | None = None, swap: int | None = None) -> None:
    """Make the group; memory and swap (bytes) limit RAM, and RAM + swap together."""
    path.mkdir(parents=True, exist_ok=True)
    if memory is None or swap is None:
        return
    both = path / "memory.memsw.limit_in_bytes"
    if not both.exists():
        raise OneboxError("the kernel does not count swap per group: boot with swapaccount=1")
    # Raised first, lowered last: the kernel refuses RAM above RAM + swap at any moment.
    both.write_text("-1")
    (path / "memory.limit_in_bytes").write_text(str(memory))
    both.write_text(str(memory + swap))


def pids(path: Path) -> list[int]:
    """Processes in the group and below it."""
    found = []
    for directory, _names, _files in os.walk(path):
        try:
            found += [int(line) for line in Path(directory, "cgroup.procs").read_text().split()]
        except OSError:
            continue
    return found


def session_members(path: Path, leader: int) -> list[int]:
    """Processes in the group or below it whose session is the leader's."""
    found = []
    for pid in pids(path):
        try:
            if os.getsid(pid) == leader:
                found.append(pid)
        except ProcessLookupError:
            continue
    return found


def contains(path: Path, pid: int) -> bool:
    """Whether a living process (no zombie) is in the group or below it."""
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return False
    except OSError:
        return False
    return pid in pids(path)


def read(path: Path, name: str) -> int | None:
    """A one-number file in bytes; None when it cannot be read."""
    try:
        return int((path / name).read_text())
    except (OSError, ValueError):
        return None


def swapped(path: Path) -> int | None:
    """Bytes of the group and those below that are in swap."""
    try:
        lines = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
        return int(lines["total_swap"])
    except (OSError, KeyError, ValueError):
        return None


def kill(path: Path, timeout: float = 60.0) -> None:
    """End every process in the group and wait until they are gone. Raises OneboxError after timeout seconds."""
    deadline = time.monotonic() + timeout
    while left := pids(path):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > deadline:
            raise OneboxError(f"processes {left} in {path} do not end, even killed: "
                              "look at their /proc/PID/stack, then run 'onebox wipe' again")
        time.sleep(0.05)


def remove(path: Path, timeout: float = 10.0) -> None:
    """Remove the emptied group and those below it. Raises OneboxError after timeout seconds."""
    deadline = time.monotonic() + timeout
    while path.exists():
        try:
            for directory, _names, _files in os.walk(path, topdown=False):
                os.rmdir(directory)
        except OSError as error:
            if time.monotonic() > deadline:
                raise OneboxError(f"cannot remove the group {path}: {error}") from error
            time.sleep(0.1)
