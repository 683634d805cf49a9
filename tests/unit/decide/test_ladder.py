# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The planner: rules in order, each for what those before it left, and none above the promises."""
from __future__ import annotations

import dataclasses

import pytest

from ovc_plugin.decide import state as states
from ovc_plugin.decide.departing import Awaited, Departing, Setback
from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.rule import NOTHING, Part
from ovc_plugin.decide.rules import BUILT_IN, Balloon, Swap
from ovc_plugin.decide.state import Asked, LadderState, Need, Probe
from ovc_plugin.model import MIB, AskMigration, Level, ReclaimGuest, SetBalloon, TuneKsm
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


STALE = [{'stats_age': OPTIONS.stats_max_age + 1}, {'stats_age': None}, {'usable': None}]


@pytest.mark.parametrize('level', [Level.CLEAR, Level.CRITICAL])
@pytest.mark.parametrize('silent', [*STALE, {'actual': None}])
def test_no_rule_shrinks_a_guest_whose_word_is_old_or_missing(silent, level):
    """Promise 6, at any level: the built-in rules make no exception of it either."""
    host = a_host(a_guest(**silent), available=10 * GIB if level is Level.CLEAR else 50 * MIB)
    asked = balloon_to(GIB // 2)
    for action in (asked, dataclasses.replace(asked, previous=GIB // 4)):  # whatever it says was there before
        plan, state = decide(Says(Part(actions=(action,))), host=host, state=LadderState(level=level))
        assert plan.actions == () and 'is shrunk by a word' in plan.notes[0] and not state.asked
    plan, _ = decide(*BUILT_IN, host=host, state=LadderState(level=level))
    assert not [a for a in plan.actions if isinstance(a, SetBalloon) and a.target < a.previous]


def test_no_rule_shrinks_a_guest_on_a_word_of_another_size():
    """Promise 3: what it needs at the size that it has nobody knows."""
    other = Need(slow=128.0 * MIB, raised=0.0, heard_at=NOW - 60, size=GIB // 2, sized_at=NOW - 90)
    plan, _ = decide(Says(Part(actions=(balloon_to(800 * MIB),))), host=a_host(a_guest()),
                     state=LadderState(needs={'uuid-g1': other}))
    assert plan.actions == () and 'g1 is shrunk by a word that tells of another size' in plan.notes[0]


@pytest.mark.parametrize('silent', [*STALE, {'actual': None, 'target': None}])
def test_a_guest_whose_word_is_old_may_be_given_memory(silent):
    plan, _ = decide(Says(Part(actions=(balloon_to(GIB),))), host=a_host(a_guest(**{'actual': GIB // 2} | silent)))
    assert len(plan.actions) == 1 and not plan.notes


def test_a_guest_that_never_reached_its_target_may_be_given_a_higher_one_though_it_says_nothing():
    """It stands above both: the lower target is lifted, nothing is taken."""
    asked = {'uuid-g1': Asked(target=GIB // 2, at=NOW - 60, nearest=GIB, moved_at=NOW - 60, change=-GIB // 2)}
    raised = SetBalloon(guest='uuid-g1', target=800 * MIB, previous=GIB // 2, reason='test')
    silent = a_host(a_guest(stats_age=90.0))
    plan, _ = decide(Says(Part(actions=(raised,))), host=silent, state=LadderState(asked=asked))
    assert plan.actions == (raised,) and not plan.notes


NEEDS, CUSHION = GIB // 2, int(OPTIONS.cushion * GIB)


@pytest.mark.parametrize('level, least', [(Level.SOFT, NEEDS + CUSHION), (Level.HARD, NEEDS), (Level.CRITICAL, NEEDS)])
def test_no_rule_shrinks_a_guest_below_its_need_nor_into_its_cushion_before_hard(level, least):
    """Promise 3."""
    host, state = a_host(a_guest(), available=500 * MIB, growth=0.0), LadderState(level=level, better_since=NOW)
    plan, after = decide(Says(Part(actions=(balloon_to(least - MIB),))), host=host, state=state)
    assert plan.level is level and plan.actions == () and not after.asked
    what = 'its need and cushion' if level is Level.SOFT else 'its need'
    assert f'shrunk to {least // MIB - 1} MB < {least // MIB} MB, {what}, at {level.name}' in plan.notes[0]
    assert len(decide(Says(Part(actions=(balloon_to(least + MIB),))), host=host, state=state)[0].actions) == 1


def test_a_guest_below_its_need_may_be_given_less_than_it_lacks():
    some = SetBalloon(guest='uuid-g1', target=700 * MIB, previous=600 * MIB, reason='test')
    host = a_host(a_guest(actual=600 * MIB, usable=0))
    assert decide(Says(Part(actions=(some,))), host=host)[0].actions == (some,)


def share(run):
    return Says(Part(actions=(TuneKsm(run=run, pages_to_scan=None, reason='test'),)))


@pytest.mark.parametrize('guests, options, why', [
    ([a_guest('a'), a_guest('b', trust_domain='p2')], {}, 'sharing is paused'),
    ([a_guest('a'), a_guest('b', untouchable='hugepages')], {}, 'must not be touched'),
    ([a_guest('a')], {}, 'fewer than two'),
    ([a_guest('a'), a_guest('b')], {'ksm': 'off'}, 'off by configuration'),
    ([a_guest('a'), a_guest('b')], {'ksm': 'leave'}, 'ksm = leave')])
def test_no_rule_merges_pages_that_the_one_for_sharing_would_not(guests, options, why):
    """Promise 8."""
    host, settings = a_host(*guests), dataclasses.replace(OPTIONS, **options)
    plan, _ = decide_host(host, LadderState(), settings, NOW, (share(1),))
    assert plan.actions == () and 'page sharing is switched on' in plan.notes[0] and why in plan.notes[0]
    assert len(decide_host(host, LadderState(), settings, NOW, (share(0),))[0].actions) == 1, 'a pause is no risk'


def test_a_rule_may_merge_pages_within_a_domain_or_where_the_operator_takes_the_risk():
    for domain, options in (('p1', {}), ('p2', {'ksm': 'all-tenants-despite-side-channels'})):
        host = a_host(a_guest('a'), a_guest('b', trust_domain=domain))
        plan, _ = decide_host(host, LadderState(), dataclasses.replace(OPTIONS, **options), NOW, (share(1),))
        assert len(plan.actions) == 1 and not plan.notes


def away(guest='uuid-g1'):
    return AskMigration(guest=guest, cost=GIB, relief=GIB, reason='test')


def asked_away(*rules, guests=None, departing=None, settings=None, **host):
    """The plan of these rules where guests may be moved."""
    state = LadderState(departing=departing or Departing(here_since={'uuid-g1': 0.0, 'uuid-g2': 0.0}))
    guests = guests or [a_guest('g1', can_migrate=True), a_guest('g2', can_migrate=True)]
    return decide_host(a_host(*guests, **{'departures': ()} | host), state, settings or HostSettings(migrate=True), NOW,
                       rules)[0]


@pytest.mark.parametrize('guest, why', [
    ({'untouchable': 'opted out (ovc:overcommit)'}, 'g1 must not be touched (opted out (ovc:overcommit))'),
    ({}, 'g1 cannot be moved'), ({'can_migrate': True, 'managed': False}, "g1 is none of the cloud's"),
    ({'can_migrate': True, 'running': False}, 'guest uuid-g1 is not running here'),
    ({'can_migrate': True, 'uuid': 'uuid-other'}, 'guest uuid-g1 is not running here')])
def test_no_rule_asks_away_a_guest_that_ours_would_leave_here(guest, why):
    plan = asked_away(Says(Part(actions=(away(),))), guests=[a_guest(**guest)])
    assert plan.actions == () and why in plan.notes[0]


def test_a_rule_may_ask_away_a_guest_that_can_go_though_nothing_may_be_taken_from_it():
    """Locked memory moves; whoever wrote the rule has its own reasons to ask now."""
    guest = a_guest('g1', can_migrate=True, untouchable='locked memory')
    assert asked_away(Says(Part(actions=(away(),))), guests=[guest]).actions == (away(),)


def test_no_rule_asks_two_guests_away_at_once():
    plan = asked_away(Says(Part(actions=(away(), away('uuid-g2')))))
    assert plan.actions == () and 'g1 and g2 are asked away at once' in plan.notes[0]
    plan = asked_away(Says(Part(actions=(away(),)), 'one'), Says(Part(actions=(away('uuid-g2'),)), 'two'))
    assert plan.actions == (away(),) and "'two'" in plan.notes[0] and 'g1 is on its way' in plan.notes[0]


HERE = {'uuid-g1': 0.0, 'uuid-g2': 0.0}


@pytest.mark.parametrize('departing, why', [
    (Departing(here_since=HERE, awaited=Awaited(guest='uuid-g2', at=NOW - 9)), 'g2 is on its way'),
    (Departing(here_since=HERE, rest_until=NOW + 60), 'another 60 s'),
    (Departing(here_since=HERE, setbacks={'uuid-g1': Setback(count=2, until=NOW + 90)}), 'could not be moved 2 times'),
    (Departing(here_since={'uuid-g2': 0.0, 'uuid-g1': NOW - 30}), 'came 30 s ago < 600 s (migrate_cooldown)')])
def test_no_rule_asks_a_guest_away_before_the_host_and_the_guest_have_rested(departing, why):
    plan = asked_away(Says(Part(actions=(away(),))), departing=departing)
    assert plan.actions == () and why in plan.notes[0]


@pytest.mark.parametrize('settings, departures', [(HostSettings(), None), (HostSettings(), ()),
                                                  (HostSettings(migrate=True), None)])
def test_no_rule_asks_a_guest_away_where_the_host_is_not_told_to(settings, departures):
    plan = asked_away(Says(Part(actions=(away(),))), settings=settings, departures=departures)
    assert plan.actions == () and 'asked away' in plan.notes[0] and 'migrate' in plan.notes[0]


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
        needs={'u': Need(slow=1.0, raised=2.0, heard_at=3.0, size=4, sized_at=2.0)},
        probes={'u': Probe(step=4, at=5.0, misses=2, until=6.0)})
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
