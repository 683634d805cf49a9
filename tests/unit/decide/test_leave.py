# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Who leaves a host gives back what is free, and no more."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovc_plugin.decide import leave, pressure
from ovc_plugin.model import MIB
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, a_guest, a_host

KEEP = pressure.minimum(28 * GIB, 1.0)
SETTINGS = HostSettings()


def small(name='g1', lacks=GIB // 2, **changes):
    return a_guest(name, **{'actual': GIB - lacks, 'target': GIB - lacks} | changes)


def test_where_there_is_room_everybody_has_its_full_size_again():
    back = leave.give_back(a_host(small('g1'), small('g2'), a_guest('g3'), available=10 * GIB), SETTINGS)
    assert {a.guest: a.target for a in back.actions} == {'uuid-g1': GIB, 'uuid-g2': GIB}
    assert back.missing == 0


def test_where_there_is_little_it_is_shared_by_what_each_lacks_and_the_rest_is_told():
    host = a_host(small('g1', 600 * MIB), small('g2', 200 * MIB), available=KEEP + 400 * MIB)
    back = leave.give_back(host, SETTINGS)
    assert {a.guest: a.target - a.previous for a in back.actions} == {'uuid-g1': 300 * MIB, 'uuid-g2': 100 * MIB}
    assert back.missing == 400 * MIB
    assert leave.give_back(host, SETTINGS, into_swap=True).missing == 0


def test_what_was_handed_out_and_is_not_in_use_yet_is_not_handed_out_again():
    host = a_host(small(), available=KEEP + 400 * MIB)
    assert not leave.give_back(host, SETTINGS, handed=400 * MIB).actions
    assert leave.give_back(host, SETTINGS, handed=300 * MIB).given == 100 * MIB


def test_a_target_that_was_never_reached_is_lifted_too():
    stuck = a_guest(actual=GIB, target=GIB // 2)
    assert leave.give_back(a_host(stuck), SETTINGS).actions[0].target == GIB


def test_of_a_stopped_or_silent_guest_nothing_is_asked():
    assert not leave.give_back(a_host(small(running=False), small('g2', actual=None)), SETTINGS).actions


@given(st.lists(st.tuples(st.integers(0, 4 * GIB), st.integers(0, 4 * GIB)), max_size=8), st.integers(0, 28 * GIB),
       st.integers(0, 4 * GIB))
def test_never_more_than_the_room_and_never_above_a_maximum(sizes, available, handed):
    guests = [a_guest(f'g{n}', maximum=max(pair), actual=min(pair), target=min(pair)) for n, pair in enumerate(sizes)]
    host = a_host(*guests, available=available)
    back = leave.give_back(host, SETTINGS, handed)
    assert 0 <= back.given <= max(0, available - KEEP - handed)
    most = {g.uuid: g.maximum for g in guests}
    assert all(a.previous < a.target <= most[a.guest] for a in back.actions)
