# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""benchmarks/faults: which boundaries it kills at, and that its table shows what was lost."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'benchmarks'), *sys.path])
    import importlib.util
    spec = importlib.util.spec_from_file_location('benchmark_faults', ROOT / 'benchmarks' / 'faults.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_boundary_is_chosen_before_a_second_of_any(faults):
    names = ['before balloon', 'after balloon'] * 10 + ['before write of the state', 'after write of the state']
    chosen = faults.boundaries.choose(names, 6)
    assert {names[number] for number in chosen} == set(names) and 4 <= len(chosen) <= 6
    assert faults.boundaries.choose(names, 100) == list(range(len(names)))
    assert faults.boundaries.choose([], 5) == []


def test_a_process_ends_at_the_boundary_that_it_was_told(faults, tmp_path):
    code = (f'import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})\n'
            'from pathlib import Path\nfrom faultlib.boundaries import Countdown\n'
            'class Host:\n    def ask(self):\n        print("asked", flush=True)\nhost = Host()\n'
            f'Countdown(1, Path({str(tmp_path / "names")!r})).wrap(host, "ask", "asking")\nhost.ask()\nprint("on")\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -9 and done.stdout == 'asked\n'
    assert (tmp_path / 'names').read_text().splitlines() == ['before asking', 'after asking']


def test_the_table_says_nothing_was_lost_or_what(faults):
    rows = [faults.Row(fault='a', kind='real', happened='it went on', lost=()),
            faults.Row(fault='b', kind='injected', happened='it did not', lost=('one died', 'a limit'))]
    lines = faults.table(rows).splitlines()
    assert lines[1].endswith('nothing') and 'one died; a limit' in lines[2]
