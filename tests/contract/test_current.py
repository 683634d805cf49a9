# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The settings inside nova-scheduler and nova-compute: what is said when they are read first."""
from __future__ import annotations

import nova.conf
import pytest
from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin.nova import current


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A nova whose configuration file has this text."""
    def read(text):
        own = cfg.ConfigOpts()
        (tmp_path / 'nova.conf').write_text(text)
        options.read_files(own, [str(tmp_path / 'nova.conf')], prog='nova')
        monkeypatch.setattr(nova.conf, 'CONF', own)
        current.forget()
    yield read
    current.forget()


def test_names_that_nothing_reads_are_warned_of_once_at_the_start(read, caplog):
    read('[ovc_host]\nbaloon_step = 0.3\n[ovc_nova]\nusrename = nova\n')
    for _ in range(3):  # each filter and weigher does so
        current.load()
    warned = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert len(warned) == 1 and 'baloon_step' in warned[0] and 'usrename' in warned[0]


def test_what_cannot_be_looked_at_stops_no_start(read, monkeypatch):
    read('[ovc_host]\ntick = 7\n')
    monkeypatch.setattr('ovc_plugin.unread.find', lambda *_: 1 / 0)
    assert current.load().host.tick == 7.0
