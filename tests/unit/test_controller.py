# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The loop as sentences: what is done once is not done twice, and one failure is one failure."""
import dataclasses
import json
import logging
import pathlib
import threading
import time
import types

import pytest

from ovc_plugin import parting, privileged, publish
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.controller import Controller
from ovc_plugin.decide import state
from ovc_plugin.hypervisor.patient import Patient
from ovc_plugin.model import MIB, InFlight, KsmState, Level, Outcome, Plan, Request, TuneKsm
from ovc_plugin.samples import GuestSample, MemorySample
from ovc_plugin.sense.sources import Sources
from ovc_plugin.settings import HostSettings, Settings
from tests.builders import GIB, NOW, FakeHypervisor, a_host, a_sample, sampled
from tests.waiting import LONG, until

EARLY = 8  # looks: passes are 0.3 s apart at least, and looks are 0.05 s apart


class Host:
    """A controller over readings that a test sets; balloon requests are recorded by the fake hypervisor."""

    def __init__(self, tmp_path: pathlib.Path, *guests: GuestSample, available: int = 500 * MIB, **options):
        self.path, self.now, self.guests, self.available = tmp_path, NOW, guests, available
        self.hypervisor = FakeHypervisor(*(g.facts for g in guests))
        self.ksm: list[tuple[str, int]] = []
        self.sources = Sources()
        self.settings = Settings(host=HostSettings(dry_run=False, swap=False, ksm='leave', **options))
        self.restart()

    def restart(self):
        self.controller = Controller(
            host='h1', settings=self.settings, sensor=self, reserve=512 * MIB, clock=lambda: self.now,
            actuator=Actuator(self.hypervisor, lambda uuid: None, clock=lambda: self.now),
            store=publish.Store(str(self.path), 'h1'),
            tune_ksm=lambda name, value: self.ksm.append((name, value)))
        self.controller.recall()

    def memory(self):
        return MemorySample(total=28 * GIB, available=self.available, swap_total=GIB, swap_free=GIB)

    def sample(self, now):
        if self.hypervisor.down:
            return a_sample(guests=None, taken_at=now, memory=self.memory())
        return a_sample(*self.guests, taken_at=now, memory=self.memory())

    def run(self, seconds=5.0):
        self.now += seconds
        return self.controller.run_pass()


def test_a_shortage_asks_an_idle_guest_once(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.run()
    host.run()
    assert len(host.hypervisor.asked) == 1


def test_a_restart_in_the_middle_asks_nothing_twice(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.run()
    host.restart()
    host.run()
    assert len(host.hypervisor.asked) == 1
    assert host.controller.status()['guests'][0]['target'] == host.hypervisor.asked[0][1]


def test_one_guest_that_fails_costs_the_others_nothing_and_is_asked_again(tmp_path):
    host = Host(tmp_path, sampled('bad', last_update=NOW + 9), sampled('good', last_update=NOW + 9))
    host.hypervisor.broken = {'uuid-bad'}
    _, outcomes = host.run()
    assert [o.done for o in outcomes] == [False, True]
    host.hypervisor.broken = set()
    host.run()
    assert [uuid for uuid, _ in host.hypervisor.asked] == ['uuid-good', 'uuid-bad']


def test_a_dry_run_tells_and_does_nothing(tmp_path, caplog):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.controller.settings = Settings(host=HostSettings(dry_run=True, ksm='leave'))
    with caplog.at_level(logging.INFO):
        host.run()
        host.run()
    assert host.hypervisor.asked == []
    assert sum('would shrink g1' in r.message for r in caplog.records) == 2


def test_a_hypervisor_that_is_gone_for_a_minute_leaves_commitments_standing(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.run()
    committed, host.hypervisor.down = host.controller.report.committed, True
    for _ in range(12):
        host.run()
    assert host.controller.report.committed == committed
    host.hypervisor.down = False
    host.run()
    assert host.controller.report.committed == committed


def test_while_the_hypervisor_is_silent_reports_are_new_and_the_list_of_guests_is_not(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    assert host.controller.listed_at == 0
    host.run()
    told, host.hypervisor.down = host.now, True
    host.run()
    assert (host.controller.report.taken_at, host.controller.listed_at) == (host.now, told)
    host.hypervisor.down = False
    host.run()
    assert host.controller.listed_at == host.now


def test_what_is_put_out_while_a_pass_acts_is_all_of_that_pass(tmp_path):
    """A guest of the pass before would else count as in the report, and so nowhere, for as long as actions take."""
    host, found = Host(tmp_path, sampled(last_update=NOW + 9)), []
    host.run()
    before, apply = host.controller.sensed, host.controller._actuator.apply
    host.guests = ()

    def look(plan, dry_run):
        found.append(host.controller.sensed)
        return apply(plan, dry_run=dry_run)
    host.controller._actuator.apply = look
    host.run()
    assert before.counted and before.report.committed
    assert found[0].report is host.controller.report and found[0].listed_at == host.now
    assert not found[0].counted and not found[0].sizes and not found[0].report.committed


def test_a_dry_run_promises_nothing_that_it_would_have_to_reclaim(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9), available=20 * GIB)
    host.run()
    assert host.controller.report.reclaimable > 0
    host.controller.settings = Settings(host=HostSettings(dry_run=True, swap=False, ksm='leave'))
    host.run()
    assert host.controller.report.reclaimable == 0


def test_what_another_process_reclaims_on_this_host_counts_in_the_report_of_one_that_only_looks(tmp_path):
    other = publish.Store(str(tmp_path), 'h1')
    assert other.claim()
    host = Host(tmp_path, sampled(last_update=NOW + 9), available=20 * GIB)
    host.controller.claim()
    host.run()
    assert host.controller.report.dry_run and host.controller.report.reclaimable > 0
    other.give_up()


def test_a_host_whose_hypervisor_never_answered_sends_no_report(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.hypervisor.down = True
    plan, outcomes = host.run()
    assert host.controller.report is None and outcomes == []
    assert 'no report until it does' in host.controller.status()['tick']['error']
    host.hypervisor.down = False
    host.run()
    assert host.controller.report.committed > 0


def test_the_hosts_own_word_on_swap_backing_counts_at_its_door(tmp_path):
    host = Host(tmp_path, available=20 * GIB, require_swap_backing=False)
    host.run()
    crowd = InFlight(guests=20, memory=29 * GIB, reserved=0)
    told = host.controller.admits(Request(memory=GIB, reservation=0), crowd, host.now)
    assert 'guests could touch' not in told.reason


def test_a_pass_that_fails_is_shown_and_followed_by_another(tmp_path, monkeypatch):
    host = Host(tmp_path, tick=0.2)
    monkeypatch.setattr(host, 'sample', lambda now: (_ for _ in ()).throw(OSError('no /proc')))
    host.controller.start()
    until(lambda: host.controller.status()['tick']['error'])
    assert 'no /proc' in host.controller.status()['tick']['error']
    monkeypatch.undo()
    until(lambda: host.controller.report)
    host.controller.stop(LONG)
    assert host.controller.report is not None


class Blind:
    """A watch that trips over what it sees, between the passes."""

    def complete(self, sample):
        return sample

    blind = False

    def wait(self, *args, **kinds):
        raise ValueError('not a number')

    def stir(self):
        pass

    def fields(self):
        return {}


def test_a_controller_that_gets_no_thread_keeps_no_other_process_from_acting(tmp_path, monkeypatch):
    host = Host(tmp_path)

    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, 'start', refused)
    with pytest.raises(RuntimeError, match='new thread'):
        host.controller.start()
    assert publish.Store(str(tmp_path), 'h1').claim()
    host.controller.stop()


def test_a_watch_that_fails_does_not_end_the_loop_nor_make_it_spin(tmp_path):
    host = Host(tmp_path, tick=0.2)
    host.controller._watch = Blind()
    host.controller.start()
    until(lambda: host.controller.status()['tick']['passes'] > 2)
    began, passes = time.monotonic(), host.controller.status()['tick']['passes']
    until(lambda: host.controller.status()['tick']['passes'] > passes + 3)
    done = host.controller.status()['tick']['passes'] - passes
    assert done <= 2 + (time.monotonic() - began) / 0.2, 'one each tick'
    until(lambda: 'not a number' in (host.controller.status()['tick']['error'] or ''))  # not while a pass is made
    host.controller.stop(LONG)


class Falling(Host):
    """Its memory falls short between two looks, once a test lets it; ``late`` is how many looks saw it before a pass
    did."""

    def __init__(self, tmp_path, **options):
        self.falls, self.seen, self.late = threading.Event(), 0, None
        super().__init__(tmp_path, available=10 * GIB, **options)
        self.controller._clock = time.time

    def memory(self):
        if self.falls.is_set():
            self.available = 300 * MIB
            self.seen += 1
        return super().memory()

    def sample(self, now):
        found = super().sample(now)
        if self.seen and self.late is None:
            self.late = self.seen - 1
        return found


def test_a_fall_between_two_ticks_is_answered_at_once(tmp_path):
    host = Falling(tmp_path, tick=300, fast_look=0.05)
    host.controller.start()
    until(lambda: host.controller.report)
    host.falls.set()
    until(lambda: host.controller.report.level >= Level.SOFT)
    host.controller.stop(LONG)
    assert host.late <= EARLY


def test_passes_are_seldom_while_no_guest_lacks_anything_and_come_at_once_when_one_does(tmp_path):
    host = Falling(tmp_path, tick=2, fast_look=0.05)
    host.controller.start()
    until(lambda: host.controller.report)
    began, passes = time.monotonic(), host.controller.status()['tick']['passes']
    time.sleep(4.5)
    assert host.controller.status()['tick']['passes'] - passes <= (time.monotonic() - began) / 6 + 1, 'one in 3 ticks'
    host.falls.set()
    until(lambda: host.controller.report.level >= Level.SOFT)
    host.controller.stop(LONG)
    assert host.late <= EARLY


def test_a_controller_that_is_stopped_does_not_wait_for_its_next_pass(tmp_path):
    host = Host(tmp_path, available=10 * GIB, tick=300, fast_look=200)
    host.controller.start()
    until(lambda: host.controller.report)
    host.controller.stop(LONG)
    assert not host.controller._thread.is_alive()


def test_a_state_directory_that_cannot_be_written_is_a_note(tmp_path):
    (tmp_path / 'file').write_text('')
    host = Host(tmp_path / 'file' / 'below', sampled(last_update=NOW + 9))
    host.run()
    assert any('state_path' in note for note in host.controller.status()['notes'])
    assert len(host.hypervisor.asked) == 1


def test_a_torn_state_file_is_sensed_afresh(tmp_path, caplog):
    for text in ('{"ladder": {"lev', '[]', '{"ladder": {"level": "ODD", "asked": {}}}', '{"ladder": 5}'):
        (tmp_path / 'h1.json').write_text(text)
        host = Host(tmp_path, sampled(last_update=NOW + 9))
        host.run()
        assert len(host.hypervisor.asked) == 1


def written_by_a_newer_release(tmp_path, ksm=None):
    """The file of a run that has asked a guest to shrink, with what a later release may have added to each part."""
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.run()
    file = tmp_path / 'h1.json'
    kept = json.loads(file.read_text())
    kept['ladder']['evaporation']['later'] = kept['ladder']['later'] = kept['later'] = 1
    kept['ksm_before'] = ksm
    file.write_text(json.dumps(kept))
    host.restart()
    return host


def test_what_a_newer_release_wrote_besides_costs_nothing_of_what_it_remembered(tmp_path, caplog):
    host = written_by_a_newer_release(tmp_path, dict(run=0, saved=0, shared=0, pages_to_scan=100, later=2))
    assert len(host.controller._state.asked) == 1
    assert host.controller._kept.ksm_before == KsmState(run=0, saved=0, shared=0, pages_to_scan=100)
    assert 'could not be read' not in caplog.text


@pytest.mark.parametrize('broken', [{'level': 'FIFTH'}, {'evaporation': {'mean': 'x'}}, {'departing': {'awaited': 1}},
                                    {'departing': {'rest_until': 0, 'awaited': None, 'here_since': None,
                                                   'setbacks': {'g': {'count': float('inf'), 'until': 0}}}}])
def test_how_page_sharing_was_found_is_known_though_the_rest_cannot_be_read(tmp_path, caplog, broken):
    """Else the next save forgets it, and nobody ever puts it back."""
    host = written_by_a_newer_release(tmp_path, dict(run=0, saved=0, shared=0, pages_to_scan=100))
    kept = json.loads((tmp_path / 'h1.json').read_text())
    kept['ladder'].update(broken)
    (tmp_path / 'h1.json').write_text(json.dumps(kept))
    host.restart()
    host.run()
    host.controller.stop(LONG)
    assert 'the host is sensed afresh' in caplog.text and ('run', 0) in host.ksm


def test_stopping_puts_page_sharing_back_as_it_was_found(tmp_path, monkeypatch):
    host = Host(tmp_path)
    action = TuneKsm(run=1, pages_to_scan=None, reason='test')
    monkeypatch.setattr(host.controller, '_actuator', Applied(Outcome(action=action, done=True)))
    monkeypatch.setattr('ovc_plugin.decide.host.decide_host',
                        lambda *args: (Plan(level=Level.CLEAR, actions=(action,), reason=''), state.LadderState()))
    monkeypatch.setattr(host, 'sample', lambda now: a_sample(ksm=found, taken_at=now))
    found = a_host().ksm
    host.run()
    host.controller.stop(LONG)
    assert host.ksm == [('run', found.run), ('pages_to_scan', found.pages_to_scan)]


def test_a_kill_in_the_moment_of_its_first_change_does_not_forget_how_page_sharing_was_found(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    class Deadly:
        def apply(self, plan, *, dry_run):
            raise Killed
    host, found = Host(tmp_path), a_host().ksm
    action = TuneKsm(run=0, pages_to_scan=None, reason='test')
    monkeypatch.setattr(host.controller, '_actuator', Deadly())
    monkeypatch.setattr('ovc_plugin.decide.host.decide_host',
                        lambda *args: (Plan(level=Level.CLEAR, actions=(action,), reason=''), state.LadderState()))
    monkeypatch.setattr(host, 'sample', lambda now: a_sample(ksm=found, taken_at=now))
    with pytest.raises(Killed):
        host.run()
    host.restart()
    host.controller.stop(LONG)
    assert host.ksm == [('run', found.run), ('pages_to_scan', found.pages_to_scan)]


def test_the_last_word_before_a_start_is_the_reports(tmp_path):
    host = Host(tmp_path)
    request = Request(memory=GIB, reservation=GIB)
    assert 'first pass' in host.controller.admits(request, InFlight(), NOW).reason
    host.available = 20 * GIB
    host.run()
    assert host.controller.admits(request, InFlight(), host.now).ok
    assert not host.controller.admits(request, InFlight(guests=30, memory=30 * GIB), host.now).ok


def test_the_status_is_plain_data_with_the_reason_of_the_last_action(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.run()
    told = json.loads(json.dumps(host.controller.status()))
    assert told['report']['level'] == 'SOFT' and told['tick']['passes'] == 1
    assert 'MB short' in told['guests'][0]['last_action']['reason']
    assert told['guests'][0]['need'] == GIB // 2 and told['guests'][0]['need_confidence'] > 0.9


def beside(host):
    """Another process that controls the same host; returns its claim."""
    store = publish.Store(str(host.path), 'h1')
    assert store.claim()
    return store


def test_beside_another_controller_it_only_looks_until_that_one_ends(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    other = beside(host)
    other.save({'ladder': {'level': 'CLEAR', 'asked': {}}, 'ksm_before': None})
    kept = other.path.read_text()
    host.controller.claim()
    host.run()
    told = host.controller.status()
    assert host.hypervisor.asked == [] and told['dry_run'] and host.controller.report.dry_run
    assert any('another process controls this host' in note and 'end one of them' in note for note in told['notes'])
    explained = host.controller.explain('g1')
    assert explained['dry_run'] and explained['guests'][0]['next'][0].startswith('dry run: would shrink g1')
    host.controller.stop(LONG)
    assert host.ksm == [] and other.path.read_text() == kept, 'what the other keeps is left alone'
    other.give_up()
    host.run()
    assert len(host.hypervisor.asked) == 1 and not host.controller.status()['dry_run']
    assert not any('another process' in note for note in host.controller.status()['notes'])
    host.controller.stop(LONG)


def test_a_dry_run_keeps_nobody_from_acting_and_takes_the_host_when_it_ends(tmp_path):
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    acting = host.controller.settings
    host.controller.settings = Settings(host=HostSettings(dry_run=True))
    host.controller.claim()
    other = beside(host)
    host.controller.run_pass()
    assert host.controller.dry_run and not any('another' in note for note in host.controller.status()['notes'])
    other.give_up()
    host.controller.settings = acting
    host.controller.run_pass()
    assert not host.controller.dry_run and not publish.Store(str(host.path), 'h1').claim()
    host.controller.stop(LONG)
    beside(host).give_up()


class Sharing(Host):
    """A host that was found with page sharing off, and whose guests can share. Its knobs are as they are set; what
    hangs waits until it is let."""

    def __init__(self, tmp_path, monkeypatch, *guests, **options):
        super().__init__(tmp_path, *guests)
        self.knobs, self.let, self.hangs, self.begun = {'run': 0, 'pages_to_scan': 77}, threading.Event(), '', []
        self.settings = Settings(host=HostSettings(**dict(dry_run=False, swap=False, tick=0.2) | options))
        monkeypatch.setattr(privileged, 'set_ksm', self.turn)
        monkeypatch.setattr(self.hypervisor, 'set_balloon', self.ask)
        monkeypatch.setattr(parting, 'SECONDS', LONG)  # else a slow machine gives guests back less
        self.restart()
        self.controller._tune_ksm = self.turn

    def turn(self, name, value):
        self._wait('sharing')
        self.ksm.append((name, value))
        self.knobs[name] = value

    def ask(self, uuid, target):
        self._wait(uuid)
        self.hypervisor.asked.append((uuid, target))

    def sample(self, now):
        self._wait('sensing')
        found = KsmState(saved=0, shared=0, **self.knobs)
        return dataclasses.replace(super().sample(now), ksm=found)

    def _wait(self, what):
        self.begun.append(what)
        if what == self.hangs:
            assert self.let.wait(LONG)

    def kept(self):
        return json.loads((self.path / 'h1.json').read_text())

    def let_once_it_stops(self):
        """What hangs goes on as soon as a stop waits for it."""
        threading.Thread(target=lambda: (until(lambda: self.controller._actuator._barred), self.let.set())).start()

    def end_what_hangs(self):
        late = self.controller._thread
        self.let.set()
        late.join(LONG)
        assert not late.is_alive()


def three(**changes):
    return [sampled(f'g{n}', **changes) for n in range(3)]


def test_a_pass_that_outlasts_a_stop_begins_nothing_more(tmp_path, monkeypatch):
    """Page sharing is not switched on by a controller that has given its host up."""
    host = Sharing(tmp_path, monkeypatch, *three())
    host.hangs = 'uuid-g0'
    host.controller.start()
    until(lambda: 'uuid-g0' in host.begun)
    host.controller.stop(timeout=0.1)
    told, kept = list(host.ksm), host.kept()
    host.end_what_hangs()
    assert [uuid for uuid, _ in host.hypervisor.asked] == ['uuid-g0'], 'what was under way alone'
    assert host.knobs['run'] == 0 and host.ksm == told and ('run', 1) not in told
    assert host.kept() == kept and kept['ksm_before'] is None
    beside(host).give_up()


def test_a_look_that_outlasts_a_stop_leads_to_nothing(tmp_path, monkeypatch):
    host = Sharing(tmp_path, monkeypatch, *three())
    host.hangs = 'sensing'
    host.controller.start()
    until(lambda: host.begun)
    host.controller.stop(timeout=0.1)
    kept = host.kept()
    host.end_what_hangs()
    assert host.hypervisor.asked == host.ksm == [] and host.kept() == kept and kept['ksm_before'] is None


def test_a_stop_beside_a_change_of_page_sharing_that_hangs_leaves_it_to_the_next_start(tmp_path, monkeypatch, caplog):
    host = Sharing(tmp_path, monkeypatch, *three())
    host.hangs = 'sharing'
    host.controller.start()
    until(lambda: 'sharing' in host.begun)
    host.controller.stop(timeout=0.1)
    assert host.kept()['ksm_before']['run'] == 0 and 'ovc release' in caplog.text
    host.end_what_hangs()
    host.restart()
    host.controller.stop(LONG)
    assert host.ksm[-2:] == [('run', 0), ('pages_to_scan', 77)] and host.kept()['ksm_before'] is None


def test_a_pass_that_a_stop_meets_ends_after_what_it_is_at_and_remembers_no_more_than_was_asked(tmp_path, monkeypatch):
    host = Sharing(tmp_path, monkeypatch, *three())
    host.hangs = 'uuid-g0'
    host.controller.start()
    until(lambda: 'uuid-g0' in host.begun)
    host.let_once_it_stops()
    host.controller.stop(LONG)
    assert not host.controller._thread.is_alive() and {uuid for uuid, _ in host.hypervisor.asked} == {'uuid-g0'}
    assert host.knobs['run'] == 0 and host.kept()['ladder']['asked'].keys() <= {'uuid-g0'}


def sharing_guests():
    """Of one project, on a host with room for all of them; the first has been shrunk."""
    return [sampled('g0', actual=GIB // 2), sampled('g1')]


def become_dry(host):
    host.controller.settings = Settings(host=dataclasses.replace(host.settings.host, dry_run=True))


def test_a_dry_run_that_begins_while_acting_leaves_the_host_as_a_stop_does(tmp_path, monkeypatch, caplog):
    """Promise 8: nobody watches from then on whose pages meet."""
    host = Sharing(tmp_path, monkeypatch, *sharing_guests())
    before = at_work(host)
    caplog.set_level(logging.INFO)
    become_dry(host)
    until(lambda: host.controller.status()['dry_run'] and host.knobs == {'run': 0, 'pages_to_scan': 77})
    until(lambda: unclaimed(host))  # "ovc release" and another controller may act
    assert host.hypervisor.asked[before:] == [('uuid-g0', GIB)] and host.kept()['ksm_before'] is None
    for said in ('dry run from now on', 'the host is left to itself', 'guests are given what is free', 'ovc release'):
        assert said in caplog.text
    done, passes = list(host.ksm), host.controller.status()['tick']['passes']
    until(lambda: host.controller.status()['tick']['passes'] > passes + 2)
    host.controller.stop(LONG)
    assert host.ksm == done and len(host.hypervisor.asked) == before + 1, 'once'
    assert caplog.text.count('dry run from now on') == 1


def test_page_sharing_that_is_left_to_others_from_now_on_is_first_put_back(tmp_path, monkeypatch, caplog):
    """Promise 8: it was left on, by us, and nobody watched any more whose pages met."""
    host = Sharing(tmp_path, monkeypatch, *sharing_guests())
    at_work(host)
    host.controller.settings = Settings(host=dataclasses.replace(host.settings.host, ksm='leave'))
    until(lambda: host.knobs == {'run': 0, 'pages_to_scan': 77} and host.kept()['ksm_before'] is None)
    done, passes = list(host.ksm), host.controller.status()['tick']['passes']
    until(lambda: host.controller.status()['tick']['passes'] > passes + 2)
    assert host.ksm == done and not host.controller.dry_run and caplog.text.count('ksm = leave') == 1
    host.controller.settings = host.settings
    until(lambda: host.knobs['run'] == 1 and host.kept()['ksm_before']['run'] == 0)
    host.controller.stop(LONG)
    assert host.knobs == {'run': 0, 'pages_to_scan': 77}


class Knowing(Patient):
    """Loses its patience with the call that hangs, and with no other however slow the machine is."""

    def __init__(self, host):
        super().__init__(host.hypervisor, LONG)
        self._host = host

    def set_balloon(self, uuid, target):
        self._seconds = 0.1 if uuid == self._host.hangs and not self._host.let.is_set() else LONG
        super().set_balloon(uuid, target)


def shrinks_late(host):
    """Its pass has left a call about the first guest to itself; returns what the guest was asked for in it."""
    host.controller._actuator = Actuator(Knowing(host), lambda uuid: None, clock=lambda: host.now)
    at_work(host)
    host.hangs, host.available = 'uuid-g0', 500 * MIB
    until(lambda: host.controller._actuator.late())
    until(lambda: 'uuid-g0' not in host.controller._state.asked)
    return host.controller._actuator.late()['uuid-g0']


def test_who_was_asked_to_shrink_by_a_call_that_comes_back_during_a_stop_is_asked_for_its_size_last(
        tmp_path, monkeypatch, caplog):
    """Else it would stay small, with nobody looking after it."""
    host = Sharing(tmp_path, monkeypatch, *three())
    target = shrinks_late(host)
    waits = types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: (host.let.set(), time.sleep(0.01)))
    monkeypatch.setattr(parting, 'time', waits)
    host.controller.stop(LONG)
    mine = [size for uuid, size in host.hypervisor.asked if uuid == 'uuid-g0']
    assert mine[-2:] == [target, GIB] and target < GIB
    assert 'uuid-g0' not in host.kept()['ladder']['asked'] and 'may yet shrink' not in caplog.text


def test_whose_call_does_not_come_back_during_a_stop_is_named_with_what_mends_it(tmp_path, monkeypatch, caplog):
    host = Sharing(tmp_path, monkeypatch, *three())
    shrinks_late(host)
    monkeypatch.setattr(parting, 'SECONDS', 0.3)
    host.controller.stop(LONG)
    assert 'uuid-g0' in host.controller._actuator.late(), 'it was not waited for until it came back'
    said = next(line for line in caplog.messages if 'may yet shrink' in line)
    assert 'guest g0 ' in said and 'ovc release' in said


def test_a_first_pass_that_hangs_at_a_stop_names_the_guest_too(tmp_path, monkeypatch, caplog):
    host = Sharing(tmp_path, monkeypatch, *three())
    host.hangs = 'uuid-g0'
    host.controller.start()
    until(lambda: 'uuid-g0' in host.begun)
    host.controller.stop(timeout=0.1)
    host.end_what_hangs()
    assert any('guest uuid-g0 ' in line and 'ovc release' in line for line in caplog.messages)


def unclaimed(host):
    store = publish.Store(str(host.path), 'h1')
    free = store.claim()
    store.give_up()
    return free


def killed(host):
    """What a run leaves behind that was killed while it shared pages and had shrunk a guest."""
    host.knobs['run'] = 1
    before = {'run': 0, 'saved': 0, 'shared': 0, 'pages_to_scan': 77}
    publish.Store(str(host.path), 'h1').save({'ladder': {'level': 'CLEAR', 'asked': {}}, 'ksm_before': before})
    become_dry(host)
    host.settings = host.controller.settings
    host.restart()
    host.controller._tune_ksm = host.turn


def test_a_dry_run_after_a_kill_puts_page_sharing_back_and_takes_nothing_else_up(tmp_path, monkeypatch, caplog):
    host = Sharing(tmp_path, monkeypatch, *sharing_guests())
    host.available = 10 * GIB
    killed(host)
    host.run()
    assert host.ksm == [], 'one look alone changes nothing'
    host.controller.start()
    until(lambda: host.kept()['ksm_before'] is None)
    assert host.knobs['run'] == 0
    host.controller.stop(LONG)
    assert host.hypervisor.asked == [] and 'stays as it is: "ovc release"' in caplog.text
    assert len(host.ksm) == 2


def test_page_sharing_that_cannot_be_put_back_in_a_dry_run_is_told_once_and_tried_again(tmp_path, monkeypatch, caplog):
    host = Sharing(tmp_path, monkeypatch, *sharing_guests())
    killed(host)
    refused = []

    def refuse(name, value):
        refused.append(name)
        raise PermissionError('no helper')
    host.controller._tune_ksm = refuse
    host.controller.start()
    until(lambda: len(refused) > 2)
    status = host.controller.status()
    assert any('could not be put back' in note for note in status['notes']) and status['sharing_is_ours']
    assert caplog.text.count('could not be put back') == 1
    host.controller._tune_ksm = host.turn
    until(lambda: host.knobs['run'] == 0 and not host.controller.status()['sharing_is_ours'])
    until(lambda: not any('could not be put back' in note for note in host.controller.status()['notes']))
    host.controller.stop(LONG)


def test_a_dry_run_beside_one_that_acts_leaves_its_page_sharing_alone(tmp_path, monkeypatch):
    host = Sharing(tmp_path, monkeypatch, *sharing_guests())
    killed(host)
    other = beside(host)
    host.controller.start()
    until(lambda: host.controller.status()['tick']['passes'] > 2)
    assert host.ksm == [] and host.kept()['ksm_before'] is not None
    other.give_up()  # killed in turn
    until(lambda: host.kept()['ksm_before'] is None)
    assert host.knobs['run'] == 0
    host.controller.stop(LONG)


class Applied:
    swapping = False

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def apply(self, plan, dry_run):
        return self.outcomes

    def late(self):
        return {}

    def stop(self):
        pass


def at_work(host):
    """Start it beside plenty of memory, until its pages are shared; how often guests were asked by then."""
    host.available = 10 * GIB
    host.controller.start()
    until(lambda: host.knobs['run'] == 1 and host.controller.status()['tick']['passes'])
    host.begun.clear()
    return len(host.hypervisor.asked)


def test_a_dry_run_that_begins_while_a_pass_senses_still_gives_back(tmp_path, monkeypatch):
    host = Sharing(tmp_path, monkeypatch, *sharing_guests())
    before = at_work(host)
    host.hangs = 'sensing'
    until(lambda: 'sensing' in host.begun)
    become_dry(host)
    host.hangs = ''
    host.let.set()
    until(lambda: unclaimed(host))
    host.controller.stop(LONG)
    assert host.hypervisor.asked[before:] == [('uuid-g0', GIB)]


def test_a_stop_while_a_dry_run_gives_back_gives_back_the_rest(tmp_path, monkeypatch):
    host = Sharing(tmp_path, monkeypatch, *[sampled(f'g{n}', actual=GIB // 2) for n in range(3)])
    before = at_work(host)
    host.hangs = 'uuid-g0'
    become_dry(host)
    until(lambda: 'uuid-g0' in host.begun)
    host.let_once_it_stops()
    host.controller.stop(LONG)
    assert {uuid for uuid, _ in host.hypervisor.asked[before:]} == {'uuid-g0', 'uuid-g1', 'uuid-g2'}


def test_a_guest_that_cannot_be_given_its_reservation_keeps_nobody_from_what_is_over(tmp_path):
    host = Host(tmp_path, sampled('bad', actual=GIB // 8, usable=None, last_update=None, reservation='25%'),
                sampled('good', actual=GIB // 2, last_update=NOW + 4), available=20 * GIB)
    host.hypervisor.broken = {'uuid-bad'}
    for _ in range(400):
        host.guests = (host.guests[0], dataclasses.replace(host.guests[1], facts=dataclasses.replace(
            host.guests[1].facts, last_update=host.now + 4)))
        host.run()
    assert ('uuid-good', GIB) in host.hypervisor.asked


def test_sharing_knows_of_a_guest_of_another_project_before_it_arrives(tmp_path):
    host = Host(tmp_path)
    host.controller.settings = Settings(host=HostSettings(dry_run=True, ksm='auto'))
    host.controller.run_pass()
    host.controller.expect('uuid-new', 'another')
    host.controller.run_pass()
    assert host.controller._snapshot.arriving == ('another',)
    host.now += 200
    host.controller.run_pass()
    assert host.controller._snapshot.arriving == (), 'it never came'


def test_a_guest_that_is_announced_before_the_hypervisor_has_answered_brings_one_pass_forward_and_not_all(tmp_path):
    host = Host(tmp_path, sampled())
    host.hypervisor.down = True
    host.controller.expect('uuid-g2', 'p2')
    host.run()
    assert host.controller._arrivals.news is None
    host.hypervisor.down = False
    host.run()
    assert host.controller._snapshot.arriving == ('p2',), 'it is expected all the same'


def test_who_would_refuse_by_an_old_look_gets_a_new_one_at_once_and_not_again(tmp_path):
    host = Host(tmp_path, sampled(), sampled('g2'), available=20 * GIB, tick=60.0)
    host.controller.start()
    try:
        until(lambda: host.controller.listed_at == NOW)
        assert not host.controller.look_anew('guest g3 is about to be refused'), 'the last look is of just now'
        host.now, host.guests = NOW + 20, host.guests[:1]
        assert host.controller.look_anew('guest g3 is about to be refused', LONG)
        assert host.controller.listed_at == NOW + 20
        assert [guest['uuid'] for guest in host.controller.status()['guests']] == ['uuid-g1']
        assert host.controller.status()['watch']['early'] == 'guest g3 is about to be refused'
        host.now, host.hypervisor.down = NOW + 40, True
        assert not host.controller.look_anew('guest g3 is about to be refused', 0.2), 'nobody has listed the guests'
    finally:
        host.controller.stop()


def test_a_report_is_told_before_anything_is_done(tmp_path):
    host, told = Host(tmp_path, sampled(last_update=NOW + 9)), []
    host.controller.on_report = lambda report: told.append((report.level, len(host.hypervisor.asked)))
    host.run()
    assert told == [(Level.SOFT, 0)] and len(host.hypervisor.asked) == 1


def test_one_more_guest_like_an_untouchable_one_is_asked_for_at_its_full_size(tmp_path):
    host = Host(tmp_path, sampled(maximum=20 * GIB, actual=20 * GIB, untouchable='huge pages'), available=8 * GIB)
    host.run()
    told = host.controller.status()['next_guest']
    assert not told['ok'] and told['reservation'] == 20 * GIB and 'guarantees would need' in told['reason']


class Slow(Host):
    """Reading the host takes a while."""

    def __init__(self, *arguments, **options):
        self.reading, self.go_on = threading.Event(), threading.Event()
        super().__init__(*arguments, **options)

    def sample(self, now):
        found = super().sample(now)
        self.reading.set()
        self.go_on.wait(LONG)
        return found


def test_a_look_that_was_under_way_when_one_was_asked_for_is_followed_by_another(tmp_path):
    host = Slow(tmp_path, sampled(), sampled('g2'), available=20 * GIB, tick=60.0)
    host.controller.start()
    try:
        until(host.reading.is_set)
        host.now, host.guests = NOW + 20, host.guests[:1]
        asked = threading.Thread(target=lambda: answers.append(host.controller.look_anew('g3 is refused', LONG)))
        answers = []
        asked.start()
        until(lambda: host.controller._arrivals.news)
        host.go_on.set()
        asked.join(LONG)
        assert answers == [True] and host.controller.listed_at == NOW + 20
        assert len(host.controller.status()['guests']) == 1
        host.now -= 3600  # the clock is set back
        passes = host.controller.status()['tick']['passes']
        assert host.controller.look_anew('g3 is refused', LONG)
        assert host.controller.status()['tick']['passes'] > passes
    finally:
        host.go_on.set()
        host.controller.stop()


def test_a_controller_without_a_loop_has_nobody_to_look_anew(tmp_path):
    host = Host(tmp_path, sampled())
    host.run()
    host.now += 20
    assert not host.controller.look_anew('guest g3 is about to be refused')


def test_after_the_clock_was_set_back_a_guest_that_hangs_is_not_shrunk(tmp_path):
    """Promise 6: its last word is of an hour ahead, and stays so for an hour."""
    host = Host(tmp_path, sampled(last_update=NOW), available=10 * GIB)
    host.run()
    host.now, host.available = NOW - 3600, 500 * MIB
    for _ in range(5):
        host.run(60)
    assert host.hypervisor.asked == [] and host.controller.status()['guests'][0]['stats_age'] is None
