# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Names that nothing reads are told with the one that was meant; those that something reads are not."""
from __future__ import annotations

import logging

import pytest
from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin import unread
from ovc_plugin.nova import api


@pytest.fixture
def found(written):
    """What is found in a file of this text, as one line each."""
    def look(text: str, *directories: str) -> list[str]:
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[written(text)], default_config_dirs=list(directories))
        return [f'{one.what}: {one.change}' for one in unread.find(conf, api.options_of(conf))]
    return look


@pytest.mark.parametrize('text, what, change', [
    ('[ovc_host]\nbaloon_step = 0.3', '[ovc_host] baloon_step in', 'write balloon_step'),
    ('[ovc_host]\nballoon-step = 0.3', '[ovc_host] balloon-step in', 'write balloon_step'),
    ('[ovc_host]\nBALLOON_STEP = 0.3', '[ovc_host] BALLOON_STEP in', 'write balloon_step'),
    ('[ovc_host]\nswap_step = 64', '[ovc_host] swap_step in', 'write swap_step_mb'),
    ('[OVC_HOST]\nbaloon_step = 0.3', '[OVC_HOST] baloon_step in', 'write balloon_step'),
    ('[ovc]\nconnection_uri = qemu:///session', '[ovc] connection_uri in', 'move it to [ovc_agent]'),
    ('[ovc_scheduler]\ndryrun = true', '[ovc_scheduler] dryrun in', 'write dry_run'),
    ('[ovc_agent]\nquxx = 1', '[ovc_agent] quxx in', 'ovc.conf.sample'),
    ('[ovc_nova]\nauth_type = password\npasswrod = s3cret', '[ovc_nova] passwrod in', 'write password'),
    ('[ovc_privileged]\nhelper_comand = sudo x', '[ovc_privileged] helper_comand in', 'write helper_command'),
    ('[ovc_privileged_pages]\nsample_pages = 5', '[ovc_privileged_pages] sample_pages in', 'move it to [ovc_host]'),
    ('[ovc_priviledged]\nuser = root', '[ovc_priviledged] in', 'write [ovc_privileged]'),
    ('[ovc_hosts]\ndry_run = false', '[ovc_hosts] in', 'write [ovc_host]'),
    ('[ocv_host]\ndry_run = false', '[ocv_host] in', 'write [ovc_host]'),
    ('[ovc_compute]\ndry_run = false', '[ovc_compute] in', '')])
def test_a_name_that_nothing_reads_is_told_with_the_one_that_was_meant(found, tmp_path, text, what, change):
    told = found(text)
    assert len(told) == 1 and what in told[0] and change in told[0] and str(tmp_path / 'ovc.conf') in told[0], told
    assert 's3cret' not in told[0]


@pytest.mark.parametrize('text', [
    '', '[OVC_Host]\nballoon_step = 0.3', '[scheduler]\na = 1\n[filter_scheduler]\nb = 1\n[ovs]\nc = 1',
    '[DEFAULT]\nbaloon_step = 0.3',
    '[ovc_privileged]\nhelper_command = sudo privsep-helper\nuser = root\ncapabilities = CAP_DAC_OVERRIDE',
    # names that keystoneauth had before, and those of other plugins than password
    '[ovc_nova]\nauth_plugin = password\nuser-name = nova\ntenant_name = service\nregion_name = one\ncafile = /c',
    '[ovc_nova]\nauth_type = v3applicationcredential\napplication_credential_secret = secret',
    '[ovc_nova]\nauth_section = placement\nregion_name = one', '[ovc_nova]\nauth_type = passwort\nsomething = 1'])
def test_what_is_read_or_is_somebody_elses_is_not_told(found, text):
    assert not found(text)


def test_every_option_has_its_name_known(found):
    groups = [*options.list_opts(), *api.list_opts()]
    lines = [line for group, opts in groups
             for line in (f'[{group.name}]', *(f'{opt.dest} = 1' for opt in opts if opt.dest != 'auth_type'))]
    assert len(lines) > 100 and not found('\n'.join(lines))


def test_files_of_a_directory_are_looked_at_and_those_that_cannot_be_read_are_not(found, tmp_path):
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / 'more.conf').write_text('[ovc_host]\nwsap = true\n')
    told = found('[ovc_host]\ndry_run = true', str(tmp_path / 'd'))
    assert len(told) == 1 and 'wsap in' in told[0] and 'more.conf' in told[0]


@pytest.mark.parametrize('after', [None, b'\xff\xfe=\n', b'[broken\n', b'[ovc_host\n'])
def test_a_file_that_cannot_be_read_any_more_stops_nothing(written, tmp_path, caplog, after):
    conf = cfg.ConfigOpts()
    options.read_files(conf, [written('[ovc_host]\ndry_run = true\n')], prog='test')
    if after is None:
        (tmp_path / 'ovc.conf').unlink()
    else:
        (tmp_path / 'ovc.conf').write_bytes(after)
    unread.warn(conf)
    unread.warn(conf, lambda: 1 / 0)
    unread.warn(cfg.ConfigOpts())  # never called
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_one_warning_names_them_all(written, caplog):
    conf = cfg.ConfigOpts()
    options.read_files(conf, [written('[ovc_host]\nbaloon_step = 0.3\n[ovc_agents]\nhost = h1\n')], prog='test')
    unread.warn(conf)
    warned = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(warned) == 1 and 'baloon_step' in warned[0] and '[ovc_agents]' in warned[0]
