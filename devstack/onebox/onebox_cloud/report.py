# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What `onebox status` prints: every part and host."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from . import cgroup, hosts, parts
from .options import MB, Options
from .process import Runner


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """state is up (serves), starting (lives, does not serve), or down. memory is in bytes."""

    name: str
    state: str
    pid: int | None
    memory: int | None


@dataclass(frozen=True, kw_only=True)
class HostStatus:
    """Bytes; None for what cannot be read. guests are libvirt's names of the running ones."""

    name: str
    state: str
    memory_used: int | None
    memory: int
    swap_used: int | None
    swap: int
    oom_kills: int | None
    guests: list[str]


@dataclass(frozen=True, kw_only=True)
class Status:
    state_dir: str
    options: str
    parts: list[PartStatus]
    hosts: list[HostStatus]

    @property
    def all_up(self) -> bool:
        return all(one.state == "up" for one in [*self.parts, *self.hosts])

    def to_json(self) -> dict:
        return asdict(self) | {"all_up": self.all_up}


def resident(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Resident bytes of a process, pages shared with others counted in part."""
    try:
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def collect(runner: Runner, options: Options) -> Status:
    part_list = []
    for part in parts.everything(runner, options):
        pid = runner.pid(part.name)
        state = "down" if pid is None else "up" if part.ready() else "starting"
        members = [] if pid is None else cgroup.session_members(runner.group, pid)
        memory = sum(resident(one) or 0 for one in members) if members else None
        part_list.append(PartStatus(name=part.name, state=state, pid=pid, memory=memory))
    by_name = {one.name: one.state for one in part_list}
    host_list = []
    for host in hosts.all_hosts(runner, options):
        both = {by_name[hosts.part_name(host.name)], by_name[f"compute-{host.name}"]}
        state = "up" if both == {"up"} else "down" if "down" in both else "starting"
        host_list.append(HostStatus(name=host.name, state=state, memory_used=host.memory_used(), memory=host.memory,
                                    swap_used=host.swap_used(), swap=host.swap, oom_kills=host.oom_kills(),
                                    guests=sorted(host.guests())))
    return Status(state_dir=str(runner.state.dir), options=options.describe(), parts=part_list, hosts=host_list)


def _mb(value: int | None) -> str:
    return "?" if value is None else f"{value // MB}"


def render(status: Status) -> str:
    lines = [f"cloud in {status.state_dir}: {status.options}", "",
             f"{'part':<18} {'state':<9} {'pid':>7} {'MB':>6}"]
    for part in status.parts:
        lines.append(f"{part.name:<18} {part.state:<9} {part.pid or '-':>7} {_mb(part.memory) if part.pid else '-':>6}")
    lines += ["", f"{'host':<8} {'state':<9} {'memory MB':>14} {'swap MB':>14} {'OOM kills':>9}  guests"]
    for host in status.hosts:
        memory = f"{_mb(host.memory_used)} of {_mb(host.memory)}"
        swap = f"{_mb(host.swap_used)} of {_mb(host.swap)}"
        kills = "?" if host.oom_kills is None else str(host.oom_kills)
        guests = f"{len(host.guests)}" + (f": {' '.join(host.guests)}" if host.guests else "")
        lines.append(f"{host.name:<8} {host.state:<9} {memory:>14} {swap:>14} {kills:>9}  {guests}")
    down = [one.name for one in [*status.parts] if one.state != "up"]
    lines += ["", "all up" if status.all_up else f"not up: {', '.join(down)}; 'onebox up' starts what is missing"]
    return "\n".join(lines)
