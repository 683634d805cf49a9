# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the command line says without a cloud, and about one."""
from __future__ import annotations

import pytest
from onebox_cloud import cli
from onebox_cloud.errors import PartFailed, last_lines
from onebox_cloud.report import HostStatus, PartStatus, Status, render

MB = 1 << 20


def status(part_state: str) -> Status:
    return Status(
        state_dir="/srv/run", options="--hosts 1",
        parts=[PartStatus(name="nova-api", state=part_state, pid=7 if part_state == "up" else None, memory=90 * MB)],
        hosts=[HostStatus(name="node1", state="up", memory_used=800 * MB, memory=1500 * MB, swap_used=None,
                          swap=1280 * MB, oom_kills=1, guests=["instance-00000001"])])


def test_status_shows_both_numbers_and_what_is_unknown():
    text = render(status("up"))
    assert "800 of 1500" in text and "? of 1280" in text and "1: instance-00000001" in text
    assert text.endswith("all up")


def test_status_names_what_is_not_up():
    text = render(status("down"))
    assert text.splitlines()[-1] == "not up: nova-api; 'onebox up' starts what is missing"
    assert not status("down").all_up


def test_wiping_nothing_is_no_failure(cache, tmp_path, capsys):
    assert cli.main(["wipe", "--state", str(tmp_path / "run")]) == 0
    assert "there is no cloud in" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["down", "status"])
def test_there_is_nothing_to_stop_or_show(command, cache, tmp_path, capsys):
    assert cli.main([command, "--state", str(tmp_path / "run")]) == 1
    assert "there is no cloud in" in capsys.readouterr().err


def test_a_failed_part_shows_the_end_of_its_log(tmp_path):
    log = tmp_path / "glance.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    text = str(PartFailed("glance", "ended while starting", [log]))
    assert text.startswith(f"glance ended while starting. Its log, and the log's last lines:\n  {log}\n")
    assert "line 99" in text and "line 85" in text and "line 84" not in text


def test_a_missing_or_empty_log_is_said_to_be_so(tmp_path):
    (tmp_path / "empty.log").touch()
    assert "the log is empty" in last_lines(tmp_path / "empty.log")
    assert "no log" in last_lines(tmp_path / "absent.log")


def test_help_shows_every_command_and_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("up", "down", "wipe", "status", "demo", "examples:", "OVC_CACHE"):
        assert word in text
