# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The records of a cloud: whole or absent, and never of an earlier boot."""
from __future__ import annotations

import pytest
from onebox_cloud import state as state_module
from onebox_cloud.errors import OneboxError
from onebox_cloud.options import Options
from onebox_cloud.state import State, forget_running, only_one, password, record_running, running_record


def test_a_cloud_is_recorded_with_its_options(cache, tmp_path):
    state = State(tmp_path / "run")
    state.create()
    assert state.options() is None
    state.save(Options(hosts=3))
    assert state.options() == Options(hosts=3)


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "letters").touch()
    with pytest.raises(OneboxError, match="is not empty and holds no cloud"):
        State(tmp_path).create()


def test_a_damaged_record_says_what_to_do(tmp_path):
    (tmp_path / "cloud.json").write_text('{"options": ')
    with pytest.raises(OneboxError, match="run 'onebox wipe'"):
        State(tmp_path).options()


def test_the_state_directory_is_for_its_owner_only(tmp_path):
    state = State(tmp_path / "run")
    state.create()
    assert state.dir.stat().st_mode & 0o077 == 0


def test_the_running_cloud_is_known_until_it_is_forgotten(cache, tmp_path):
    state = State(tmp_path / "run")
    assert running_record() is None
    record_running(state)
    assert running_record()["state"] == str(state.dir)
    forget_running(state)
    assert running_record() is None


def test_another_clouds_record_is_not_forgotten(cache, tmp_path):
    record_running(State(tmp_path / "one"))
    forget_running(State(tmp_path / "two"))
    assert running_record()["state"] == str(tmp_path / "one")


def test_a_cloud_of_an_earlier_boot_is_not_running(cache, tmp_path, monkeypatch):
    record_running(State(tmp_path / "run"))
    monkeypatch.setattr(state_module, "boot_id", lambda: "another")
    assert running_record() is None


def test_two_commands_cannot_change_clouds_at_once(cache):
    refused = pytest.raises(OneboxError, match=r"another onebox command is at work \(process \d+\)")
    with only_one(), refused, only_one():
        pytest.fail("both are in")
    with only_one():
        pass


def test_the_group_is_found_from_the_path_alone(tmp_path):
    assert State(tmp_path / "a" / ".." / "run").group_name == State(tmp_path / "run").group_name
    assert State(tmp_path / "run").group_name != State(tmp_path / "other").group_name


def test_the_secret_stays_and_is_for_its_owner_only(cache):
    first = password()
    assert password() == first
    assert len(first) >= 32
    assert (cache / "password").stat().st_mode & 0o077 == 0
