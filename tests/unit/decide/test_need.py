# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest needs, by its own word and by what it suffers: who is shrunk further for it, and who is spared."""
from __future__ import annotations

import dataclasses

from ovc_plugin.decide import need
from ovc_plugin.decide.host import decide_host, reclaimable
from ovc_plugin.decide.state import Asked, LadderState, Need
from ovc_plugin.model import MIB, Level, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings(balloon_step=1.0)


def shrunk_to(guest, *, now=NOW, state=None, settings=OPTIONS):
    """The size that a guest is asked for by a host that wants all that it can get at SOFT; its own where none."""
    host = a_host(*(guest, *(a_guest(f'full{n}', usable=0, can_swap=False) for n in range(8))), available=570 * MIB)
    plan, _ = decide_host(host, state or LadderState(level=Level.SOFT), settings, now)
    return next((a.target for a in plan.actions if isinstance(a, SetBalloon) and a.guest == guest.uuid), guest.actual)


def publishing(amount, age=5.0, **changes):
    return a_guest(published=amount, published_age=age, **changes)


def test_a_guest_that_publishes_a_small_working_set_is_shrunk_further_than_by_its_statistics():
    silent, told = a_guest(usable=300 * MIB), publishing(400 * MIB, usable=300 * MIB)
    assert shrunk_to(told) < shrunk_to(silent)
    assert shrunk_to(told) >= 400 * MIB + OPTIONS.cushion * GIB


def test_a_guest_that_publishes_a_large_working_set_is_not_shrunk():
    assert shrunk_to(a_guest(usable=800 * MIB)) < GIB
    assert shrunk_to(publishing(1000 * MIB, usable=800 * MIB)) == GIB


def test_it_is_believed_no_further_than_its_reservation():
    assert shrunk_to(publishing(GIB // 4)) >= GIB // 4
    assert shrunk_to(publishing(700 * MIB, reservation=800 * MIB)) >= 800 * MIB


def test_a_published_word_stands_in_for_statistics_that_are_missing_while_it_is_fresh():
    """Promise 6: it is a statistic like another, and as short-lived."""
    mute = dict(usable=None, stats_age=None)
    assert shrunk_to(publishing(400 * MIB, **mute)) < GIB
    for unknown in (publishing(400 * MIB, 31.0, **mute), publishing(400 * MIB, None, **mute), a_guest(**mute)):
        assert shrunk_to(unknown) == GIB
        assert not reclaimable(a_host(dataclasses.replace(unknown, can_swap=False)), OPTIONS)


def test_statistics_count_again_where_a_published_word_is_old():
    assert need.word(publishing(400 * MIB, 31.0), OPTIONS) == (GIB // 2, 2.0)
    assert need.word(publishing(400 * MIB, 29.0), OPTIONS) == (400 * MIB, 29.0)


def test_a_published_word_is_followed_up_at_once_and_down_slowly():
    known = {'uuid-g1': Need(slow=500.0 * MIB, raised=0.0, heard_at=NOW - 60)}

    def followed(amount):
        return need.follow([publishing(amount * MIB, 0.0)], known, {}, OPTIONS, NOW)['uuid-g1'].slow
    assert followed(900) == 900 * MIB
    assert 300 * MIB < followed(300) < 500 * MIB


def test_a_published_word_from_before_the_guest_moved_is_not_used():
    moved = LadderState(level=Level.SOFT, asked={'uuid-g1': Asked(
        target=GIB, at=NOW - 60, nearest=GIB, moved_at=NOW - 3)}, needs={'uuid-g1': Need(
            slow=900.0 * MIB, raised=0.0, heard_at=NOW - 70)})
    assert shrunk_to(publishing(300 * MIB, 5.0), state=moved) == GIB


def test_the_reason_says_by_what_word():
    plan, _ = decide_host(a_host(publishing(400 * MIB), available=500 * MIB), LadderState(), OPTIONS, NOW)
    assert any('g1 publishes a working set of 400 MB of 1024 MB; floor' in a.reason for a in plan.actions)
