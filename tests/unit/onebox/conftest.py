# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Finds the one-machine cloud's package, which is no part of ovc_plugin, and gives it a cache of its own."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "devstack/onebox"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache directory with nothing in it, used instead of the user's."""
    directory = tmp_path / "cache"
    directory.mkdir()
    monkeypatch.setenv("OVC_CACHE", str(directory))
    return directory
