# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Who leaves a host gives back what is free, and no more."""
from __future__ import annotations

import dataclasses

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


def below(name, size, reservation):
    return a_guest(name, actual=size, target=size, reservation=reservation)


def test_who_is_below_its_reservation_comes_first_and_what_is_then_over_is_shared():
    """Promise 3: by what each lacks, the first of these would be left at 374 MB."""
    host = a_host(small('g2', 700 * MIB), below('g1', 224 * MIB, 524 * MIB), available=KEEP + 300 * MIB)
    back = leave.give_back(host, SETTINGS)
    assert {a.guest: a.target for a in back.actions} == {'uuid-g1': 524 * MIB}
    assert 'its reservation' in back.actions[0].reason and back.missing == 1200 * MIB
    back = leave.give_back(dataclasses.replace(host, available=KEEP + 420 * MIB), SETTINGS)
    assert {a.guest: a.target - a.previous for a in back.actions} == {'uuid-g1': 350 * MIB, 'uuid-g2': 70 * MIB}
    assert [a.guest for a in back.actions] == ['uuid-g1', 'uuid-g2'], 'the time may end after one'
    back = leave.give_back(dataclasses.replace(host, available=KEEP + 2 * GIB), SETTINGS)
    assert {a.guest: a.target for a in back.actions} == {'uuid-g1': GIB, 'uuid-g2': GIB}


def test_of_those_below_their_reservation_as_many_as_can_be_have_theirs():
    host = a_host(below('g1', 100 * MIB, 500 * MIB), below('g2', 300 * MIB, 400 * MIB), available=KEEP + 410 * MIB)
    assert {a.guest: a.target for a in leave.give_back(host, SETTINGS).actions} == {'uuid-g2': 400 * MIB}


def test_what_one_lacks_of_its_reservation_is_kept_for_it_until_there_is_enough():
    """Else others would take what comes free by pieces, each too small for it, when guests are moved away."""
    host = a_host(below('g1', 100 * MIB, 500 * MIB), small('g2', 500 * MIB), available=KEEP + 300 * MIB)
    assert not leave.give_back(host, SETTINGS).actions
    more = dataclasses.replace(host, available=KEEP + 600 * MIB)
    assert {a.guest: a.target >= 500 * MIB for a in leave.give_back(more, SETTINGS).actions}['uuid-g1']


def test_what_was_handed_out_and_is_not_in_use_yet_is_not_handed_out_again():
    host = a_host(small(), available=KEEP + 400 * MIB)
    assert not leave.give_back(host, SETTINGS, handed=400 * MIB).actions
    assert leave.give_back(host, SETTINGS, handed=300 * MIB).given == 100 * MIB


def test_a_target_that_was_never_reached_is_lifted_too():
    stuck = a_guest(actual=GIB, target=GIB // 2)
    assert leave.give_back(a_host(stuck), SETTINGS).actions[0].target == GIB


def test_of_a_stopped_or_silent_guest_nothing_is_asked():
    assert not leave.give_back(a_host(small(running=False), small('g2', actual=None)), SETTINGS).actions


@given(st.lists(st.tuples(*[st.integers(0, 4 * GIB)] * 3), max_size=8),
       st.integers(0, 28 * GIB) | st.integers(KEEP, KEEP + 8 * GIB),
       st.integers(0, 4 * GIB))
def test_never_more_than_the_room_and_never_above_a_maximum_or_below_a_reservation(sizes, available, handed):
    guests = [a_guest(f'g{n}', maximum=max(three), actual=min(three), target=min(three), reservation=sorted(three)[1])
              for n, three in enumerate(sizes)]
    host = a_host(*guests, available=available)
    back = leave.give_back(host, SETTINGS, handed)
    assert 0 <= back.given <= max(0, available - KEEP - handed)
    most = {g.uuid: g.maximum for g in guests}
    assert all(a.previous < a.target <= most[a.guest] for a in back.actions)
    assert all(a.target >= g.reservation for a in back.actions for g in guests if g.uuid == a.guest)
    lacks = [g.reservation - g.actual for g in guests if g.actual < g.reservation
             and g.uuid not in {a.guest for a in back.actions if a.target >= g.reservation}]
    assert not any(short <= max(0, available - KEEP - handed) - back.given - MIB for short in lacks if short >= MIB)
