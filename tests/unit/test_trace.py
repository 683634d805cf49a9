# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What benchmarks/predict makes of a trace, and says of what is none."""
from __future__ import annotations

import types

import numpy as np
import pytest

from tests.unit.test_benchmarks import load

HEAD = 'Timestamp [ms];\tCPU cores;\tMemory capacity provisioned [KB];\tMemory usage [KB]'
MIB, BEGAN = 1 << 20, 1375308176


@pytest.fixture
def traces(monkeypatch) -> types.ModuleType:
    return load('predict_trace', monkeypatch)


def write(path, *rows: tuple[float, int, int], head: str = HEAD) -> None:
    """Rows of (seconds from the beginning, MiB provisioned, MiB used)."""
    lines = [f'{BEGAN + at};\t2;\t{limit * 1024}.0;\t{used * 1024}.0' for at, limit, used in rows]
    path.write_text('\n'.join([head, *lines]) + '\n')


def test_each_file_is_a_guest_and_each_five_minutes_a_step(traces, tmp_path):
    write(tmp_path / '10.csv', (600, 2048, 30))
    write(tmp_path / '2.csv', (0, 1024, 10), (300, 1024, 20))
    used, limit = traces.read(tmp_path)
    assert (used // MIB).tolist() == [[10, 20, -1], [-1, -1, 30]]
    assert (limit // MIB).tolist() == [[1024, 1024, 0], [0, 0, 2048]]


def test_a_sample_told_twice_counts_by_the_larger_and_a_late_one_leaves_no_hole(traces, tmp_path):
    write(tmp_path / '1.csv', (0, 1024, 10), (0, 1024, 15), (299, 1024, 12), (601, 1024, 20))
    assert (traces.read(tmp_path)[0] // MIB).tolist() == [[15, 15, 20]]


def test_a_guest_that_was_off_for_a_while_is_off(traces, tmp_path):
    write(tmp_path / '1.csv', (0, 1024, 10), (900, 1024, 20))
    assert (traces.read(tmp_path)[0] // MIB).tolist() == [[10, -1, -1, 20]]


def test_milliseconds_are_told_from_seconds(traces, tmp_path):
    (tmp_path / '1.csv').write_text(f'{HEAD}\n' + ''.join(
        f'{(BEGAN + at) * 1000};\t2;\t1048576;\t1024\n' for at in (0, 300)))
    assert traces.read(tmp_path)[0].tolist() == [[MIB, MIB]]


@pytest.mark.parametrize('text, says', [
    ('', 'has no column "Timestamp [ms]"'), ('a;b\n1;2\n', 'has no column "Timestamp [ms]"'),
    (f'{HEAD}\n1375308176;\t2;\tmuch;\t1\n', 'line 2 is not a sample'), (f'{HEAD}\n', 'no file has a sample')])
def test_what_is_no_trace_is_named_with_the_form_it_should_have(traces, tmp_path, text, says):
    (tmp_path / '1.csv').write_text(text)
    with pytest.raises(traces.TraceError, match='each file is one guest') as raised:
        traces.read(tmp_path)
    assert says in str(raised.value) and str(tmp_path) in str(raised.value)


def test_an_empty_directory_and_a_file_of_another_kind_are_refused(traces, tmp_path):
    with pytest.raises(traces.TraceError, match=r'has no \.csv file'):
        traces.read(tmp_path)
    (tmp_path / 'one.npz').write_text('no')
    with pytest.raises(traces.TraceError, match=r'one\.npz cannot be read .*give an \.npz'):
        traces.read(tmp_path / 'one.npz')
    with pytest.raises(traces.TraceError, match='nowhere cannot be read'):
        traces.read(tmp_path / 'nowhere')


def test_an_npz_is_read_as_before(traces, tmp_path):
    np.savez(tmp_path / 'one.npz', used_mib=np.array([[1, traces.OFF]], np.uint32),
             prov_mib=np.array([[9, 9]], np.uint32), step_s=300)
    used, limit = traces.read(tmp_path / 'one.npz')
    assert used.tolist() == [[MIB, -1]] and limit.tolist() == [[9 * MIB, 0]]
    np.savez(tmp_path / 'two.npz', used_mib=np.zeros((1, 2)), prov_mib=np.zeros((1, 2)), step_s=60)
    with pytest.raises(traces.TraceError, match=r'two\.npz: a step is 60 s'):
        traces.read(tmp_path / 'two.npz')


def packed(path, used, limit=None, **others):
    np.savez(path / 't.npz', used_mib=used, prov_mib=np.full(np.shape(used), 100) if limit is None else limit, **others)
    return path / 't.npz'


def test_what_is_nan_is_no_sample(traces, tmp_path):
    used, limit = traces.read(packed(tmp_path, np.array([[1.5, np.nan, 7], [2, 3, 0xFFFFFFFF]]),
                                     np.array([[10, 10, np.nan], [10, 0, 10]])))
    assert (used / MIB).tolist() == [[1.5, -1 / MIB, -1 / MIB], [2, -1 / MIB, -1 / MIB]]
    assert (limit // MIB).tolist() == [[10, 0, 0], [10, 0, 0]]


@pytest.mark.parametrize('used, limit, says', [
    ([['1', '2']], None, 'both must be numbers'), ([[-5, 5]], None, 'from 0 to'), ([[np.inf, 5]], None, 'from 0 to'),
    ([[1 << 40, 5]], [[1 << 41, 10]], 'from 0 to'), ([[5, 5]], [[-5, 5]], 'from 0 to'),
    ([[30, 30]], [[10, 10]], '100% of the samples use more than is provisioned')])
def test_numbers_that_cannot_be_a_guests_memory_are_refused(traces, tmp_path, used, limit, says):
    with pytest.raises(traces.TraceError, match=says):
        traces.read(packed(tmp_path, np.array(used), None if limit is None else np.array(limit)))


@pytest.mark.parametrize('content', [b'', b'hello', b'PK\x03\x04'])
def test_a_file_that_is_no_npz_is_named(traces, tmp_path, content):
    (tmp_path / 't.npz').write_bytes(content)
    with pytest.raises(traces.TraceError, match='give an .npz with used_mib and prov_mib'):
        traces.read(tmp_path / 't.npz')
    np.save(tmp_path / 't.npy', np.zeros((2, 2)))
    with pytest.raises(traces.TraceError, match='give an .npz with used_mib and prov_mib'):
        traces.read(tmp_path / 't.npy')


def test_a_timestamp_of_another_age_is_named(traces, tmp_path):
    write(tmp_path / '1.csv', (0, 1024, 10), (-BEGAN, 1024, 10))
    with pytest.raises(traces.TraceError, match='days apart: is a timestamp wrong'):
        traces.read(tmp_path)


@pytest.mark.parametrize('target, missed, saved', [(0.0, 0.0, 10.0), (0.25, 25.0, 60.0), (0.5, 50.0, 70.0)])
def test_in_hindsight_the_margin_is_the_narrowest_that_misses_no_more_than_the_target(monkeypatch, target, missed,
                                                                                      saved):
    score = load('predict', monkeypatch).Score()
    # Of 100 bytes, base 20 and spread 20: needed are margins of 0, 0.5, 1 and 1 + 5/6.
    score.rows[86400.0] = [(0, true, 100, 8.0) for true in (20, 30, 40, 90)]
    score.parts[86400.0] = [(20, 20)] * 4
    found = score.in_hindsight(target).figures(86400.0)
    assert (found[0], pytest.approx(found[1]), found[4]) == (missed, saved, 4)
