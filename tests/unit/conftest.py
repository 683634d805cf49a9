# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What several unit tests stand on: a configuration file, and a message bus within this process."""
from __future__ import annotations

import logging

import pytest
from oslo_config import cfg


@pytest.fixture
def written(tmp_path):
    """Write a configuration file; returns its name. The global configuration is given back clean."""
    def write(text: str) -> str:
        (tmp_path / 'ovc.conf').write_text(text)
        return str(tmp_path / 'ovc.conf')
    yield write
    cfg.CONF.clear()


@pytest.fixture
def bus(written):
    """A message bus of this test's own; whatever is set up with transport_url = fake:// is on it."""
    # Here, so that tests of pure parts need no oslo.messaging.
    from ovc_plugin import conf, rpc
    conf.read_files(cfg.CONF, [written('[DEFAULT]\ntransport_url = fake://\n')], prog='test')
    transport = rpc.transport(cfg.CONF)
    yield transport
    transport.cleanup()


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
