# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Readings from small trees of files, one source at a time."""
import dataclasses
import os

import pytest

from ovc_plugin import privileged
from ovc_plugin.model import MIB
from ovc_plugin.samples import GuestSample
from ovc_plugin.sense import cgroup, ksm, proc, psi
from ovc_plugin.sense.sensor import Sensor
from tests.builders import GIB, NOW, FakeHypervisor, a_ksm, a_proc, a_v1_group, a_v2_group, facts

V1 = '32 31 0:29 / {mnt} rw - cgroup cgroup rw,memory\n'


def test_the_machine_is_read_from_meminfo(tmp_path):
    found = proc.memory(a_proc(tmp_path))
    assert (found.total, found.available, found.swap_free, found.swap_in_pages) == (28 * GIB, 10 * GIB, 8 * GIB, 0)


def test_swap_that_is_itself_memory_backs_nothing(tmp_path):
    found = a_proc(tmp_path)
    (found / 'swaps').write_text('Filename Type Size Used Priority\n/dev/zram0 partition 4194304 1048576 100\n'
                                 '/swapfile file 4194304 0 -2\n')
    assert (proc.memory(found).swap_total, proc.memory(found).swap_free) == (4 * GIB, 5 * GIB)


def test_pressure_stall_is_a_share_of_time():
    assert psi.stall('some avg10=12.50 avg60=1.00 avg300=0.00 total=5\nfull avg10=0.00 total=0\n') == 0.125
    with pytest.raises(ValueError):
        psi.stall('Operation not supported')


def test_sharing_counts_zero_pages_as_saved_where_the_kernel_tells_them(tmp_path):
    assert ksm.read(a_ksm(tmp_path, pages_sharing=10)).saved == 40960
    assert ksm.read(a_ksm(tmp_path, pages_sharing=10, ksm_zero_pages=2)).saved == 49152
    assert ksm.read(a_ksm(tmp_path, advisor_mode='none [scan-time]')).advisor


def test_a_v1_boundary_has_its_limit_its_droppable_cache_and_its_swap_allowance(tmp_path):
    machine = proc.memory(a_proc(tmp_path / 'proc'))
    group = a_v1_group(tmp_path / 'g', usage=1000 * MIB, limit=1500 * MIB, memsw=2780 * MIB,
                       total_inactive_file=100 * MIB, total_swap=200 * MIB, total_workingset_refault_anon=7)
    found = cgroup.boundary(group, machine)
    assert (found.total, found.available) == (1500 * MIB, 600 * MIB)
    assert (found.swap_total, found.swap_free, found.swap_in_pages) == (1280 * MIB, 1080 * MIB, 7)


def test_a_boundary_without_a_limit_is_the_machine(tmp_path):
    machine = proc.memory(a_proc(tmp_path / 'proc'))
    for group in (a_v1_group(tmp_path / 'v1', usage=GIB), a_v2_group(tmp_path / 'v2', usage=GIB)):
        found = cgroup.boundary(group, machine)
        assert (found.total, found.available, found.swap_free) == (28 * GIB, 10 * GIB, 8 * GIB)


def test_a_v2_boundary_never_has_more_swap_than_the_machine(tmp_path):
    machine = proc.memory(a_proc(tmp_path / 'proc', swap=GIB))
    group = a_v2_group(tmp_path / 'g', usage=2 * GIB, limit=4 * GIB, swap=0, swap_max=16 * GIB)
    assert cgroup.boundary(group, machine).swap_free == GIB


def test_a_v2_boundary_ends_where_its_processes_are_held_up(tmp_path):
    """Beyond memory.high the kernel makes them wait and takes their pages: there is no more than that."""
    machine = proc.memory(a_proc(tmp_path / 'proc', total=64 * GIB, available=50 * GIB))
    for number, (limit, high) in enumerate(
            [('max', 8 * GIB), (9 * GIB, 8 * GIB), (8 * GIB, 9 * GIB), (8 * GIB, 'max')]):
        group = a_v2_group(tmp_path / str(number), usage=7 * GIB, limit=limit, high=str(high))
        found = cgroup.boundary(group, machine)
        assert (found.total, found.available) == (8 * GIB, GIB)


def test_what_holds_a_v2_boundary_bounds_it_too_with_what_its_neighbours_use(tmp_path):
    machine = proc.memory(a_proc(tmp_path / 'proc', total=64 * GIB, available=50 * GIB, swap=20 * GIB))
    above = a_v2_group(tmp_path / 'a', usage=9 * GIB, high=str(10 * GIB), swap=5 * GIB, swap_max=6 * GIB,
                       inactive_file=512 * MIB)
    a_v2_group(above / 'b', usage=3 * GIB)  # without a limit
    group = a_v2_group(above / 'b' / 'c', usage=3 * GIB, limit=8 * GIB, swap=GIB, swap_max=4 * GIB)
    found = cgroup.boundary(group, machine)
    assert (found.total, found.available) == (8 * GIB, GIB + 512 * MIB)
    assert (found.swap_total, found.swap_free) == (2 * GIB, GIB)
    (above / 'memory.high').write_text(f'{7 * GIB}')
    found = cgroup.boundary(group, machine)
    assert (found.total, found.available) == (7 * GIB, 512 * MIB)


def test_a_limit_of_swap_around_a_v2_boundary_holds_however_large_beside_the_memory(tmp_path):
    machine = proc.memory(a_proc(tmp_path / 'proc', total=16 * GIB, available=10 * GIB, swap=64 * GIB))
    above = a_v2_group(tmp_path / 'a', usage=4 * GIB, swap_max=20 * GIB)
    group = a_v2_group(above / 'c', usage=4 * GIB)
    assert cgroup.boundary(group, machine).swap_free == 20 * GIB


def test_what_holds_a_v1_boundary_bounds_it_too_seen_or_not(tmp_path):
    machine = proc.memory(a_proc(tmp_path / 'proc', total=64 * GIB, available=50 * GIB, swap=20 * GIB))
    above = a_v1_group(tmp_path / 'a', usage=9 * GIB, limit=10 * GIB, memsw=16 * GIB, total_swap=5 * GIB)
    group = a_v1_group(above / 'c', usage=3 * GIB, limit=8 * GIB, memsw=12 * GIB, total_swap=GIB)
    found = cgroup.boundary(group, machine)
    assert (found.total, found.available, found.swap_free) == (8 * GIB, GIB, GIB)
    alone = a_v1_group(tmp_path / 'b', usage=3 * GIB, hierarchical_memory_limit=7 * GIB,
                       hierarchical_memsw_limit=9 * GIB, total_swap=GIB)  # as from inside a container
    found = cgroup.boundary(alone, machine)
    assert (found.total, found.available) == (7 * GIB, 4 * GIB)
    assert (found.swap_total, found.swap_free) == (2 * GIB, GIB)
    (above / 'memory.use_hierarchy').write_text('0')  # before Linux 5.11: what is below is not charged there
    found = cgroup.boundary(group, machine)
    assert (found.total, found.available, found.swap_free) == (8 * GIB, 5 * GIB, 3 * GIB)


def test_a_v1_memory_limit_without_one_for_swap_bounds_no_swap(tmp_path):
    machine = proc.memory(a_proc(tmp_path / 'proc'))
    group = a_v1_group(tmp_path / 'g', usage=GIB, limit=2 * GIB, hierarchical_memory_limit=2 * GIB,
                       hierarchical_memsw_limit=9223372036854771712)
    assert cgroup.boundary(group, machine).swap_free == 8 * GIB


def test_a_guest_group_is_read_in_both_versions(tmp_path):
    one = cgroup.group(a_v1_group(tmp_path / '1', usage=5, total_swap=6, total_workingset_refault_anon=7))
    two = cgroup.group(a_v2_group(tmp_path / '2', usage=5, swap=6, workingset_refault_anon=7))
    assert (two.can_reclaim, one.can_reclaim) == (False, True)
    assert dataclasses.replace(two, can_reclaim=True) == one
    assert (one.usage, one.swapped, one.refault_pages) == (5, 6, 7)


def test_what_compressed_swap_takes_for_a_guest_is_charged_to_it_and_none_of_its_memory(tmp_path):
    found = cgroup.group(a_v2_group(tmp_path / 'g', usage=100, swap=60, zswap=20, inactive_file=3, active_file=4))
    assert (found.usage, found.cached, found.compressed) == (100, 7, 20)


@pytest.mark.parametrize('absurd', [2 ** 64 - 4096, 2 ** 64 - 1, -4096])
def test_a_counter_of_the_kernel_that_wrapped_is_no_reading(tmp_path, absurd):
    """As memory.current was seen to do when more was uncharged than charged: nobody is to be swapped for it."""
    whole = proc.memory(a_proc(tmp_path / 'proc'))
    for group in (a_v2_group(tmp_path / 'two', usage=absurd), a_v1_group(tmp_path / 'one', usage=absurd),
                  a_v2_group(tmp_path / 'swap', usage=GIB, swap=absurd)):
        with pytest.raises(ValueError, match='cannot be') as caught:
            cgroup.group(group)
        assert str(absurd) not in str(caught.value)  # another number each time would be another line of the log
    for group in (tmp_path / 'two', tmp_path / 'one'):
        with pytest.raises(ValueError, match='cannot be'):
            cgroup.boundary(group, whole)


def test_a_machine_that_has_more_available_than_memory_is_no_reading(tmp_path):
    for total, available, swap in ((GIB, 2 * GIB, 0), (0, 0, 0)):
        with pytest.raises(ValueError, match='cannot be'):
            proc.memory(a_proc(tmp_path, total=total, available=available, swap=swap))


def test_a_group_of_version_one_with_swappiness_0_cannot_be_swapped_alone(tmp_path):
    """The kernel takes file pages alone to reach a limit of such a group. A limit of memory and swap together bars
    nothing: what is moved between them is charged to it all the time."""
    group = a_v1_group(tmp_path / '1', usage=GIB, limit=GIB, memsw=GIB)
    assert cgroup.group(group).can_reclaim
    for swappiness, can in ((60, True), (1, True), (0, False)):
        (group / 'memory.swappiness').write_text(f'{swappiness}\n')
        assert (cgroup.group(group).can_reclaim, cgroup.group(group).swap_room) == (can, None)


@pytest.mark.parametrize('swap, most, room', [(0, 'max', None), (6, 10, 4), (10, 10, 0), (12, 10, 0), (0, 0, 0)])
def test_a_group_of_version_two_has_what_its_limit_leaves_of_swap(tmp_path, swap, most, room):
    found = cgroup.group(a_v2_group(tmp_path / '2', usage=GIB, swap=swap, swap_max=most, reclaim=''))
    assert (found.swap_room, found.can_reclaim) == (room, most != 0)


@pytest.mark.parametrize('own, around, room, can', [
    ('max', 0, 0, False), ('max', 10, 3, True), (4, 10, 2, True), (9, 7, 0, True), (0, 'max', 0, False)])
def test_swap_that_a_group_around_a_guest_bars_is_none_of_the_guests(tmp_path, own, around, room, can):
    above = a_v2_group(tmp_path / 'machine.slice', usage=GIB, swap=7, swap_max=around)
    found = cgroup.group(a_v2_group(above / 'guest', usage=GIB, swap=2, swap_max=own, reclaim=''))
    assert (found.swap_room, found.can_reclaim) == (room, can)


def test_where_pages_read_back_are_not_counted_major_faults_stand_for_them(tmp_path):
    """Else swapping would never back off from a guest that reads its pages back."""
    one = cgroup.group(a_v1_group(tmp_path / '1', usage=5, total_pgmajfault=9, pgmajfault=1))
    two = cgroup.group(a_v2_group(tmp_path / '2', usage=5, pgmajfault=9))
    assert (one.refault_pages, one.refaults_guessed) == (two.refault_pages, two.refaults_guessed) == (9, True)
    exact = cgroup.group(a_v1_group(tmp_path / '3', usage=5, total_pgmajfault=9, total_workingset_refault_anon=7))
    assert (exact.refault_pages, exact.refaults_guessed) == (7, False)
    machine = proc.memory(a_proc(tmp_path / 'proc'))
    assert cgroup.boundary(tmp_path / '1', machine).swap_in_pages == 9


@pytest.mark.parametrize('name, root', [
    ('/host/machine/qemu-1-vm.libvirt-qemu', '/host'),
    ('/machine/qemu-1-vm.libvirt-qemu', '/'),
    ('/machine/qemu-1-vm.libvirt-qemu/emulator', '/')])
def test_a_process_group_is_found_through_whatever_root_is_mounted(tmp_path, name, root):
    mnt = tmp_path / 'cg roup'
    group = a_v1_group(mnt / 'machine/qemu-1-vm.libvirt-qemu', usage=1)
    root_proc = a_proc(tmp_path / 'proc')
    (root_proc / '7').mkdir()
    (root_proc / '7' / 'cgroup').write_text(f'4:memory:{name}\n0::/\n')
    (root_proc / 'self' / 'mountinfo').write_text(
        f'32 31 0:29 {root} {str(mnt).replace(" ", chr(92) + "040")} rw - cgroup cgroup rw,memory\n')
    assert cgroup.of_process(root_proc, 7) == group


def test_a_systemd_scope_of_version_two_is_found(tmp_path):
    scope = r'machine.slice/machine-qemu\x2d1\x2dvm.scope'
    group = a_v2_group(tmp_path / scope, usage=1)
    root_proc = a_proc(tmp_path / 'proc')
    (root_proc / '7').mkdir()
    (root_proc / '7' / 'cgroup').write_text(f'0::/{scope}/libvirt/emulator\n')
    (root_proc / 'self' / 'mountinfo').write_text(f'41 31 0:38 / {tmp_path} rw - cgroup2 cgroup2 rw\n')
    assert cgroup.of_process(root_proc, 7) == group


def test_a_process_that_shares_its_group_has_none_of_its_own(tmp_path):
    root_proc = a_proc(tmp_path / 'proc')
    (root_proc / '7').mkdir()
    (root_proc / '7' / 'cgroup').write_text('4:memory:/system\n')
    (root_proc / 'self' / 'mountinfo').write_text(V1.format(mnt=tmp_path))
    assert cgroup.of_process(root_proc, 7) is None


class World:
    """A host of files: one guest with its own group, and a sensor over it."""

    def __init__(self, tmp_path, psi='some avg10=0.00 total=0\n'):
        self.proc = a_proc(tmp_path / 'proc', psi=psi)
        self.ksm = a_ksm(tmp_path / 'ksm')
        self.run = tmp_path / 'run'
        self.run.mkdir()
        self.group = a_v1_group(tmp_path / 'mnt/machine/qemu-1-g1.libvirt-qemu', usage=GIB, total_swap=0,
                                total_workingset_refault_anon=0)
        (self.run / 'g1.pid').write_text('7')
        (self.proc / '7').mkdir()
        (self.proc / '7' / 'cgroup').write_text('4:memory:/machine/qemu-1-g1.libvirt-qemu\n')
        (self.proc / 'self' / 'mountinfo').write_text(V1.format(mnt=tmp_path / 'mnt'))
        self.hypervisor = FakeHypervisor(facts())
        self.sensor = Sensor('h1', self.hypervisor, run_path=str(self.run), proc_root=str(self.proc),
                             ksm_root=str(self.ksm))

    def sample(self):
        return self.sensor.sample(NOW)

    def merge(self, merging=30, shared=10, sharing=20, zero=0):
        """The guest maps ``merging`` merged pages, of ``shared`` + ``sharing`` on the host."""
        a_ksm(self.ksm, run=1, pages_shared=shared, pages_sharing=sharing, ksm_zero_pages=zero)
        (self.proc / '7' / 'ksm_stat').write_text(
            f'ksm_rmap_items 99\nksm_zero_pages {zero}\nksm_merging_pages {merging}\nksm_process_profit 114688\n'
            'ksm_merge_any: no\n')


def test_a_whole_host_is_read_without_a_note(tmp_path):
    world = World(tmp_path)
    sample = world.sample()
    assert sample.notes == () and sample.guests[0].group.usage == GIB and sample.stall == 0.0
    assert world.sensor.group_of('uuid-g1') == world.group


def test_a_hypervisor_that_is_gone_is_a_note_and_not_an_end(tmp_path):
    world = World(tmp_path)
    world.hypervisor.down = True
    sample = world.sample()
    assert sample.guests is None and 'hypervisor did not answer' in sample.notes[0]
    assert sample.memory.total == 28 * GIB


def test_a_guest_that_vanishes_between_two_calls_is_a_note(tmp_path):
    world = World(tmp_path)
    (world.run / 'g1.pid').unlink()
    sample = world.sample()
    assert sample.guests[0].group is None and 'cannot be read this time' in sample.notes[0]


def test_a_control_group_that_vanishes_is_looked_for_anew(tmp_path):
    world = World(tmp_path)
    world.sample()
    (world.group / 'memory.stat').unlink()
    assert 'cannot be read this time' in world.sample().notes[0]
    assert 'no memory control group of its own' in world.sample().notes[0]


def test_a_host_without_pressure_information_or_sharing_says_so_and_goes_on(tmp_path):
    world = World(tmp_path, psi=None)
    for file in world.ksm.iterdir():
        file.unlink()
    sample = world.sample()
    assert sample.stall is None and sample.ksm is None
    assert any('psi=1' in n for n in sample.notes) and any('no KSM' in n for n in sample.notes)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    world = World(tmp_path)
    monkeypatch.setattr(cgroup, 'group', lambda path: (_ for _ in ()).throw(PermissionError(13, 'denied', str(path))))
    assert str(world.group) in world.sample().notes[0]


def test_without_the_host_memory_nothing_can_be_decided(tmp_path):
    world = World(tmp_path)
    (world.proc / 'meminfo').unlink()
    with pytest.raises(OSError):
        world.sample()


def test_a_guests_merged_pages_are_read_only_while_something_is_merged(tmp_path):
    world = World(tmp_path)
    assert world.sample().guests[0].merged is None
    world.merge(merging=30, zero=4)
    merged = world.sample().guests[0].merged
    assert (merged.merging, merged.zero) == (30, 4)


def test_a_kernel_that_tells_merged_pages_in_a_file_of_their_own_is_understood(tmp_path):
    world = World(tmp_path)
    world.merge()
    (world.proc / '7' / 'ksm_stat').write_text('ksm_rmap_items 99\n')
    (world.proc / '7' / 'ksm_merging_pages').write_text('12\n')
    assert world.sample().guests[0].merged.merging == 12
    assert privileged.merged_of(world.proc, [7, 8]) == {7: (12, 0)}
    (world.proc / '7' / 'ksm_stat').write_text('ksm_merging_pages 13\nksm_zero_pages 1\nksm_mergeable: yes\n')
    assert privileged.merged_of(world.proc, [7]) == {7: (13, 1)}


def test_what_another_users_guest_has_merged_is_asked_of_the_root_helper(tmp_path, monkeypatch):
    world = World(tmp_path)
    world.merge()
    monkeypatch.setattr(ksm, 'process', lambda *_: (_ for _ in ()).throw(PermissionError(13, 'denied')))
    sample = world.sample()
    assert sample.guests[0].merged is None and 'only root may read' in ''.join(sample.notes)
    asked = []

    def helper(pids):
        asked.append(pids)
        if len(asked) > 1:
            raise RuntimeError('sudo says no')
        return {7: (5, 1)}

    sensor = Sensor('h1', world.hypervisor, run_path=str(world.run), proc_root=str(world.proc),
                    ksm_root=str(world.ksm), ksm_helper=helper)
    sample = sensor.sample(NOW)
    assert sample.guests[0].merged.merging == 5 and sample.notes == () and asked == [[7]]
    assert 'sudo says no' in ''.join(sensor.sample(NOW + 5).notes)
    sensor.sample(NOW + 10)
    assert len(asked) == 2, 'a helper that failed is left alone for a while'
    sensor.sample(NOW + 400)
    assert len(asked) == 3


def test_a_process_that_may_not_be_known_costs_nobody_the_pass_nor_takes_anothers_place(monkeypatch, tmp_path):
    """Promise 9: a pid file that this user may not read is one guest's, and no guest has the pages of another."""
    def pid_of(guest):
        if guest.name in ('g1', 'g3'):
            raise PermissionError(13, 'denied')
        return 7

    guests = tuple(GuestSample(facts=facts(name)) for name in ('g1', 'g2', 'g3'))
    state = ksm.read(a_ksm(tmp_path / 'ksm', run=1, pages_sharing=20, pages_shared=10))
    monkeypatch.setattr(ksm, 'process', lambda *_: (_ for _ in ()).throw(PermissionError(13, 'denied')))
    source = ksm.Source(tmp_path / 'ksm', tmp_path, helper=lambda pids: {pid: (5, 0) for pid in pids})
    merged = [g.merged for g in source.divide(state, guests, pid_of, NOW, [])]
    assert [m and m.merging for m in merged] == [None, 5, None]


def test_the_scanners_processor_time_and_the_merged_pages_that_were_copied_are_read(tmp_path):
    proc_root = a_proc(tmp_path / 'proc')
    root = a_ksm(tmp_path / 'ksm', pages_scanned=5, full_scans=2, sleep_millisecs=20)
    nodes = tmp_path / 'nodes'
    for name in ('node0', 'node1', 'power'):
        (nodes / name).mkdir(parents=True)
    for pid, name, parent in ((7, 'a (ksmd) b', 1), (8, 'ksmd', 1), (37, 'ksmd', 2)):
        (proc_root / str(pid)).mkdir()
        (proc_root / str(pid) / 'stat').write_text(f'{pid} ({name}) S {parent} 0 0 0 -1 0 0 0 0 0 150 50 0 0 25 5\n')
    (proc_root / 'vmstat').write_text('pswpin 0\ncow_ksm 30\nksm_swpin_copy 12\n')
    state = ksm.Source(root, proc_root, nodes=nodes, ticks=100).read()
    assert (state.cpu, state.dissolved, state.nodes, state.scanned, state.sleep) == (2.0, 42, 2, 5, 0.02)
    (proc_root / 'vmstat').write_text('pswpin 0\n')
    (proc_root / '37' / 'stat').unlink()
    state = ksm.Source(root, proc_root, nodes=nodes).read()
    assert state.cpu is None and state.dissolved is None


@pytest.mark.parametrize('age, usable, busy', [(30, None, True), (500, None, False), (30, MIB, False)])
def test_a_young_guest_that_has_not_spoken_yet_boots(tmp_path, age, usable, busy):
    world = World(tmp_path)
    world.hypervisor.list[0] = facts(usable=usable)
    (world.proc / 'uptime').write_text('1000.00 1.0\n')
    ticks = (1000 - age) * os.sysconf('SC_CLK_TCK')
    (world.proc / '7' / 'stat').write_text(f'7 (qemu) S {"0 " * 18}{ticks} 0\n')
    assert world.sample().guests[0].facts.busy is busy


def test_every_source_tells_how_long_it_took(tmp_path):
    world = World(tmp_path)
    assert world.sample().durations.keys() == world.sensor.sources.fields().keys() >= {
        'guests', 'groups', 'memory', 'stall', 'refaults', 'zswap', 'sharing'}


@pytest.mark.parametrize('stat, said', [
    ({}, 'counts neither'), ({'total_pgmajfault': 3}, 'major faults of their processes'),
    ({'total_pgmajfault': 3, 'total_workingset_refault_anon': 3}, None)])
def test_what_the_kernel_does_not_count_of_swapped_guests_is_noted_once(tmp_path, stat, said):
    world = World(tmp_path)
    a_v1_group(world.group, usage=GIB, total_swap=0, **stat)
    told = [note for note in world.sample().notes if 'read back' in note]
    assert len(told) == (said is not None) and (said or '') in ''.join(told)


def test_a_group_that_cannot_be_read_counts_as_a_failure_of_its_source(tmp_path):
    world = World(tmp_path)
    world.sample()
    assert world.sensor.sources.fields()['groups']['failed'] == 0
    (world.group / 'memory.stat').unlink()
    assert world.sample().guests[0].group is None
    told = world.sensor.sources.fields()['groups']
    assert (told['read'], told['failed']) == (2, 1) and 'memory.stat' in told['error']
    a_v1_group(world.group, usage=GIB, total_swap=0)
    world.sample()
    assert world.sensor.sources.fields()['groups']['error'] is None


def test_a_vmstat_that_cannot_be_read_costs_the_rates_and_not_the_memory(tmp_path):
    root = a_proc(tmp_path)
    (root / 'vmstat').unlink()
    found = proc.memory(root)
    assert (found.available, found.swap_in_pages, found.swap_out_pages) == (10 * GIB, None, None)


def test_the_pools_of_huge_pages_and_swap_that_is_memory_are_read_of_the_machine_alone(tmp_path):
    root = a_proc(tmp_path / 'proc')
    assert (proc.memory(root).huge, proc.memory(root).zram, proc.memory(root).group) == (None, 0, False)
    with (root / 'meminfo').open('a') as meminfo:
        meminfo.write('HugePages_Total: 16384\nHugetlb: 33554432 kB\n')
    (root / 'swaps').write_text('Filename Type Size Used Priority\n/dev/zram0 partition 4194304 1048576 100\n')
    assert (proc.memory(root).huge, proc.memory(root).zram) == (32 * GIB, GIB)
    group = a_v2_group(tmp_path / 'g', usage=GIB, limit=4 * GIB)
    found = cgroup.boundary(group, proc.memory(root))
    assert (found.huge, found.zram, found.group) == (None, 0, True)
