# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The three votes for a host: absolute, and each of them within 0..1."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovc_plugin.decide import score
from ovc_plugin.model import MIB
from tests.builders import GIB, a_report


def test_room_is_measured_against_the_request():
    assert score.headroom(GIB, GIB) == 0.5 and score.headroom(9 * GIB, GIB) == 0.9
    assert score.headroom(0, GIB) == score.headroom(-5, GIB) == score.headroom(GIB, 0) == 0.0


def test_a_host_that_will_soon_be_full_is_avoided():
    soon, later, never = (score.trend(10 * GIB, growth) for growth in (100.0 * MIB, 1.0 * MIB, -5.0 * MIB))
    assert soon < 0.2 < 0.9 < later < never == 1.0
    assert score.trend(10 * GIB, 10 * GIB / score.SOON) == 0.5
    assert score.trend(0, 1.0) == 0.0 and score.trend(0, 0.0) == 1.0


def test_a_host_that_does_not_say_how_its_memory_moves_is_neither_preferred_nor_avoided():
    assert score.trend(GIB, None) == score.UNTOLD


def test_a_host_whose_tasks_wait_for_memory_gets_less_of_the_trend_however_steady_it_is():
    """One that thrashes at constant available memory had the best vote of all."""
    for growth in (None, -1.0, 1.0 * MIB):
        calm = score.trend(GIB, growth, 0.0)
        assert calm == score.trend(GIB, growth) and score.trend(GIB, growth, 0.1) == pytest.approx(0.75 * calm)
        assert score.trend(GIB, growth, score.WAITS) == score.trend(GIB, growth, 1.0) == 0.0


def test_affinity_is_what_sharing_saves_there_already():
    here = dict(domains=('d1',), claimed=40 * GIB, guests=10)
    assert score.affinity(a_report(**here, saved=10 * GIB), 'd1', True) == 0.25
    assert score.affinity(a_report(**here, saved=90 * GIB), 'd1', True) == 1.0


def test_where_nothing_was_merged_yet_little_is_expected_of_guests_of_one_image():
    # As much as decides between two hosts with plenty of room, and not between a full and an empty one.
    assert 0 < score.affinity(a_report(domains=('d1',), claimed=GIB), 'd1', True) < 0.1


@pytest.mark.parametrize('domains, alike', [(('d1',), False), (('d2',), True), (('d1', 'd2'), True), ((), True)])
def test_nothing_is_expected_of_others_and_where_sharing_pauses(domains, alike):
    assert score.affinity(a_report(domains=domains, claimed=GIB, saved=GIB), 'd1', alike) == 0.0


@given(room=st.integers(-1 << 45, 1 << 45), memory=st.integers(0, 1 << 42),
       growth=st.none() | st.floats(-1e12, 1e12))
def test_no_vote_leaves_its_bounds(room, memory, growth):
    assert 0 <= score.headroom(room, memory) <= 1 and 0 <= score.trend(room, growth) <= 1
