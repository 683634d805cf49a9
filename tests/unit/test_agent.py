# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""ovc-agent over a modelled host: signals, reloading, the bus, and one pass printed. With libvirt: tests/real."""
from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback

import pytest
from oslo_config import cfg

from ovc_plugin import assembly, cli, publish
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.cmd import agent
from ovc_plugin.controller import Controller
from ovc_plugin.model import MIB
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.settings import HostSettings
from tests import builders
from tests.waiting import until


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch):
    """The command sets signals and logging up for its whole process."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(agent.log, 'setup', lambda conf, name: None)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    logging.disable(logging.NOTSET)
    root.handlers[:] = handlers
    root.setLevel(level)
    cfg.CONF.clear()


@pytest.fixture
def modelled(tmp_path, monkeypatch):
    """Where the agent would go to libvirt and /proc, it finds this host; returns what was built."""
    built = []
    hypervisor = builders.FakeHypervisor(builders.facts('web', last_update=time.time()))
    proc = builders.a_proc(tmp_path / 'proc', available=520 * MIB)
    ksm = builders.a_ksm(tmp_path / 'ksm')

    def build(host, settings, connect, reserve):
        sensor = Sensor(host, hypervisor, settings.host.boundary, run_path=str(tmp_path), proc_root=str(proc),
                        ksm_root=str(ksm))
        built.append(Controller(
            host=host, settings=settings, sensor=sensor, actuator=Actuator(hypervisor, sensor.group_of),
            store=publish.Store(str(tmp_path / 'state'), host), reserve=reserve, tune_ksm=lambda name, value: None))
        built[-1].asked = hypervisor.asked
        return built[-1]
    monkeypatch.setattr(agent.assembly, 'build', build)
    monkeypatch.setattr(agent, 'Connection', lambda uri: (lambda: None))
    return built


class Running:
    """The agent in this thread's stead; signals go to the process, as an operator's do."""

    def __init__(self, *arguments):
        # Signal handlers belong to the main thread: the steps of the test run beside it.
        self.arguments, self.failure, self.before = arguments, None, threading.enumerate()

    def meanwhile(self, steps):
        def run():
            try:
                steps()
            except BaseException as failure:
                self.failure = failure
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
        beside = threading.Thread(target=run)
        beside.start()
        status = agent.main(list(self.arguments))
        beside.join()
        if self.failure:
            raise self.failure
        return status


QUICK = '[ovc_host]\ntick = 0.2\nfast_look = 0\n[ovc_agent]\nhost = h1\n'


def test_one_pass_is_printed_with_its_reasons_and_changes_nothing(written, modelled, capsys):
    assert agent.main(['--once', '--config-file', written(QUICK)]) == 0
    out = capsys.readouterr().out
    assert modelled[0].asked == []
    for shown in ('h1', 'dry run', 'uuid-web', 'Plan: level SOFT', 'would shrink web'):
        assert shown in out
    assert max(map(len, out.splitlines())) <= 100


def test_one_pass_of_a_dry_run_leaves_nothing_behind(written, modelled, tmp_path, capsys):
    """It needs no directory that it may write."""
    assert agent.main(['--once', '--config-file', written(QUICK)]) == 0
    assert not (tmp_path / 'state').exists() and 'cannot be written' not in capsys.readouterr().out


def test_one_pass_of_a_dry_run_leaves_the_files_of_another_controller_as_they_are(written, modelled, tmp_path, capsys):
    other = publish.Store(str(tmp_path / 'state'), 'h1')
    for acts in (True, False):
        assert other.claim()
        other.save({'what': 'it keeps'})
        if not acts:
            other.give_up()
        before = {path: path.read_text() for path in (tmp_path / 'state').iterdir()}
        assert agent.main(['--once', '--config-file', written(QUICK)]) == 0
        assert {path: path.read_text() for path in (tmp_path / 'state').iterdir()} == before
        # what that one could free, the report counts while it acts
        assert modelled[-1].dry_run and modelled[-1]._kept.alone is not acts
    assert other.claim(), 'a look keeps nobody from acting'
    other.give_up()


def test_a_mistyped_name_is_warned_of_at_the_start_and_stops_nothing(written, modelled, caplog):
    assert agent.main(['--once', '--config-file', written(QUICK + '[ovc_host]\nbaloon_step = 0.3\n')]) == 0
    assert sum('[ovc_host] baloon_step in' in record.getMessage() for record in caplog.records) == 1


def test_one_pass_without_dry_run_acts_once(written, modelled, capsys):
    assert agent.main(['--once', '--config-file', written(QUICK + '[ovc_host]\ndry_run = false\nksm = leave\n')]) == 0
    assert len(modelled[0].asked) == 1


def test_one_pass_beside_another_controller_acts_on_nothing_and_says_why(written, modelled, capsys, tmp_path):
    other = publish.Store(str(tmp_path / 'state'), 'h1')
    assert other.claim()
    assert agent.main(['--once', '--config-file', written(QUICK + '[ovc_host]\ndry_run = false\nksm = leave\n')]) == 1
    out = capsys.readouterr().out
    assert modelled[0].asked == [] and 'another process controls this host' in ' '.join(out.split())
    other.give_up()


def test_limits_that_a_killed_one_left_are_lifted_and_no_more(written, modelled, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(agent.privileged, 'LEASES', tmp_path / 'leases')
    assert agent.main(['--lift', '--config-file', written(QUICK)]) == 0, 'no helper is started where there is none'
    (tmp_path / 'leases').mkdir(mode=0o700)
    monkeypatch.setattr(agent.privileged, 'lift_leftovers', lambda: ['/sys/fs/cgroup/one'])
    assert agent.main(['--lift', '--config-file', written(QUICK)]) == 0 and not modelled
    assert 'lifted from /sys/fs/cgroup/one' in capsys.readouterr().out
    monkeypatch.setattr(agent.privileged, 'lift_leftovers', lambda: (_ for _ in ()).throw(OSError('no helper')))
    assert agent.main(['--lift', '--config-file', written(QUICK)]) == 1
    assert 'no helper' in capsys.readouterr().err


def test_page_sharing_that_a_killed_one_left_is_put_back_with_the_limits(written, modelled, capsys, monkeypatch,
                                                                         tmp_path):
    """Whatever ended it: nobody watches any more whose pages meet (promise 8)."""
    knobs, config = [], written(QUICK + f'[ovc_host]\nstate_path = {tmp_path}/state\n')
    monkeypatch.setattr(agent.privileged, 'LEASES', tmp_path / 'leases')
    monkeypatch.setattr(agent.privileged, 'set_ksm', lambda name, value: knobs.append((name, value)))
    assert agent.main(['--lift', '--config-file', config]) == 0 and not (tmp_path / 'state').exists()
    left = {'ladder': {'level': 'HARD', 'asked': {}}, 'ksm_before': {'run': 0, 'saved': 0, 'shared': 0,
                                                                    'pages_to_scan': 77}}
    store = publish.Store(str(tmp_path / 'state'), 'h1')
    store.save(left)
    assert store.claim()
    assert agent.main(['--lift', '--config-file', config]) == 0 and knobs == [], 'another one acts by now'
    store.give_up()
    assert agent.main(['--lift', '--config-file', config]) == 0 and knobs == [('run', 0), ('pages_to_scan', 77)]
    assert store.load()['ksm_before'] is None and store.load()['ladder']['level'] == 'HARD'
    assert 'page sharing' in capsys.readouterr().out
    store.save(left | {'ladder': {'level': 'SOFT', 'asked': {}}})
    monkeypatch.setattr(agent.privileged, 'set_ksm', lambda *knob: (_ for _ in ()).throw(OSError('no helper')))
    assert agent.main(['--lift', '--config-file', config]) == 1 and 'no helper' in capsys.readouterr().err
    assert store.load()['ksm_before']['run'] == 0


def test_a_host_that_cannot_be_sensed_is_exit_status_1(written, modelled, capsys, tmp_path):
    config = written(QUICK)
    (tmp_path / 'proc' / 'meminfo').unlink()
    assert agent.main(['--once', '--config-file', config]) == 1
    assert 'memory cannot be read' in capsys.readouterr().err


def test_a_hypervisor_that_does_not_answer_is_exit_status_1_with_a_remedy(written, modelled, capsys, monkeypatch):
    monkeypatch.setattr(builders.FakeHypervisor, 'guests', lambda self: (_ for _ in ()).throw(OSError('refused')))
    assert agent.main(['--once', '--config-file', written(QUICK)]) == 1
    err = capsys.readouterr().err
    assert 'hypervisor did not answer' in err and 'refused' in err and 'connection_uri in [ovc_agent]' in err


def test_the_reserve_is_512_mb_unless_it_is_set(written, modelled):
    agent.main(['--once', '--config-file', written(QUICK)])
    agent.main(['--once', '--config-file', written(QUICK + '[ovc_host]\nreserve_mb = 0\n')])
    assert [built.report.reserve for built in modelled] == [512 * MIB, 0]


def test_sigterm_ends_it_cleanly(written, modelled):
    config = written(QUICK)

    def steps():
        until(lambda: modelled and modelled[0].status()['tick']['passes'] > 1)
    assert Running('--config-file', config).meanwhile(steps) == 0
    until(lambda: not modelled[0]._thread.is_alive())


def test_a_signal_that_comes_while_one_is_handled_ends_it_all_the_same(written, modelled, monkeypatch):
    """A lock that a handler takes would be waited for without end by the next one, which runs within it."""
    config, entered, again = written(QUICK), threading.Condition.__enter__, []

    def enter(condition):
        found = entered(condition)
        if not again and any(frame.name == '_signalled' for frame in traceback.extract_stack(limit=6)):
            again.append(os.kill(os.getpid(), signal.SIGTERM))
        return found
    monkeypatch.setattr(threading.Condition, '__enter__', enter)

    def steps():
        until(lambda: modelled and modelled[0].report)
    assert Running('--config-file', config).meanwhile(steps) == 0


def test_sighup_takes_what_may_change_and_leaves_the_rest(written, modelled):
    config = written(QUICK)

    def steps():
        until(lambda: modelled and modelled[0].report)
        assert modelled[0].settings.host.dry_run
        written(QUICK.replace('tick = 0.2', 'tick = 0.3') + '[ovc_host]\ndry_run = false\nksm = leave\n')
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: not modelled[0].settings.host.dry_run)
        until(lambda: modelled[0].asked)
        assert modelled[0].settings.host.tick == 0.2
    assert Running('--config-file', config).meanwhile(steps) == 0
    assert len(modelled) == 1  # the same controller, with all it remembers


def test_sighup_over_a_bad_file_changes_nothing_and_says_why(written, modelled, caplog):
    config = written(QUICK)

    def steps():
        until(lambda: modelled and modelled[0].report)
        written(QUICK + '[ovc_host]\ndry_run = perhaps\n')
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: 'configuration not taken over' in caplog.text)
        written('[ovc_host\n')
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: caplog.text.count('configuration not taken over') == 2)
        assert modelled[0].settings.host.dry_run
        passes = modelled[0].status()['tick']['passes']
        until(lambda: modelled[0].status()['tick']['passes'] > passes)
    with caplog.at_level(logging.INFO):
        assert Running('--config-file', config).meanwhile(steps) == 0
    assert 'perhaps' in caplog.text


def test_it_answers_ovc_status(written, modelled, bus, capsys, caplog):
    config = written(QUICK + '[DEFAULT]\ntransport_url = fake://\n')
    told = []

    def steps():
        until(lambda: modelled and modelled[0].report and 'answers "ovc status"' in caplog.text)
        told.append(cli.main(['status', '--config-file', config, '--host', 'h1', '--timeout', '60']))
    with caplog.at_level(logging.INFO):
        assert Running('--config-file', config).meanwhile(steps) == 0
    assert told == [0]
    assert 'uuid-web' in capsys.readouterr().out


def test_without_a_transport_url_it_runs_and_says_so(written, modelled, caplog):
    config = written(QUICK)

    def steps():
        until(lambda: 'transport_url is not set' in caplog.text)
    with caplog.at_level(logging.INFO):
        assert Running('--config-file', config).meanwhile(steps) == 0


def test_a_bus_that_is_down_keeps_nothing_else_from_running(written, modelled):
    config = written(QUICK + '[DEFAULT]\ntransport_url = rabbit://guest:guest@127.0.0.1:9/\n')

    def steps():
        until(lambda: modelled and modelled[0].status()['tick']['passes'] > 2)
    running = Running('--config-file', config)
    assert running.meanwhile(steps) == 0
    assert [t for t in threading.enumerate() if t.name == 'ovc-rpc' and t not in running.before], 'it still tries'


@pytest.mark.parametrize(('text', 'remedy'), [
    ('[ovc_host]\ntick = 0\n', 'set a number from 0.2 to 300'),
    ('[ovc_host]\nreserve_mb = lots\n', 'set a whole number'),
])
def test_a_bad_value_is_exit_status_2_with_its_remedy(written, modelled, capsys, text, remedy):
    assert agent.main(['--config-file', written(text)]) == 2
    assert remedy in capsys.readouterr().err and not modelled


def test_a_rule_that_is_not_installed_is_exit_status_2_with_its_remedy(written, modelled, capsys, monkeypatch):
    monkeypatch.setattr(agent.assembly, 'build', lambda *args: agent.rules.load(['swop']))
    assert agent.main(['--once', '--config-file', written(QUICK)]) == 2
    err = capsys.readouterr().err
    assert 'swop' in err and 'relief' in err and 'correct [ovc_host] rules' in err


def test_a_missing_libvirt_python_is_exit_status_2_with_its_remedy(written, modelled, capsys, monkeypatch):
    def absent(uri):
        raise ImportError("No module named 'libvirt'")
    monkeypatch.setattr(agent, 'Connection', absent)
    assert agent.main(['--config-file', written(QUICK)]) == 2
    assert 'install python3-libvirt' in capsys.readouterr().err


def test_what_eventlet_keeps_from_working_is_said(monkeypatch, caplog):
    asks = HostSettings(ask_guests=True)
    assembly._tell_of_eventlet('h1', asks)
    assert not caplog.messages
    monkeypatch.delattr(assembly.select, 'poll')
    assembly._tell_of_eventlet('h1', HostSettings())
    assert not caplog.messages
    assembly._tell_of_eventlet('h1', asks)
    assert 'without effect' in caplog.text and 'OS_NOVA_DISABLE_EVENTLET_PATCHING' in caplog.text


def test_memory_of_the_model_is_what_the_sensor_reads(written, modelled):
    agent.main(['--once', '--config-file', written(QUICK)])
    assert modelled[0].report.available == 520 * MIB
    # The one guest does not say what it has: nothing of what is used is known to be a guest's, beyond the reserve.
    assert modelled[0].report.total == (520 + 512) * MIB
