# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The benchmarks refuse numbers with which they would measure nothing, and say which they take."""
from __future__ import annotations

import pytest

from tests.unit.test_benchmarks import ROOT, load


@pytest.mark.parametrize('name, words, says', [
    ('promises', '--worlds 0', '0 is not at least 1'), ('promises', '--guests 0', '0 is not at least 1'),
    ('worlds', '--ticks 0', '0 is not at least 1'), ('idle_tax', '--tax 1', '1 is not at least 0 and below 1'),
    ('decide', '--guests 0', '0 is not at least 1'), ('tick', '--passes x', "invalid int value: 'x'"),
    ('paths', '--paths shelve nowhere', 'nowhere is in none of: '), ('faults', '--kills 0', '0 is not at least 1'),
    ('pack', '--seeds 0', '0 is not at least 1'), ('predict', '--seeds 2-0', 'neither a seed like 3 nor a range'),
    ('predict', '--only nobody', 'there are borg_default, calibrated'), ('predict', '--target nan', 'not at least 0')])
def test_a_number_that_measures_nothing_is_refused_with_those_that_do(name, words, says, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    with pytest.raises(SystemExit, match='2'):
        load(name, monkeypatch).parser().parse_args(words.split())
    assert says in capsys.readouterr().err


def test_numbers_from_the_least_on_are_taken(monkeypatch):
    assert load('promises', monkeypatch).parser().parse_args(['--worlds', '1', '--seed', '-1']).seed == -1
    options = load('predict', monkeypatch).parser().parse_args(['--seeds', '0-2', '--only', 'largest'])
    assert (list(options.seeds), options.only) == ([0, 1, 2], ['largest'])
    assert list(load('predict', monkeypatch).parser().parse_args([]).seeds) == [0, 1, 2]
