# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Ports that are taken are named, with who holds them."""
from __future__ import annotations

import os
import socket

import pytest
from onebox_cloud import ports


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def nobody(_pid: int) -> bool:
    return False


def test_a_taken_port_is_named_with_its_process(listener):
    (sentence,) = ports.taken({"keystone": listener}, ours=nobody)
    assert f"port {listener}, needed for keystone, is taken by process {os.getpid()} (" in sentence


def test_a_port_taken_on_every_address_is_found_too():
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert ports.taken({"glance": server.getsockname()[1]}, ours=nobody)


def test_our_own_process_may_hold_it(listener):
    assert ports.taken({"keystone": listener}, ours=lambda pid: pid == os.getpid()) == []


def test_a_port_with_lingering_connections_is_free():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _address = server.accept()
        accepted.close()  # who closes first keeps the lingering end
        client.close()
    assert ports.is_free(port)


def test_an_unseen_holder_is_said_to_be_unseen(listener, monkeypatch):
    monkeypatch.setattr(ports, "holder", lambda port: None)
    assert "a process this user cannot see" in ports.taken({"rabbit": listener}, ours=nobody)[0]


def test_answers_only_where_something_listens(listener):
    assert ports.answers(listener)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not ports.answers(unused.getsockname()[1])


def test_no_two_parts_share_a_port_and_migrations_have_their_own():
    fixed = list(ports.PORTS.values())
    assert len(set(fixed)) == len(fixed)
    ranges = [range(low, high + 1) for low, high in map(ports.migration_ports, range(1, 10))]
    together = [port for one in ranges for port in one]
    assert len(set(together)) == len(together)
    assert not set(together) & set(fixed)
