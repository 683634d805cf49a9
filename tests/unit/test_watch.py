# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Between two passes: what cheap looks tell, and when they bring a pass forward."""
from __future__ import annotations

import os
import select
import threading

import pytest

from ovc_plugin import watch
from ovc_plugin.model import MIB
from ovc_plugin.samples import MemorySample
from ovc_plugin.sense import marks, psi, sleeper
from ovc_plugin.sense.glance import Glance, Look
from ovc_plugin.sense.sensor import Sensor
from tests.builders import GIB, a_proc, a_sample, a_v1_group, a_v2_group
from tests.waiting import LONG

PSI = 'some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n'


class Clock:
    """Time goes on as a test says, or while somebody sleeps by it; what is to happen then does."""

    def __init__(self):
        self.now, self.coming = 100.0, []

    def __call__(self):
        return self.now

    def after(self, seconds, do, *words):
        self.coming = sorted([*self.coming, (self.now + seconds, len(self.coming), do, words)])

    def next(self, end):
        """Go on to what happens next, or to the end."""
        if not self.coming or self.coming[0][0] > end:
            self.now = end
            return
        self.now, _, do, words = self.coming.pop(0)
        do(*words)


class Asleep(sleeper.Sleeper):
    """Sleeps by such a clock, and hears what really rings."""

    def sleep(self, seconds, stopping):
        end = self._clock() + min(seconds, sleeper.LONGEST)
        while not self._poll.poll(0) and self._clock() < end:
            self._clock.next(end)
        return super().sleep(0, stopping)


def by(clock, watching, **options):
    """The watch, sleeping by this clock."""
    before, watching._clock = watching._sleeper, clock
    watching._sleeper = Asleep(before._trigger, before._arm, clock, means=before._of_stalls, **options)
    return watching


class Filling:
    """A host whose guests take ``rate`` bytes a second; at the wall the kernel swaps for them."""

    def __init__(self, available=450 * MIB, rate=200 * MIB, stalled=None):
        self.clock, self.begin, self.available, self.rate = Clock(), 100.0, available, rate
        self.stalled = stalled
        self.watch = watch.Watch(self.look, clock=self.clock)

    def look(self):
        taken = int(self.rate * max(0.0, self.clock.now - self.begin))
        stalled = None if self.stalled is None else self.stalled * (self.clock.now - self.begin)
        return Look(at=self.clock.now, available=max(0, self.available - taken), demand=taken, stalled=stalled)

    def after(self, seconds, step=0.2):
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-6:
            self.clock.now += step
            seen = self.watch.recent(look=True)
        return seen


def test_a_look_that_fails_in_any_way_costs_no_pass():
    def look():
        raise ValueError('not a number')
    blind = watch.Watch(look)
    assert blind.recent(look=True) is None and blind.complete(a_sample()) == a_sample()
    assert blind.fields()['failed'] == 2


def test_growth_is_known_after_a_second_and_counts_less_the_shorter_it_has_lasted():
    host = Filling()
    host.begin = 102.0
    host.after(2.0)
    early, later = host.after(0.4).growth, host.after(0.8).growth
    assert early == pytest.approx(80 * MIB, rel=0.1) and later == pytest.approx(200 * MIB, rel=0.05)


def test_at_the_wall_demand_still_grows_though_nothing_is_left_to_shrink():
    seen = Filling(available=100 * MIB).after(4.0)
    assert seen.available == 0 and seen.growth == pytest.approx(200 * MIB, rel=0.05)


def test_what_is_moved_to_swap_or_back_is_no_new_demand():
    clock = Clock()
    looks = iter([Look(at=100.0, available=100, demand=50), Look(at=101.0, available=600, demand=50),
                  Look(at=102.0, available=200, demand=50)])
    seen = watch.Watch(lambda: next(looks), clock=clock)
    growths = []
    for now in (100.0, 101.0, 102.0):
        clock.now = now
        growths.append(seen.recent(look=True).growth)
    assert growths == [None, 0, 0]


def test_looks_of_long_ago_say_nothing_of_now():
    host = Filling(rate=0)
    host.after(1.0)
    host.clock.now += 30
    host.rate = 100 * MIB
    assert host.watch.recent(look=True).growth is None


def test_the_stall_of_the_last_second_is_a_share():
    assert Filling(stalled=0.3).after(2.0).stall == pytest.approx(0.3)


def test_a_sample_is_completed_with_growth_and_the_worse_of_both_stalls():
    host = Filling(stalled=0.3)
    host.after(2.0)
    sample = host.watch.complete(a_sample(stall=0.1))
    assert sample.growth == pytest.approx(200 * MIB, rel=0.05) and sample.stall == pytest.approx(0.3)
    assert host.watch.complete(a_sample(stall=0.5)).stall == 0.5


def test_looks_that_fail_are_counted_and_change_nothing():
    def gone():
        raise OSError('gone')
    blind = watch.Watch(gone)
    assert blind.recent(look=True) is None and blind.complete(a_sample()) == a_sample()
    assert blind.fields()['failed'] == 2


def test_waiting_ends_as_soon_as_a_look_says_so_and_the_reason_is_kept():
    clock = Clock()
    host = by(clock, watch.Watch(lambda: Look(at=clock(), available=1, demand=0)))
    assert host.wait(30, 0.02, threading.Event(), lambda recent, since: 'short' if since > 0.1 else None) == 'short'
    assert clock() - 100 < 0.2 and host.fields()['early'] == 'short'
    assert host.wait(0.1, 0.02, threading.Event(), lambda recent, since: None) is None


def test_a_controller_that_stops_does_not_wait_for_the_tick():
    clock, stopping = Clock(), threading.Event()
    clock.after(0.1, stopping.set)
    seen = by(clock, watch.Watch(lambda: Look(at=clock(), available=1, demand=0)))
    seen.wait(60, 0.2, stopping, lambda *_: None)
    assert clock() - 100 < 0.5


class Alarm(psi.Trigger):
    """The kernel's side is a pipe: what is asked can be read of it, and ringing is writing into it."""

    def __init__(self, tmp_path):
        self.path_of_fifo = tmp_path / 'memory'
        os.mkfifo(self.path_of_fifo)
        super().__init__(self.path_of_fifo, events=select.POLLIN)
        self.asked = os.read(self._fd, 100)

    def ring(self):
        os.write(self._fd, b'!')


def test_the_kernels_alarm_ends_the_wait_without_any_look(tmp_path):
    alarm = Alarm(tmp_path)
    assert alarm.asked == b'some 150000 1000000\0'
    clock, told = Clock(), []
    # By a clock that stands still: nothing but the alarm can end the sleep, a real one.
    seen = watch.Watch(lambda: Look(at=clock(), available=1, demand=0), alarm, clock=clock)
    threading.Timer(0.2, alarm.ring).start()
    assert seen.wait(LONG, 0, threading.Event(), lambda recent, since: told.append(recent) or 'rang') == 'rang'
    assert told[0].stall == psi.RUNG
    alarm.close()


def test_a_kernel_that_grants_no_alarm_is_said_so_and_the_counter_is_looked_at(tmp_path):
    def refused(path):
        raise OSError(22, 'Invalid argument')
    found, means = psi.trigger(tmp_path / 'memory', refused)
    assert found is None and 'Invalid argument' in means and 'looked at' in means


def test_on_eventlet_there_is_no_alarm(tmp_path, monkeypatch):
    monkeypatch.delattr(select, 'poll')
    assert 'eventlet' in psi.trigger(tmp_path)[1]


def memory(available):
    return lambda: MemorySample(total=28 * GIB, available=available, swap_total=GIB, swap_free=GIB)


def test_a_look_at_the_machine_needs_nothing_but_two_open_files(tmp_path):
    proc = a_proc(tmp_path, available=3 * GIB, psi=PSI.format(2_500_000))
    glance = Glance(None, memory(0), proc, proc / 'pressure' / 'memory')
    first = glance.look()
    assert (first.available, first.stalled) == (3 * GIB, 2.5)
    a_proc(tmp_path, available=2 * GIB, psi=PSI.format(3_500_000))
    second = glance.look()
    assert second.demand - first.demand == GIB and second.stalled == 3.5


@pytest.mark.parametrize('version', [1, 2])
def test_a_look_at_a_group_follows_what_is_charged_and_what_is_swapped(tmp_path, version):
    def group(usage, swapped):
        if version == 2:
            return a_v2_group(tmp_path / 'g', usage=usage, swap=swapped)
        path = a_v1_group(tmp_path / 'g', usage=usage)
        (path / 'memory.memsw.usage_in_bytes').write_text(f'{usage + swapped}\n')
        return path
    clock = Clock()
    glance = Glance(group(500, 100), memory(1000), a_proc(tmp_path / 'proc'), clock=clock)
    first = glance.look()
    group(600, 250)
    second = glance.look()
    assert (first.available, second.available, second.demand - first.demand) == (1000, 900, 250)


def test_a_group_that_vanishes_is_a_look_that_failed_and_is_opened_anew(tmp_path):
    group = a_v2_group(tmp_path / 'g', usage=500)
    glance = Glance(group, memory(1000), a_proc(tmp_path / 'proc'))
    glance.look()
    (group / 'memory.current').write_text('')  # what the kernel shows of a removed group is an error; so is nothing
    with pytest.raises(OSError):
        glance.look()
    a_v2_group(tmp_path / 'g', usage=500)
    assert glance.look().available == 1000


class Still:
    """A host on which one look is like the other, waited at for a few seconds."""

    def __init__(self, **change):
        self.judged, self.change, self.looks, self.clock = [], change, 0, Clock()
        self.watch = by(self.clock, watch.Watch(self.look))

    def look(self):
        self.looks += 1
        changed = self.change if self.looks > 12 else {}
        return Look(at=self.clock(), **{'available': 450 * MIB, 'demand': 50 * MIB, 'stalled': 1.0, **changed})

    def wait(self):
        def judge(recent, since):
            self.judged.append((since, recent))
            return 'new' if recent.available < 440 * MIB or (recent.stall or 0) > 0.004 or since > 1.25 else None
        return self.watch.wait(1.6, 0.1, threading.Event(), judge)


def test_once_a_quiet_host_has_been_judged_looks_that_show_nothing_new_are_not():
    host = Still()
    assert host.wait() is None and host.looks > 12
    assert sum(since > watch.WINDOW for since, _ in host.judged) == 1


@pytest.mark.parametrize('change', [{'available': 430 * MIB}, {'stalled': 1.006}, {'demand': 60 * MIB}])
def test_a_look_that_shows_something_new_is_judged_at_once(change):
    assert Still(**change).wait() == 'new'


def test_what_looks_do_not_see_is_judged_when_told_of():
    host = Still()
    host.clock.after(1.4, host.watch.stir)
    assert host.wait() == 'new'


def test_what_is_stirred_while_a_look_is_judged_is_seen_by_the_next_one():
    host, told = Still(), []

    def judge(recent, since):
        if since > watch.WINDOW:
            told.append(since)
            if len(told) == 1:
                host.watch.stir()
        return 'new' if len(told) > 1 else None
    assert host.watch.wait(1.6, 0.1, threading.Event(), judge) == 'new'


class Ringing(marks.Marks):
    """The kernel's marks on a tree of plain files: what is asked for can be read there."""

    def __init__(self, group, total=GIB):
        for name in ('memory.usage_in_bytes', 'cgroup.event_control'):
            (group / name).write_text('')
        super().__init__(group, total)

    def ring(self):
        os.eventfd_write(self.fileno(), 1)


def test_marks_are_spread_over_the_whole_of_a_groups_limit(tmp_path):
    Ringing(tmp_path)
    asked = (tmp_path / 'cgroup.event_control').read_text()
    assert asked.endswith(f' {GIB}') and f' {GIB // 2}' in asked


def test_a_group_without_memory_thresholds_has_no_marks(tmp_path):
    with pytest.raises(OSError):
        marks.Marks(tmp_path, GIB)


class Resting:
    """A host at rest whose kernel rings at memory."""

    def __init__(self, tmp_path, **options):
        self.looks, self.taken, self.bounded = 0, 0, True
        self.marks, self.clock = Ringing(tmp_path), Clock()
        arm = options.get('arm', lambda kept: self.marks)
        self.watch = by(self.clock, watch.Watch(self.look, arm=arm), awake=options.get('awake', sleeper.AWAKE))
        self.judged = []
        self.watch.recent(look=True)  # as a pass does
        self.looks = 0

    def look(self):
        self.looks += 1
        return Look(at=self.clock(), available=450 * MIB - self.taken, demand=self.taken, stalled=1.0,
                    bounded=self.bounded)

    def rings(self, taken=20 * MIB):
        self.taken += taken
        self.marks.ring()

    def wait(self, seconds, judge=None, resting=100 * MIB):
        def judged(recent, since):
            self.judged.append(recent)
            return judge(recent) if judge else None
        return self.watch.wait(seconds, 0.05, threading.Event(), judged, resting=resting)


def test_at_rest_there_are_no_looks_where_the_kernel_rings_at_memory(tmp_path):
    host = Resting(tmp_path)
    assert host.wait(1.0) is None and host.looks == 0
    fields = host.watch.fields()
    assert 'rings at memory' in fields['means'] and fields['resting']
    assert host.wait(0.5, resting=None) is None and host.looks > 2 and not host.watch.fields()['resting']


def test_a_mark_that_is_crossed_brings_a_look_at_once_and_more_of_them_for_a_while(tmp_path):
    host = Resting(tmp_path)
    host.clock.after(0.5, host.rings)
    assert host.wait(30, lambda recent: 'fell' if recent.available < 440 * MIB else None) == 'fell'
    assert host.clock() == 100.5 and host.looks == 1
    assert host.wait(0.5) is None and host.looks > 3


def test_what_was_crossed_while_awake_rings_no_more_once_it_is_quiet_again(tmp_path):
    host = Resting(tmp_path, awake=0.5)
    host.clock.after(0.2, host.rings)
    host.clock.after(0.4, host.rings)
    host.wait(2.0)
    assert host.looks <= 12


def test_at_rest_there_is_a_look_now_and_then_for_what_does_not_ring(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, 'HEARTBEAT', 0.4)
    host = Resting(tmp_path)
    host.wait(1.0)
    assert 1 <= host.looks <= 2


def test_growth_before_a_mark_was_crossed_is_not_taken_for_the_last_seconds(tmp_path):
    """60 MB/s for a step of a large host's marks: the whole step in one second would be a false alarm."""
    host = Resting(tmp_path)
    host.clock.after(0.5, host.rings, 200 * MIB)
    host.wait(1.5)
    assert host.judged[0].growth is None and host.judged[0].available == 250 * MIB
    assert all((recent.growth or 0) == 0 for recent in host.judged)


def test_growth_over_a_rest_is_told_at_its_end(tmp_path):
    host = Resting(tmp_path)
    host.taken = 22 * MIB
    host.wait(2.2)
    assert host.watch.recent().growth == pytest.approx(10 * MIB, rel=0.1)


@pytest.mark.parametrize('change', [{'bounded': False}, {'taken': 430 * MIB}, {'resting': 460 * MIB}])
def test_where_marks_would_not_tell_in_time_looks_go_on(tmp_path, change):
    """The machine around the group runs out first; fewer than two marks are left; memory is too near its end."""
    host = Resting(tmp_path)
    host.bounded, host.taken = change.get('bounded', True), change.get('taken', 0)
    host.watch.recent(look=True)
    host.looks = 0
    host.wait(0.5, resting=change.get('resting', 10 * MIB))
    assert host.looks > 3


def test_who_is_stirred_at_rest_looks_at_once(tmp_path):
    host = Resting(tmp_path)
    host.clock.after(0.3, host.watch.stir)
    assert host.wait(30, lambda recent: 'news') == 'news' and host.clock() == 100.3


def test_a_look_that_fails_at_rest_gives_the_marks_up_until_the_next_rest(tmp_path, monkeypatch):
    host = Resting(tmp_path)
    first = host.marks
    monkeypatch.setattr(host.watch, '_look', lambda: 1 / 0)
    host.clock.after(0.1, host.marks.ring)  # as the kernel does when the group goes
    assert host.wait(0.5) is None and host.watch.blind
    assert host.watch.fields()['failed'] > 2 and not first.close.alive, 'the group may be another one: nothing rings'
    monkeypatch.undo()
    host.marks = Ringing(tmp_path)
    host.watch.recent(look=True)
    host.watch._sleeper._rang_at, host.looks = -100.0, 0
    assert host.wait(0.5) is None and host.looks == 0, 'marked anew'


@pytest.mark.parametrize('code, again', [(95, False), (2, True)])
def test_a_kernel_that_sets_no_marks_is_said_so_and_a_group_that_is_away_is_asked_again(tmp_path, code, again):
    asked = []

    def refused(kept):
        asked.append(kept)
        raise OSError(code, 'no such thing')
    host = Resting(tmp_path, arm=refused)
    assert host.wait(0.5) is None and host.looks > 3
    assert 'no such thing' in host.watch.fields()['means']
    host.wait(0.1)
    assert len(asked) == 1 + again


def of_sensor(tmp_path, version, limit=4 * GIB):
    make = a_v1_group if version == 1 else a_v2_group
    group = make(tmp_path / 'g', usage=GIB, limit=limit)
    sensor = Sensor('h', None, str(group), proc_root=str(a_proc(tmp_path / 'proc', available=20 * GIB)))
    sensor.memory()
    return group, sensor


def test_a_group_is_marked_once_and_again_when_its_limit_changes(tmp_path, monkeypatch):
    group, sensor = of_sensor(tmp_path, 1)
    (group / 'cgroup.event_control').write_text('')
    over = by(Clock(), watch.over(sensor))
    over.recent(look=True)
    seen = []
    for limit in (4, 4, 2):
        (group / 'memory.limit_in_bytes').write_text(f'{limit * GIB}\n')
        sensor.memory()
        over.wait(0.05, 0.02, threading.Event(), lambda *_: None, resting=MIB)
        seen.append(over._sleeper.marks)
    assert over.fields()['resting']
    assert seen[0] is seen[1] and [marks.total for marks in seen] == [4 * GIB, 4 * GIB, 2 * GIB]


def test_a_group_of_version_2_has_no_marks_and_is_looked_at(tmp_path):
    over = by(Clock(), watch.over(of_sensor(tmp_path, 2)[1]))
    over.wait(0.1, 0.02, threading.Event(), lambda *_: None, resting=MIB)
    fields = over.fields()
    assert not fields['resting'] and 'rings at memory' not in fields['means']
    assert fields['looks'] + fields['failed'] > 1


@pytest.mark.parametrize('around, bounded', [(3 * GIB, True), (GIB, False)])
def test_a_look_tells_whether_the_groups_limit_is_what_memory_runs_out_at(tmp_path, around, bounded):
    glance = Glance(a_v1_group(tmp_path / 'g', usage=500), memory(GIB), a_proc(tmp_path / 'proc', available=around))
    assert glance.look().bounded is bounded


def test_a_reading_that_a_pass_has_just_made_serves_a_look_too(tmp_path):
    group, sensor = of_sensor(tmp_path, 1)
    read = []
    known = memory(2 * GIB)()
    glance = Glance(group, lambda: read.append(1) or memory(GIB)(), a_proc(tmp_path / 'p', available=9 * GIB),
                    known=lambda: known)
    assert glance.look().available == 2 * GIB and not read
    known = None
    assert glance.look().available == 2 * GIB and not read, 'what was charged since is added to it'
    assert sensor.just_read() is sensor.last_memory
