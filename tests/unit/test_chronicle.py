# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What is told once, and in how many lines."""
import dataclasses
import logging
import types

from ovc_plugin import chronicle
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.model import MIB, Level, Outcome, Plan, ReclaimGuest, SetBalloon
from ovc_plugin.sense.derive import derive
from ovc_plugin.settings import Settings
from tests.builders import GIB, NOW, a_guest, a_host, a_sample, sampled

SILENT = 'guest {}: says nothing of its memory'


def lines(caplog):
    return [record.message for record in caplog.records]


def test_what_holds_for_many_guests_is_one_line_with_their_count_and_the_first_names(caplog):
    told = Chronicle('h1')
    with caplog.at_level(logging.WARNING):
        told.note([SILENT.format(f'g{number}') for number in range(1, 8)] + ['no KSM'])
        told.note([SILENT.format(f'g{number}') for number in range(1, 8)] + ['no KSM'])
    assert lines(caplog) == ['h1: 7 guests (g1, g2, g3, g4, …): says nothing of its memory', 'h1: no KSM']
    assert told.fields()['notes'] == ['7 guests (g1, g2, g3, g4, …): says nothing of its memory', 'no KSM']


def test_one_guest_more_is_one_line_of_its_own(caplog):
    told = Chronicle('h1')
    told.note([SILENT.format('a'), SILENT.format('b')])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        told.note([SILENT.format('a'), SILENT.format('b'), SILENT.format('c')])
    assert lines(caplog) == ['h1: guest c: says nothing of its memory']


def test_a_note_of_which_only_the_numbers_change_is_logged_once_and_shown_as_it_is(caplog):
    """A guest may say something else each time that cannot be believed; its host's log is not to be filled by that."""
    told = Chronicle('h1')
    with caplog.at_level(logging.WARNING):
        for usable in range(5000, 5010):
            told.note([f'guest g-1: reports {usable} bytes usable; not believed'])
        told.note([f'guest g-{n}: reports 5010 bytes usable; not believed' for n in (1, 2)])
    assert lines(caplog) == ['h1: guest g-1: reports 5000 bytes usable; not believed',
                             'h1: guest g-2: reports 5010 bytes usable; not believed']
    assert told.fields()['notes'] == ['2 guests (g-1, g-2): reports 5010 bytes usable; not believed']


def test_a_failure_that_lasts_is_one_warning_whatever_succeeds_in_between(caplog):
    told = Chronicle('h1')
    ask = Outcome(action=SetBalloon(guest='uuid-g1', target=MIB, previous=2 * MIB, reason=''), done=False, error='gone')
    swap = Outcome(action=ReclaimGuest(guest='uuid-g1', amount=MIB, floor=0, reason=''), done=True, freed=MIB)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            told.tell(Plan(level=Level.HARD, actions=(), reason=''), Level.HARD, [ask, swap], a_host(a_guest()), NOW)
    assert len(caplog.records) == 1


def test_a_guest_cannot_fill_the_log_by_saying_something_absurd_again_and_again(caplog):
    told, earlier = Chronicle('h1'), None
    with caplog.at_level(logging.WARNING):
        for turn in range(50):
            absurd = turn % 3 != 0
            sample = dataclasses.replace(a_sample(sampled(
                usable=2 * GIB + turn if absurd else GIB // 2, last_update=NOW + turn)), taken_at=NOW + turn)
            told.note(derive(earlier, sample, {}, 28 * GIB, Settings()).notes)
            earlier = sample
    assert len(caplog.records) == 1


def test_what_holds_again_of_a_guest_after_a_while_is_told_again(caplog, monkeypatch):
    told, now = Chronicle('h1'), 1000.0
    monkeypatch.setattr(chronicle, 'time', types.SimpleNamespace(monotonic=lambda: now))
    with caplog.at_level(logging.WARNING):
        told.note([SILENT.format('a')])
        told.note([])
        told.note([SILENT.format('a')])
        assert len(caplog.records) == 1 and told.fields()['notes'] == [SILENT.format('a')]
        told.note([])
        now += 3600.0
        told.note([SILENT.format('a')])
    assert len(caplog.records) == 2
