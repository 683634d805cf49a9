# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Every template can be filled in, and later files win over earlier ones."""
from __future__ import annotations

import configparser

import pytest
from onebox_cloud import config
from onebox_cloud.options import Options
from onebox_cloud.state import State


@pytest.fixture
def state(cache, tmp_path):
    state = State(tmp_path / "run")
    state.create()
    return state


def parsed(path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(path)
    return parser


@pytest.mark.parametrize("name", sorted(path.name for path in config.TEMPLATES.iterdir()))
def test_a_template_has_all_its_values(name, state):
    more = dict.fromkeys(("host", "host_dir", "host_uuid", "host_ip", "migration_first", "migration_last", "ratio",
                          "default_filters"), "x")
    text = config.fill(name, config.values(state) | more)
    assert "SPDX-License-Identifier: Apache-2.0" in text


def test_a_host_keeps_its_identity_and_gets_its_own_addresses(state):
    options = Options()
    for name in options.names:
        config.write_host(state, options, name)
    first = state.host("node1") / "etc/libvirtd.conf"
    before = first.read_text()
    config.write_host(state, options, "node1")
    assert first.read_text() == before
    assert before != (state.host("node2") / "etc/libvirtd.conf").read_text()
    assert '"127.0.1.2"' in (state.host("node2") / "etc/qemu.conf").read_text()
    assert "127.0.1.2 node2" in (state.host("node1") / "hosts").read_text()
    compute = parsed(state.etc / "compute-node2.conf")
    assert compute["DEFAULT"]["host"] == "node2"
    assert compute["libvirt"]["mem_stats_period_seconds"] == "2"


def test_the_mode_is_read_after_nova_and_the_users_settings_last():
    names = [path.name for path in config.nova_files(State("/srv/run"), "node1")]
    assert names == ["nova.conf", "compute-node1.conf", "nova-mode.conf", "nova-set.conf"]
    assert config.nova_files(State("/srv/run"), "control")[1].name == "nova-db.conf"


def test_nova_compute_is_told_no_database(state):
    config.write_host(state, Options(), "node1")
    for name in ("compute.conf", "nova.conf", "plugin.conf", "ratio.conf"):
        assert "mysql" not in (config.TEMPLATES / name).read_text()
        assert "db_" not in (config.TEMPLATES / name).read_text()


def test_extra_settings_are_written_under_their_sections(tmp_path):
    options = Options(settings=(("ovc_host", "tick", "2"), ("DEFAULT", "debug", "true"), ("ovc_host", "x", "a=b")))
    (tmp_path / "set.conf").write_text(config.extra_settings(options))
    found = parsed(tmp_path / "set.conf")
    assert found["ovc_host"]["tick"] == "2" and found["ovc_host"]["x"] == "a=b"
    assert found["DEFAULT"]["debug"] == "true"
