# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The cloud's TCP ports on 127.0.0.1, and who holds one that is taken."""
from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

PORTS = {"keystone": 5000, "nova-api": 8774, "placement": 8778, "glance": 9292, "neutron-stub": 9696,
         "rabbit": 5673, "rabbit-dist": 25673, "epmd": 4370}


def migration_ports(number: int) -> tuple[int, int]:
    """First and last port on which host `number` (from 1) receives a live migration."""
    return 49000 + 100 * number, 49099 + 100 * number


def is_free(port: int) -> bool:
    """Whether a server could listen there now; connections that linger do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether something accepts a connection there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def listening_inodes(port: int, proc: Path = Path("/proc")) -> set[str]:
    """Socket inodes that listen on the port, on any address."""
    found = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                found.add(fields[9])
    return found


def holder(port: int, proc: Path = Path("/proc")) -> tuple[int, str] | None:
    """(pid, command line) of a process that listens on the port; None if it cannot be seen."""
    wanted = {f"socket:[{inode}]" for inode in listening_inodes(port, proc)}
    for process in proc.glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in wanted for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return int(process.name), command.strip()[:120]
        except OSError:
            continue
    return None


def taken(ports: dict[str, int], ours: Callable[[int], bool]) -> list[str]:
    """One sentence for each port that is held by a process that is not ours."""
    found = []
    for name, port in ports.items():
        if not is_free(port):
            who = holder(port)
            if who and ours(who[0]):
                continue
            by = f"by process {who[0]} ({who[1]})" if who else "by a process this user cannot see"
            found.append(f"port {port}, needed for {name}, is taken {by}")
    return found
