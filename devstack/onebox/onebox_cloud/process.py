# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Starting and ending servers.

A server is started through a small shell that first writes its own process id and joins its
memory group: so there is no moment at which it runs unknown, even if this command is killed.
"""
from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroup
from .config import VENV
from .errors import PartFailed
from .state import State

#: Started by this very process, which has to take note of their end.
_children: list[subprocess.Popen] = []
_JOIN = 'echo $$ >"$1" && echo $$ >"$2/cgroup.procs" && shift 2 && exec "$@"'


def environment(state: State) -> dict[str, str]:
    """A small environment of our own: a proxy or locale of the caller must not reach the servers."""
    return {"PATH": f"{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(state / "tmp"), "LANG": "C.UTF-8",
            "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One server of the cloud.

    command is called when the server is started. ready says whether it serves. polite is how many
    seconds it gets to end by itself at `down`; 0 means that it is killed.
    """

    name: str
    command: Callable[[], list[str]]
    ready: Callable[[], bool]
    ports: dict[str, int] = field(default_factory=dict)
    extra_env: dict[str, str] = field(default_factory=dict)
    polite: float = 0
    more_logs: tuple[Path, ...] = ()


@dataclass
class Runner:
    """Runs parts within one cloud's groups: group/servers, and group/setup for short commands."""

    state: State
    group: Path

    @property
    def servers(self) -> Path:
        return self.group / "servers"

    @property
    def setup(self) -> Path:
        return self.group / "setup"

    def log(self, name: str) -> Path:
        return self.state.log / f"{name}.log"

    def pid(self, name: str) -> int | None:
        """The part's process if it lives; a reused number is not taken for it."""
        try:
            pid = int((self.state.pids / name).read_text())
        except (OSError, ValueError):
            return None
        return pid if cgroup.contains(self.group, pid) else None

    def start(self, part: Part) -> None:
        """Start the part unless it lives; does not wait until it is ready."""
        if self.pid(part.name) is not None:
            return
        self._end_orphans(part.name)
        log = self.log(part.name)
        if log.exists():
            log.replace(log.with_suffix(".log.old"))
        wrapped = ["/bin/sh", "-c", _JOIN, "sh", str(self.state.pids / part.name), str(self.servers), *part.command()]
        with open(log, "wb") as output:
            child = subprocess.Popen(wrapped, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                                     start_new_session=True, env=environment(self.state) | part.extra_env)
        _children.append(child)
        deadline = time.monotonic() + 10
        while self.pid(part.name) != child.pid and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    def _end_orphans(self, name: str) -> None:
        """What a killed part's main process left of its session would be in the way of a new one."""
        try:
            leader = int((self.state.pids / name).read_text())
        except (OSError, ValueError):
            return
        while left := cgroup.session_members(self.group, leader):
            _signal(left, signal.SIGKILL)
            time.sleep(0.05)

    def wait(self, part: Part, timeout: float = 180) -> None:
        """Until the part is ready. Raises PartFailed when it ends or takes longer."""
        deadline = time.monotonic() + timeout
        logs = [self.log(part.name), *(path for path in part.more_logs if path.exists())]
        while not part.ready():
            if self.pid(part.name) is None:
                raise PartFailed(part.name, "ended while starting", logs)
            if time.monotonic() > deadline:
                raise PartFailed(part.name, f"was not ready after {timeout:g} s", logs)
            time.sleep(0.1)

    def command(self, name: str, *commands: list[str], extra_env: dict[str, str] | None = None) -> Command:
        """Begin short commands, one after the other, in the background; see Command.finish."""
        return Command(self, name, commands, extra_env or {})

    def stop(self, parts: list[Part]) -> None:
        """Ask them all to end, give each its polite time, kill what is left of their sessions."""
        waiting = []
        for part in parts:
            pid = self.pid(part.name)
            if pid is not None:
                members = cgroup.session_members(self.group, pid)
                _signal(members, signal.SIGTERM if part.polite else signal.SIGKILL)
                waiting.append((part, pid, time.monotonic() + part.polite))
        while waiting:
            time.sleep(0.05)
            still = []
            for part, pid, deadline in waiting:
                members = cgroup.session_members(self.group, pid)
                if members and time.monotonic() > deadline:
                    _signal(members, signal.SIGKILL)
                if members:
                    still.append((part, pid, deadline))
            waiting = still


class Command:
    """Short commands in the background, in their own group, with one log."""

    def __init__(self, runner: Runner, name: str, commands: tuple[list[str], ...], extra_env: dict[str, str]) -> None:
        self.name = name
        self.logs = [runner.log(name)]
        script = 'echo $$ >"$1/cgroup.procs" && shift && eval "$1"'
        lines = " && ".join(" ".join(_quote(word) for word in command) for command in commands)
        with open(self.logs[0], "wb") as output:
            self.child = subprocess.Popen(["/bin/sh", "-c", script, "sh", str(runner.setup), lines],
                                          stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                                          start_new_session=True, env=environment(runner.state) | extra_env)

    def finish(self) -> None:
        """Wait for them. Raises PartFailed with the log's end when one fails."""
        if self.child.wait():
            raise PartFailed(self.name, f"failed with status {self.child.returncode}", self.logs)


def wait_gone(pids: list[int], timeout: float = 5.0) -> None:
    """Until ended processes have left the process table, or at most timeout seconds: that is up to their parent."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        _children[:] = [child for child in _children if child.poll() is None]
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
