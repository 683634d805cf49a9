# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A guest that tells its own working set: how it is asked, when it is believed, and how far."""
from __future__ import annotations

import base64
import dataclasses
import importlib.machinery
import importlib.util
import json
import pathlib
import subprocess
import sys
import threading

import pytest

from ovc_plugin.hypervisor import guest_file
from ovc_plugin.model import MIB
from ovc_plugin.sense import published
from ovc_plugin.sense.derive import derive
from ovc_plugin.settings import Settings
from tests.builders import GIB, NOW, a_proc, a_sample, sampled
from tests.waiting import LONG

SCRIPT = pathlib.Path(__file__).resolve().parents[3] / 'etc' / 'guest' / 'ovc-working-set'


class Guests:
    """Agents that answer with a text, or with an error; time is what a test says."""

    def __init__(self, monkeypatch, **texts):
        self.texts, self.asked, self.now = texts, [], 1000.0
        monkeypatch.setattr(published.time, 'sleep', lambda seconds: None)
        self.published = published.Published(self.read, clock=lambda: self.now)
        self.published.seldom._thread = self  # the test asks when it is due

    def read(self, uuid, path):
        self.asked.append(uuid)
        if self.texts[uuid] is None:
            raise ConnectionError('no agent')
        return self.texts[uuid]

    def after(self, seconds):
        return {uuid: told.amount for uuid, told in self.told(seconds).items()}

    def told(self, seconds):
        self.published.follow(self.texts)
        self.now += seconds
        self.published.seldom.ask_due()
        return self.published.follow(self.texts)


def test_what_a_guest_tells_is_believed_for_a_while_and_only_while_it_counts_on(monkeypatch):
    guests = Guests(monkeypatch, a='5000 1')
    assert guests.after(0) == {'a': 5000}
    guests.texts['a'] = '6000 2'
    assert guests.after(5) == {'a': 5000}, 'it is not asked each time'
    assert guests.after(25) == {'a': 6000}
    assert [guests.after(31) for _ in range(4)][-1] == {}, 'its number stands still'


def test_without_a_thread_to_ask_in_nobody_is_asked_until_there_is_one_and_no_pass_fails(monkeypatch):
    asked, start = threading.Event(), threading.Thread.start

    def refused(thread):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, 'start', refused)
    told = published.Published(lambda uuid, path: asked.set() or '5000 1')
    assert told.follow(['a']) == {}
    monkeypatch.setattr(threading.Thread, 'start', start)
    told.follow(['a'])
    assert asked.wait(LONG)


def test_a_word_is_as_old_as_the_guest_counts_and_of_a_script_that_may_be_dead_no_age_is_told(monkeypatch):
    guests = Guests(monkeypatch, a='5000 1')
    assert guests.told(0)['a'] == (5000, None), 'nothing shows that anybody counts on'
    guests.texts['a'] = '6000 3'
    assert guests.told(20)['a'] == (6000, 10.0), 'two numbers in 20 s: it may have been written 10 s ago'
    assert guests.told(5)['a'] == (6000, 15.0)
    guests.texts['a'] = '7000 900'
    assert guests.told(20)['a'] == (7000, None), 'the script was started anew'


def test_a_guest_without_an_agent_or_with_nonsense_is_asked_ever_more_seldom_and_costs_the_others_nothing(monkeypatch):
    guests = Guests(monkeypatch, bad=None, odd='many', none='-5 1', good='7 1')
    assert guests.after(0) == {'good': 7}
    for _ in range(40):
        guests.after(30)
    counts = {uuid: guests.asked.count(uuid) for uuid in guests.texts}
    assert counts['good'] >= 35 and max(counts['bad'], counts['odd'], counts['none']) <= 6


def test_guests_whose_agents_take_their_time_leave_the_others_theirs(monkeypatch):
    """An agent answers when its tenant likes: twenty of them, as late as libvirt waits, would be asked all day."""
    slow = {f'slow{number}': '5 1' for number in range(20)}
    guests = Guests(monkeypatch, good='7 1', **slow)
    read = guests.read

    def late(uuid, path):
        guests.now += 5.7 if uuid in slow else 0.01
        return read(uuid, path)
    guests.published._read = late
    began = guests.now
    while guests.now - began < 3600:
        guests.after(1)
    asked = guests.asked.count('good')
    assert asked > 100 and max(guests.asked.count(uuid) for uuid in slow) <= 12
    del guests.asked[:]
    slow.clear()
    while guests.now - began < 14400:
        guests.after(1)
    assert guests.asked.count('slow1') > 100, 'one that was slow and is no more is asked as ever'


def test_a_guest_that_is_gone_is_forgotten(monkeypatch):
    guests = Guests(monkeypatch, a='5000 1')
    guests.after(0)
    guests.texts = {}
    assert guests.after(0) == {}


def snapshot(told, age=5.0, **changes):
    sample = sampled(**dict(maximum=GIB, actual=GIB, reservation='25%') | changes)
    return derive(None, a_sample(dataclasses.replace(sample, published=told, published_age=age)), {}, 0,
                  Settings()).guests[0]


def one(told, **changes):
    return snapshot(told, **changes).published


def test_it_is_believed_between_the_reservation_and_the_maximum_with_what_its_kernel_keeps():
    assert (one(None), one(1), one(400 * MIB), one(9 * GIB)) == (None, 256 * MIB, 400 * MIB, GIB)
    assert one(400 * MIB, seen=1000 * MIB) == 424 * MIB


def test_a_balloon_that_gives_way_by_itself_is_no_part_of_the_working_set():
    """The guest's total is then left as it was, and the balloon looks used."""
    assert one(600 * MIB, actual=768 * MIB, seen=1000 * MIB) == 368 * MIB


@pytest.mark.parametrize('changes, age', [
    ({}, 5.0), ({'seen': 1000 * MIB}, 5.0), ({'seen': 1000 * MIB, 'last_update': NOW - 20}, 20.0),
    ({'usable': None, 'last_update': None}, 5.0), ({'seen': 1000 * MIB, 'last_update': None}, None),
    ({'seen': 2 * GIB}, None), ({'usable': 5 * GIB}, None), ({'actual': 5 * GIB}, None), ({'age': None}, None)])
def test_a_published_word_is_as_old_as_the_oldest_thing_that_it_is_made_of(changes, age):
    assert snapshot(400 * MIB, **changes).published_age == age


def test_a_hypervisor_that_is_silent_leaves_no_published_word_to_act_on():
    held = derive(a_sample(dataclasses.replace(sampled(), published=400 * MIB, published_age=5.0)),
                  a_sample(guests=None), {}, 0, Settings()).guests[0]
    assert held.published_age is None


def agent(*, content=b'5 1\n', open_fails=False):
    def ask(request):
        said.append(json.loads(request)['execute'])
        if said[-1] == 'guest-file-open':
            return json.dumps({'error': 'no such file'} if open_fails else {'return': 7})
        if said[-1] == 'guest-file-read':
            return json.dumps({'return': {'count': len(content), 'buf-b64': base64.b64encode(content).decode()}})
        return json.dumps({'return': {}})
    said = []
    return ask, said


def test_a_file_is_opened_read_and_closed_even_where_its_content_is_no_text():
    ask, said = agent()
    assert guest_file.read(ask, '/run/x') == '5 1\n'
    assert said == ['guest-file-open', 'guest-file-read', 'guest-file-close']
    ask, said = agent(content=b'\xff')
    with pytest.raises(ValueError):
        guest_file.read(ask, '/run/x')
    assert said[-1] == 'guest-file-close'
    with pytest.raises(ValueError, match='guest-file-open was not answered'):
        guest_file.read(agent(open_fails=True)[0], '/run/x')


@pytest.mark.parametrize('content', [b'1 ' + b'9' * 5000, b'5 1' + b' ' * (8 << 20)])
def test_an_agent_that_sends_more_than_it_was_asked_for_is_not_listened_to(content):
    ask, said = agent(content=content)
    with pytest.raises(ValueError, match='more than'):
        guest_file.read(ask, '/run/x')
    assert said[-1] == 'guest-file-close'


@pytest.fixture
def script():
    loader = importlib.machinery.SourceFileLoader('ovc_working_set', str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('ovc_working_set', loader))
    loader.exec_module(module)
    return module


def test_the_guests_script_counts_what_is_used_and_what_was_wanted_again_of_late(tmp_path, script):
    def guest(available, refaults):
        a_proc(tmp_path, total=GIB, available=available)
        (tmp_path / 'vmstat').write_text(f'workingset_refault_anon {refaults}\nworkingset_refault_file 0\n')
    working = script.WorkingSet(str(tmp_path))
    guest(GIB // 2, 100)
    assert working.measure(0) == GIB // 2
    guest(GIB // 2, 100 + 2560)
    assert working.measure(30) == GIB // 2 + 10 * MIB
    assert working.measure(120) == GIB // 2, 'it is forgotten after a minute'
    guest(MIB, 10**9)
    assert working.measure(121) == GIB, 'never more than there is'


def test_the_guests_script_writes_what_the_host_can_read(tmp_path):
    target = tmp_path / 'ovc' / 'working-set'
    subprocess.run([sys.executable, SCRIPT, '--once', '--file', target], check=True)
    amount, number = map(int, target.read_text().split())
    assert amount > MIB and number > 0 and list(target.parent.iterdir()) == [target]
