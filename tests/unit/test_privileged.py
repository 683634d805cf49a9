# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Root writes touch only what they are for, and leave no limit behind."""
import json
import pathlib
import threading
import types

import pytest
from oslo_privsep import comm

from ovc_plugin import leases, privileged, squeeze
from ovc_plugin.act import ksm
from ovc_plugin.model import KsmState
from tests.builders import a_v1_group, a_v2_group
from tests.waiting import LONG

MB = 1 << 20


def moved(group, amount, floor, seconds, leases):
    (freed, error), = squeeze.reclaim([(group, amount, floor)], seconds, leases)
    assert error is None or 'PermissionError' not in error, error
    return freed


class Kernel:
    """Stands in for the kernel's side of the files: a lowered limit or a reclaim write shrinks usage, by ``willing``
    of what is asked, as the real one may fall short; ``knows`` are the arguments it takes."""

    def __init__(self, monkeypatch, group, willing=1.0, die=False, knows=()):
        self.group, self.willing, self.die, self.knows, self.writes = group, willing, die, knows, []
        self.write_text = pathlib.Path.write_text
        kernel = self

        def write(path, text, *args, **kwargs):
            if path.parent == group:
                return kernel.written(path, text)
            return kernel.write_text(path, text, *args, **kwargs)
        monkeypatch.setattr(pathlib.Path, 'write_text', write)

    def usage(self):
        name = 'memory.current' if (self.group / 'memory.current').exists() else 'memory.usage_in_bytes'
        return self.group / name

    def written(self, path, text):
        self.writes.append((path.name, text))
        if self.knows and any(word not in self.knows for word in text.split()[1:]):
            raise OSError(22, 'Invalid argument')
        now = int(self.usage().read_text())
        amount = now if text == 'max' else int(text.split()[0])
        wanted = amount if path.name == 'memory.reclaim' else max(0, now - amount)
        freed = int(wanted * self.willing)
        self.write_text(self.usage(), str(now - freed))
        if self.die and path.name == 'memory.limit_in_bytes' and len(self.writes) == 1:
            self.write_text(path, text)
            raise KeyboardInterrupt
        if freed < wanted and path.name != 'memory.high':
            raise OSError(11 if path.name == 'memory.reclaim' else 16, 'fell short')
        if path.name in ('memory.limit_in_bytes', 'memory.high'):
            self.write_text(path, text)


def test_a_helper_that_hangs_is_not_waited_for_without_end(monkeypatch):
    """A pass stood still for as long: no balloon, no level, no report."""
    asked = []

    def call(name, args, kwargs, timeout):
        asked.append((name, timeout))
        raise comm.PrivsepTimeout
    monkeypatch.setattr(privileged.context, 'client_mode', True)
    monkeypatch.setattr(privileged.context, 'channel', types.SimpleNamespace(running=True, remote_call=call))
    for ask in (lambda: privileged.set_ksm('run', 1), lambda: privileged.merged_pages([1]), privileged.lift_leftovers):
        with pytest.raises(TimeoutError, match='the root helper has not answered within 5 s.*end it'):
            ask()
    assert {(name.rpartition('.')[2], seconds) for name, seconds in asked} == {
        (name, privileged.ANSWERS) for name in ('set_ksm', 'merged_pages', 'lift_leftovers')}
    assert all(privileged.context.is_entrypoint(getattr(privileged, name.rpartition('.')[2])) for name, _ in asked)


@pytest.mark.parametrize('helper, start, ask', [
    (privileged.context, privileged._start, lambda: privileged.merged_pages([1])),
    (privileged.reading, privileged._start_reading, lambda: privileged.page_hashes(1, 1, 0, 1, '', 1))])
def test_a_helper_whose_start_hangs_is_not_waited_for_without_end(monkeypatch, helper, start, ask):
    """sudo may wait for a directory service that is gone."""
    let, begun = threading.Event(), []
    monkeypatch.setattr(helper, 'client_mode', True)
    monkeypatch.setattr(helper, 'channel', None)
    monkeypatch.setattr(privileged, 'STARTS', 0.2)
    monkeypatch.setattr(start, '_alive', lambda: (begun.append(1), let.wait(LONG)))
    for _ in range(3):
        with pytest.raises(TimeoutError, match='has not started within 0.2 s: look whether sudo'):
            ask()
    assert len(begun) == 1, 'and no other is started meanwhile'
    let.set()
    start._thread.join(LONG)

    def refused():
        raise PermissionError('no sudo')
    monkeypatch.setattr(start, '_alive', refused)
    with pytest.raises(PermissionError, match='no sudo'):
        ask()


def test_trust_domains_of_long_names_have_salts_of_their_own():
    one = 'customer-portal.production.eu-central-1.example.internal/tenants/'
    assert len({privileged._key(one + name) for name in ('alice', 'bob')}) == 2
    assert len(privileged._key('')) == 64  # no key of blake2b is longer


def test_a_helper_that_hangs_in_the_middle_has_not_put_page_sharing_back():
    before = KsmState(run=0, saved=0, shared=0, pages_to_scan=77)

    def write(name, value):
        if name != 'run':
            raise TimeoutError('the root helper has not answered')
    with pytest.raises(TimeoutError):
        ksm.restore(before, write)


def test_a_v1_limit_is_lowered_and_put_back(tmp_path, monkeypatch):
    group = a_v1_group(tmp_path / 'g', usage=500 * MB)
    Kernel(monkeypatch, group)
    assert moved(group, 100 * MB, 0, LONG, tmp_path / 'leases') == 100 * MB
    assert (group / 'memory.limit_in_bytes').read_text().strip() == '9223372036854771712'
    assert list((tmp_path / 'leases').iterdir()) == []


def test_v2_is_asked_to_reclaim(tmp_path, monkeypatch):
    group = a_v2_group(tmp_path / 'g', usage=500 * MB, reclaim='')
    kernel = Kernel(monkeypatch, group)
    assert moved(group, 40 * MB, 0, LONG, tmp_path / 'leases') == 40 * MB
    assert {name for name, _ in kernel.writes} == {'memory.reclaim'}


def test_reclaim_stops_at_the_floor(tmp_path, monkeypatch):
    group = a_v2_group(tmp_path / 'g', usage=500 * MB, reclaim='')
    Kernel(monkeypatch, group)
    assert moved(group, 400 * MB, 450 * MB, LONG, tmp_path / 'leases') == 50 * MB


def test_what_compressed_swap_takes_for_a_guest_keeps_none_of_it_in_memory(tmp_path, monkeypatch):
    """The kernel charges the guest's group for it: a guest was swapped so much below its guarantee."""
    group = a_v2_group(tmp_path / 'g', usage=500 * MB, reclaim='', zswap=30 * MB, inactive_file=20 * MB)
    Kernel(monkeypatch, group)
    assert moved(group, 400 * MB, 420 * MB, LONG, tmp_path / 'leases') == 30 * MB


def test_a_kernel_that_falls_short_ends_the_attempt_and_not_the_loop(tmp_path, monkeypatch):
    group = a_v1_group(tmp_path / 'g', usage=500 * MB)
    Kernel(monkeypatch, group, willing=0.5)
    assert moved(group, 100 * MB, 0, LONG, tmp_path / 'leases') == squeeze.CHUNK // 2


def test_a_limit_left_by_a_killed_process_is_lifted(tmp_path, monkeypatch):
    group = a_v1_group(tmp_path / 'g', usage=500 * MB)
    with monkeypatch.context() as patched:
        Kernel(patched, group, die=True)
        patched.setattr(leases, 'put_back', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            moved(group, 100 * MB, 0, LONG, tmp_path / 'leases')
    assert (group / 'memory.limit_in_bytes').read_text() != '9223372036854771712'
    assert leases.lift(tmp_path / 'leases', pathlib.Path) == [str(group)]
    assert (group / 'memory.limit_in_bytes').read_text() == '9223372036854771712'
    assert leases.lift(tmp_path / 'leases') == []


def test_a_limit_that_cannot_be_put_back_now_is_not_forgotten(tmp_path, monkeypatch):
    group, left = a_v1_group(tmp_path / 'g', usage=500 * MB, limit=400 * MB), tmp_path / 'leases'
    left.mkdir(mode=0o700)
    (left / 'x').write_text(json.dumps({'group': str(group), 'limit': '9223372036854771712'}))
    with monkeypatch.context() as patched:
        kernel = Kernel(patched, group)
        kernel.written = lambda path, text: (_ for _ in ()).throw(OSError(16, 'Device or resource busy'))
        assert leases.lift(left, pathlib.Path) == [] and len(list(left.iterdir())) == 1
    assert leases.lift(left, pathlib.Path) == [str(group)] and list(left.iterdir()) == []
    assert (group / 'memory.limit_in_bytes').read_text() == '9223372036854771712'


def test_the_lease_of_a_group_that_is_gone_goes_too(tmp_path):
    left = tmp_path / 'leases'
    left.mkdir(mode=0o700)
    (left / 'x').write_text(json.dumps({'group': str(tmp_path / 'gone'), 'limit': '5'}))
    assert leases.lift(left, pathlib.Path) == [] and list(left.iterdir()) == []


def test_a_second_attempt_over_a_leftover_puts_back_what_the_first_one_found(tmp_path, monkeypatch):
    group = a_v1_group(tmp_path / 'g', usage=500 * MB)
    with monkeypatch.context() as patched:
        Kernel(patched, group, die=True)
        patched.setattr(leases, 'put_back', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            moved(group, 100 * MB, 0, LONG, tmp_path / 'leases')
    Kernel(monkeypatch, group)
    moved(group, 64 * MB, 0, LONG, tmp_path / 'leases')
    assert (group / 'memory.limit_in_bytes').read_text() == '9223372036854771712'


def test_a_lease_that_points_elsewhere_is_not_followed(tmp_path):
    left = tmp_path / 'leases'
    left.mkdir(mode=0o700)
    victim = a_v1_group(tmp_path / 'evil', usage=1)
    (left / 'x').write_text(json.dumps({'group': str(victim), 'limit': '12345'}))
    assert leases.lift(left) == []
    assert (victim / 'memory.limit_in_bytes').read_text().strip() == '9223372036854771712'


def test_a_lease_directory_that_others_may_write_is_not_believed(tmp_path):
    left = tmp_path / 'leases'
    left.mkdir()
    left.chmod(0o777)
    (left / 'x').write_text(json.dumps({'group': str(tmp_path), 'limit': '1'}))
    assert leases.lift(left, pathlib.Path) == []
    (freed, error), = squeeze.reclaim([(a_v1_group(tmp_path / 'g', usage=500 * MB), 10 * MB, 0)], LONG, left)
    assert freed == 0 and 'belongs to somebody else' in error


@pytest.mark.parametrize('path', ['/etc', '/sys/fs/cgroup', '/sys/fs/cgroup/memory', 'relative',
                                  '/sys/fs/cgroup/memory/../../../etc/qemu-1', '/tmp/machine/qemu-1-x'])
def test_only_one_guests_group_may_be_reclaimed(path):
    with pytest.raises(ValueError, match='not the memory control group of one guest'):
        leases.checked(path)


def test_a_partition_named_like_a_guest_is_none(monkeypatch):
    monkeypatch.setattr(pathlib.Path, 'exists', lambda path: True)
    for guest in ('machine/qemu-1-x.libvirt-qemu', 'machine.slice/machine-qemu\\x2d1\\x2dx.scope'):
        assert leases.checked(f'/sys/fs/cgroup/memory/{guest}')
    with pytest.raises(ValueError, match='not the memory control group of one guest'):
        leases.checked('/sys/fs/cgroup/memory/qemu-tests.partition')


@pytest.mark.parametrize('name, value', [('run', 2), ('run', -1), ('../run', 1), ('advisor_mode', 0)])
def test_only_known_knobs_within_bounds_may_be_written(tmp_path, name, value):
    with pytest.raises(ValueError, match='not one that may be set'):
        privileged.write_knob(tmp_path, name, value)
    privileged.write_knob(tmp_path, 'run', 1)
    assert (tmp_path / 'run').read_text() == '1'


def test_a_kernel_that_takes_no_swappiness_is_asked_without_and_not_asked_again(tmp_path, monkeypatch):
    group = a_v2_group(tmp_path / 'g', usage=500 * MB, reclaim='')
    monkeypatch.setattr(squeeze, '_ANON_ONLY', [' swappiness=max', ' swappiness=200', ''])
    kernel = Kernel(monkeypatch, group, knows=('swappiness=200',))
    assert moved(group, 80 * MB, 0, LONG, tmp_path / 'leases') == 80 * MB
    words = [text.partition(' ')[2] for _, text in kernel.writes]
    assert words[0] == 'swappiness=max' and set(words[1:]) == {'swappiness=200'}


def test_a_version_two_group_without_a_call_for_reclaim_is_squeezed_and_let_go(tmp_path, monkeypatch):
    group = a_v2_group(tmp_path / 'g', usage=500 * MB, high='max')
    kernel = Kernel(monkeypatch, group)
    assert moved(group, 40 * MB, 0, LONG, tmp_path / 'leases') == 40 * MB
    assert {name for name, _ in kernel.writes} == {'memory.high'} and kernel.writes[-1] == ('memory.high', 'max')
    assert list((tmp_path / 'leases').iterdir()) == []


def test_a_brake_left_by_a_killed_process_is_lifted(tmp_path):
    group, kept = a_v2_group(tmp_path / 'g', usage=500 * MB, high='max'), tmp_path / 'leases'
    with leases.lowered(group / 'memory.high', 400 * MB, kept):
        left = {lease: lease.read_text() for lease in kept.iterdir()}
    (group / 'memory.high').write_text(str(400 * MB))
    for lease, text in left.items():
        lease.write_text(text)
    assert leases.lift(kept, pathlib.Path) == [str(group)]
    assert (group / 'memory.high').read_text() == 'max'


def test_the_brake_holds_while_memory_is_moved_and_no_longer(tmp_path, monkeypatch):
    group = a_v2_group(tmp_path / 'g', usage=500 * MB, reclaim='', high='max')
    kernel = Kernel(monkeypatch, group)
    squeeze.reclaim([(group, 40 * MB, 0)], LONG, tmp_path / 'leases', brake=True)
    names = [name for name, _ in kernel.writes]
    assert names[0] == names[-1] == 'memory.high' and 'memory.reclaim' in names[1:-1]
    assert (group / 'memory.high').read_text() == 'max'


def test_a_group_that_is_squeezed_stays_braked_between_two_chunks(tmp_path, monkeypatch):
    group, left = a_v2_group(tmp_path / 'g', usage=500 * MB, high='max'), tmp_path / 'leases'
    squeeze._fitting.clear()
    kernel, kept = Kernel(monkeypatch, group), []
    step = squeeze.Group.step

    def stepped(self):
        found = step(self)
        kept.append(((group / 'memory.high').read_text(), len(list(left.iterdir()))))
        return found
    monkeypatch.setattr(squeeze.Group, 'step', stepped)
    (freed, error), = squeeze.reclaim([(group, 40 * MB, 0)], LONG, left, brake=True)
    assert (freed, error) == (40 * MB, None)
    assert kept == [(str(500 * MB), 1)] * len(kept) and len(kept) > 1, 'the brake and its lease outlive a chunk'
    assert kernel.writes[-1] == ('memory.high', 'max') and list(left.iterdir()) == []


def test_one_write_moves_as_much_as_the_device_manages_in_a_moment_and_that_is_remembered(tmp_path, monkeypatch):
    group = a_v2_group(tmp_path / 'g', usage=900 * MB, reclaim='')
    kernel = Kernel(monkeypatch, group)
    squeeze._fitting.clear()
    monkeypatch.setattr(squeeze, '_QUICK', LONG)
    moved(group, 7 * squeeze.CHUNK, 0, LONG, tmp_path / 'leases')
    assert [int(text.split()[0]) // squeeze.CHUNK for _, text in kernel.writes if text][-3:] == [1, 2, 4]
    monkeypatch.setattr(squeeze, '_QUICK', -1.0)
    monkeypatch.setattr(squeeze, '_SLOW', 0.0)
    moved(group, 12 * squeeze.CHUNK, 0, LONG, tmp_path / 'leases')
    assert [int(text.split()[0]) // squeeze.CHUNK for _, text in kernel.writes][-2:] == [8, 4]


def test_several_groups_give_in_turn_and_one_that_is_gone_costs_the_others_nothing(tmp_path, monkeypatch):
    groups = [a_v1_group(tmp_path / name, usage=500 * MB) for name in 'ab']
    kernels = [Kernel(monkeypatch, group) for group in groups]
    found = squeeze.reclaim([(groups[0], 200 * MB, 0), (tmp_path / 'gone', MB, 0), (groups[1], 100 * MB, 450 * MB)],
                            LONG, tmp_path / 'leases')
    assert [freed for freed, _ in found] == [200 * MB, 0, 50 * MB]
    assert 'FileNotFoundError' in found[1][1] and all(kernel.writes for kernel in kernels)


def test_a_lease_that_names_another_file_is_not_followed(tmp_path):
    left = tmp_path / 'leases'
    left.mkdir(mode=0o700)
    group = a_v2_group(tmp_path / 'g', usage=1)
    (left / 'x').write_text(json.dumps({'group': str(group), 'file': 'memory.max', 'limit': '5'}))
    assert leases.lift(left, pathlib.Path) == [] and (group / 'memory.max').read_text() == 'max\n'


def test_one_call_of_the_root_helper_does_not_last_longer_than_its_watchdog_waits(tmp_path, monkeypatch):
    lasted = []
    monkeypatch.setattr(squeeze, 'reclaim', lambda groups, seconds, directory, brake: lasted.append(seconds) or [])
    monkeypatch.setattr(privileged, '_watchdog', lambda directory: types.SimpleNamespace(rouse=lambda: None))
    for seconds in (0.5, 1e9, float('inf'), float('nan'), -1.0):
        privileged.reclaim_of([], seconds, False)
    assert lasted[0] == 0.5 and all(0 <= one < leases.DEADLINE / 2 for one in lasted)
