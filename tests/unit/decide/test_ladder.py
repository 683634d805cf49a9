# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The planner: rules in order, each for what those before it left, and none above the promises."""
from __future__ import annotations

import dataclasses

import pytest

from ovc_plugin.decide import state as states
from ovc_plugin.decide.departing import Departing
from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.rule import NOTHING, Part
from ovc_plugin.decide.rules import BUILT_IN, Balloon, Swap
from ovc_plugin.decide.state import Asked, LadderState, Need, Probe
from ovc_plugin.model import MIB, Level, ReclaimGuest, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import GIB, NOW, a_guest, a_host

OPTIONS = HostSettings()


@dataclasses.dataclass
class Says:
    """A rule that always says the same, and remembers what it was told."""

    part: Part | None
    name: str = 'says'
    seen: list = dataclasses.field(default_factory=list)

    def plan(self, situation):
        self.seen.append(situation)
        return self.part


class Raises:
    name = 'raises'

    def plan(self, situation):
        raise RuntimeError('something of theirs')


def decide(*rules, host=None, state=None):
    return decide_host(host or a_host(a_guest(), available=500 * MIB), state or LadderState(), OPTIONS, NOW, rules)


def balloon_to(target, guest='uuid-g1'):
    return SetBalloon(guest=guest, target=target, previous=GIB, reason='test')


def test_each_rule_finds_what_those_before_it_left():
    first, second = Says(Part(credit=300 * MIB)), Says(NOTHING)
    decide(first, second)
    assert first.seen[0].short - second.seen[0].short == 300 * MIB


def test_a_rule_that_takes_memory_makes_more_short():
    first, second = Says(Part(credit=-100 * MIB)), Says(NOTHING)
    decide(first, second)
    assert second.seen[0].short - first.seen[0].short == 100 * MIB


def test_a_rule_that_raises_is_noted_and_the_others_go_on():
    plan, _ = decide(Raises(), *BUILT_IN)
    usual, _ = decide(*BUILT_IN)
    assert plan.actions == usual.actions != ()
    assert plan.notes == ("rule 'raises' is passed over: RuntimeError: something of theirs",)


def test_a_rule_that_answers_nonsense_is_passed_over():
    plan, _ = decide(Says(None), *BUILT_IN)
    assert plan.actions and 'passed over' in plan.notes[0]


@pytest.mark.parametrize('guest, action, why', [
    ({}, balloon_to(GIB // 8), 'outside'), ({}, balloon_to(2 * GIB), 'outside'),
    ({}, balloon_to(GIB // 2, 'uuid-gone'), 'not running'),
    ({'untouchable': 'hugepages'}, balloon_to(GIB // 2), 'must not be touched'),
    ({}, ReclaimGuest(guest='uuid-g1', amount=MIB, floor=GIB // 4, reason='test'), 'guaranteed')])
def test_no_rule_stands_above_the_promises(guest, action, why):
    plan, state = decide(Says(Part(actions=(action,))), host=a_host(a_guest(**guest)))
    assert plan.actions == () and why in plan.notes[0] and not state.asked


def test_a_guest_is_asked_for_one_size_in_a_pass():
    plan, _ = decide(Says(Part(actions=(balloon_to(900 * MIB),)), 'one'), Says(Part(actions=(balloon_to(GIB),)), 'two'))
    assert len(plan.actions) == 1 and "'two'" in plan.notes[0]


def test_a_balloon_is_credited_only_with_what_it_frees_in_time():
    """64 MB/s is trusted where nothing is known; a guest seen to be slow earns less, one seen to be fast more."""
    def swapped(growth, speed=None):
        asked = Asked(target=GIB, at=NOW - 60, nearest=GIB, moved_at=NOW - 60, speed=speed)
        host = a_host(*(a_guest(f'g{n}') for n in range(4)), available=500 * MIB, growth=growth)
        state = LadderState(asked={f'uuid-g{n}': asked for n in range(4)})
        large_steps = dataclasses.replace(OPTIONS, swap_step=256 * MIB)
        plan, _ = decide_host(host, state, large_steps, NOW, (Balloon(), Swap()))
        return sum(a.amount for a in plan.actions if isinstance(a, ReclaimGuest))
    rate = 60.0 * MIB
    assert swapped(rate, speed=1.0 * MIB) > swapped(rate, speed=500.0 * MIB)


def test_state_of_an_earlier_version_is_read_with_defaults():
    earlier = {'level': 'SOFT', 'asked': {'u': {'target': 1, 'at': 2.0, 'nearest': 3, 'moved_at': 4.0}}}
    read = states.from_dict(earlier)
    assert read == LadderState(level=Level.SOFT, asked={'u': Asked(target=1, at=2.0, nearest=3, moved_at=4.0)})


def test_a_probe_of_an_earlier_version_has_missed_nothing():
    read = states.from_dict({'level': 'SOFT', 'asked': {}, 'probes': {'u': {'step': 4, 'at': 5.0}}})
    assert read.probes == {'u': Probe(step=4, at=5.0)} and not read.probes['u'].misses


def test_state_survives_a_restart_and_a_later_versions_fields_are_passed_over():
    state = LadderState(
        level=Level.HARD, unclear_at=NOW, departing=Departing(here_since={'u': 1.0}),
        asked={'u': Asked(target=1, at=2.0, nearest=3, moved_at=4.0, change=-1, speed=5.0)},
        needs={'u': Need(slow=1.0, raised=2.0, heard_at=3.0)}, probes={'u': Probe(step=4, at=5.0, misses=2, until=6.0)})
    fields = states.to_dict(state)
    fields['asked']['u']['colour'] = 'red'
    fields['moods'] = {}
    assert states.from_dict(fields) == state


@pytest.mark.parametrize('broken', [{}, {'level': 'SOFT'}, {'level': 'NONE', 'asked': {}},
                                    {'level': 'SOFT', 'asked': {'u': {'target': 1}}},
                                    {'level': 'SOFT', 'asked': {}, 'needs': {'u': {'slow': 'much'}}}])
def test_what_is_no_state_is_refused(broken):
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        states.from_dict(broken)
