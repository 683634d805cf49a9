# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""When a new ratio is worth asking placement for."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovc_plugin.decide import placement
from ovc_plugin.nova.ratio import next_ratio
from ovc_plugin.settings import HostSettings, SharedSettings
from tests.builders import GIB, NOW, a_report

HOST = HostSettings(min_ratio=1.0, max_ratio=4.0, ratio_step=0.05)
SHARED = SharedSettings(report_max_age=120.0)
CAPACITY = 15 * GIB


def ratio(current: float, age: float = 0.0, **report) -> float:
    return next_ratio(current, a_report(**report), CAPACITY, HOST, SHARED, NOW + age)


def permitted(**report) -> float:
    return placement.permitted_ratio(a_report(**report), CAPACITY, HOST, SHARED)


def test_lower_goes_at_once_and_higher_only_by_more_than_a_step():
    wanted = permitted()
    assert ratio(wanted + 0.05) == wanted
    assert ratio(wanted - 0.05) == pytest.approx(wanted - 0.05)
    assert ratio(wanted - 0.1) == wanted


@pytest.mark.parametrize('age', [121.0, -121.0])
def test_a_report_that_is_stale_or_from_the_future_earns_no_overcommit(age):
    assert ratio(2.5, age) == HOST.min_ratio


def test_a_report_that_is_stale_does_not_trap_the_guests_that_are_there():
    """Capacity lost while we are away is refused by staleness: the filter takes no such report, so the ratio need not
    fall below what is used, where an old placement would keep guests from leaving."""
    assert ratio(2.5, 121.0, claimed=21 * GIB, committed=22 * GIB) == 1.4


@given(current=st.floats(0.5, 4.5), swap=st.integers(0, 64 * GIB), committed=st.integers(0, 40 * GIB))
def test_nothing_new_is_asked_for_once_asked(current, swap, committed):
    report = dict(swap_usable=swap, committed=committed, claimed=committed)
    once = ratio(current, **report)
    assert ratio(once, **report) == once


@given(current=st.floats(0.5, 4.5), swap=st.integers(0, 64 * GIB))
def test_never_more_than_is_permitted(current, swap):
    assert ratio(current, swap_usable=swap) <= max(permitted(swap_usable=swap), HOST.min_ratio)
