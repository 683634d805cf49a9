# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Reading what a test guest prints, and telling it what to do.

The guest prints one line per event on its serial console, `ovc-NAME words… key=value…`; the
heartbeat is the event `ovc-beat`. Commands go through the guest agent channel, with libvirt as
the client. README.rst beside this file lists events and commands.
"""
from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

KIB = 1024
#: A command's end, as the guest's agent reports it (the "exitcode" of guest-exec-status).
DONE, FAILED, DROPPED, KILLED = 0, 1, 2, 137
#: Seconds waited by default: for an answer of the agent, for a beat or an event, for a command to end.
ANSWER, WORD, END = 10, 60.0, 120.0

_LINE = re.compile(r"^ovc-([a-z]+)((?: .*)?)$", re.MULTILINE)
_FIELD = re.compile(r'([a-z_]+)=("[^"]*"|\S+)')


class GuestError(Exception):
    """The guest, or libvirt on the way to it, refused; the text says which command and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the guest: its name without "ovc-", the words without "=", the fields."""

    name: str
    words: tuple[str, ...]
    fields: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat: the guest's own view. Bytes and seconds.

    up       since the guest's kernel started
    cached   page cache, buffers included
    touched  what the workload has written and holds
    state    what the workload does: idle, touching, caching, storing, rewriting, reading, freeing, verifying, delaying
    stall    how much later than planned this beat came; worst: the longest stall so far
    probe    how long reading one touched page took
    oom      processes that the guest's own kernel has killed for want of memory
    work     what its jobs have gone through since the start
    """

    seq: int
    up: float
    total: int
    available: int
    free: int
    cached: int
    touched: int
    state: str
    stall: float
    worst: float
    probe: float
    oom: int
    work: int = 0


def parse_events(text: str) -> list[Event]:
    """Every complete line of the guest's in a console's text; other lines are passed over."""
    events = []
    for name, rest in _LINE.findall(text.replace("\r", "")[: text.rfind("\n") + 1]):
        fields = {key: value.strip('"') for key, value in _FIELD.findall(rest)}
        words = tuple(_FIELD.sub("", rest).split())
        events.append(Event(name=name, words=words, fields=fields))
    return events


def _beat(fields: dict[str, str]) -> Beat:
    return Beat(
        seq=int(fields["seq"]), up=float(fields["up"]),
        total=int(fields["total_kib"]) * KIB, available=int(fields["avail_kib"]) * KIB,
        free=int(fields["free_kib"]) * KIB, cached=int(fields["cached_kib"]) * KIB,
        touched=int(fields["touched_kib"]) * KIB, state=fields["state"],
        stall=float(fields["stall"]), worst=float(fields["worst"]), probe=float(fields["probe"]),
        oom=int(fields["oom"]), work=int(fields.get("work_kib", 0)) * KIB,
    )


def parse_beats(text: str) -> list[Beat]:
    """The heartbeats in a console's text, oldest first; a line that something cut in two is passed over."""
    beats = []
    for event in parse_events(text):
        if event.name == "beat":
            try:
                beats.append(_beat(event.fields))
            except (KeyError, ValueError):
                continue
    return beats


@dataclass(frozen=True, slots=True)
class Console:
    """The file a guest's serial console is written to."""

    path: Path

    def text(self) -> str:
        """All of it; empty while there is no file."""
        try:
            return self.path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def beats(self) -> list[Beat]:
        return parse_beats(self.text())

    def events(self, name: str) -> list[Event]:
        return [event for event in parse_events(self.text()) if event.name == name]

    def silent(self, now: float) -> float | None:
        """Seconds from the last output to now (time.time()); None without a file."""
        try:
            return max(0.0, now - self.path.stat().st_mtime)
        except FileNotFoundError:
            return None

    def wait_beats(self, count: int = 1, timeout: float | None = None) -> list[Beat]:
        """Wait for count more beats than there are now; all beats. Raises GuestError after timeout seconds."""
        timeout = WORD if timeout is None else timeout
        wanted = len(self.beats()) + count
        for beats in _poll(self.beats, timeout):
            if len(beats) >= wanted:
                return beats
        raise GuestError(f"no {count} more beats in {timeout:g} s in {self.path}, which ends:\n{self.text()[-500:]}")

    def wait_event(self, name: str, count: int = 1, timeout: float | None = None) -> Event:
        """The count-th event of that name, waited for. Raises GuestError after timeout seconds."""
        timeout = WORD if timeout is None else timeout
        for events in _poll(lambda: self.events(name), timeout):
            if len(events) >= count:
                return events[count - 1]
        raise GuestError(f"no ovc-{name} within {timeout:g} s in {self.path}; its end:\n{self.text()[-500:]}")


def _poll(look: Callable[[], T], timeout: float) -> Iterator[T]:
    """What look() returns, every 0.2 s until timeout seconds have passed, at least once."""
    deadline = time.monotonic() + timeout
    while True:
        yield look()
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)


def ask_agent(domain: Any, execute: str, timeout: int | None = None, **arguments: Any) -> Any:
    """One guest agent request through libvirt; what it returns. Raises GuestError.

    domain is a libvirt.virDomain whose connection has rights to manage it; timeout in seconds.
    """
    import libvirt
    import libvirt_qemu

    timeout = ANSWER if timeout is None else timeout
    request = json.dumps({"execute": execute, "arguments": arguments})
    try:
        return json.loads(libvirt_qemu.qemuAgentCommand(domain, request, timeout, 0))["return"]
    except libvirt.libvirtError as error:
        raise GuestError(f"{domain.name()}: {execute} {arguments}: {error}") from error


def tell(domain: Any, command: str, timeout: int | None = None) -> int:
    """Give the guest a command such as "touch 100 rate=20"; its number, for outcome() and wait().

    Raises GuestError with the guest's own reason where it refuses, or where it does not answer
    within timeout seconds.
    """
    answer = ask_agent(domain, "guest-exec", timeout, path="ovc-workload", arg=command.split())
    return int(answer["pid"])


def outcome(domain: Any, number: int) -> int | None:
    """DONE, FAILED, DROPPED or KILLED; None while the command waits or runs. Raises GuestError."""
    answer = ask_agent(domain, "guest-exec-status", pid=number)
    return int(answer["exitcode"]) if answer["exited"] else None


def wait(domain: Any, number: int, timeout: float | None = None) -> int:
    """Wait for a command's outcome. Raises GuestError after timeout seconds."""
    timeout = END if timeout is None else timeout
    for code in _poll(lambda: outcome(domain, number), timeout):
        if code is not None:
            return code
    raise GuestError(f"{domain.name()}: command {number} has not ended within {timeout:g} s")


def do(domain: Any, command: str, timeout: float | None = None) -> int:
    """tell() and wait(): the command's outcome. Not for rewrite and read, which have no end of their own."""
    return wait(domain, tell(domain, command), timeout)
