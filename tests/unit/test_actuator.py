# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Carrying out: what frees memory goes first, and each failure stands alone."""
import pathlib
import threading
import time

import pytest

from ovc_plugin import privileged
from ovc_plugin.act import reclaimer
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.model import MIB, Level, Plan, ReclaimGuest, SetBalloon, TuneKsm
from tests.builders import FakeHypervisor
from tests.waiting import LONG, until


def test_what_was_moved_before_an_error_is_told():
    """Else swapping that went on for long and erred at last would be taken for one in vain."""
    entry = reclaimer._Entry(ReclaimGuest(guest='g1', amount=1 << 30, floor=0, reason=''), '/g1', freed=MIB, error='x')
    assert entry.outcome().freed == MIB
    entry.freed = 0
    assert entry.outcome().freed is None


def plan(*actions):
    return Plan(level=Level.HARD, actions=actions, reason='')


def patient(hypervisor=None):
    """It waits for all swapping to end, and no guest takes long by its clock."""
    return Actuator(hypervisor or FakeHypervisor(), lambda uuid: pathlib.Path('/g'), patience=LONG, clock=lambda: 0.0)


def all_of_it(wanted, seconds, brake):
    return [(amount, None) for _, amount, _ in wanted]


GROW = SetBalloon(guest='a', target=2 * MIB, previous=MIB, reason='')
SHRINK = SetBalloon(guest='b', target=MIB, previous=2 * MIB, reason='')
SWAP = ReclaimGuest(guest='c', amount=MIB, floor=0, reason='')
SHARE = TuneKsm(run=1, pages_to_scan=10, reason='')


def test_what_frees_goes_before_what_gives(monkeypatch):
    monkeypatch.setattr(privileged, 'reclaim', all_of_it)
    monkeypatch.setattr(privileged, 'set_ksm', lambda *args: None)
    hypervisor = FakeHypervisor()
    outcomes = patient(hypervisor).apply(plan(GROW, SHARE, SWAP, SHRINK), dry_run=False)
    assert [o.action for o in outcomes] == [SWAP, SHRINK, SHARE, GROW]
    assert all(o.done for o in outcomes) and outcomes[0].freed == MIB


def test_a_dry_run_touches_nothing():
    hypervisor = FakeHypervisor()
    outcomes = Actuator(hypervisor, lambda uuid: None).apply(plan(GROW, SHARE, SWAP), dry_run=True)
    assert hypervisor.asked == [] and all(o.dry and not o.done for o in outcomes)


def test_every_failure_is_told_and_the_rest_is_done(monkeypatch):
    monkeypatch.setattr(privileged, 'set_ksm', lambda *args: (_ for _ in ()).throw(PermissionError('no')))
    hypervisor = FakeHypervisor()
    hypervisor.broken = {'b'}
    outcomes = Actuator(hypervisor, lambda uuid: None).apply(plan(SHRINK, SWAP, SHARE, GROW), dry_run=False)
    assert [o.done for o in outcomes] == [False, False, False, True]
    assert 'no memory control group' in outcomes[0].error and 'PermissionError' in outcomes[2].error


class SlowHelper:
    """A root helper that takes its time: each call moves a third of what is wanted, once it is let."""

    def __init__(self, monkeypatch):
        self.calls, self.let = [], threading.Semaphore(0)
        monkeypatch.setattr(privileged, 'reclaim', self.reclaim)
        monkeypatch.setattr(reclaimer, '_lift', lambda: None)  # no test that fails here starts the real one
        monkeypatch.setattr(reclaimer, 'SLICE', 0.0)  # a call that took no less was cut short: it is made again

    def reclaim(self, wanted, seconds, brake):
        self.calls.append((wanted, brake))
        assert self.let.acquire(timeout=LONG)
        return [(-(-amount // 3), None) for _, amount, _ in wanted]


def swap(amount, guest='c'):
    return ReclaimGuest(guest=guest, amount=amount, floor=7, reason='')


def test_a_pass_does_not_wait_for_slow_swapping_which_is_told_when_it_has_ended(monkeypatch):
    helper = SlowHelper(monkeypatch)
    actuator = Actuator(FakeHypervisor(), lambda uuid: pathlib.Path('/g'), patience=0.05)
    assert [o.action for o in actuator.apply(plan(swap(9), SHRINK), dry_run=False)] == [SHRINK]
    assert actuator.swapping, 'the helper has not been let'
    helper.let.release(9)
    assert until_ended(actuator) == [(swap(9), 9)] and not actuator.swapping


def test_a_newer_plan_replaces_what_an_older_one_still_wanted(monkeypatch):
    helper = SlowHelper(monkeypatch)
    actuator = Actuator(FakeHypervisor(), lambda uuid: pathlib.Path('/g'), patience=0.05)
    actuator.apply(plan(swap(90)), dry_run=False)
    until(lambda: helper.calls)
    actuator.apply(plan(swap(60)), dry_run=False)   # never begun: the call for the first one is still under way
    actuator.apply(Plan(level=Level.CRITICAL, actions=(swap(30),), reason=''), dry_run=False)
    helper.let.release(99)
    ended = until_ended(actuator, 2)
    assert ended == [(swap(90), 30), (swap(30), 30)]
    assert [(wanted[0][1], brake) for wanted, brake in helper.calls][:2] == [(90, False), (30, True)]


def test_swapping_that_is_no_longer_wanted_ends_with_the_call_under_way(monkeypatch):
    helper = SlowHelper(monkeypatch)
    actuator = Actuator(FakeHypervisor(), lambda uuid: pathlib.Path('/g'), patience=0.05)
    actuator.apply(plan(swap(90)), dry_run=False)
    until(lambda: helper.calls)
    actuator.apply(plan(), dry_run=False)
    helper.let.release(1)
    assert until_ended(actuator) == [(swap(90), 30)] and len(helper.calls) == 1


def test_a_root_helper_that_fails_is_told_of_each_guest_and_what_it_left_is_lifted(monkeypatch):
    monkeypatch.setattr(privileged, 'reclaim', lambda *args: (_ for _ in ()).throw(ConnectionError('no helper')))
    lifted = []
    monkeypatch.setattr(privileged, 'lift_leftovers', lambda: lifted.append(1) or ['/g'])
    outcomes = patient().apply(plan(swap(1), swap(2, 'd')), dry_run=False)
    assert [o.error for o in outcomes] == ['ConnectionError: no helper'] * 2
    assert lifted, 'what it may have left lowered is lifted at once'


def test_of_what_a_newer_plan_came_before_it_is_not_said_that_nothing_could_be_moved(monkeypatch):
    """Nothing of it was tried; the rules learn from what was."""
    helper = SlowHelper(monkeypatch)
    actuator = Actuator(FakeHypervisor(), lambda uuid: pathlib.Path('/g'), patience=0.05)
    actuator.apply(plan(swap(90)), dry_run=False)
    until(lambda: helper.calls)
    actuator.apply(plan(swap(60)), dry_run=False)
    outcomes = actuator.apply(plan(swap(30)), dry_run=False)
    helper.let.release(99)
    assert [(o.action, o.done, o.freed) for o in outcomes] == [(swap(60), True, None)]
    until_ended(actuator, 2)


def test_a_slow_device_comes_to_each_guest_in_turn(monkeypatch):
    firsts = []

    def one_at_a_time(wanted, seconds, brake):
        time.sleep(0.002)
        firsts.append(wanted[0][0])
        return [(wanted[0][1] // 2 + 1, None)] + [(0, None)] * (len(wanted) - 1)
    monkeypatch.setattr(privileged, 'reclaim', one_at_a_time)
    monkeypatch.setattr(reclaimer, 'SLICE', 0.001)
    actuator = Actuator(FakeHypervisor(), lambda uuid: pathlib.Path('/' + uuid), patience=LONG)
    outcomes = actuator.apply(plan(swap(9, 'a'), swap(9, 'b'), swap(9, 'c')), dry_run=False)
    assert firsts[:3] == ['/a', '/b', '/c'] and [o.freed >= 9 for o in outcomes] == [True] * 3


def test_a_guest_of_which_nothing_can_be_moved_does_not_keep_the_thread_for_ever(monkeypatch):
    monkeypatch.setattr(privileged, 'reclaim', lambda wanted, seconds, brake: [(0, None)] * len(wanted))
    monkeypatch.setattr(reclaimer, 'SLICE', 0.0)
    actuator = Actuator(FakeHypervisor(), lambda uuid: pathlib.Path('/g'), patience=LONG)
    assert [o.freed for o in actuator.apply(plan(swap(9)), dry_run=False)] == [0] and not actuator.swapping


def until_ended(actuator, count=1):
    ended = []
    until(lambda: ended.extend((o.action, o.freed) for o in actuator._swapping.collect(0.05)) or len(ended) >= count)
    return ended


def test_a_guest_that_takes_long_is_left_out_for_a_while():
    times = iter((0.0, 30.0, 30.0, 31.0, 95.0, 95.0))
    hypervisor = FakeHypervisor()
    actuator = Actuator(hypervisor, lambda uuid: None, clock=lambda: next(times))
    for expected in (True, False, True):
        assert actuator.apply(plan(SHRINK), dry_run=False)[0].done is expected
    assert len(hypervisor.asked) == 2


def test_a_guest_that_is_being_asked_by_one_thread_is_not_asked_by_another(monkeypatch):
    """It hangs: whoever asks next would hang too."""
    hypervisor, let, begun = FakeHypervisor(), threading.Event(), threading.Event()
    monkeypatch.setattr(hypervisor, 'set_balloon', lambda uuid, target: (begun.set(), let.wait(LONG)))
    actuator = patient(hypervisor)
    first = threading.Thread(target=actuator.apply, args=(plan(SHRINK),), kwargs={'dry_run': False})
    first.start()
    assert begun.wait(LONG)
    outcome, = actuator.apply(plan(SHRINK), dry_run=False)
    assert not outcome.done and 'left out' in outcome.error
    let.set()
    first.join()
    assert actuator.apply(plan(SHRINK), dry_run=False)[0].done


def test_a_thread_that_is_barred_begins_nothing_more_and_others_may(monkeypatch):
    monkeypatch.setattr(privileged, 'reclaim', all_of_it)
    actuator, found = patient(), []
    go = threading.Event()
    barred = threading.Thread(target=lambda: (go.wait(LONG), found.extend(
        actuator.apply(plan(SWAP, SHRINK, GROW), dry_run=False))))
    barred.start()
    assert actuator.bar(barred, 0.0) is None
    go.set()
    barred.join()
    assert not any(o.done for o in found) and not actuator.swapping and actuator._hypervisor.asked == []
    assert all(o.done for o in actuator.apply(plan(SWAP, GROW), dry_run=False))


def without_threads(name):
    """No thread of this name can be started, as where memory or a limit of processes has run out, until it ends."""
    start = threading.Thread.start

    def refused(thread):
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)
    patch = pytest.MonkeyPatch()
    patch.setattr(threading.Thread, 'start', refused)
    return patch


def test_swapping_that_finds_no_thread_is_told_and_goes_on_once_there_is_one(monkeypatch):
    """Threads run out where memory does: just when swapping is needed. It must not be given up for good."""
    monkeypatch.setattr(privileged, 'reclaim', all_of_it)
    hypervisor = FakeHypervisor()
    actuator = patient(hypervisor)
    refused = without_threads('ovc-reclaim')
    outcomes = actuator.apply(plan(SWAP, GROW), dry_run=False)
    assert [o.done for o in outcomes] == [False, True] and 'thread' in outcomes[0].error
    assert not actuator.swapping
    refused.undo()
    assert [(o.action, o.done) for o in actuator.apply(plan(SWAP), dry_run=False)] == [(SWAP, True)]


def test_an_answer_for_other_guests_than_were_asked_for_is_a_failure_and_no_end_of_swapping(monkeypatch):
    monkeypatch.setattr(reclaimer, '_lift', lambda: None)
    monkeypatch.setattr(privileged, 'reclaim', lambda *args: [])
    actuator = patient()
    [outcome] = actuator.apply(plan(SWAP), dry_run=False)
    assert not outcome.done and not actuator.swapping


def test_nothing_is_kept_of_guests_that_answered(monkeypatch):
    actuator = patient()
    actuator.apply(plan(*(SetBalloon(guest=f'g{n}', target=MIB, previous=2 * MIB, reason='') for n in range(9))),
                   dry_run=False)
    assert not actuator._left_out
