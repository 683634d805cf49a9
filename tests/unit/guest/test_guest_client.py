# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the test guest prints is understood, and what something garbled is not guessed at."""
from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "devstack" / "onebox"))

from guest import direct  # noqa: E402
from guest.client import Beat, Console, GuestError, parse_beats, parse_events  # noqa: E402

MB = 1 << 20
BEAT = ("ovc-beat seq=7 up=12.5 total_kib=1000 avail_kib=800 free_kib=700 cached_kib=90 touched_kib=100 "
        "state=touching stall=0.031 worst=0.420 probe=0.000125 oom=1\n")


def test_a_beat_is_in_bytes_and_seconds() -> None:
    assert parse_beats(BEAT) == [Beat(
        seq=7, up=12.5, total=1000 * 1024, available=800 * 1024, free=700 * 1024, cached=90 * 1024,
        touched=100 * 1024, state="touching", stall=0.031, worst=0.42, probe=0.000125, oom=1)]


def test_a_beat_tells_what_the_guest_has_gone_through() -> None:
    assert parse_beats(BEAT)[0].work == 0, "a guest of before that does not say"
    assert parse_beats(BEAT.replace("oom=1", "oom=1 work_kib=64"))[0].work == 64 * 1024


@pytest.mark.parametrize("garbled", [
    BEAT[:-1],  # still being written
    BEAT[:60] + "[   12.3] a kernel message\n" + BEAT[60:],
    BEAT.replace("seq=7", "seq=x"),
    BEAT.replace("oom=1", ""),
    "x" + BEAT,
])
def test_a_garbled_beat_is_passed_over_and_the_next_is_read(garbled: str) -> None:
    following = BEAT.replace("seq=7", "seq=8")
    assert [beat.seq for beat in parse_beats(garbled + "\n" + following)][-1] == 8
    assert not parse_beats(garbled)


def test_carriage_returns_of_a_terminal_do_not_matter() -> None:
    assert parse_beats("boot\r\n" + BEAT.replace("\n", "\r\n"))[0].oom == 1


def test_an_event_has_words_and_fields() -> None:
    text = 'ovc-touched 400 total_kib=409600 seconds=2.1\nnoise\novc-refused command=3 reason="no disk to read"\n'
    touched, refused = parse_events(text)
    assert (touched.name, touched.words, touched.fields["total_kib"]) == ("touched", ("400",), "409600")
    assert (refused.words, refused.fields) == ((), {"command": "3", "reason": "no disk to read"})


def test_a_console_without_a_file_is_silent_and_says_so_when_waited_for(tmp_path: Path) -> None:
    console = Console(tmp_path / "none")
    assert console.beats() == [] and console.silent(0.0) is None
    with pytest.raises(GuestError, match="no 1 more beats in 0 s"):
        console.wait_beats(1, timeout=0)
    with pytest.raises(GuestError, match="no ovc-touched"):
        console.wait_event("touched", timeout=0)


def test_the_definition_escapes_what_it_is_given(tmp_path: Path) -> None:
    xml = direct.definition("a&b", tmp_path, tmp_path / "log", memory=512 * MB, start="ovc.touch=1,kind=alike <x>")
    domain = ElementTree.fromstring(xml)
    assert domain.findtext("name") == "a&b"
    assert domain.findtext("memory") == str(512 * 1024)
    assert domain.findtext("os/cmdline").endswith("ovc.touch=1,kind=alike <x>")
    balloon = domain.find("devices/memballoon")
    assert balloon is not None and balloon.attrib["autodeflate"] == balloon.attrib["freePageReporting"] == "on"
