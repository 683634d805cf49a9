# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which configuration a command reads: what nova's own programs would, unless it is told otherwise."""
from __future__ import annotations

import argparse
import os

import pytest
from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin.cli import bus


@pytest.fixture
def etc(tmp_path, monkeypatch):
    """Write files below an /etc of this test's own, by their names in it; returns their paths."""
    monkeypatch.setattr(options, 'NOVA_CONF', str(tmp_path / 'nova' / 'nova.conf'))
    monkeypatch.setattr(options, 'OVC_CONF', str(tmp_path / 'ovc' / 'ovc.conf'))

    def write(*names: str, text: str = '') -> list[str]:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return [str(tmp_path / name) for name in names]
    return write


def sources(*arguments: str) -> bus.Sources:
    parser = argparse.ArgumentParser()
    bus.add_config_arguments(parser, 'of nova')
    return bus.sources(parser.parse_args(arguments))


def test_files_of_novas_programs_come_first_and_directories_after_them(etc):
    files = etc('nova/nova.conf', 'nova/nova-compute.conf', 'nova/nova-scheduler.conf')
    inside = etc('nova/nova.conf.d/10-plugin.conf', 'nova/nova-compute.conf.d/a.conf')
    etc('ovc/ovc.conf', 'nova/nova-api.conf')
    assert sources() == (files, [os.path.dirname(one) for one in inside])


def test_it_is_what_nova_compute_finds_by_itself(etc, tmp_path, monkeypatch):
    etc('nova/nova.conf', 'nova/nova-compute.conf', 'nova/nova-compute.conf.d/a.conf', 'nova/nova.conf.d/a.conf')
    monkeypatch.setattr(cfg, '_get_config_dirs', lambda project: [str(tmp_path / project)])
    assert sources() == (cfg.find_config_files('nova', 'nova-compute'), cfg.find_config_dirs('nova', 'nova-compute'))


def test_what_a_directory_says_wins_over_the_files_as_in_nova(etc):
    etc('nova/nova.conf', text='[ovc_host]\ntick = 5\nfast_look = 1\n')
    etc('nova/nova-compute.conf', text='[ovc_host]\ntick = 6\n')
    etc('nova/nova.conf.d/b.conf', text='[ovc_host]\ntick = 8\n')
    etc('nova/nova.conf.d/a.conf', text='[ovc_host]\ntick = 7\n')
    found = cfg.ConfigOpts()
    options.read_files(found, *sources(), prog='test')
    nova = cfg.ConfigOpts()
    options.register(nova)
    nova([], default_config_files=sources().files, default_config_dirs=sources().directories)
    assert (found.ovc_host.tick, found.ovc_host.fast_look) == (8, 1)
    assert options.load(found) == options.load(nova)


def test_the_agents_file_is_taken_where_nova_has_none_and_no_directory_with_it(etc):
    assert sources() == ([], [])
    agents = etc('ovc/ovc.conf')
    etc('ovc/ovc.conf.d/a.conf')
    assert sources() == (agents, [])


def test_beside_files_of_nova_that_are_named_its_directories_are_read_too_as_nova_does(etc):
    file, inside, other = *etc('nova/nova-cpu.conf', 'nova/nova.conf.d/a.conf'), *etc('ovc/ovc.conf')
    assert sources('--config-file', file) == ([file], [os.path.dirname(inside)])
    assert sources('--config-file', other) == ([other], [])


def test_directories_that_are_named_are_the_only_ones(etc, tmp_path):
    files = etc('nova/nova.conf')
    etc('nova/nova.conf.d/a.conf', 'mine/x.conf')
    assert sources('--config-dir', str(tmp_path / 'mine')) == (files, [str(tmp_path / 'mine')])


def test_a_place_that_may_not_be_looked_into_is_not_taken_for_empty(etc, tmp_path, monkeypatch):
    """/etc/nova is closed to others in some packages of nova."""
    etc('ovc/ovc.conf')
    look = os.stat

    def stat(path, *args, **more):
        if str(path).startswith(str(tmp_path / 'nova')):
            raise PermissionError(13, 'Permission denied', str(path))
        return look(path, *args, **more)
    monkeypatch.setattr(os, 'stat', stat)
    assert sources().files[0] == options.NOVA_CONF
