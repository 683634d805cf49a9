# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A guest that hangs costs its own answer, and nobody's pass."""
from __future__ import annotations

import threading

import pytest

from ovc_plugin.hypervisor.patient import Patient
from tests.builders import FakeHypervisor, facts
from tests.waiting import LONG, until


class Hanging(FakeHypervisor):
    """Its calls about some guest hang until ``let_go`` is set; libvirt's next call for all passes over that guest."""

    def __init__(self, *guests):
        super().__init__(*guests)
        self.let_go, self.hangs = threading.Event(), True

    def guests(self):
        if self.hangs:
            self.hangs = False
            self.let_go.wait(LONG)
        return super().guests()

    def set_balloon(self, uuid, target):
        if uuid == 'uuid-hung':
            self.let_go.wait(LONG)
        super().set_balloon(uuid, target)


@pytest.fixture
def hanging():
    made = Hanging(facts('hung'), facts('g2'))
    yield made
    made.let_go.set()


def test_a_call_that_hangs_is_left_to_itself_and_the_next_is_answered(hanging):
    patient = Patient(hanging, 0.1)
    with pytest.raises(TimeoutError, match='within 0.1 s.* may hang'):
        patient.guests()
    assert not hanging.let_go.is_set()
    patient._seconds = LONG
    assert [g.name for g in patient.guests()] == ['hung', 'g2']


def test_one_hung_guest_does_not_keep_the_others_from_their_sizes(hanging):
    patient = Patient(hanging, 0.1)
    with pytest.raises(TimeoutError):
        patient.set_balloon('uuid-hung', 1)
    patient._seconds = LONG
    patient.set_balloon('uuid-g2', 2)
    assert hanging.asked == [('uuid-g2', 2)]


def test_sizes_that_were_asked_for_and_not_answered_are_told_until_they_are(hanging):
    """Each may be carried out long after its asker went on."""
    patient = Patient(hanging, LONG)
    patient.set_balloon('uuid-g2', 2)
    patient._seconds = 0.1
    for size in (3, 1):
        with pytest.raises(TimeoutError):
            patient.set_balloon('uuid-hung', size)
    assert patient.late() == {'uuid-hung': 1}, 'the least: nobody knows which of them comes last'
    hanging.let_go.set()
    until(lambda: not patient.late())


def test_what_the_hypervisor_says_is_passed_on(hanging):
    hanging.hangs, hanging.down = False, True
    with pytest.raises(ConnectionError):
        Patient(hanging, LONG).guests()
    with pytest.raises(ConnectionError):
        Patient(hanging, LONG).set_balloon('uuid-g2', 1)


def test_calls_that_never_end_do_not_pile_up(hanging):
    patient = Patient(hanging, 0.02, most=3)
    for _ in range(3):
        with pytest.raises(TimeoutError, match='may hang'):
            patient.set_balloon('uuid-hung', 1)
    with pytest.raises(TimeoutError, match='3 calls have had no answer'):
        patient.set_balloon('uuid-hung', 1)
    hanging.let_go.set()
    until(lambda: not patient._under_way)
    patient._seconds = LONG
    patient.set_balloon('uuid-hung', 1)


def test_a_call_for_which_there_is_no_thread_is_not_counted_as_one_without_an_answer(hanging, monkeypatch):
    def refuses(thread):
        raise RuntimeError("can't start new thread")
    patient, hanging.hangs = Patient(hanging, LONG, most=2), False
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, 'start', refuses)
        for _ in range(3):
            with pytest.raises(RuntimeError, match='new thread'):
                patient.guests()
    assert len(patient.guests()) == 2
