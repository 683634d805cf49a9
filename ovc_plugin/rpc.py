# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Asking hosts how they are, over oslo.messaging: the host's endpoint, its server outside nova, and the client.

In nova the endpoint is served by nova-compute itself (exchange ``nova``, topic ``compute``, server = host); ovc-agent
serves the same endpoint under a topic of its own. The client needs no nova: it sends the one thing that nova's
deserialiser wants, a dictionary as context.
"""
from __future__ import annotations

import queue
import sys
import threading
import time
import typing
import warnings

from oslo_config import cfg

from ovc_plugin.plain import plain

with warnings.catch_warnings():
    # oslo.messaging brings in oslo.service, which warns of eventlet unless told what to run on. We run on threads and
    # start none of its services; inside nova the choice is nova's.
    if 'nova' not in sys.modules:
        warnings.simplefilter('ignore')
    import oslo_messaging as messaging

NAMESPACE = 'ovc'
VERSION = '1.1'
# The version that brought each call: hosts of an older release are asked what they can answer.
CALLS = {'status': '1.0', 'explain': '1.1'}
EXCHANGE = 'nova'
COMPUTE_TOPIC = 'compute'
AGENT_TOPIC = 'ovc-agent'
WORKERS = 64
SLACK = 1.0  # seconds in which what each question has come to must be told, after its own time is over
_LONGEST = 300  # characters of an error that are told

NOT_THERE = 'no answer: neither nova-compute nor ovc-agent is connected to the message bus under that name'
NO_PLUGIN = 'nova-compute answers, but without ovc: set compute_driver = ovc.OvcLibvirtDriver there and restart it'
OLDER = 'answers, but not this question: ovc is not enabled there, or is of an older release'
NO_BUS = 'no answer: the message bus does not take the question; is the broker up, and transport_url right?'

Answer = dict[str, typing.Any] | str


class RpcError(RuntimeError):
    """The message bus cannot be used as configured; the message names the remedy."""


class StatusEndpoint:
    """What a host answers: ``status()`` and ``explain(guest)`` as plain data, and a sign of life."""

    target = messaging.Target(namespace=NAMESPACE, version=VERSION)

    def __init__(self, status: typing.Callable[[], dict[str, typing.Any]],
                 explain: typing.Callable[[str], dict[str, typing.Any]] = lambda guest: {'guests': []}) -> None:
        self._status, self._explain = status, explain

    def status(self, ctxt: typing.Any) -> dict[str, typing.Any]:
        return self._status()

    def explain(self, ctxt: typing.Any, guest: str) -> dict[str, typing.Any]:
        return self._explain(guest)

    def ping(self, ctxt: typing.Any) -> dict[str, str]:
        return {'namespace': NAMESPACE, 'version': VERSION}


def has_transport(conf: cfg.ConfigOpts) -> bool:
    """Whether ``transport_url`` is set, rather than left at its default of a broker on this machine."""
    try:
        messaging.TransportURL.parse(conf)
    except (messaging.InvalidTransportURL, ValueError):
        return True
    location = conf.get_location('transport_url')
    return location is not None and location.location is not cfg.Locations.opt_default


def transport(conf: cfg.ConfigOpts) -> messaging.RPCTransport:
    """Nova's own message bus, by the ``transport_url`` of ``conf``.

    :raises RpcError: the URL cannot be used.
    """
    # Only a default: an operator who renamed the exchange in nova.conf is followed.
    messaging.set_transport_defaults(EXCHANGE)
    try:
        return messaging.get_rpc_transport(conf)
    except (messaging.InvalidTransportURL, messaging.DriverLoadFailure, ValueError) as error:
        # Of others the words may be of the URL, and so of the password in it.
        why = str(error) if isinstance(error, messaging.DriverLoadFailure) else 'it is not of the form of a URL'
        raise RpcError(f'transport_url cannot be used ({why}): set it as in nova.conf, for example '
                       'rabbit://user:password@broker:5672/, with %XX for what is special in a password') from None


def serve(bus: messaging.RPCTransport, host: str, endpoint: StatusEndpoint) -> messaging.RPCServer:
    """A started server for ``host`` outside nova; end it with ``stop()`` and ``wait()``."""
    server = messaging.get_rpc_server(
        bus, messaging.Target(topic=AGENT_TOPIC, server=host), [endpoint],
        access_policy=messaging.DefaultRPCAccessPolicy)
    server.start()
    return server


def ask(bus: messaging.RPCTransport, hosts: typing.Iterable[str],
        topics: typing.Sequence[str] = (COMPUTE_TOPIC, AGENT_TOPIC), timeout: float = 5.0, call: str = 'status',
        **arguments: typing.Any) -> dict[str, Answer]:
    """Every host's status (or answer to another ``call``), or in its place why there is none, as text.

    One host's silence costs the others nothing. All are asked at once, under each topic; the first answer of a host is
    taken. ``timeout`` is in seconds, per host.
    """
    wanted = list(dict.fromkeys(hosts))
    jobs: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for topic in topics:
        for host in wanted:
            jobs.put((host, topic))
    count = len(wanted) * len(topics)
    done: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
    workers = min(count, WORKERS)
    for _ in range(workers):
        # Daemons: a bus that hangs must not keep the command from ending.
        threading.Thread(target=_work, args=(bus, jobs, done, timeout, call, arguments), daemon=True).start()
    rounds = -(-count // workers) if workers else 0
    return _gather(wanted, len(topics), done, time.monotonic() + rounds * timeout + SLACK, timeout)


def _work(bus: messaging.RPCTransport, jobs: queue.SimpleQueue[tuple[str, str]],
          done: queue.SimpleQueue[tuple[str, Answer]], timeout: float, call: str,
          arguments: dict[str, typing.Any]) -> None:
    while True:
        try:
            host, topic = jobs.get_nowait()
        except queue.Empty:
            return
        done.put((host, _ask_one(bus, host, topic, timeout, call, arguments)))


def _gather(hosts: list[str], topics: int, done: queue.SimpleQueue[tuple[str, Answer]], deadline: float,
            timeout: float) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    failures: dict[str, list[str]] = {host: [] for host in hosts}
    while any(host not in answers and len(failures[host]) < topics for host in hosts):
        try:
            host, answer = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(answer, str):
            failures[host].append(answer)
        else:
            answers.setdefault(host, answer)
    return {host: answers[host] if host in answers else _worst(failures[host], timeout) for host in hosts}


def _worst(failures: list[str], timeout: float) -> str:
    """The failure that says most: anything said by the host itself, else silence, else that it is not there."""
    if not failures:
        return NO_BUS
    silence = _silence(timeout)
    spoken = [text for text in failures if text not in (silence, NOT_THERE)]
    if spoken:
        return spoken[0]
    return silence if silence in failures else NOT_THERE


def _silence(timeout: float) -> str:
    return f'no answer within {timeout:g} s'


def _ask_one(bus: messaging.RPCTransport, host: str, topic: str, timeout: float, call: str,
             arguments: dict[str, typing.Any]) -> Answer:
    target = messaging.Target(topic=topic, namespace=NAMESPACE, version=CALLS[call])
    # at_least_once: the broker then says at once when no one listens, where it can.
    client = messaging.get_rpc_client(bus, target, timeout=timeout, retry=0,
                                      transport_options=messaging.TransportOptions(at_least_once=True))
    try:
        answer = client.prepare(server=host).call({'is_admin': True}, call, **arguments)
    except Exception as error:  # one host's failure is that host's answer, whatever it was
        told = _told(error, timeout)
        return OLDER if told == NO_PLUGIN and call != 'status' else told
    return answer if isinstance(answer, dict) else f'answered {answer!r:.80}, which is no status'


def _told(error: Exception, timeout: float) -> str:
    if isinstance(error, messaging.MessagingTimeout):
        return _silence(timeout)
    if isinstance(error, messaging.MessageUndeliverable):
        return NOT_THERE
    kind = getattr(error, 'exc_type', None) or type(error).__name__.removesuffix('_Remote')
    text = str(getattr(error, 'value', None) or error).strip().partition('\n')[0][:_LONGEST]
    text = plain(text)  # it goes to the operator's terminal
    if kind in ('UnsupportedVersion', 'NoSuchMethod', 'RPCVersionCapError'):
        return NO_PLUGIN
    return f'{kind}: {text}' if text else str(kind)
