# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What is taken from the machine is described rightly, and given back exactly."""
from __future__ import annotations

from pathlib import Path

import pytest
from onebox_cloud import cgroup, ksm, mounts, swap
from onebox_cloud.errors import OneboxError

MOUNTINFO = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 21 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 21 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,memory_recursiveprot
40 21 0:50 / /srv/run/lxcfs rw - fuse.lxcfs lxcfs rw
41 40 0:51 / /srv/run/lxcfs/a\\040b rw - tmpfs tmpfs rw
42 21 0:52 / /srv/running rw - tmpfs tmpfs rw
"""


def test_the_memory_controller_of_version_1_is_found_among_the_others():
    assert cgroup.memory_mount(MOUNTINFO) == (Path("/sys/fs/cgroup/memory"), "/")
    assert cgroup.memory_mount(MOUNTINFO.replace("rw,memory\n", "rw,pids\n")) is None


def test_mounts_below_a_directory_come_deepest_first_and_no_neighbour_does():
    assert mounts.below(Path("/srv/run"), MOUNTINFO) == [Path("/srv/run/lxcfs/a b"), Path("/srv/run/lxcfs")]


def test_only_swap_files_below_the_directory_are_ours():
    text = "Filename\tType\tSize\tUsed\tPriority\n/srv/run/swap file 1 0 100\n/swapfile file 1 0 -2\n"
    assert swap.active(Path("/srv/run"), text) == [Path("/srv/run/swap")]


def test_too_little_space_for_swap_is_said_before_it_is_made(tmp_path):
    with pytest.raises(OneboxError, match=r"MB free, but the cloud needs .* smaller --host-swap"):
        swap.check_space(tmp_path / "not" / "yet", 1 << 60, 0)


def test_made_directories_are_removed_and_found_ones_stay(tmp_path, monkeypatch):
    found, made = tmp_path / "found", tmp_path / "made"
    found.mkdir()
    monkeypatch.setattr(mounts, "COVERED", (str(found), str(made)))
    mounts.cover(tmp_path / "record")
    mounts.cover(tmp_path / "record")
    (made / "below").mkdir()
    mounts.uncover(tmp_path / "record")
    assert found.is_dir() and not made.exists() and not (tmp_path / "record").exists()
    mounts.uncover(tmp_path / "record")


def test_a_made_directory_that_another_uses_stays(tmp_path, monkeypatch):
    made = tmp_path / "made"
    monkeypatch.setattr(mounts, "COVERED", (str(made),))
    mounts.cover(tmp_path / "record")
    (made / "file").touch()
    mounts.uncover(tmp_path / "record")
    assert (made / "file").exists()


@pytest.fixture
def kernel(tmp_path):
    """KSM's directory as a kernel shows it."""
    root = tmp_path / "ksm"
    root.mkdir()
    contents = {"run": "0", "pages_to_scan": "100", "advisor_mode": "[none] scan-time", "pages_shared": "0"}
    for name, text in contents.items():
        (root / name).write_text(text + "\n")
    return root


def test_settings_come_back_as_they_were(kernel, tmp_path):
    record = tmp_path / "ksm.json"
    ksm.remember(record, kernel)
    (kernel / "run").write_text("1")
    (kernel / "pages_to_scan").write_text("5000")
    (kernel / "advisor_mode").write_text("none [scan-time]")
    assert ksm.restore(record, kernel) == []
    assert ksm.read(kernel) == {"run": "0", "pages_to_scan": "100", "advisor_mode": "none"}
    assert not record.exists()


def test_settings_are_remembered_once_and_not_over_our_own(kernel, tmp_path):
    record = tmp_path / "ksm.json"
    ksm.remember(record, kernel)
    (kernel / "run").write_text("1")
    ksm.remember(record, kernel)
    assert ksm.saved(record)["run"] == "0"


def test_settings_of_an_earlier_boot_are_not_restored(kernel, tmp_path, monkeypatch):
    record = tmp_path / "ksm.json"
    ksm.remember(record, kernel)
    monkeypatch.setattr(ksm, "boot_id", lambda: "another")
    (kernel / "run").write_text("1")
    assert ksm.restore(record, kernel) == []
    assert ksm.read(kernel)["run"] == "1"


def test_what_cannot_be_restored_is_said_and_tried_again(kernel, tmp_path):
    record = tmp_path / "ksm.json"
    ksm.remember(record, kernel)
    (kernel / "pages_to_scan").unlink()
    (kernel / "pages_to_scan").mkdir()
    (failure,) = ksm.restore(record, kernel)
    assert "pages_to_scan cannot be set back to 100" in failure
    assert record.exists()


def test_a_kernel_without_merging_has_nothing_to_restore(tmp_path):
    record = tmp_path / "ksm.json"
    ksm.remember(record, tmp_path / "absent")
    assert ksm.restore(record, tmp_path / "absent") == []


def test_merged_pages_are_separated_before_merging_is_off_again(kernel, tmp_path, monkeypatch):
    record = tmp_path / "ksm.json"
    ksm.remember(record, kernel)
    (kernel / "run").write_text("1")
    (kernel / "pages_shared").write_text("7\n")
    written = []
    original = Path.write_text

    def noting(path, text, *rest):
        if path.parent == kernel:
            written.append((path.name, text))
        return original(path, text, *rest)

    monkeypatch.setattr(Path, "write_text", noting)
    ksm.restore(record, kernel)
    assert written == [("run", "2"), ("run", "0")]
