# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How fast equal pages are looked for, over a modelled scanner that takes time for each page."""
import dataclasses

import pytest

from ovc_plugin.act import ksm as effector
from ovc_plugin.decide import ksm, scanning
from ovc_plugin.decide.scanning import Scanning
from ovc_plugin.model import MIB, KsmState, Level, TuneKsm
from ovc_plugin.settings import HostSettings
from tests.builders import NOW, a_guest, a_host

OPTIONS = HostSettings(dry_run=False)
PAGE, TICK, COST, SLEEP = 4096, 5.0, 1e-5, 0.02


class Scanner:
    """ksmd over guests of ``pages`` pages; of those it looks at, once it has seen all, a share ``twins`` is merged."""

    def __init__(self, pages=200_000, twins=0.0, guests=('g1', 'g2'), options=OPTIONS):
        self.pages, self.twins, self.options = pages, twins, options
        self.guests = [a_guest(name) for name in guests]
        self.state = KsmState(run=1, saved=0, shared=0, pages_to_scan=100, sleep=SLEEP, scanned=0, full_scans=0,
                              cpu=0.0, dissolved=0, zero=0, use_zero_pages=0)
        self.scanning, self.at, self.seen = Scanning(), NOW, 0
        self.speeds = []

    def tick(self, level=Level.CLEAR, dissolves=0.0):
        host = dataclasses.replace(a_host(*self.guests), ksm=self.state, taken_at=self.at, evaporation=dissolves)
        self.scanning = scanning.follow(self.scanning, host, level, self.options)
        action = ksm.tune(host, self.options, self.scanning)
        if action and action.pages_to_scan:
            self.state = dataclasses.replace(self.state, pages_to_scan=action.pages_to_scan)
        self.speeds.append(self.state.pages_to_scan)
        self._scan()
        return action

    def _scan(self):
        wake_ups = TICK / (SLEEP + self.state.pages_to_scan * COST)
        scanned = int(wake_ups * self.state.pages_to_scan)
        self.seen += scanned
        found = int(self.twins * scanned) if self.seen > self.pages else 0
        self.at += TICK
        self.state = dataclasses.replace(
            self.state, scanned=self.state.scanned + scanned, cpu=self.state.cpu + scanned * COST,
            full_scans=self.seen // self.pages, saved=self.state.saved + found * PAGE)

    def run(self, ticks, **kwargs):
        for _ in range(ticks):
            self.tick(**kwargs)
        return self

    @property
    def share(self):
        """Of a core, in the last ticks."""
        busy = self.state.pages_to_scan * COST
        return busy / (SLEEP + busy)


def test_a_scanner_that_finds_nothing_slows_down_to_a_trickle_and_stays_there():
    scanner = Scanner().run(400)
    full, last = scanner.speeds[0], scanner.speeds[-1]
    assert last == full // 16 and scanner.speeds[-100:] == [last] * 100
    assert scanner.share < 0.02


def test_it_never_takes_more_of_a_core_than_it_may():
    for most in (0.05, 0.2, 0.5):
        scanner = Scanner(twins=0.5, options=dataclasses.replace(OPTIONS, ksm_max_cpu=most, ksm_pages_to_scan=10**5))
        for _ in range(50):
            scanner.tick()
            assert scanner.share <= most * 1.2  # small corrections are not worth a write
        assert scanner.share > most * 0.8


def test_it_stays_fast_while_it_saves_much():
    scanner = Scanner(twins=0.5).run(100)
    assert set(scanner.speeds) == {scanner.speeds[0]}


def test_pages_that_are_merged_and_written_again_and_again_are_worth_the_scan():
    scanner = Scanner().run(60, dissolves=100.0 * MIB)
    assert scanner.speeds[-1] == scanner.speeds[0]


def test_a_new_guest_is_looked_through_at_full_speed():
    scanner = Scanner().run(300)
    assert scanner.speeds[-1] < scanner.speeds[0]
    scanner.guests.append(a_guest('g3'))
    scanner.tick()
    assert scanner.speeds[-1] == scanner.speeds[0] and '1 guests to look through' in scanner.scanning.reason
    scanner.run(2)
    assert scanner.speeds[-1] == scanner.speeds[0], 'until its pages were seen twice'


def test_a_guest_that_leaves_changes_nothing():
    scanner = Scanner(guests=('g1', 'g2', 'g3')).run(300)
    slow = scanner.speeds[-1]
    scanner.guests.pop()
    scanner.run(20)
    assert set(scanner.speeds[-20:]) == {slow}


def test_a_host_that_is_short_scans_at_full_speed():
    scanner = Scanner().run(300)
    scanner.tick(level=Level.SOFT)
    assert scanner.speeds[-1] > 3 * scanner.speeds[0] and scanner.scanning.reason == 'level SOFT'
    assert scanner.share <= OPTIONS.ksm_boost_cpu


def test_pages_that_become_alike_later_are_found_and_the_scan_gets_faster():
    scanner = Scanner().run(300)
    slow = scanner.speeds[-1]
    scanner.twins = 0.5
    scanner.run(60)
    assert scanner.speeds[-1] > 4 * slow and 'MB saved per second of ksmd' in scanner.scanning.reason


def test_a_kernel_that_tells_no_cost_is_scanned_at_full_speed():
    scanner = Scanner()
    scanner.state = dataclasses.replace(scanner.state, cpu=None, scanned=None, full_scans=None)
    host = dataclasses.replace(a_host(*scanner.guests), ksm=scanner.state)
    assert scanning.follow(Scanning(), host, Level.CLEAR, OPTIONS).pages == 500


def host_with(**changes):
    return dataclasses.replace(a_host(a_guest('g1'), a_guest('g2')), ksm=dataclasses.replace(
        KsmState(run=1, saved=0, shared=0, pages_to_scan=500), **changes))


def test_the_kernels_own_advisor_is_not_fought():
    assert ksm.tune(host_with(advisor=True, pages_to_scan=3000), OPTIONS) is None
    assert ksm.tune(host_with(advisor=True, run=0), OPTIONS).pages_to_scan is None


@pytest.mark.parametrize('state, options, written', [
    (dict(zero=0, use_zero_pages=0), OPTIONS, 1),
    (dict(zero=None, use_zero_pages=0), OPTIONS, None),
    (dict(zero=0, use_zero_pages=1), OPTIONS, None),
    (dict(zero=0, use_zero_pages=0), dataclasses.replace(OPTIONS, ksm_zero_pages=False), None)])
def test_zero_pages_are_merged_where_the_kernel_counts_them(state, options, written):
    assert ksm.tune(host_with(run=0, **state), options).use_zero_pages == written


APART = dataclasses.replace(OPTIONS, ksm_across_nodes=False)


def test_nodes_are_kept_apart_only_while_nothing_is_merged():
    two = dict(nodes=2, merge_across_nodes=1)
    assert ksm.tune(host_with(run=0, **two), APART).merge_across_nodes == 0
    assert ksm.tune(host_with(run=0, **two), OPTIONS).merge_across_nodes is None
    merged = host_with(run=0, shared=PAGE, saved=PAGE, **two)
    assert ksm.tune(merged, APART).merge_across_nodes is None
    assert 'restart of the' in ksm.alarm(merged, APART)
    assert ksm.alarm(host_with(shared=PAGE, nodes=1, merge_across_nodes=1), APART) is None


def test_what_is_better_is_set_also_where_sharing_runs_already_and_nothing_else_is_to_be_changed():
    for advisor in (True, False):
        running = dict(advisor=advisor, pages_to_scan=5000)
        asked = ksm.tune(host_with(nodes=2, merge_across_nodes=1, **running), APART)
        assert (asked.run, asked.pages_to_scan, asked.merge_across_nodes) == (1, None, 0)
        assert ksm.tune(host_with(nodes=2, merge_across_nodes=1, shared=PAGE, **running), APART) is None
        assert ksm.tune(host_with(zero=0, use_zero_pages=0, **running), OPTIONS).use_zero_pages == 1
        assert ksm.tune(host_with(zero=0, use_zero_pages=1, nodes=2, merge_across_nodes=0, **running), APART) is None


class Kernel:
    """Knobs; those of ``refused`` cannot be written."""

    def __init__(self, *refused):
        self.refused, self.written = refused, []

    def write(self, name, value):
        if name in self.refused:
            raise OSError(16, 'busy', name)
        self.written.append((name, value))


def test_what_only_makes_it_better_may_be_refused():
    kernel = Kernel('use_zero_pages', 'merge_across_nodes')
    effector.apply(TuneKsm(run=1, pages_to_scan=500, use_zero_pages=1, merge_across_nodes=0, reason=''), kernel.write)
    assert kernel.written == [('pages_to_scan', 500), ('run', 1)]
    with pytest.raises(OSError):
        effector.apply(TuneKsm(run=1, pages_to_scan=500, reason=''), Kernel('pages_to_scan').write)


def test_everything_that_was_changed_is_put_back_and_nothing_is_unmerged():
    kernel = Kernel('merge_across_nodes')
    found = KsmState(run=2, saved=0, shared=0, pages_to_scan=100, smart_scan=1, use_zero_pages=0, merge_across_nodes=1,
                     nodes=2)
    effector.restore(found, kernel.write)
    assert kernel.written == [('run', 0), ('smart_scan', 1), ('use_zero_pages', 0), ('pages_to_scan', 100)]
    effector.restore(dataclasses.replace(found, advisor=True), kernel.write)
    assert ('pages_to_scan', 100) not in kernel.written[4:]
