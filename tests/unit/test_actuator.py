# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Carrying out: what frees memory goes first, and each failure stands alone."""
import pathlib

from ovc_plugin import privileged
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.model import MIB, Level, Plan, ReclaimGuest, SetBalloon, TuneKsm
from tests.builders import FakeHypervisor


def plan(*actions):
    return Plan(level=Level.HARD, actions=actions, reason='')


GROW = SetBalloon(guest='a', target=2 * MIB, previous=MIB, reason='')
SHRINK = SetBalloon(guest='b', target=MIB, previous=2 * MIB, reason='')
SWAP = ReclaimGuest(guest='c', amount=MIB, floor=0, reason='')
SHARE = TuneKsm(run=1, pages_to_scan=10, reason='')


def test_what_frees_goes_before_what_gives(monkeypatch):
    monkeypatch.setattr(privileged, 'reclaim', lambda *args: MIB)
    monkeypatch.setattr(privileged, 'set_ksm', lambda *args: None)
    hypervisor = FakeHypervisor()
    outcomes = Actuator(hypervisor, lambda uuid: pathlib.Path('/g')).apply(plan(GROW, SHARE, SWAP, SHRINK),
                                                                           dry_run=False)
    assert [o.action for o in outcomes] == [SHRINK, SWAP, SHARE, GROW]
    assert all(o.done for o in outcomes) and outcomes[1].freed == MIB


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
    assert 'no memory control group' in outcomes[1].error and 'PermissionError' in outcomes[2].error


def test_at_critical_swap_does_not_wait_for_balloons(monkeypatch):
    monkeypatch.setattr(privileged, 'reclaim', lambda *args: MIB)
    worst = Plan(level=Level.CRITICAL, actions=(SHRINK, SWAP), reason='')
    outcomes = Actuator(FakeHypervisor(), lambda uuid: pathlib.Path('/g')).apply(worst, dry_run=False)
    assert [o.action for o in outcomes] == [SWAP, SHRINK]


def test_a_guest_that_takes_long_is_left_out_for_a_while():
    times = iter((0.0, 30.0, 30.0, 31.0, 95.0, 95.0))
    hypervisor = FakeHypervisor()
    actuator = Actuator(hypervisor, lambda uuid: None, clock=lambda: next(times))
    for expected in (True, False, True):
        assert actuator.apply(plan(SHRINK), dry_run=False)[0].done is expected
    assert len(hypervisor.asked) == 2
