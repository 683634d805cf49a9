# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Rules come through stevedore, in the configured order, ours and others'."""
from __future__ import annotations

import pathlib
import sys
import textwrap
import typing

import pytest

from ovc_plugin import rules
from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.rules import BUILT_IN
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, Level, ReclaimGuest, SetBalloon
from ovc_plugin.settings import HostSettings
from tests.builders import NOW, a_guest, a_host

THEIRS = '''
from ovc_plugin.decide.rule import NOTHING, Part
from ovc_plugin.model import ReclaimGuest

class Oldest:
    """Swaps the guest that sorts first, before anybody is ballooned."""

    name = 'oldest'

    def plan(self, situation):
        if not situation.short:
            return NOTHING
        guest = min(situation.snapshot.running, key=lambda g: g.name)
        floor = guest.reservation + guest.overhead
        amount = min(situation.short, guest.resident - floor)
        return Part(actions=(ReclaimGuest(guest=guest.uuid, amount=amount, floor=floor, reason='it is the oldest'),),
                    credit=amount)

class Broken:
    def __init__(self):
        raise RuntimeError('no licence found')
'''
POINTS = '[ovc_plugin.rules]\noldest = their_rules:Oldest\nbroken = their_rules:Broken\nnumber = builtins:int\n'


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """Another package, installed as pip would: a module, and metadata with entry points."""
    (tmp_path / 'their_rules.py').write_text(THEIRS)
    info = tmp_path / 'their_rules-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: their-rules\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr('stevedore._cache._c._internal', {})
    monkeypatch.setattr('stevedore._cache._c._disable_caching', True)
    monkeypatch.setattr('stevedore.extension.ExtensionManager.ENTRY_POINT_CACHE', {})
    yield
    sys.modules.pop('their_rules', None)


def test_the_built_in_rules_come_through_the_same_door_in_the_usual_order():
    loaded = rules.load(HostSettings().rules)
    assert [type(r) for r in loaded] == [type(r) for r in BUILT_IN]
    assert tuple(r.name for r in loaded) == HostSettings().rules


def test_a_third_partys_rule_takes_its_place_in_the_order(theirs):
    host = a_host(a_guest('a'), a_guest('b'), available=500 * MIB, ksm=None)
    first = rules.load(['oldest', *HostSettings().rules])
    plan, _ = decide_host(host, LadderState(), HostSettings(), NOW, first)
    assert plan.level is Level.SOFT and isinstance(plan.actions[0], ReclaimGuest)
    assert plan.actions[0].reason == 'it is the oldest'
    usual, _ = decide_host(host, LadderState(), HostSettings(), NOW)
    assert isinstance(usual.actions[0], SetBalloon)


def test_an_unknown_rule_is_named_with_those_that_are_installed(theirs):
    with pytest.raises(rules.UnknownRule) as caught:
        rules.load(['sharing', 'swop'])
    assert "'swop'" in str(caught.value) and 'it is not installed' in str(caught.value)
    assert 'balloon' in str(caught.value) and 'oldest' in str(caught.value)


def test_a_rule_that_does_not_load_says_why(theirs):
    with pytest.raises(rules.UnknownRule, match='no licence found'):
        rules.load(['broken'])


def test_what_is_no_rule_is_refused(theirs):
    with pytest.raises(rules.UnknownRule, match='without a method plan'):
        rules.load(['number'])


def test_a_rule_named_twice_is_refused():
    with pytest.raises(rules.UnknownRule, match='named twice'):
        rules.load(['swap', 'swap'])


def test_the_rule_in_the_documentation_works():
    text = (pathlib.Path(__file__).parents[2] / 'doc' / 'adding-a-rule.rst').read_text()
    code = text.split('.. code-block:: python\n')[1].split('\nInstall it')[0]
    found: dict[str, typing.Any] = {}
    exec(textwrap.dedent(code), found)
    host = a_host(a_guest('demo'), a_guest('b', resident=900 * MIB), available=500 * MIB, ksm=None)
    plan, _ = decide_host(host, LadderState(), HostSettings(), NOW, [found['Demonstration'](), *BUILT_IN])
    assert not plan.notes
    assert isinstance(plan.actions[0], ReclaimGuest) and plan.actions[0].guest == 'uuid-b'
    plan, _ = decide_host(host, LadderState(), HostSettings(swap=False), NOW, [found['Demonstration']()])
    assert not plan.actions
