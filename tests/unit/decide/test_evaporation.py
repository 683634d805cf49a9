# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Merged pages are a loan (promise 4): how much is kept free against their being written."""
import dataclasses

import hypothesis
from hypothesis import strategies as st

from ovc_plugin.decide import state as states
from ovc_plugin.decide.evaporation import Evaporation, follow, reserve_against
from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings(dry_run=False)
CALM = Evaporation(watched=OPTIONS.evaporation_window, at=NOW - 5)


def sharing(saved=GIB, rate=0.0, at=NOW, **changes):
    host = a_host(a_guest(), a_guest('g2'), evaporation=rate, taken_at=at, **changes)
    return dataclasses.replace(host, ksm=dataclasses.replace(host.ksm, saved=saved))


def watched(rates, tick=5.0, saved=GIB):
    seen = follow(Evaporation(), sharing(saved, None), OPTIONS)
    for n, rate in enumerate(rates, 1):
        seen = follow(seen, sharing(saved, rate, NOW + n * tick), OPTIONS)
    return seen


def test_what_was_just_merged_is_kept_whole():
    assert reserve_against(sharing(), watched([]), OPTIONS) == GIB


def test_sharing_that_was_watched_and_did_not_dissolve_is_spent():
    assert reserve_against(sharing(), watched([0.0] * 30), OPTIONS) == GIB // 2
    assert reserve_against(sharing(), watched([0.0] * 60), OPTIONS) == 0


def test_a_steady_loss_is_kept_free_for_as_long_as_others_take_to_make_up_for_it():
    kept = reserve_against(sharing(), watched([MIB] * 1000), OPTIONS)
    assert 60 * MIB <= kept < 62 * MIB


def test_one_burst_keeps_more_than_its_mean_and_is_forgotten_slowly():
    burst = watched([0.0] * 100 + [20.0 * MIB])
    after = reserve_against(sharing(), burst, OPTIONS)
    assert after > 3 * burst.mean * OPTIONS.evaporation_reaction
    later = burst
    for n in range(200):
        later = follow(later, sharing(rate=0.0, at=burst.at + 5 * (n + 1)), OPTIONS)
    assert reserve_against(sharing(), later, OPTIONS) < after / 4


@hypothesis.given(st.lists(st.floats(0, 1e12), max_size=30), st.integers(0, 1 << 40), st.floats(0.2, 300))
def test_no_more_is_kept_than_is_saved_and_never_less_than_nothing(rates, saved, tick):
    kept = reserve_against(sharing(saved), watched(rates, tick, saved), OPTIONS)
    assert 0 <= kept <= saved


def test_a_rate_that_is_unknown_earns_no_trust():
    assert reserve_against(sharing(), watched([None] * 100), OPTIONS) == GIB


def test_a_clock_set_back_does_no_harm():
    seen = follow(watched([MIB] * 10), sharing(rate=MIB, at=NOW - 3600), OPTIONS)
    assert seen.watched == 50 and seen.at == NOW - 3600


def test_time_that_nobody_watched_is_not_taken_for_calm():
    """A host that was suspended, or whose clock was set ahead, has seen no page of what dissolved meanwhile."""
    new = watched([MIB] * 3)
    after = follow(new, sharing(rate=0.0, at=new.at + 3600), OPTIONS)
    assert after == dataclasses.replace(new, at=new.at + 3600)
    assert reserve_against(sharing(), after, OPTIONS) > GIB // 2


def test_where_nothing_is_merged_nothing_is_kept_and_watching_begins_anew():
    none = sharing(saved=0)
    assert follow(watched([MIB] * 60), none, OPTIONS) == Evaporation() and reserve_against(none, CALM, OPTIONS) == 0


def test_memory_that_sharing_has_freed_is_handed_back_only_above_the_reserve():
    small = a_guest(target=GIB // 2, actual=GIB // 2, usable=300 * MIB, resident=GIB // 2)
    host = dataclasses.replace(sharing(saved=3 * GIB, available=4 * GIB), guests=(small, a_guest('g2')))

    def grows(evaporation):
        plan, _ = decide_host(host, LadderState(evaporation=evaporation), OPTIONS, NOW)
        return [a for a in plan.actions if isinstance(a, SetBalloon) and a.target > a.previous]

    assert grows(CALM) and not grows(Evaporation())


def test_what_was_watched_outlives_a_restart():
    state = LadderState(evaporation=watched([MIB] * 10))
    assert states.from_dict(states.to_dict(state)).evaporation == state.evaporation
    assert states.from_dict({'level': 'CLEAR', 'asked': {}}).evaporation == Evaporation()
