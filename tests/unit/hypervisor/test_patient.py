# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A guest that hangs costs its own answer, and nobody's pass."""
from __future__ import annotations

import threading
import time

import pytest

from ovc_plugin.hypervisor.patient import Patient
from tests.builders import FakeHypervisor, facts


class Hanging(FakeHypervisor):
    """Its calls about some guest hang until ``let_go`` is set; libvirt's next call for all passes over that guest."""

    def __init__(self, *guests):
        super().__init__(*guests)
        self.let_go, self.hangs = threading.Event(), True

    def guests(self):
        if self.hangs:
            self.hangs = False
            self.let_go.wait(10)
        return super().guests()

    def set_balloon(self, uuid, target):
        if uuid == 'uuid-hung':
            self.let_go.wait(10)
        super().set_balloon(uuid, target)


@pytest.fixture
def hanging():
    made = Hanging(facts('hung'), facts('g2'))
    yield made
    made.let_go.set()


def test_a_call_that_hangs_is_left_to_itself_and_the_next_is_answered(hanging):
    patient, began = Patient(hanging, 0.1), time.monotonic()
    with pytest.raises(TimeoutError, match='may hang'):
        patient.guests()
    assert time.monotonic() - began < 2
    assert [g.name for g in patient.guests()] == ['hung', 'g2']


def test_one_hung_guest_does_not_keep_the_others_from_their_sizes(hanging):
    patient = Patient(hanging, 0.1)
    with pytest.raises(TimeoutError):
        patient.set_balloon('uuid-hung', 1)
    patient.set_balloon('uuid-g2', 2)
    assert hanging.asked == [('uuid-g2', 2)]


def test_sizes_that_were_asked_for_and_not_answered_are_told_until_they_are(hanging):
    """Each may be carried out long after its asker went on."""
    patient = Patient(hanging, 0.1)
    patient.set_balloon('uuid-g2', 2)
    for size in (3, 1):
        with pytest.raises(TimeoutError):
            patient.set_balloon('uuid-hung', size)
    assert patient.late() == {'uuid-hung': 1}, 'the least: nobody knows which of them comes last'
    hanging.let_go.set()
    deadline = time.monotonic() + 5
    while patient.late():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_the_hypervisor_says_is_passed_on(hanging):
    hanging.hangs, hanging.down = False, True
    with pytest.raises(ConnectionError):
        Patient(hanging).guests()
    with pytest.raises(ConnectionError):
        Patient(hanging).set_balloon('uuid-g2', 1)


def test_calls_that_never_end_do_not_pile_up(hanging):
    patient = Patient(hanging, 0.02, most=3)
    for _ in range(3):
        with pytest.raises(TimeoutError, match='may hang'):
            patient.set_balloon('uuid-hung', 1)
    with pytest.raises(TimeoutError, match='3 calls have had no answer'):
        patient.set_balloon('uuid-hung', 1)
    hanging.let_go.set()
    deadline = time.monotonic() + 2
    while patient._under_way and time.monotonic() < deadline:
        time.sleep(0.01)
    patient.set_balloon('uuid-hung', 1)


def test_a_call_for_which_there_is_no_thread_is_not_counted_as_one_without_an_answer(hanging, monkeypatch):
    def refuses(thread):
        raise RuntimeError("can't start new thread")
    patient, hanging.hangs = Patient(hanging, 5, most=2), False
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, 'start', refuses)
        for _ in range(3):
            with pytest.raises(RuntimeError, match='new thread'):
                patient.guests()
    assert len(patient.guests()) == 2
