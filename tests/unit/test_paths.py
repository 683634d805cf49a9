# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What benchmarks/paths counts as right, and as a promise broken."""
from __future__ import annotations

import json
import pathlib
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'devstack' / 'onebox')]

from benchmarks import paths, paths_cells, paths_cloud, paths_watch, stored  # noqa: E402
from ovc_plugin import report  # noqa: E402
from tests.builders import a_report  # noqa: E402

MB = 1 << 20
NOWHERE = 'no host (ERROR)'


@pytest.mark.parametrize('state, places, good', [
    ('fits', ['node1', 'node3'], True), ('fits', ['node1', NOWHERE], False),
    ('stale', ['node1', 'node2'], True), ('stale', ['node3'], False), ('HARD', ['node1', 'node3'], False),
    ('does not fit', [NOWHERE, NOWHERE], True), ('does not fit', [NOWHERE, 'node1'], False)])
def test_a_guest_landed_right_only_where_it_may(state, places, good):
    assert paths_cells.landed(None, state, places).good is good


@pytest.mark.parametrize('state, after, good', [
    ('fits', 'node2', True), ('fits', 'node1', False), ('fits', NOWHERE, False), ('stale', 'node3', False),
    ('HARD', 'node2', True), ('does not fit', 'node1', True), ('does not fit', 'node2', False)])
def test_a_guest_moved_right_only_where_it_may(state, after, good):
    assert paths_cells.stayed(None, state, 'node1', after).good is good


def test_a_broken_promise_is_seen_in_the_hosts_own_figures(monkeypatch):
    host = types.SimpleNamespace(name='h1', memory=1000 * MB, swap=500 * MB, guests=lambda: {})
    looked = paths_watch.Watch(types.SimpleNamespace(hosts=[host]), {'a': 300 * MB, 'b': 300 * MB})

    def told(*sizes: int) -> list[str]:
        monkeypatch.setattr(paths_watch, 'domains', lambda host: [
            (uuid, uuid, 500 * MB, size * MB) for uuid, size in zip('ab', sizes, strict=False)])
        return list(looked._of(host))

    assert told(500, 300) == []
    assert told(500, 299) == ['b has 299 MB < its reservation of 300 MB']
    host.swap = 300 * MB
    assert told(500, 500) == ['guests may touch 1256 MB > 1236 MB']
    looked.owed['b'] = 400 * MB
    assert 'guarantees need 956 MB > 936 MB' in told(500, 500)


def test_a_guest_whose_guarantee_is_in_swap_is_a_promise_broken(monkeypatch, tmp_path):
    group = tmp_path / 'group'
    group.mkdir()
    (group / 'cgroup.procs').write_text('1\n')
    (group / 'memory.usage_in_bytes').write_text(f'{250 * MB}\n')
    (group / 'memory.stat').write_text(f'total_swap {100 * MB}\ntotal_inactive_file {10 * MB}\ntotal_active_file 0\n'
                                       'total_rss 0\n')
    host = types.SimpleNamespace(name='h1', memory=9000 * MB, swap=500 * MB, guests=lambda: {'a': group})
    monkeypatch.setattr(paths_watch, 'domains', lambda host: [('a', 'a', 500 * MB, 500 * MB)])
    looked = paths_watch.Watch(types.SimpleNamespace(hosts=[host]), {'a': 300 * MB})
    assert list(looked._of(host)) == ['a has 240 MB in memory, the rest in swap < its reservation of 300 MB']
    looked.owed['a'] = 240 * MB
    assert list(looked._of(host)) == []


def test_a_guest_that_nova_has_yet_to_delete_is_still_owed_what_it_was(monkeypatch):
    stage, now = paths_cloud.Stage.__new__(paths_cloud.Stage), [0.0]
    stage.owed, asked = {'gone': 1, 'slow': 2, 'other': 3}, []
    stage.compute = types.SimpleNamespace(
        delete_server=lambda uuid, ignore_missing: asked.append(uuid),
        servers=lambda details: [types.SimpleNamespace(id='slow'), types.SimpleNamespace(id='other')])
    monkeypatch.setattr(paths_cloud, 'time', types.SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)))
    with pytest.raises(TimeoutError, match='1 guests to be deleted'):
        stage.delete(['gone', 'slow'])
    assert asked == ['gone', 'slow'] and stage.owed == {'slow': 2, 'other': 3}
    monkeypatch.setattr(stage, 'fresh', lambda: None, raising=False)
    stage.delete(['gone'])
    assert stage.owed == {'slow': 2, 'other': 3}


def test_a_cell_begins_once_every_host_that_answers_has_reported_again(monkeypatch):
    """A host at rest makes a pass every few ticks: its report of before said that a deleted guest was still there."""
    stage, now = paths_cloud.Stage.__new__(paths_cloud.Stage), [100.0]
    stage.halted = {'node3'}
    stage.cloud = types.SimpleNamespace(hosts=[types.SimpleNamespace(name=f'node{n}') for n in (1, 2, 3)])
    monkeypatch.setattr(paths_cloud, 'time', types.SimpleNamespace(
        time=lambda: now[0], monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)))
    monkeypatch.setattr(paths_cloud.stored, 'reports', lambda cloud: {
        'node1': a_report(taken_at=now[0] - 1), 'node2': a_report(taken_at=max(90.0, now[0] - 12))})
    stage.fresh()
    assert now[0] == 112
    stage.halted.clear()
    with pytest.raises(TimeoutError, match='node3'):
        stage.fresh()


def test_what_a_host_has_reported_is_read_from_novas_database(monkeypatch):
    row = json.dumps({'ovc': report.encode(a_report()), 'num_instances': '1'})
    ran = types.SimpleNamespace(stdout=f'node1\t{row}\nnode2\tNULL\nnode3\t{{}}\nnode4\t{{"ovc": "?"}}\n')
    monkeypatch.setattr(stored.subprocess, 'run', lambda *a, **k: ran)
    assert stored.reports(types.SimpleNamespace(state=pathlib.Path('/run/x'))) == {'node1': a_report()}


@pytest.mark.parametrize('silent, counted', [(3, 0), (99, 1)])
def test_a_host_that_stays_silent_after_a_step_is_no_promise_kept(silent, counted, monkeypatch):
    monkeypatch.setattr(paths_watch.time, 'sleep', lambda seconds: None)
    looked = paths_watch.Watch(types.SimpleNamespace(hosts=[types.SimpleNamespace(name='h1')]), {})
    tries = []

    def of(host):
        tries.append(host)
        if len(tries) <= silent:
            raise OSError('no answer')
        return iter(())

    looked._of = of
    looked.look_after('boot, fits')
    assert (looked.blind_after, looked.blind) == (counted, min(silent, paths_watch.ANSWERS_WITHIN))


def test_the_last_traceback_of_an_api_is_told():
    block = """2026-01-01 ERROR nova.api Traceback (most recent call last):
2026-01-01 ERROR nova.api   File "a.py", line {}, in f
2026-01-01 ERROR nova.api     x.y
2026-01-01 ERROR nova.api AttributeError: 'NoneType' object has no attribute 'y'
2026-01-01 INFO nova.api 500
"""
    told = paths.last_failure(block.format(1) + block.format(2), lines=4)
    assert 'line 2,' in told and 'line 1,' not in told and told.endswith("attribute 'y'")
    assert paths.last_failure('all is well') == ''
