# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The smaller sources, each alone: what they count, how long they take, and what their failure costs."""
from __future__ import annotations

import pytest

from ovc_plugin.model import MIB
from ovc_plugin.sense import cgroup, proc, vmstat, zswap
from ovc_plugin.sense.derive import derive
from ovc_plugin.sense.sources import Sources
from ovc_plugin.sense.spoken import Spoken
from ovc_plugin.settings import Settings
from tests.builders import NOW, a_proc, a_sample, a_v1_group, a_v2_group, sampled


def test_refaults_of_a_host_are_those_of_all_kinds_of_pages(tmp_path):
    for text, pages in (('workingset_refault_anon 3\nworkingset_refault_file 4\n', 7), ('workingset_refault 9\n', 9),
                        ('pswpin 1\n', None)):
        (tmp_path / 'vmstat').write_text(text)
        assert vmstat.refaults(tmp_path) == pages


def test_refaults_of_a_boundary_are_its_own(tmp_path):
    one = a_v1_group(tmp_path / '1', usage=1, total_workingset_refault_anon=3, total_workingset_refault_file=4,
                     workingset_refault_anon=1)
    two = a_v2_group(tmp_path / '2', usage=1, workingset_refault_anon=3, workingset_refault_file=4)
    assert cgroup.refaults(one) == cgroup.refaults(two) == 7
    assert cgroup.refaults(a_v1_group(tmp_path / '3', usage=1)) is None


def test_compressed_swap_is_the_pool_and_what_devices_take(tmp_path):
    root, block = a_proc(tmp_path / 'proc'), tmp_path / 'block'
    block.mkdir()
    assert zswap.held(root, block) is None, 'neither is told of'
    with open(root / 'meminfo', 'a') as file:
        file.write('Zswap: 2048 kB\nZswapped: 9000 kB\n')
    (block / 'zram0').mkdir()
    (block / 'zram0' / 'mm_stat').write_text(f'{9 * MIB} {4 * MIB} {5 * MIB} 0 0 0 0 0 0\n')
    (block / 'zram1').mkdir()
    assert zswap.held(root, block) == 7 * MIB


def test_a_version_two_guest_tells_its_pressure_and_can_be_squeezed_where_it_cannot_be_asked(tmp_path):
    path = a_v2_group(tmp_path / 'g', usage=1)
    assert (cgroup.group(path).pressure, cgroup.group(path).can_reclaim) == (None, False)
    (path / 'memory.pressure').write_text('some avg10=7.00 avg60=0.00 avg300=0.00 total=9\n')
    (path / 'memory.high').write_text('max\n')
    assert cgroup.group(path).pressure == pytest.approx(0.07) and cgroup.group(path).can_reclaim


def spoke(at, swap_in, faults, **changes):
    return (sampled(last_update=at, swap_in=swap_in, major_faults=faults, **changes),)


def told(spoken, *words):
    return [(one.guest_swap_in, one.major_faults) for word in words for one in spoken.tell(spoke(*word))]


def test_what_a_guest_counts_is_a_rate_between_its_own_words_however_often_one_looks():
    found = told(Spoken(), (NOW, 100, 10), (NOW, 100, 10), (NOW + 10, 600, 30), (NOW + 10, 600, 30),
                 (NOW + 20, 600, 30))
    assert found == [(None, None), (None, None), (50.0, 2.0), (50.0, 2.0), (0.0, 0.0)]


def test_a_guest_that_was_started_anew_or_lacks_a_counter_has_no_rate_and_costs_no_other_its_own():
    assert told(Spoken(), (NOW, 100, 10), (NOW + 10, 5, 30)) == [(None, None), (None, 2.0)]
    assert told(Spoken(), (NOW, None, 10), (NOW + 10, 5, 30))[1] == (None, 2.0)
    assert Spoken().tell(None) is None


def test_a_guest_that_is_gone_is_forgotten():
    spoken = Spoken()
    spoken.tell(spoke(NOW, 100, 10))
    spoken.tell(())
    assert told(spoken, (NOW + 10, 600, 30)) == [(None, None)]


def test_each_source_is_known_by_how_long_it_takes_and_how_often_it_fails():
    times = iter((0.0, 0.25, 1.0, 1.5, 2.0, 2.0))
    sources, notes = Sources(clock=lambda: next(times)), []
    assert sources.read('memory', lambda: 5) == 5
    assert sources.attempt('stall', lambda: int('x'), ValueError, 'no stall', notes) is None
    assert sources.durations() == {'memory': 0.25, 'stall': 0.5}
    assert notes[0].startswith('no stall (') and sources.fields()['stall']['failed'] == 1
    assert sources.attempt('stall', lambda: 7, ValueError, 'no stall', notes) == 7
    assert sources.fields()['stall'] == {'seconds': 0.0, 'read': 1, 'failed': 1, 'error': None}


def test_the_snapshot_carries_what_was_sensed():
    first = a_sample(sampled(), refault_pages=100)
    later = a_sample(sampled(busy=True), refault_pages=150, zswap=7, durations={'memory': 0.1}, taken_at=NOW + 5,
                     growth=3.0)
    found = derive(first, later, {}, 0, Settings())
    assert (found.refaults, found.zswap, found.durations, found.growth) == (10.0, 7, {'memory': 0.1}, 3.0)
    assert found.guests[0].busy and not found.guests[0].can_balloon


@pytest.mark.parametrize('busy', [True, False])
def test_of_a_guest_that_boots_nobody_complains_that_it_is_silent(busy):
    silent = derive(None, a_sample(sampled(usable=None, busy=busy)), {}, 0, Settings())
    assert any('says nothing' in note for note in silent.notes) is not busy


def test_a_process_is_as_old_as_the_kernel_says(tmp_path):
    root = a_proc(tmp_path)
    (root / 'uptime').write_text('1000.50 1.0\n')
    (root / '7').mkdir()
    (root / '7' / 'stat').write_text('7 (qemu (x) y) S ' + ' '.join(['0'] * 18) + ' 90000 0\n')
    assert proc.age(root, 7) == pytest.approx(100.5)
    (root / '7' / 'stat').write_text('7 (q) S 0\n')
    with pytest.raises(ValueError):
        proc.age(root, 7)
