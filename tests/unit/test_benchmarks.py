# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The benchmarks' own judgement: what they count as kept, and whose processor time they count."""
from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MB = 1 << 20


def load(name: str, monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    spec = importlib.util.spec_from_file_location(f'benchmark_{name}', ROOT / 'benchmarks' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def a_status(target_mb: int, actual_mb: int | None, passes: int = 1) -> dict:
    return {'tick': {'passes': passes}, 'guests': [{
        'uuid': 'u1', 'name': 'g1', 'target': target_mb * MB, 'actual': actual_mb and actual_mb * MB}]}


@pytest.mark.parametrize('status, log, back, moved', [
    (a_status(300, 350), '', ['g1'], []),
    # In a second pass it was asked for less already, from where it was asked to be: it had been read.
    (a_status(280, 350, passes=2), 'h1: shrink g1 from 300 MB to 280 MB: short', ['g1'], []),
    # Asked anew from its own size: nothing was read, whatever it was asked for.
    (a_status(280, 350, passes=2), 'h1: shrink g1 from 350 MB to 280 MB: short', [], []),
    (a_status(350, 350), 'h1: shrink g1 from 350 MB to 300 MB: short', [], []),
    # Its own size changed while nobody was in charge: told apart, and not taken for read.
    (a_status(320, 320), '', [], ['g1 350 -> 320 MB']),
    (a_status(350, None), '', [], []),
])
def test_a_target_counts_as_read_back_only_when_it_was(status, log, back, moved, monkeypatch):
    crash = load('crash', monkeypatch)
    assert crash.reread(status, {'u1': 300 * MB}, {'g1': 350 * MB}, log) == (back, moved)


def test_a_root_helpers_processor_time_is_counted_while_it_lives(monkeypatch):
    cost = load('cost', monkeypatch)
    assert cost.helpers() == []
    # Left behind by its parent, as the helper is: no descendant of ours.
    busy = 'import time\nwhile time.process_time() < 0.2: pass\ntime.sleep(60)'
    started = subprocess.run(['sh', '-c', '"$@" >/dev/null 2>&1 & echo $!', 'sh', sys.executable, '-c', busy,
                              '--privsep_context', 'ovc_plugin.privileged.context'], capture_output=True, text=True)
    pid = int(started.stdout)
    try:
        deadline = time.monotonic() + 20
        while cost.helper_seconds([pid]) < 0.15 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert cost.helpers() == [pid] and 0.15 <= cost.helper_seconds([pid]) < 2
    finally:
        os.kill(pid, 9)
