# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc replay`` over logs that a controller wrote."""
from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import re

import pytest

from ovc_plugin import cli, codec, record
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.replay import Pass, compare
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, HostSnapshot, Level, Plan, ReclaimGuest, SetBalloon
from ovc_plugin.settings import HostSettings, Settings
from tests.builders import NOW, a_guest, a_host
from tests.waiting import LONG


def short(at: float) -> HostSnapshot:
    return a_host(a_guest('web'), a_guest('db', stats_age=99.0), taken_at=at, available=400 * MIB)


@pytest.fixture
def recorded(tmp_path):
    """A directory with the log of a shortage, as the controller writes it."""
    recorder, state, settings = record.Recorder(tmp_path, 'h1', 20 * MIB, '0.1.0'), LadderState(), Settings()
    for at in (NOW, NOW + 5, NOW + 10):
        plan, after = ladder.decide_host(short(at), state, settings.host, at)
        assert recorder.add(Pass(at=at, state=state, snapshot=short(at), plan=plan), settings) is None
        state = after
    recorder.close()
    return tmp_path


@pytest.fixture
def ovc(capsys, log_as_before):
    def run(*arguments: object):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()
    return run


def test_the_same_rules_decide_the_same(ovc, recorded):
    status, out, _ = ovc('replay', recorded)
    assert status == 0
    assert 'passes=3 differ=0 words=0 unreadable=0' in out and 'hosts=h1' in out and 'from=1970-01-12T13:46:40Z' in out


def test_another_setting_shows_what_it_would_have_done(ovc, recorded):
    status, out, _ = ovc('replay', recorded, '--set', 'ovc_host.balloon_step=0.02')
    assert status == 1
    assert re.search(r'instead of shrink web from 1024 MB to \d+ MB: shrink web from 1024 MB to \d+ MB', out)


@pytest.mark.parametrize('change, why', [
    ('ovc_host.balloon_step=2', 'Should be'), ('ovc_host.mood=2', 'not GROUP.OPTION=VALUE'),
    ('balloon_step=0.2', 'not GROUP.OPTION=VALUE'), ('ovc_host.balloon_step', 'not GROUP.OPTION=VALUE'),
    ('ovc_host.min_ratio=30', 'above max_ratio')])
def test_a_setting_that_cannot_be_is_refused_before_anything_is_read(ovc, recorded, change, why):
    status, _, err = ovc('replay', recorded, '--set', change)
    assert status == 2 and why in err


def test_options_go_by_their_names_in_the_file_and_in_its_units(ovc, recorded):
    status, out, _ = ovc('replay', recorded, '--set', 'ovc_host.swap_step_mb=4')
    assert status in (0, 1) and 'passes=3' in out


def test_settings_that_must_go_together_are_judged_together(ovc, recorded):
    together = ('--set', 'ovc_host.stall_hard=0.8', '--set', 'ovc_host.stall_soft=0.5')
    assert ovc('replay', recorded, *together)[0] in (0, 1)
    status, _, err = ovc('replay', recorded, *together[2:])
    assert status == 2 and 'ovc_host.stall_soft=0.5' in err and 'stall_hard' in err


def test_the_rules_are_those_of_the_record_or_those_that_are_set(ovc, recorded):
    status, out, _ = ovc('replay', recorded, '--set', 'ovc_host.rules=sharing,swap')
    assert status == 1 and 'no longer: shrink web' in out
    status, _, err = ovc('replay', recorded, '--set', 'ovc_host.rules=absent')
    assert status == 2 and "'absent'" in err


def test_a_log_of_another_release_is_read_as_far_as_it_goes_and_says_so(ovc, recorded, tmp_path):
    path, = recorded.iterdir()
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    lines[0] |= {'record': 7}
    lines[1]['pass']['snapshot']['moon'] = 'full'
    del lines[2]['pass']['snapshot']['total']
    newer = tmp_path / 'newer.jsonl'
    newer.write_text('\n'.join(map(json.dumps, lines))[:-40])
    status, out, err = ovc('replay', newer)
    assert status == 0 and 'passes=1 differ=0' in out and 'unreadable=2' in out
    for said in ('has version 7', 'HostSnapshot.moon', 'cut short', "'total'"):
        assert said in err


def test_nothing_to_read_is_an_error_with_its_remedy(ovc, tmp_path):
    assert 'record_path' in ovc('replay', tmp_path / 'absent')[2]
    (tmp_path / 'x.jsonl').write_text('')
    status, _, err = ovc('replay', tmp_path)
    assert status == 2 and 'nothing there' in err


@pytest.mark.parametrize('closed', ['', 'h1-000000.jsonl', '..'])
def test_a_log_that_may_not_be_looked_at_is_not_said_to_be_absent(ovc, recorded, monkeypatch, closed):
    """root may look everywhere, so that the kernel's answer is put in its place here."""
    shut = os.path.normpath(recorded / closed)

    def refusing(look):
        def refuse(path='.', *args, **more):
            if shut in (str(path), os.path.dirname(path)):
                raise PermissionError(errno.EACCES, 'Permission denied', str(path))
            return look(path, *args, **more)
        return refuse
    monkeypatch.setattr(os, 'listdir' if not closed else 'stat', refusing(os.listdir if not closed else os.stat))
    status, _, err = ovc('replay', recorded / closed if closed != '..' else recorded)
    assert status == 2 and 'cannot be read: Permission denied: run this as root, or as a user that may' in err


def test_differences_are_told_by_guest_and_reasons_in_other_words_are_none():
    shrink = SetBalloon(guest='a', target=512 * MIB, previous=1024 * MIB, reason='x')
    swap = ReclaimGuest(guest='b', amount=64 * MIB, floor=0, reason='y')
    before = Plan(level=Level.SOFT, actions=(shrink, swap), reason='r')
    assert compare(before, before, {}).lines == ()
    other = dataclasses.replace(before, actions=(dataclasses.replace(shrink, reason='z'), swap))
    assert compare(before, other, {}) == dataclasses.replace(compare(before, before, {}), words=True)
    harder = Plan(level=Level.HARD, actions=(dataclasses.replace(shrink, target=511 * MIB),), reason='s')
    text = '\n'.join(compare(before, harder, {'a': 'web', 'b': 'db'}).lines)
    assert 'level SOFT (r), now HARD (s)' in text and 'no longer: swap 64 MB of db' in text and '511 MB' in text
    floor = dataclasses.replace(before, actions=(shrink, dataclasses.replace(swap, floor=5)))
    assert 'floor 0 -> 5' in compare(before, floor, {}).lines[0]


def test_what_a_controller_records_is_decided_again_alike(tmp_path):
    from tests.builders import sampled
    from tests.unit.test_controller import Host
    host = Host(tmp_path, sampled(last_update=NOW + 9))
    host.controller._recorder = record.of(str(tmp_path), 'record', 'h1', MIB)
    for _ in range(5):
        host.run()
    host.controller.stop()
    path, = (tmp_path / 'record').iterdir()
    passes = [codec.read(Pass, line['pass']) for line in record.Lines(path) if 'pass' in line]
    assert len(passes) >= 3 and any(p.plan.actions for p in passes)
    for p in passes:
        assert ladder.decide_host(p.snapshot, p.state, host.settings.host, p.at)[0] == p.plan
    assert isinstance(host.settings.host, HostSettings)


def test_what_a_controller_learned_of_swapping_in_vain_is_decided_again_alike(tmp_path, monkeypatch):
    """Outcomes reach the rules by what they remember, which each recorded pass begins with."""
    from ovc_plugin import privileged
    from ovc_plugin.act import reclaimer
    from ovc_plugin.act.actuator import Actuator
    from tests.builders import sampled
    from tests.unit.test_controller import Host
    monkeypatch.setattr(privileged, 'reclaim', lambda wanted, seconds, brake: [
        (0 if 'pinned' in group else amount, None) for group, amount, _ in wanted])
    host = Host(tmp_path, sampled('pinned', has_balloon=False, reservation='0%'),
                sampled('other', usable=0, last_update=NOW + 9), available=560 * MIB)
    host.settings = dataclasses.replace(host.settings, host=dataclasses.replace(host.settings.host, swap=True))
    host.restart()
    host.controller._actuator = Actuator(host.hypervisor, lambda uuid: tmp_path / uuid, patience=LONG,
                                          clock=lambda: host.now)
    monkeypatch.setattr(reclaimer, 'SLICE', LONG)
    host.controller._recorder = record.of(str(tmp_path), 'record', 'h1', MIB)
    told = [{a.guest for a in host.run()[0].actions if isinstance(a, ReclaimGuest)} for _ in range(4)]
    assert told == [{'uuid-pinned'}] * 2 + [{'uuid-other'}] * 2
    host.restart()
    assert host.controller._state.probes['uuid-pinned'].misses == 2
    path, = (tmp_path / 'record').iterdir()
    passes = [codec.read(Pass, line['pass']) for line in record.Lines(path) if 'pass' in line]
    assert len(passes) == 4
    for p in passes:
        assert ladder.decide_host(p.snapshot, p.state, host.settings.host, p.at)[0] == p.plan
