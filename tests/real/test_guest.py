# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The test guest does what it is told, and tells the truth about it."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from guest import client
from guest.client import Console, GuestError, do
from libvirt_host import LibvirtHost
from patience import beat_when, until

MB = 1 << 20


@pytest.fixture(scope="module")
def guest(host: LibvirtHost, guest_images: Path) -> tuple[Any, Console]:
    """A guest of 512 MB that was told on its command line to touch 100 MB."""
    domain, console = host.boot("told", guest_images, memory=512 * MB, start="ovc.beat=0.5 ovc.touch=100,rate=50")
    console.wait_beats(1)
    return domain, console


@pytest.fixture
def idle(guest: tuple[Any, Console]) -> Iterator[tuple[Any, Console]]:
    """The same, holding nothing and doing nothing."""
    domain, console = guest
    client.wait(domain, client.tell(domain, "idle"))
    client.wait(domain, client.tell(domain, "free"))
    yield guest


def test_it_does_what_the_kernel_command_line_says(guest: tuple[Any, Console]) -> None:
    _domain, console = guest
    touched = console.wait_event("touched")
    assert touched.words == ("100",)
    assert float(touched.fields["seconds"]) >= 1.9, "100 MB at 50 MB/s take two seconds"
    assert console.wait_beats(1)[-1].touched == 100 * MB


def test_beats_follow_each_other_without_a_gap(guest: tuple[Any, Console]) -> None:
    beats = guest[1].wait_beats(4)
    assert [beat.seq for beat in beats] == list(range(1, len(beats) + 1))
    # Each says by how much it was late.
    assert all(0.4 < later.up - earlier.up < later.stall + 5 for earlier, later in pairwise(beats))
    assert beats[-1].worst == max(beat.stall for beat in beats)


def test_touched_memory_is_taken_from_the_guest_and_given_back(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    before = console.wait_beats(2)[-1]
    assert do(domain, "touch 200") == client.DONE
    during = beat_when(console, lambda beat: before.available - beat.available == pytest.approx(200 * MB, rel=0.1))
    assert do(domain, "free 150") == client.DONE
    beat_when(console, lambda beat: beat.touched == 50 * MB
              and beat.available - during.available == pytest.approx(150 * MB, rel=0.1))


def test_four_fifths_of_the_guest_can_be_touched_and_hold(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    assert do(domain, "touch 400") == client.DONE
    assert do(domain, "verify") == client.DONE
    assert console.events("verify")[-1].words == ("ok",)
    assert not console.events("oom")


def test_rewriting_goes_on_until_the_next_command_and_verifies(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    do(domain, "touch 20 kind=alike")
    number = client.tell(domain, "rewrite 10 rate=5")
    beat_when(console, lambda beat: beat.state == "rewriting")
    assert client.outcome(domain, number) is None
    assert do(domain, "verify") == client.DONE
    assert client.outcome(domain, number) == client.DONE


def test_reading_the_disk_fills_the_page_cache(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    before = console.wait_beats(1)[-1]
    assert do(domain, "cache 64") == client.DONE
    beat_when(console, lambda beat: beat.cached - before.cached == pytest.approx(64 * MB, rel=0.1))


def test_storing_on_a_disk_that_cannot_be_written_is_refused(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    assert do(domain, "store 8") == client.FAILED
    assert "cannot be written" in console.events("refused")[-1].fields["reason"]


def test_idle_ends_what_runs_and_what_waits(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    running, waiting = client.tell(domain, "touch 300 rate=1"), client.tell(domain, "verify")
    do(domain, "idle")
    assert client.wait(domain, running) == client.DROPPED
    assert client.wait(domain, waiting) == client.DROPPED
    beat_when(console, lambda beat: beat.state == "idle")


@pytest.mark.parametrize("command, reason", [
    ("dance", "unknown command 'dance'"), ("", "unknown command ''"), ("touch", "touch needs a number"),
    ("touch -5", "does not take '-5'"), ("touch nan", "does not take 'nan'"), ("touch 9e6", "does not take '9e6'"),
    ("touch 10 20", "does not take '20'"), ("touch 10 kind=odd", "does not take 'kind=odd'"),
    ("verify 3", "does not take '3'"), ("balloon off", "unknown command 'balloon'"), ('touch "', "does not take '''"),
    ("touch \\", "does not take '''"), ("touch \u00e9", "does not take"), ("touch " + "1" * 300, "254 letters"),
])
def test_a_command_that_makes_no_sense_is_refused(guest: tuple[Any, Console], command: str, reason: str) -> None:
    with pytest.raises(GuestError, match=reason):
        client.tell(guest[0], command)
    assert client.ask_agent(guest[0], "guest-ping") == {}


def test_agent_refuses_what_it_does_not_know(guest: tuple[Any, Console]) -> None:
    with pytest.raises(GuestError, match="does not know"):
        client.ask_agent(guest[0], "guest-get-users")
    with pytest.raises(GuestError, match="only path"):
        client.ask_agent(guest[0], "guest-exec", path="/bin/sh", arg=[])
    names = [entry["name"] for entry in client.ask_agent(guest[0], "guest-info")["supported_commands"]]
    assert "guest-exec" in names and "guest-ping" in names


def test_the_balloon_takes_memory_and_gives_it_back(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    before = console.wait_beats(1)[-1].available
    assert "usable" in domain.memoryStats()
    domain.setMemory(256 * 1024)
    until(lambda: domain.memoryStats()["actual"] == 256 * 1024)
    # Not the total: with autodeflate on, the guest's driver leaves that as it was.
    beat_when(console, lambda beat: before - beat.available == pytest.approx(256 * MB, rel=0.05))
    domain.setMemory(512 * 1024)
    until(lambda: domain.memoryStats()["actual"] == 512 * 1024)
    beat_when(console, lambda beat: beat.available == pytest.approx(before, rel=0.02))


def test_out_of_memory_in_the_guest_is_told_and_survived(idle: tuple[Any, Console]) -> None:
    domain, console = idle
    number = client.tell(domain, "touch 700")
    console.wait_event("oom")
    assert client.wait(domain, number) == client.KILLED
    beat_when(console, lambda beat: (beat.touched, beat.state, beat.oom) == (0, "idle", 1))
    assert do(domain, "touch 50") == client.DONE


def test_without_its_balloon_driver_a_guest_gives_no_statistics(host: LibvirtHost, guest_images: Path) -> None:
    domain, console = host.boot("deaf", guest_images, memory=192 * MB, start="ovc.balloon=off")
    try:
        before = console.wait_beats(4)[-1]
        assert console.events("start")[0].fields["balloon"] == "off"
        assert "usable" not in domain.memoryStats()
        domain.setMemory(128 * 1024)
        assert console.wait_beats(3)[-1].available == pytest.approx(before.available, rel=0.02)
        assert domain.memoryStats()["actual"] == 192 * 1024
    finally:
        host.discard(domain)


def test_each_guest_has_a_memory_group_below_the_hosts(host: LibvirtHost, guest: tuple[Any, Console]) -> None:
    group = host.guest_group(guest[0])
    assert group.is_relative_to(host.group)
    assert int((group / "memory.usage_in_bytes").read_text()) > 50 * MB


def test_a_guest_that_its_host_did_not_let_run_says_for_how_long(host: LibvirtHost, idle: tuple[Any, Console]) -> None:
    domain, console = idle
    seen, began = console.wait_beats(1), time.monotonic()
    os.kill(host.pid(domain), signal.SIGSTOP)
    time.sleep(3)
    os.kill(host.pid(domain), signal.SIGCONT)
    late = until(lambda: [beat for beat in console.beats()[len(seen):] if beat.stall > 2])[0]
    # Not longer than all that it was waited for, and than a beat that was late already when it was halted.
    assert late.stall < time.monotonic() - began + 1 + seen[-1].stall
    assert late.worst >= late.stall


def test_a_guest_told_to_shut_down_does(host: LibvirtHost, guest_images: Path) -> None:
    domain, console = host.boot("brief", guest_images, memory=128 * MB)
    try:
        console.wait_beats(2)
        domain.shutdown()
        until(lambda: not domain.isActive())
    finally:
        host.discard(domain)
