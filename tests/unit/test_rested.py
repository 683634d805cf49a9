# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What it costs to touch memory that has rested."""
from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.unit.test_benchmarks import ROOT, load


def test_a_page_costs_something_and_less_than_a_millisecond(monkeypatch):
    assert 0 < load('rested', monkeypatch).microseconds(0.0, pages=100, times=3) < 1000


def test_data_are_moved_into_huge_pages_and_are_still_right():
    enabled = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
    if not enabled.exists() or '[never]' in enabled.read_text():
        pytest.skip('this kernel gives no huge pages')
    code = ('import rested\nkept = [str(number) for number in range(400000)]\nmoved = rested.use_huge_pages()\n'
            'assert kept == [str(number) for number in range(400000)]\nprint(moved // rested.HUGE)')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT / 'benchmarks', capture_output=True, text=True,
                          check=True)
    assert int(done.stdout) >= 1
