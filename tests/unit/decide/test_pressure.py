# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The level rises at once, falls after a dwell, and does not flap between two thresholds."""
import dataclasses
import pathlib
import re

import pytest

from ovc_plugin.decide import pressure
from ovc_plugin.decide.departing import Awaited, Departing
from ovc_plugin.decide.state import LadderState, Probe
from ovc_plugin.model import MIB, KsmState, Level, Plan, SetBalloon
from ovc_plugin.samples import Recent
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings(dwell=15)


def judged(available_mb, state=None, **host):
    return pressure.judge(a_host(available=available_mb * MIB, **host), state or LadderState(), OPTIONS, NOW)


@pytest.mark.parametrize('gib, mib', [(28, 899), (100, 899 + 737.28), (14, 449.5)])
def test_the_minimum_slides_as_esxi_publishes_it(gib, mib):
    assert pressure.minimum(gib * GIB, 1.0) == pytest.approx(mib * MIB, abs=MIB)


@pytest.mark.parametrize('available, level', [(2000, Level.CLEAR), (600, Level.CLEAR), (570, Level.SOFT),
                                              (280, Level.HARD), (140, Level.CRITICAL), (0, Level.CRITICAL)])
def test_less_available_memory_is_a_higher_level_at_once(available, level):
    assert judged(available).level is level


def test_the_thresholds_of_a_level_are_those_that_are_documented():
    page = (pathlib.Path(__file__).parents[3] / 'doc' / 'status.rst').read_text()
    rows = re.findall(r'^``(SOFT|HARD|CRITICAL)``  *< ([0-9.]+)(?: of minimum)?  *([0-9.]+)', page, re.MULTILINE)
    assert [name for name, _, _ in rows] == ['SOFT', 'HARD', 'CRITICAL'] and '899 MiB of a host of 28 GiB' in page
    for name, below, above in rows:
        level, begins, ends = Level[name], 899 * float(below), 899 * float(above)
        assert judged(int(begins) - 1).level is level and judged(int(begins) + 1).level < level
        waited = LadderState(level=level, better_since=NOW - 16)
        assert judged(int(ends) - 1, waited).level is level and judged(int(ends) + 1, waited).level < level


def test_a_level_stays_between_its_exit_and_entry_thresholds():
    for available in (600, 700, 890):
        assert judged(available, LadderState(level=Level.SOFT)).level is Level.SOFT


def test_a_level_begun_by_waiting_or_reading_back_ends_at_less_of_it():
    """Waits that went to and fro about the limit had the level change every 20 seconds, for ever."""
    soft = LadderState(level=Level.SOFT)
    for share, level in ((1.01, Level.SOFT), (0.9, Level.SOFT), (0.7, Level.SOFT), (0.6, Level.CLEAR)):
        waited = dataclasses.replace(soft, better_since=NOW - 16) if level is Level.CLEAR else soft
        assert judged(5000, waited, stall=share * OPTIONS.stall_soft).level is level
    assert judged(5000, stall=0.9 * OPTIONS.stall_soft).level is Level.CLEAR
    hard = LadderState(level=Level.HARD, better_since=NOW - 16)
    assert judged(5000, hard, stall=0.9 * OPTIONS.stall_hard).level is Level.HARD
    limit = 5 * OPTIONS.refault_limit * 4096
    assert judged(700, swap_in=limit).level is Level.HARD and judged(700, swap_in=0.9 * limit).level is Level.SOFT
    assert judged(700, hard, swap_in=0.9 * limit).level is Level.HARD
    assert judged(700, hard, swap_in=0.6 * limit).level is Level.SOFT


def test_a_level_falls_only_after_the_dwell_and_no_further_than_its_exit_threshold():
    first = judged(5000, LadderState(level=Level.CRITICAL))
    assert (first.level, first.better_since) == (Level.CRITICAL, NOW)
    waited = LadderState(level=Level.CRITICAL, better_since=NOW - 16)
    assert judged(5000, waited).level is Level.CLEAR
    assert judged(600, waited).level is Level.SOFT


def test_stalls_raise_the_level_though_memory_looks_free():
    assert judged(5000, stall=0.15).level is Level.SOFT
    assert judged(5000, stall=0.5).level is Level.HARD


@pytest.mark.parametrize('seconds, level', [(12, Level.CLEAR), (9, Level.SOFT), (3.9, Level.HARD),
                                            (1.4, Level.CRITICAL)])
def test_the_shorter_memory_will_last_the_higher_is_the_level(seconds, level):
    until_critical = (2000 - 0.16 * 899) * MIB
    assert judged(2000, growth=until_critical / seconds).level is level
    assert judged(2000, growth=-until_critical / seconds).level is Level.CLEAR


def test_a_level_begun_by_haste_ends_only_when_twice_as_long_is_left():
    until_critical, state = (2000 - 0.16 * 899) * MIB, LadderState(level=Level.HARD, better_since=NOW - 60)
    assert judged(2000, state, growth=until_critical / 7).level is Level.HARD
    assert judged(2000, state, growth=until_critical / 9).level is Level.SOFT


def test_reading_back_from_swap_counts_only_while_memory_is_short():
    limit = OPTIONS.refault_limit * 4096
    assert judged(5000, swap_in=100 * limit).level is Level.CLEAR
    assert judged(700, swap_in=0.9 * limit).level is Level.CLEAR
    assert judged(700, swap_in=2 * limit).level is Level.SOFT
    assert judged(700, swap_in=6 * limit).level is Level.HARD


def test_what_is_better_than_critical_is_soft_after_a_third_of_the_dwell_and_clear_after_all_of_it():
    for waited, level in ((4, Level.CRITICAL), (6, Level.SOFT), (14, Level.SOFT), (16, Level.CLEAR)):
        before = LadderState(level=Level.CRITICAL if waited < 10 else Level.SOFT, better_since=NOW - waited)
        found = judged(5000, before)
        assert (found.level, found.better_since) == (level, NOW - waited if level else None), waited


@pytest.mark.parametrize('last_short, level, then', [(4, Level.SOFT, 11), (14, Level.SOFT, 1), (15, Level.CLEAR, 0)])
def test_what_was_better_than_hard_alone_is_not_clear_before_it_was_better_than_soft_for_the_dwell(last_short, level,
                                                                                                   then):
    before = LadderState(level=Level.HARD, better_since=NOW - 20, soft_at=NOW - last_short)
    found = judged(5000, before)
    assert found.level is level and found.soft_at == NOW - last_short
    after = LadderState(level=level, better_since=found.better_since, soft_at=found.soft_at)
    later = a_host(available=5000 * MIB)
    assert pressure.judge(later, after, OPTIONS, NOW + then).level is Level.CLEAR
    if then:
        assert pressure.judge(later, after, OPTIONS, NOW + then - 1).level is Level.SOFT


def test_while_the_host_looks_no_better_than_soft_its_time_at_soft_begins_anew():
    for state in (LadderState(), LadderState(level=Level.SOFT), LadderState(level=Level.HARD, better_since=NOW - 6)):
        found = judged(570, state)
        assert (found.level, found.better_since, found.soft_at) == (Level.SOFT, None, NOW)
    assert judged(5000, LadderState(level=Level.SOFT, soft_at=NOW + 3600)).soft_at == NOW, 'the clock was set back'


def due(level=Level.CLEAR, since=2.0, last=2000, swapping=False, **recent):
    seen = Recent(**{'available': last * MIB} | recent)
    return pressure.urgent(seen, a_host(available=last * MIB), level, since, OPTIONS, swapping)


def test_a_pass_is_due_at_once_when_a_look_finds_more_than_the_last_level():
    assert due() is None
    assert due(available=500 * MIB) == '500 MB available < 575 MB'
    assert 'exhausted' in due(growth=1000 * MIB) and 'tasks wait' in due(stall=0.2)
    assert due(available=500 * MIB, since=0.2) is None, 'the last pass has only just been'
    assert pressure.urgent(Recent(available=0), None, Level.CLEAR, 2.0, OPTIONS) is None


def test_a_host_that_stays_hard_is_looked_at_each_second_and_one_that_stays_soft_when_it_falls_further():
    assert due(Level.CRITICAL, last=100) and not due(Level.CRITICAL, last=100, since=0.7)
    assert not due(Level.SOFT, last=500)
    assert due(Level.SOFT, last=500, available=480 * MIB)
    assert not due(Level.CRITICAL, last=3000), 'it is held by the dwell alone'


def test_while_memory_is_moved_to_swap_each_second_tells_whether_that_is_still_wanted():
    assert 'moved to swap' in due(Level.CRITICAL, last=3000, swapping=True)
    assert due(Level.CRITICAL, last=3000, swapping=True, since=0.7) is None


def test_the_reason_names_both_numbers():
    assert judged(280).reason == '280 MB available < 287 MB'


QUIET = Plan(level=Level.CLEAR, actions=(), reason='')
ASKS = SetBalloon(guest='g1', target=GIB, previous=GIB, reason='')


def quiet(plan=QUIET, state=None, available=10 * GIB, **guest):
    ksm = guest.pop('ksm', None)
    arriving = guest.pop('arriving', ())
    here = a_guest(**{'maximum': GIB, 'actual': GIB, 'target': GIB, **guest})
    return pressure.quiet(a_host(here, available=available, ksm=ksm, arriving=arriving), plan, state or LadderState(),
                          OPTIONS)


def test_a_host_is_quiet_while_nothing_is_short_taken_or_under_way_and_says_above_what():
    assert quiet() == 2 * pressure.minimum(a_host().total, 1.0)
    assert quiet(actual=None, target=None) and quiet(running=False, actual=GIB // 2, target=GIB // 2)


@pytest.mark.parametrize('change', [
    {'plan': Plan(level=Level.SOFT, actions=(), reason='')}, {'plan': dataclasses.replace(QUIET, actions=(ASKS,))},
    {'available': 1700 * MIB}, {'actual': GIB - MIB}, {'target': GIB - MIB}, {'arriving': ('p1',)},
    {'ksm': KsmState(run=1, saved=0, shared=0, pages_to_scan=100)},
    {'state': LadderState(departing=Departing(awaited=Awaited(guest='g1', at=NOW)))},
    {'state': LadderState(departing=Departing(short_since=NOW))},
    {'state': LadderState(probes={'g1': Probe(step=MIB, at=NOW)})},
    {'state': LadderState(probes={'g1': Probe(step=MIB, at=NOW - 1e4, misses=1)})}])
def test_a_host_where_anything_is_going_on_is_not_quiet(change):
    assert quiet(**change) is None


def test_a_guest_that_read_back_once_does_not_keep_its_host_from_being_quiet_for_hours():
    """Its smaller step is kept until it has given as much without reading back, and nobody may ask that of it."""
    assert quiet(state=LadderState(probes={'g1': Probe(step=MIB, at=NOW - 100)}))


@pytest.mark.parametrize('tick, quiet, seconds', [(5, False, 5), (5, True, 30), (1, True, 6), (10, True, 30),
                                                  (60, True, 60)])
def test_passes_of_a_quiet_host_are_further_apart_but_no_report_gets_old(tick, quiet, seconds):
    assert pressure.apart(tick, quiet=quiet) == seconds
