# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Asking the cloud: nobody waits for it, and what it says reaches the rules, the log and the next start."""
from __future__ import annotations

import pathlib
import threading

import pytest

from ovc_plugin import publish
from ovc_plugin.act import migration
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.act.migration import Departures
from ovc_plugin.controller import Controller
from ovc_plugin.model import MIB, AskMigration, Departure
from ovc_plugin.samples import MemorySample
from ovc_plugin.sense.sources import Sources
from ovc_plugin.settings import HostSettings, Settings
from tests.builders import GIB, NOW, FakeHypervisor, a_guest, a_host, a_sample, sampled
from tests.waiting import LONG, until

ACTION = AskMigration(guest='uuid-g1', cost=1, relief=1, reason='short')


class Cloud:
    """Moves guests when a test says so. ``slow`` is held while a question is open."""

    def __init__(self, refuses=None):
        self.refuses, self.asked, self.ended, self.slow = refuses, [], None, threading.Event()
        self.slow.set()
        self.silent, self.questions = False, 0

    def ask(self, guest):
        self.slow.wait(LONG)
        if self.refuses:
            raise self.refuses
        self.asked.append(guest)

    def outcome(self, guest):
        self.questions += 1
        if self.silent:
            raise ConnectionError('no answer')
        return self.ended or Departure(guest=guest)

    def until_asked_again(self):
        """Wait until what it says now has been heard."""
        asked = self.questions
        until(lambda: self.questions > asked + 1)  # the next question may be under way already; that one not


def departures(cloud, **changes):
    return Departures(cloud, **dict(measure=lambda guests: None, every=0.01) | changes)


def seen(made, awaited='uuid-g1'):
    return made.seen(a_host(), awaited, wanted=True).departures


def test_asking_returns_at_once_however_long_the_cloud_takes():
    cloud = Cloud()
    cloud.slow.clear()
    made = departures(cloud)
    made.apply(ACTION)
    assert not cloud.asked and seen(made) == (Departure(guest='uuid-g1'),)
    cloud.slow.set()
    until(lambda: cloud.asked == ['uuid-g1'])
    cloud.ended = Departure(guest='uuid-g1', ended=True)
    until(lambda: seen(made) == (cloud.ended,))


def test_a_refusal_is_an_end_with_the_clouds_words():
    made = departures(Cloud(refuses=RuntimeError('may not')))
    made.apply(ACTION)
    until(lambda: seen(made)[0].ended)
    snapshot = made.seen(a_host(), 'uuid-g1', wanted=True)
    assert snapshot.departures[0].error == 'may not'
    assert any('could not be moved away: may not' in note for note in snapshot.notes)


@pytest.mark.parametrize('moves', [True, False])
def test_a_cloud_that_did_not_answer_in_time_may_have_been_asked_all_the_same(moves):
    """Else another guest is asked away while this one moves; a busy nova was seen to begin much later."""
    cloud, now = Cloud(refuses=TimeoutError('no answer in time')), [NOW]
    cloud.ended = Departure(guest='uuid-g1', ended=True, error='it is still here')
    made = departures(cloud, clock=lambda: now[0])
    made.apply(ACTION)
    cloud.until_asked_again()
    now[0] += migration._HEARD_WITHIN - 1
    cloud.until_asked_again()
    assert seen(made) == (Departure(guest='uuid-g1'),), 'it may yet begin'
    if moves:
        cloud.ended = None
        cloud.until_asked_again()
        now[0] += 2
        cloud.until_asked_again()
        assert seen(made) == (Departure(guest='uuid-g1'),)
        cloud.ended = Departure(guest='uuid-g1', ended=True)
        until(lambda: seen(made) == (cloud.ended,))
    else:
        now[0] += 2
        until(lambda: seen(made)[0].ended)
        assert seen(made)[0].error == 'no answer in time; it is still here'


def test_a_cloud_that_does_not_answer_leaves_the_guest_under_way():
    cloud = Cloud()
    cloud.silent = True
    made = departures(cloud)
    made.apply(ACTION)
    until(lambda: cloud.asked)
    cloud.until_asked_again()
    assert seen(made) == (Departure(guest='uuid-g1'),)
    cloud.silent, cloud.ended = False, Departure(guest='uuid-g1', ended=True, error='no room')
    until(lambda: seen(made) == (cloud.ended,))


def test_after_a_restart_the_guest_is_looked_after_and_not_asked_again():
    cloud = Cloud()
    made = departures(cloud)
    assert seen(made) == (Departure(guest='uuid-g1'),)
    cloud.ended = Departure(guest='uuid-g1', ended=True)
    until(lambda: seen(made) == (cloud.ended,))
    assert not cloud.asked
    assert seen(made, awaited=None) == ()


@pytest.fixture
def followers():
    """The threads that follow guests, but for those that other tests have left."""
    before = set(threading.enumerate())
    return lambda: [t for t in threading.enumerate() if t.name == 'ovc-departure' and t not in before]


def test_no_thread_is_left_once_nobody_is_awaited(followers):
    made = departures(Cloud())
    made.apply(ACTION)
    made.stop()
    until(lambda: not followers())


def test_nobody_is_asked_on_after_a_guest_that_is_awaited_no_more_where_migrations_were_switched_off(
        followers):
    cloud = Cloud()
    made = departures(cloud)
    made.apply(ACTION)
    made.seen(a_host(), 'uuid-g1', wanted=False)
    cloud.until_asked_again()
    assert followers()
    made.seen(a_host(), None, wanted=False)
    until(lambda: not followers())


def test_a_guest_whose_outcome_nobody_can_follow_just_now_costs_no_pass_and_is_followed_later(monkeypatch):
    cloud, start = Cloud(), threading.Thread.start
    made = departures(cloud)
    cloud.ended = Departure(guest='uuid-g1', ended=True)

    def refused(thread):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, 'start', refused)
    assert seen(made) == ()
    with pytest.raises(RuntimeError):
        made.apply(ACTION)
    monkeypatch.setattr(threading.Thread, 'start', start)
    until(lambda: seen(made) == (cloud.ended,))


def test_without_a_cloud_it_says_so_where_migrations_are_wanted_and_is_silent_where_not():
    made = departures(None, why_not='[ovc_nova] auth_type is not set')
    wanted = made.seen(a_host(), None, wanted=True)
    assert wanted.departures is None and '[ovc_nova] auth_type is not set' in wanted.notes[0]
    assert made.seen(a_host(), None, wanted=False) == a_host()
    with pytest.raises(LookupError, match='auth_type'):
        made.apply(ACTION)


def test_a_hypervisor_that_cannot_measure_is_no_error():
    told = []
    departures(Cloud(), measure=told.append).measure(('a',))
    departures(Cloud(), measure=lambda guests: 1 / 0).measure(('a',))
    departures(Cloud(), measure=lambda guests: 1 / 0).measure(())
    assert told == [('a',)]


@pytest.mark.parametrize('wanted', [True, False])
def test_a_guest_on_its_way_is_busy_whoever_moves_it(wanted):
    made, host = departures(Cloud()), a_host(a_guest('goes', can_migrate=True), a_guest('stays'))
    with made.leaving('uuid-goes'):
        goes, stays = made.seen(host, None, wanted=wanted).guests
        assert goes.busy and not (goes.can_balloon or goes.can_swap or goes.can_migrate) and stays.can_balloon
    assert made.seen(host, None, wanted=wanted).guests == host.guests
    with pytest.raises(RuntimeError), made.leaving('uuid-goes'):
        raise RuntimeError('nova gave up')
    assert made.seen(host, None, wanted=wanted).guests == host.guests


# -- in the loop -------------------------------------------------------------------------------------------------

class Host:
    """A controller whose host is at HARD and stays there."""

    def __init__(self, path: pathlib.Path, cloud, *guests, **options):
        self.path, self.now, self.cloud, self.measured = path, NOW, cloud, []
        self.sources = Sources()
        self.guests = guests or (sampled('a', movable=True, usable=0), sampled('b', movable=True, usable=0))
        self.settings = Settings(host=HostSettings(**dict(dry_run=False, swap=False, ksm='leave', migrate=True,
                                                          migrate_after=60.0, fast_look=0.0) | options))
        self.restart()

    def restart(self):
        self.departures = departures(self.cloud, measure=self.measured.append)
        actuator = Actuator(FakeHypervisor(), lambda uuid: None, ask_away=self.departures.apply)
        self.controller = Controller(
            host='h1', settings=self.settings, sensor=self, reserve=512 * MIB, clock=lambda: self.now,
            actuator=actuator, store=publish.Store(str(self.path), 'h1'), tune_ksm=lambda name, value: None,
            departures=self.departures)
        self.controller.recall()

    def memory(self):
        return MemorySample(total=28 * GIB, available=200 * MIB, swap_total=GIB, swap_free=GIB)

    def sample(self, now):
        return a_sample(*self.guests, taken_at=now, memory=self.memory())

    def run(self, passes):
        """So many passes; all that was asked of the cloud, in words."""
        told = []
        for _ in range(passes):
            self.now += 5.0
            plan, _ = self.controller.run_pass()
            told += [a for a in plan.actions if isinstance(a, AskMigration)]
        return told


def test_a_shortage_that_lasts_ends_in_one_request_and_says_why(tmp_path):
    host = Host(tmp_path, Cloud())
    [asked] = host.run(60)
    until(lambda: host.cloud.asked == [asked.guest])
    assert host.measured and set(host.measured[0]) == {'uuid-a', 'uuid-b'}
    events = [e['text'] for e in host.controller.status()['events']]
    assert any('to be moved to another host: short for' in text for text in events)
    host.controller.stop()


def test_a_restart_in_the_middle_asks_nothing_twice(tmp_path):
    host = Host(tmp_path, Cloud())
    [asked] = host.run(40)
    until(lambda: host.cloud.asked)
    host.restart()
    assert host.run(100) == []
    host.guests = tuple(g for g in host.guests if g.facts.uuid != asked.guest)
    assert [a.guest for a in host.run(300)] == [host.guests[0].facts.uuid]
    host.controller.stop()


def test_a_kill_in_the_moment_of_asking_does_not_send_a_second_guest_after_the_first(tmp_path):
    class Killed(BaseException):
        pass

    def ask(action):
        host.cloud.ask(action.guest)
        raise Killed
    host = Host(tmp_path, Cloud())
    host.controller._actuator._ask_away = ask
    with pytest.raises(Killed):
        host.run(60)
    host.restart()
    assert host.run(100) == [] and len(host.cloud.asked) == 1
    host.controller.stop()


def test_a_refusal_is_told_once_and_costs_no_pass(tmp_path, caplog):
    host = Host(tmp_path, Cloud(refuses=RuntimeError('may not')))
    host.run(15)
    until(lambda: host.departures._told is None or host.departures._told.ended)
    host.run(20)
    assert caplog.text.count('could not be moved away: may not') == 1
    assert host.controller.status()['tick']['error'] is None


def test_a_dry_run_names_the_guest_and_asks_nobody(tmp_path, caplog):
    caplog.set_level('INFO')
    host = Host(tmp_path, Cloud(), dry_run=True)
    assert len(host.run(60)) == 1
    assert not host.cloud.asked and caplog.text.count('would ask for') == 1
    assert host.departures._told is None


def test_where_there_is_no_cloud_the_status_says_what_is_missing(tmp_path):
    host = Host(tmp_path, None)
    assert host.run(60) == []
    assert any('no guest is asked away' in note for note in host.controller.status()['notes'])
