# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What several unit tests stand on: a configuration file, and a message bus within this process."""
from __future__ import annotations

import logging

import pytest
from oslo_config import cfg

from tests.waiting import LONG


@pytest.fixture
def written(tmp_path):
    """Write a configuration file; returns its name. The global configuration is given back clean."""
    def write(text: str) -> str:
        (tmp_path / 'ovc.conf').write_text(text)
        return str(tmp_path / 'ovc.conf')
    yield write
    cfg.CONF.clear()


@pytest.fixture
def bus(written, monkeypatch):
    """A message bus of this test's own; whatever is set up with transport_url = fake:// is on it. Whom nobody serves is
    silent at once: so all may be asked with time enough for those that answer, on however slow a machine."""
    # Here, so that tests of pure parts need no oslo.messaging.
    from ovc_plugin import conf, rpc
    _silent_at_once(monkeypatch)
    monkeypatch.setattr(rpc, 'SLACK', LONG)
    conf.read_files(cfg.CONF, [written('[DEFAULT]\ntransport_url = fake://\n')], prog='test')
    transport = rpc.transport(cfg.CONF)
    yield transport
    transport.cleanup()


def _silent_at_once(monkeypatch):
    import oslo_messaging
    from oslo_messaging._drivers import impl_fake
    send = impl_fake.FakeDriver._send

    def only_to_who_listens(driver, target, ctxt, message, wait_for_reply=None, *rest):
        listening = driver._exchange_manager.get_exchange(target.exchange)._server_queues
        if wait_for_reply and (target.topic, target.server) not in listening:
            raise oslo_messaging.MessagingTimeout('nobody listens')
        return send(driver, target, ctxt, message, wait_for_reply, *rest)
    monkeypatch.setattr(impl_fake.FakeDriver, '_send', only_to_who_listens)


@pytest.fixture
def serve(bus):
    """Start the server of a host whose status is what the function returns; all end with the test."""
    from ovc_plugin import rpc
    servers = []

    def start(host, status):
        servers.append(rpc.serve(bus, host, rpc.StatusEndpoint(status)))
    yield start
    for server in servers:
        server.stop()
        server.wait()


@pytest.fixture
def log_as_before():
    """A command sets logging up for its whole process."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
