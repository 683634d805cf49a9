# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Tests with a real libvirt and real guests. They need root and a few minutes; `-m 'not real'` leaves them out."""
from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "devstack" / "onebox"))
sys.path.insert(0, str(HERE))

import patience  # noqa: E402
from guest import client, direct  # noqa: E402
from libvirt_host import LibvirtHost, libvirt_host  # noqa: E402

MB = 1 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session", autouse=True)
def patient() -> None:
    """Guests have the time that they need on a busy machine."""
    client.ANSWER, client.WORD, client.END = 120, patience.SECONDS, patience.SECONDS


@pytest.fixture(scope="session")
def guest_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the test guest's kernel, initrd and disk."""
    return direct.build(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    """One hypervisor of 1,200 MB RAM and 800 MB swap, for the tests of one file."""
    if os.geteuid() != 0 or shutil.which("libvirtd") is None:
        pytest.skip("needs root and libvirtd (see tools/apt-packages.txt)")
    with libvirt_host(memory=1200 * MB, swap=800 * MB) as one:
        yield one
