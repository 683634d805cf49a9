# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Each thing that keeps a mechanism from a guest is said, with both numbers, by the functions that decide."""
from __future__ import annotations

import dataclasses

import pytest

from ovc_plugin.decide import host as ladder
from ovc_plugin.decide import why
from ovc_plugin.decide.departing import Awaited, Departing
from ovc_plugin.decide.state import Asked, LadderState, Need
from ovc_plugin.model import MIB, GuestSnapshot, Level
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

SHORT = 400 * MIB


def said(guest, *, state: LadderState | None = None, available: int = SHORT, now: float = NOW, host=None,
         **options) -> str:
    """What is said of ``guest`` on a host that is short, unless told otherwise."""
    state, settings = state or LadderState(), HostSettings(**{'dry_run': False} | options)
    snapshot = dataclasses.replace(a_host(guest, available=available), **(host or {}))
    plan, _ = ladder.decide_host(snapshot, state, settings, now)
    return '\n'.join(why.why(snapshot, guest, plan, state, settings, now))


def test_a_guest_that_last_spoke_at_another_size_is_said_to_wait_for_its_next_word():
    other = Need(slow=128.0 * MIB, raised=0.0, heard_at=NOW - 60, size=GIB // 2, sized_at=NOW - 90)
    state = LadderState(level=Level.SOFT, needs={'uuid-g1': other})
    assert 'not ballooned: what it said last tells of another size' in said(a_guest(), state=state)


def asked(target: int, *, at: float = NOW - 60, moved: float | None = None, nearest: int = GIB) -> LadderState:
    return LadderState(level=Level.SOFT, asked={'uuid-g1': Asked(
        target=target, at=at, nearest=nearest, moved_at=at if moved is None else moved)})


def test_what_the_next_pass_does_is_said_with_its_reason():
    assert said(a_guest()).startswith('shrink g1 from 1024 MB to ')
    assert said(a_guest(), dry_run=True).startswith('dry run: would shrink g1 from 1024 MB to ')


@pytest.mark.parametrize('guest, reason', [
    (a_guest(stats_age=47.0), 'not ballooned: its statistics are 47 s old > 30 s (stats_max_age)'),
    (a_guest(stats_age=None, usable=None), 'not ballooned: it says nothing of its memory: give it a statistics period'),
    (a_guest(stats_age=None, usable=None, published=GIB // 2, published_age=40.0),
     'not ballooned: the working set that it publishes is 40 s old > 30 s (stats_max_age)'),
    (a_guest(can_balloon=False), 'not ballooned: it has no balloon device, or is starting, paused or migrating'),
    (a_guest(untouchable='hugepages'), 'untouchable (hugepages): it is never ballooned, merged or swapped'),
    (a_guest(running=False), 'it is stopped: nothing is asked of it'),
    (a_guest(usable=0), 'not ballooned: it can give nothing: 1024 MB <= 1024 MB'),
    (a_guest(can_swap=False), 'not swapped: it has no memory control group'),
    (a_guest(resident=300 * MIB), 'not swapped: 300 MB resident <= 384 MB guaranteed'),
    (a_guest(refaults=900.0, usable=0), 'not swapped: it reads back 900 pages/s > 200 (refault_limit)'),
    (a_guest(can_share=False), 'not merged: its pages are marked as not to be shared'),
    (a_guest(), 'merged with guests of its trust domain (p1)')])
def test_what_keeps_a_mechanism_away_is_said(guest, reason):
    assert reason in said(guest)


def test_a_clear_host_asks_nothing_and_says_what_is_lacking():
    assert 'level CLEAR (10240 MB available >= ' in said(a_guest(), available=10 * GIB)
    assert 'it has its maximum' in said(a_guest(), available=10 * GIB)
    smaller = a_guest(actual=GIB // 2, target=GIB // 2)
    text = said(smaller, available=700 * MIB)  # clear, and nothing over
    assert 'it lacks 512 MB of its maximum' in text or 'grow g1' in text


def test_a_guest_that_waits_for_its_reservation_is_said_to():
    owed = a_guest(actual=GIB // 4, target=GIB // 4, reservation=GIB)
    assert 'it has 256 MB < 1024 MB, its reservation, and gets that' in said(owed, available=700 * MIB)
    assert 'grow g1' in said(owed, available=10 * GIB)


def test_a_stuck_guest_is_said_to_be_stuck_since_when():
    text = said(a_guest(), state=asked(GIB // 2))
    assert 'stuck: asked to be 512 MB, is at 1024 MB and no nearer for 60 s >= 20 s (stuck_after)' in text


def test_a_guest_on_its_way_is_left_to_arrive():
    text = said(a_guest(actual=700 * MIB), state=asked(GIB // 2, at=NOW - 5, nearest=700 * MIB))
    assert 'not ballooned: asked 5 s ago to be 512 MB, and 188 MB from there; it moved 5 s ago' in text


def test_a_floor_that_gives_way_only_where_swap_cannot_take_it_is_said_to_be_as_it_is_used():
    """At CRITICAL half of the cushion was said to be there for the taking, which the rule left alone."""
    tight = a_guest(maximum=8 * GIB, actual=8 * GIB, target=8 * GIB, resident=8 * GIB, usable=600 * MIB)
    assert 'it can give nothing' in said(tight, available=100 * MIB)
    assert said(tight, available=100 * MIB, host={'swap_total': 0, 'swap_free': 0}).startswith('shrink g1')


def test_a_word_that_was_spent_keeps_a_guest_waiting_below_hard_alone():
    guest = a_guest(actual=700 * MIB, target=700 * MIB, usable=600 * MIB, stats_age=9.0)
    moved = Asked(target=700 * MIB, at=NOW - 3, nearest=700 * MIB, moved_at=NOW - 1, change=-300 * MIB)
    state = LadderState(asked={guest.uuid: moved}, needs={guest.uuid: Need(
        slow=100.0 * MIB, raised=0.0, heard_at=NOW - 9, size=700 * MIB, sized_at=NOW - 60)})
    assert 'settling' in said(guest, state=state, available=560 * MIB)
    assert said(guest, state=state, available=270 * MIB).startswith('shrink g1')
    given = LadderState(needs=state.needs, asked={guest.uuid: dataclasses.replace(
        moved, change=MIB, moved_at=NOW - 60, at=NOW - 60)})
    for available in (560, 270, 100):
        assert '60 s ago < 1200 s (turn_after)' in said(guest, state=given, available=available * MIB)


def test_a_guest_that_moves_to_another_host_is_said_to_be_held():
    leaving = LadderState(level=Level.SOFT, departing=Departing(awaited=Awaited(guest='uuid-g1', at=NOW - 7)))
    text = said(a_guest(), state=leaving, host={'departures': ()})
    assert 'on its way to another host, as it was asked 7 s ago' in text and 'could give' not in text


def test_what_is_explained_is_what_was_decided_when_the_host_was_looked_at():
    """Seen from later, what a guest had said before it moved counted as said since, and it would have been shrunk."""
    guest = a_guest(actual=700 * MIB, target=700 * MIB, usable=400 * MIB, stats_age=2.0)
    moved = Asked(target=700 * MIB, at=NOW - 3, nearest=700 * MIB, moved_at=NOW - 1, change=-300 * MIB)
    state = LadderState(level=Level.SOFT, asked={guest.uuid: moved}, needs={guest.uuid: Need(
        slow=300.0 * MIB, raised=0.0, heard_at=NOW - 2, size=700 * MIB, sized_at=NOW - 60)})
    found = [why.explain(a_host(guest, available=560 * MIB), state, HostSettings(dry_run=False), now, 'g1',
                         ladder.decide_host, {}) for now in (NOW, NOW + 4.5, NOW + 30)]
    assert [one.pop('age') for one in found] == [0.0, 4.5, 30.0]
    assert found[0] == found[1] == found[2] and 'settling' in str(found[0])


def test_a_guest_that_has_moved_and_not_spoken_since_is_settling():
    state = asked(GIB // 2, at=NOW - 5, moved=NOW - 1, nearest=GIB // 2)
    text = said(a_guest(actual=GIB // 2, stats_age=20.0, resident=GIB // 2), state=state)
    assert 'not ballooned: settling: it moved 1 s ago, and has said nothing of its memory since (for 20 s)' in text


def test_crumbs_are_not_worth_asking_for():
    guest = a_guest(usable=GIB // 10 + 10 * MIB)
    assert 'the smallest change worth asking for' in said(guest, dead_band=0.05)


def test_what_is_switched_off_is_named_by_its_option():
    text = said(a_guest(), balloon=False, swap=False, host={'ksm': None})
    assert 'not ballooned: balloon = false in [ovc_host]' in text
    assert 'not swapped: swap = false in [ovc_host]' in text
    assert 'not merged now: page sharing is not running' in text
    assert 'no swap is free: 0 MB of 8192 MB' in said(a_guest(usable=0), host={'swap_free': 0})


def test_what_it_may_have_says_where_the_guarantee_comes_from():
    lines = ' '.join(why.may(a_guest(reservation_from='ovc:reservation', weight=2.0)))
    assert 'maximum 1024 MB, and 128 MB that it costs' in lines
    assert 'guaranteed 256 MB (by ovc:reservation), weight 2' in lines


def test_a_balloon_that_does_not_give_way_is_said_with_what_that_changes():
    assert 'it keeps its whole cushion' in ' '.join(why.may(a_guest(gives_way=False)))
    assert 'give way' not in ' '.join(why.may(a_guest()))


def has(guest: GuestSnapshot, known: Need | None = None) -> str:
    state = LadderState(needs={} if known is None else {guest.uuid: known})
    return ' '.join(why.has(guest, state, HostSettings(), NOW))


def test_what_it_needs_is_said_with_where_that_is_from_and_how_far_it_can_be_trusted():
    known = Need(slow=300.0 * MIB, raised=0.0, heard_at=NOW - 60)
    assert 'it needs 300 MB (by what it said 60 s ago; confidence 0.50)' in has(a_guest(), known)
    mute = dict(usable=None, stats_age=None)
    backed = 'it needs 700 MB (by what its host backs, as it says nothing; confidence 0.25)'
    assert backed in has(a_guest(resident=600 * MIB, swapped=100 * MIB, **mute))
    assert 'it needs 1024 MB (its size is not known at all; confidence 0.00)' in has(a_guest(resident=None, **mute))


def test_a_need_that_was_raised_says_by_how_much_and_what_the_guest_suffers():
    lines = has(a_guest(guest_swap_in=400 * 4096.0), Need(slow=300.0 * MIB, raised=200.0 * MIB, heard_at=NOW))
    assert 'it needs 500 MB (by what it said 0 s ago, raised by 200 MB since it suffered; confidence 1.00)' in lines
    assert 'it suffers: 400 pages a second read back from its own swap > 200' in lines


def test_what_it_publishes_is_said_with_its_age():
    assert 'it publishes a working set of 300 MB' in has(a_guest(published=300 * MIB, published_age=7.0))
    assert 'not yet known to be alive' in has(a_guest(published=300 * MIB))


def test_the_status_has_the_need_and_the_confidence():
    state = LadderState(needs={'uuid-g1': Need(slow=300.0 * MIB, raised=0.0, heard_at=NOW - 60)})
    fields = why.fields(a_guest(), state, NOW, {'uuid-g1': {'what': 'SetBalloon'}})
    assert (fields['need'], fields['need_confidence']) == (300 * MIB, 0.5)
    assert fields['last_action'] == {'what': 'SetBalloon'} and fields['usable'] == GIB // 2


def test_what_it_has_keeps_unknown_apart_from_zero():
    lines = has(a_guest(swapped=None, saved=64 * MIB, target=GIB // 2))
    assert 'balloon: 1024 MB, asked to be 512 MB; 2 s ago it could use 512 MB' in lines
    assert '1024 MB with memory and - MB with swap' in lines and '64 MB of it merged away' in lines


def test_a_guest_goes_by_uuid_name_title_or_the_beginning_of_its_uuid():
    guests = a_guest('g1', title='web'), a_guest('g2', title='web'), a_guest('g3')
    snapshot = a_host(*guests)
    assert why.find(snapshot, 'web') == guests[:2]
    assert why.find(snapshot, 'g3') == why.find(snapshot, 'uuid-g3') == guests[2:]
    assert why.find(snapshot, 'uuid') == guests and not why.find(snapshot, 'uui') and not why.find(snapshot, '')
