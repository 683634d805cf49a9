# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest needs, by its own word and by what it suffers: who is shrunk further for it, and who is spared."""
from __future__ import annotations

import dataclasses

import pytest

from ovc_plugin.decide import balloon, need
from ovc_plugin.decide.host import decide_host, reclaimable
from ovc_plugin.decide.state import Asked, LadderState, Need
from ovc_plugin.model import MIB, Level, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings(balloon_step=1.0)
KNOWN = Need(slow=256.0 * MIB, raised=0.0, heard_at=NOW - 2)


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


@pytest.mark.parametrize('size', [GIB // 2, 3 * GIB // 4])
def test_a_word_of_the_size_that_a_guest_had_before_others_changed_it_is_not_used(size):
    """World 1.789: somebody shrank a guest since it spoke, and it seemed to need that much less (promise 3)."""
    def follow(before, now, **changes):
        guest = a_guest(usable=384 * MIB, **changes)
        return need.follow([guest], before, {}, OPTIONS, now)
    known = follow({}, NOW, actual=5 * GIB // 8, stats_age=2.0)
    assert known['uuid-g1'].slow == 256 * MIB
    for later, age in ((5, 1.0), (10, 6.0)):  # spoken just before it was seen to be of another size
        known = follow(known, NOW + later, actual=size, stats_age=age)
        assert known['uuid-g1'].slow == 256 * MIB
    assert follow(known, NOW + 15, actual=size, stats_age=1.0)['uuid-g1'].slow != 256 * MIB


@pytest.mark.parametrize('silent', [{'usable': None}, {'stats_age': None}])
def test_a_word_after_a_restart_is_used_though_the_guest_was_silent_while_it_grew(silent):
    """World 1.8162: the first word after a restart was held for one of the size before, and what the guest had needed
    before it for its need."""
    known = need.follow([a_guest(actual=GIB // 2, usable=384 * MIB)], {}, {}, OPTIONS, NOW)
    assert known['uuid-g1'].slow == 128 * MIB
    known = need.follow([a_guest(**silent)], known, {}, OPTIONS, NOW + 60)
    known = need.follow([a_guest(usable=256 * MIB, stats_age=1.0)], known, {}, OPTIONS, NOW + 65)
    assert known['uuid-g1'].slow == 768 * MIB


def test_a_guest_that_was_never_asked_is_not_shrunk_on_a_word_of_another_size_either():
    """Promise 3, world 1.8162."""
    state = LadderState(level=Level.SOFT, needs={'uuid-g1': Need(
        slow=128.0 * MIB, raised=0.0, heard_at=NOW - 60, size=GIB // 2, sized_at=NOW - 90)})
    assert shrunk_to(a_guest(usable=256 * MIB, stats_age=2.0), state=state) == GIB
    assert shrunk_to(a_guest(usable=256 * MIB, stats_age=2.0)) < GIB


def test_a_published_word_tells_of_no_size():
    known = need.follow([publishing(300 * MIB, 2.0)], {}, {}, OPTIONS, NOW)
    shrunk = dataclasses.replace(publishing(400 * MIB, 1.0), actual=GIB // 2)
    assert need.follow([shrunk], known, {}, OPTIONS, NOW + 5)['uuid-g1'].slow == 400 * MIB


def test_the_reason_says_by_what_word():
    plan, _ = decide_host(a_host(publishing(400 * MIB), available=500 * MIB), LadderState(), OPTIONS, NOW)
    assert any('g1 publishes a working set of 400 MB of 1024 MB; floor' in a.reason for a in plan.actions)


HARM = [dict(major_faults=201.0), dict(guest_swap_in=201 * 4096.0), dict(pressures={'direct_reclaims': 201.0}),
        dict(pressures={'alloc_stalls': 11.0}), dict(pressures={'oom_kills': 0.1}), dict(pressure=0.41)]
CALM = [{}, dict(major_faults=199.0), dict(guest_swap_in=199 * 4096.0), dict(pressures={'direct_reclaims': 199.0}),
        dict(pressures={'alloc_stalls': 9.0, 'oom_kills': 0.0, 'async_reclaims': 1e6}), dict(pressure=0.39)]


def needed(**changes):
    """What a guest that was shrunk to 768 MB is found to need after its next word, of which it calls 512 MB usable."""
    guest = a_guest(**dict(actual=768 * MIB, usable=512 * MIB, stats_age=0.0) | changes)
    known = {'uuid-g1': Need(slow=256.0 * MIB, raised=0.0, heard_at=NOW - 10)}
    return need.amount(guest, need.follow([guest], known, {}, OPTIONS, NOW)['uuid-g1'])


@pytest.mark.parametrize('harm', HARM)
def test_a_guest_that_was_shrunk_and_suffers_needs_all_that_it_has(harm):
    assert needed(**harm) == 768 * MIB


@pytest.mark.parametrize('calm', CALM)
def test_a_guest_that_suffers_little_needs_what_it_says(calm):
    assert needed(**calm) == 256 * MIB


@pytest.mark.parametrize('harm', HARM)
def test_of_a_guest_that_was_not_shrunk_no_suffering_is_laid_to_the_balloon(harm):
    assert needed(actual=GIB, usable=768 * MIB, **harm) == 256 * MIB


def test_what_a_guest_reads_back_from_its_hosts_swap_is_not_laid_to_the_balloon():
    assert needed(refaults=5000.0) == 256 * MIB
    assert needed(refaults=5000.0, pressure=0.9) == 256 * MIB, 'it waits for these'
    assert needed(refaults=5000.0, pressure=0.9, guest_swap_in=5000 * 4096.0) == 768 * MIB


def test_suffering_is_forgotten_slowly():
    raised = {'uuid-g1': Need(slow=256.0 * MIB, raised=512.0 * MIB, heard_at=NOW - OPTIONS.need_slow)}
    guest = a_guest(actual=768 * MIB, usable=512 * MIB, stats_age=0.0)
    after = need.amount(guest, need.follow([guest], raised, {}, OPTIONS, NOW)['uuid-g1'])
    assert 640 * MIB < after < 768 * MIB


@pytest.mark.parametrize('harm', HARM)
def test_the_harm_is_said_with_both_numbers(harm):
    assert ' > ' in need.harm(a_guest(**harm), OPTIONS)
    assert need.harm(a_guest(), OPTIONS) is None


@pytest.mark.parametrize('gives_way, part', [(True, 2), (False, 1)])
def test_a_guest_that_its_own_kernel_would_kill_keeps_its_whole_cushion(gives_way, part):
    floor = balloon.floor(a_guest(gives_way=gives_way), Level.CRITICAL, OPTIONS, KNOWN)
    assert floor == 256 * MIB + int(OPTIONS.cushion * GIB / part)


@pytest.mark.parametrize('stall, relieved', [(0.2, {'uuid-helpless', 'uuid-able'}), (0.5, {'uuid-helpless'})])
def test_a_guest_that_cannot_help_itself_is_given_what_it_lacks_at_hard_too(stall, relieved):
    """A host that waits much for its memory (stall) may have some that is free."""
    small = dict(actual=GIB // 2, target=GIB // 2, usable=0, can_swap=False)
    host = a_host(a_guest('helpless', gives_way=False, **small), a_guest('able', **small), stall=stall)
    plan, _ = decide_host(host, LadderState(), OPTIONS, NOW)
    assert plan.level == (Level.SOFT if stall < 0.4 else Level.HARD)
    assert {a.guest for a in plan.actions if isinstance(a, SetBalloon) and a.target > a.previous} == relieved


def test_what_a_guest_said_before_it_was_found_may_be_of_another_size():
    """Whoever was there before, also we ourselves with another memory, may have shrunk it since it spoke."""
    shrunk = a_guest(actual=254 * MIB, usable=221 * MIB, stats_age=3.0)  # it said that of a size of 410 MB
    found = need.follow([shrunk], {}, {}, OPTIONS, NOW, watching=True)
    assert not need.heard(found['uuid-g1']) and need.amount(shrunk, found['uuid-g1']) == shrunk.maximum
    assert need.understood(shrunk, found['uuid-g1'], OPTIONS, NOW) is None
    spoken = a_guest(actual=254 * MIB, usable=66 * MIB, stats_age=1.0)
    known = need.follow([spoken], found, {}, OPTIONS, NOW + 9, watching=True)
    assert known['uuid-g1'].slow == 188 * MIB and need.understood(spoken, known['uuid-g1'], OPTIONS, NOW + 9)
    assert need.heard(need.follow([a_guest()], {}, {}, OPTIONS, NOW, watching=True)['uuid-g1']), 'nobody shrunk it'
    assert need.heard(need.follow([shrunk], {}, {}, OPTIONS, NOW)['uuid-g1']), 'the only look that there is'
    published = a_guest(actual=254 * MIB, published=99 * MIB, published_age=3.0)
    assert need.heard(need.follow([published], {}, {}, OPTIONS, NOW, watching=True)['uuid-g1']), 'that goes by no size'
    # of whom something is known, also a change of size since: that is seen by itself
    assert need.follow([shrunk], known, {}, OPTIONS, NOW, watching=True)['uuid-g1'].heard_at == NOW - 3


def test_a_guest_that_is_found_on_its_way_is_believed_once_it_has_spoken_where_it_stands():
    """World 2.4877: a controller that had lost its memory found it shrinking still."""
    known = {}
    for seconds, actual, age in ((0, 400, 9.0), (1, 380, 0.5), (6, 300, 5.5), (12, 300, 1.5)):
        moving = a_guest(actual=actual * MIB, usable=200 * MIB, stats_age=age)
        known = need.follow([moving], known, {}, OPTIONS, NOW + seconds, watching=True)
        assert need.heard(known['uuid-g1']) == (seconds == 12)
    assert known['uuid-g1'].slow == 100 * MIB


def test_the_last_of_what_a_guest_suffered_is_forgotten_at_once():
    """World 2.4824: it was taken in steps of the dead band, the last of them after half an hour."""
    known, sizes = {'uuid-g1': Need(slow=300.0 * MIB, raised=400.0 * MIB, heard_at=NOW, size=768 * MIB)}, []
    for seconds in range(10, 3000, 10):
        guest = a_guest(actual=768 * MIB, usable=468 * MIB, stats_age=0.0)
        known = need.follow([guest], known, {}, OPTIONS, NOW + seconds)
        sizes.append(known['uuid-g1'].raised / MIB)
    assert min(size for size in sizes if size) > 0.04 * 1024 and sizes[-1] == 0


def test_nobody_is_shrunk_before_he_spoke_to_those_who_go_on_looking():
    small = a_guest(actual=768 * MIB, usable=600 * MIB)
    state, host = LadderState(watching=True), a_host(small, available=500 * MIB)
    plan, state = decide_host(host, state, OPTIONS, NOW)
    assert not [a for a in plan.actions if isinstance(a, SetBalloon)] and state.watching
    spoken = a_host(small, available=500 * MIB, taken_at=NOW + 5)
    plan, _ = decide_host(spoken, state, OPTIONS, NOW + 5)
    assert [a.guest for a in plan.actions if isinstance(a, SetBalloon)] == ['uuid-g1']
