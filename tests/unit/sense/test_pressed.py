# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest counts of its own pressure: read through QEMU's monitor, seldom, and turned into rates."""
from __future__ import annotations

import dataclasses
import json
import sys
import types

import pytest

from ovc_plugin.hypervisor import monitor
from ovc_plugin.hypervisor.patient import Patient
from ovc_plugin.samples import Counted
from ovc_plugin.sense import pressed
from ovc_plugin.sense.derive import derive
from ovc_plugin.sense.published import Told as Word
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.sense.spoken import Spoken
from ovc_plugin.settings import Settings
from tests.builders import NOW, FakeHypervisor, a_proc, a_sample, facts, sampled
from tests.waiting import LONG

UNTOLD = 2 ** 64 - 1
OLD = {'stat-swap-in': 0, 'stat-major-faults': 7, 'stat-htlb-pgalloc': UNTOLD}


def qemu(at=NOW, **counters):
    """A monitor of a QEMU whose guest tells these counters beside the old ones."""
    def ask(request):
        command = json.loads(request)
        assert command['execute'] == 'qom-get' and command['arguments'] == {
            'path': '/machine/peripheral/balloon0', 'property': 'guest-stats'}
        stats = OLD | {f'stat-{name.replace("_", "-")}': value for name, value in counters.items()}
        return json.dumps({'return': {'stats': stats, 'last-update': at}})
    return ask


def test_what_a_guest_counts_is_read_by_name_and_what_it_does_not_count_is_left_out():
    assert monitor.counted(qemu(alloc_stalls=5, oom_kills=0, direct_scans=UNTOLD)) == Counted(
        at=NOW, counts={'alloc_stalls': 5, 'oom_kills': 0})


def test_pages_are_told_in_bytes_and_counted_in_pages():
    told = monitor.counted(qemu(direct_reclaims=40960, async_scans=4096, alloc_stalls=7)).counts
    assert told == {'direct_reclaims': 10, 'async_scans': 1, 'alloc_stalls': 7}


@pytest.mark.parametrize('ask', [qemu(), qemu(alloc_stalls=UNTOLD, oom_kills=UNTOLD),
                                 lambda request: '{"error": {"class": "DeviceNotFound"}}'])
def test_a_guest_or_a_qemu_that_is_too_old_says_so_once_for_all(ask):
    with pytest.raises(monitor.Untold):
        monitor.counted(ask)


@pytest.mark.parametrize('ask', [qemu(at=0, alloc_stalls=5), lambda request: '{"return": 5}', lambda request: '{',
                                 lambda request: '{"return": {"stats": []}}'])
def test_a_guest_that_has_not_spoken_or_an_answer_of_another_form_is_asked_again(ask):
    with pytest.raises(ValueError):
        monitor.counted(ask)


def test_the_monitor_is_asked_through_libvirt_with_patience(monkeypatch):
    pytest.importorskip('libvirt')
    from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor
    asked = []

    def command(domain, request, flags):
        asked.append((domain, flags))
        return qemu(alloc_stalls=5)(request)
    monkeypatch.setitem(sys.modules, 'libvirt_qemu', types.SimpleNamespace(qemuMonitorCommand=command))
    connection = types.SimpleNamespace(lookupByUUIDString=lambda uuid: f'domain {uuid}')
    found = Patient(LibvirtHypervisor(lambda: connection), LONG).read_pressures('u1')
    assert found.counts == {'alloc_stalls': 5} and asked == [('domain u1', 0)]


class Guests:
    def __init__(self, monkeypatch, **answers):
        self.answers, self.asked, self.now = answers, [], 1000.0
        monkeypatch.setattr('ovc_plugin.sense.seldom.time.sleep', lambda seconds: None)
        self.pressed = pressed.Pressed(self.read, clock=lambda: self.now)
        self.pressed.seldom._thread = self  # the test asks when it is due

    def read(self, uuid):
        self.asked.append(uuid)
        return monitor.counted(self.answers[uuid])

    def after(self, seconds):
        self.pressed.follow(self.answers)
        self.now += seconds
        self.pressed.seldom.ask_due()
        return set(self.pressed.follow(self.answers))


def test_a_guest_that_cannot_tell_is_asked_once_an_hour_and_one_that_is_silent_is_forgotten_by_and_by(monkeypatch):
    guests = Guests(monkeypatch, able=qemu(alloc_stalls=5), old=qemu())
    assert guests.after(0) == {'able'}
    for _ in range(20):
        guests.after(60)
    assert guests.asked.count('old') == 1 and guests.asked.count('able') == 21
    guests.answers['able'] = lambda request: '{'
    assert guests.after(60) == {'able'} and guests.after(60) == set()
    guests.answers = {}
    guests.after(0)
    guests.answers = {'old': qemu(alloc_stalls=1)}
    assert guests.after(0) == {'old'}, 'it was started anew'


def rates(*words):
    spoken = Spoken()
    for at, counts in words:
        told = spoken.tell((dataclasses.replace(sampled(), counted=Counted(at=at, counts=counts)),))
    return derive(None, a_sample(*told), {}, 0, Settings()).guests[0].pressures


def test_counters_become_rates_between_two_words():
    first = (NOW, {'alloc_stalls': 100, 'oom_kills': 0})
    assert rates(first) == {}
    assert rates(first, (NOW + 10, {'alloc_stalls': 150, 'oom_kills': 1})) == {'alloc_stalls': 5.0, 'oom_kills': 0.1}
    assert rates(first, (NOW + 10, {'alloc_stalls': 150}), (NOW + 10, {'alloc_stalls': 150})) == {'alloc_stalls': 5.0}
    assert rates(first, (NOW + 10, {'alloc_stalls': 3, 'oom_kills': 0})) == {'oom_kills': 0.0}, 'it was started anew'
    assert rates(first, (NOW - 10, {'alloc_stalls': 150})) == {}


class Told(dict):
    """Answers of guests that were asked aside."""

    def follow(self, uuids):
        self.asked = list(uuids)
        return self


def test_a_pass_takes_what_guests_answered_aside_and_asks_only_those_that_run(tmp_path):
    guests = FakeHypervisor(facts('g1'), facts('g2'), facts('off', running=False))
    published = Told({'uuid-g1': Word(400, 3.0)})
    counts = Told({'uuid-g2': Counted(at=NOW, counts={'oom_kills': 1})})
    sensor = Sensor('h1', guests, run_path=str(tmp_path), proc_root=str(a_proc(tmp_path / 'proc')),
                    ksm_root=str(tmp_path), publications=published, pressures=counts)
    found = {g.facts.name: g for g in sensor.sample(NOW).guests}
    assert published.asked == counts.asked == ['uuid-g1', 'uuid-g2']
    assert (found['g1'].published, found['g1'].published_age, found['g1'].counted) == (400, 3.0, None)
    assert found['g2'].published is None and found['g2'].counted.counts == {'oom_kills': 1}
