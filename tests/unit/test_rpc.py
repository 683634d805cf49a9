# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Asking hosts, over oslo.messaging's transport within one process. Nova's own server is met in tests/contract."""
from __future__ import annotations

import threading
import time

import oslo_messaging as messaging
import pytest
from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin import rpc
from tests.waiting import LONG

SILENCE = 'no answer within 60 s'


def ask(bus, *hosts, timeout=60, **options):
    return rpc.ask(bus, hosts, timeout=timeout, **options)


def test_a_host_tells_its_status(bus, serve):
    serve('h1', lambda: {'guests': [], 'dry_run': True})
    assert ask(bus, 'h1') == {'h1': {'guests': [], 'dry_run': True}}


def test_a_silent_host_is_text_and_costs_the_others_nothing(bus, serve):
    serve('h1', lambda: {'n': 1})
    assert ask(bus, 'h1', 'gone') == {'h1': {'n': 1}, 'gone': SILENCE}


def test_a_host_that_does_not_answer_is_waited_for_as_long_as_was_said(bus, serve):
    let = threading.Event()
    serve('h1', lambda: {'late': let.wait(LONG)})
    began = time.monotonic()
    assert ask(bus, 'h1', timeout=0.3) == {'h1': 'no answer within 0.3 s'}
    assert time.monotonic() - began >= 0.3 and not let.is_set()
    let.set()


def test_many_silent_hosts_are_waited_for_together(bus, monkeypatch):
    """Each is silent only once all have been asked."""
    all_asked = threading.Barrier(2 * 30, timeout=LONG)
    one = rpc._ask_one
    monkeypatch.setattr(rpc, '_ask_one', lambda *words: (all_asked.wait(), one(*words))[1])
    answers = ask(bus, *(f'h{n}' for n in range(30)))
    assert set(answers.values()) == {SILENCE} and not all_asked.broken


def test_more_questions_than_workers_are_all_answered_or_waited_for(bus, serve, monkeypatch):
    monkeypatch.setattr(rpc, 'WORKERS', 2)
    serve('h3', lambda: {'n': 3})
    answers = ask(bus, 'h1', 'h2', 'h3', topics=(rpc.AGENT_TOPIC,))
    assert answers == {'h1': SILENCE, 'h2': SILENCE, 'h3': {'n': 3}}


@pytest.mark.parametrize('workers, rounds', [(3, 1), (2, 2)])
def test_the_bus_is_waited_for_as_long_as_questions_may_take_and_a_moment_more(bus, monkeypatch, workers, rounds):
    left = []
    monkeypatch.setattr(rpc, 'WORKERS', workers)
    monkeypatch.setattr(rpc, 'SLACK', 1.0)
    monkeypatch.setattr(rpc, '_gather', lambda *words: left.append(words[3] - time.monotonic()) or {})
    began = time.monotonic()
    ask(bus, 'h1', 'h2', 'h3', topics=(rpc.AGENT_TOPIC,), timeout=5)
    assert 5 * rounds + 1 - (time.monotonic() - began) <= left[0] <= 5 * rounds + 1


def test_a_host_whose_status_fails_says_what_failed(bus, serve):
    def fails():
        raise KeyError('no such sensor')
    serve('h1', fails)
    assert ask(bus, 'h1') == {'h1': "KeyError: 'no such sensor'"}


def test_an_answer_that_is_no_status_is_told_as_such(bus, serve):
    serve('h1', lambda: ['all', 'well'])
    assert ask(bus, 'h1') == {'h1': "answered ['all', 'well'], which is no status"}


def test_a_nova_compute_without_the_plugin_is_told_apart_from_silence(bus):
    class Manager:
        target = messaging.Target(version='6.4')

    server = messaging.get_rpc_server(bus, messaging.Target(topic=rpc.COMPUTE_TOPIC, server='h1'), [Manager()])
    server.start()
    try:
        assert ask(bus, 'h1') == {'h1': rpc.NO_PLUGIN}
    finally:
        server.stop()
        server.wait()


def test_a_bus_that_hangs_is_told_apart_from_silent_hosts(bus, monkeypatch):
    let = threading.Event()
    monkeypatch.setattr(rpc, '_ask_one', lambda *_: let.wait(LONG))
    monkeypatch.setattr(rpc, 'SLACK', 0.1)
    assert ask(bus, 'h1', timeout=0.1) == {'h1': rpc.NO_BUS} and not let.is_set(), 'it was not waited for'
    let.set()


def test_nobody_asked_is_nobody_answering(bus):
    assert ask(bus) == {}


def test_a_transport_url_that_cannot_be_used_names_the_remedy(written):
    options.read_files(cfg.CONF, [written('[DEFAULT]\ntransport_url = pigeon://loft/\n')], prog='test')
    assert rpc.has_transport(cfg.CONF)
    with pytest.raises(rpc.RpcError, match='pigeon.*set it as in nova.conf'):
        rpc.transport(cfg.CONF)


def test_a_transport_url_left_at_its_default_is_not_set():
    conf = cfg.ConfigOpts()
    options.read_files(conf, [], prog='test')
    assert not rpc.has_transport(conf)


@pytest.mark.parametrize('url', [
    'user:S3CRET@broker', 'rabbit://user:S3CRET@broker:port/', 'rabit://user:S3CRET@broker:5672/',
    'rabbit://user:S3CRET@[broker:5672/', 'rabbit://user:S3/CRET@broker:5672/', 'rabbit://user:17S3CRET/x@broker'])
def test_a_transport_url_that_cannot_be_used_is_no_traceback_and_keeps_its_password(url):
    conf = cfg.ConfigOpts()
    with pytest.raises(rpc.RpcError, match='transport_url') as caught:
        rpc.messaging.TransportURL.parse(conf)
        conf.set_override('transport_url', url)
        assert rpc.has_transport(conf)
        rpc.transport(conf)
    assert 'CRET' not in str(caught.value)


def test_what_a_host_says_is_one_short_line_without_what_a_terminal_obeys():
    told = rpc._told(ValueError('a\x1b[2J' + 'x' * 5000), 5.0)
    assert told.startswith('ValueError: a?[2J') and len(told) < 500
