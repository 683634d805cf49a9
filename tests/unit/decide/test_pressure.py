# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The level rises at once, falls after a dwell, and does not flap between two thresholds."""
import pytest

from ovc_plugin.decide import pressure
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, Level
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_host

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


def test_a_level_stays_between_its_exit_and_entry_thresholds():
    for available in (600, 700, 890):
        assert judged(available, LadderState(level=Level.SOFT)).level is Level.SOFT


def test_a_level_falls_only_after_the_dwell_and_no_further_than_its_exit_threshold():
    first = judged(5000, LadderState(level=Level.CRITICAL))
    assert (first.level, first.better_since) == (Level.CRITICAL, NOW)
    waited = LadderState(level=Level.CRITICAL, better_since=NOW - 16)
    assert judged(5000, waited).level is Level.CLEAR
    assert judged(600, waited).level is Level.SOFT


def test_stalls_raise_the_level_though_memory_looks_free():
    assert judged(5000, stall=0.15).level is Level.SOFT
    assert judged(5000, stall=0.5).level is Level.HARD


def test_memory_that_will_be_gone_in_two_passes_is_short_already():
    assert judged(2000, growth=250.0 * MIB).level is Level.SOFT
    assert judged(2000, growth=10.0 * MIB).level is Level.CLEAR
    assert judged(2000, growth=-250.0 * MIB).level is Level.CLEAR


def test_the_reason_names_both_numbers():
    assert judged(280).reason == '280 MB available < 287 MB'
