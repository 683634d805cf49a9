# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Every knob becomes an option, and a bad value is named with its file and its remedy."""
from __future__ import annotations

import builtins
import dataclasses
import errno

import pytest
from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin.model import MIB
from ovc_plugin.settings import GROUPS, Settings


@pytest.fixture
def read(written):
    """A configuration with this text in a file."""
    def read(text: str) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        options.read_files(conf, [written(text)], prog='test')
        return conf
    return read


def fault(conf: cfg.ConfigOpts) -> str:
    with pytest.raises(options.ConfigError) as caught:
        options.load(conf)
    return str(caught.value)


def test_without_a_file_the_settings_are_their_defaults(read):
    assert options.load(read('')) == Settings()


def test_every_knob_has_its_option_with_help_and_bounds():
    found = {group.name: {opt.name: opt for opt in opts} for group, opts in options.list_opts()}
    for group in GROUPS:
        for field in dataclasses.fields(group):
            option = found[group.GROUP][options.option_name(field)]
            assert option.help.startswith(field.metadata['help'])
            assert option.mutable == field.metadata['mutable']


def test_a_quantity_of_memory_is_given_in_mb_and_arrives_in_bytes(read):
    loaded = options.load(read('[ovc_host]\nswap_step_mb = 64\n[ovc]\ndefault_overhead_mb = 200\n'))
    assert (loaded.host.swap_step, loaded.shared.default_overhead) == (64 * MIB, 200 * MIB)


def test_a_sentinel_is_not_a_quantity(read):
    assert options.load(read('')).host.reserve == -1
    assert options.load(read('[ovc_host]\nreserve_mb = 700\n')).host.reserve == 700 * MIB


def test_every_default_lies_within_its_own_bounds(read):
    everything = read('')
    for group, opts in options.list_opts():
        everything.register_opts(opts, group=group)  # oslo.privsep registers those of the root helpers, and elsewhere
        for option in opts:
            everything.set_override(option.name, option.default, group=group.name)


@pytest.mark.parametrize(('group', 'line', 'wanted'), [
    ('ovc_host', 'tick = 0.01', 'set a number from 0.2 to 300'),
    ('ovc_host', 'tick = fast', 'set a number from 0.2 to 300'),
    ('ovc_host', 'tick = nan', 'not a finite number'),
    ('ovc_host', 'reserve_mb = 1.5', 'set a whole number from -1 to 16777216'),
    ('ovc_host', 'swap_step_mb = -4', 'set a whole number from 1 to 65536'),
    ('ovc_host', 'ksm = sometimes', 'set one of auto, off, leave, all-tenants-despite-side-channels'),
    ('ovc_host', 'dry_run = perhaps', 'set true or false'),
    ('ovc_scheduler', 'headroom_weight_multiplier = $nothing', 'no such option nothing'),
    ('ovc_host', 'boundary = machine.slice', 'set "machine" or the directory of a control group'),
    ('ovc_host', 'state_path = ', 'set a directory of its own, with all its path'),
    ('ovc_host', 'state_path = ovc', 'set a directory of its own, with all its path'),
    ('ovc_host', 'min_ratio = 9', 'lower it or raise max_ratio'),
    ('ovc_host', 'stall_soft = 0.9', 'lower it or raise stall_hard'),
    ('ovc', 'default_reservation = 150%', 'above 100 %'),
    ('ovc', 'default_reservation = half', 'neither a percentage like "50%" nor a number of MB'),
])
def test_a_bad_value_is_named_with_its_file_and_a_remedy(read, tmp_path, group, line, wanted):
    told = fault(read(f'[{group}]\n{line}\n'))
    name, _, value = line.partition(' = ')
    assert told.count('\n') == 0
    assert f'[{group}] {name} = ' in told and wanted in told
    assert '$' in line or (value in told and str(tmp_path / 'ovc.conf') in told)


def test_all_bad_values_are_told_at_once(read):
    assert len(fault(read('[ovc_host]\ntick = 0\nksm = x\n[ovc]\nreport_max_age = -1\n')).split('\n')) == 3


def test_a_default_at_odds_with_a_set_value_is_told_as_such(read):
    assert 'min_ratio = 1.0 in the defaults: above max_ratio = 0.5' in fault(read('[ovc_host]\nmax_ratio = 0.5\n'))


def test_a_file_that_is_not_there_or_no_configuration_is_told(tmp_path):
    with pytest.raises(options.ConfigError, match='none.conf: name an existing, readable file with --config-file'):
        options.read_files(cfg.ConfigOpts(), [str(tmp_path / 'none.conf')], prog='test')
    (tmp_path / 'odd.conf').write_text('[ovc]\nnot an assignment\n')
    with pytest.raises(options.ConfigError, match='odd.conf:2.*mend that line'):
        options.read_files(cfg.ConfigOpts(), [str(tmp_path / 'odd.conf')], prog='test')


def test_a_file_that_may_not_be_read_is_told_with_who_may(tmp_path, monkeypatch):
    """root may read everything, so that the kernel's answer is put in its place here."""
    (tmp_path / 'closed.conf').write_text('[ovc]\n')

    def refuse(name, *args, **more):
        raise PermissionError(errno.EACCES, 'Permission denied', str(name))
    monkeypatch.setattr(builtins, 'open', refuse)
    with pytest.raises(options.ConfigError, match='closed.conf: run this as root, or as a user that may read it'):
        options.read_files(cfg.ConfigOpts(), [str(tmp_path / 'closed.conf')], prog='test')


def test_a_directory_in_place_of_a_file_is_told(tmp_path):
    with pytest.raises(options.ConfigError, match=f'{tmp_path}.*: name an existing, readable file with --config-file$'):
        options.read_files(cfg.ConfigOpts(), [str(tmp_path)], prog='test')


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / 'odd.conf').write_bytes(b'# f\xfcr\n')
    with pytest.raises(options.ConfigError, match='odd.conf: .*: write it in UTF-8'):
        options.read_files(cfg.ConfigOpts(), [str(tmp_path / 'odd.conf')], prog='test')


@pytest.mark.parametrize('name', ['none.d', 'a-file'])
def test_a_directory_that_cannot_be_listed_is_told(tmp_path, name):
    (tmp_path / 'a-file').write_text('')
    with pytest.raises(options.ConfigError, match=f'{name}.*--config-dir'):
        options.read_files(cfg.ConfigOpts(), [], [str(tmp_path / name)], prog='test')


def test_registering_twice_does_no_harm(read):
    conf = read('')
    options.register(conf)
    assert options.load(conf) == Settings()


def test_options_of_other_projects_can_be_looked_at_without_being_taken(read):
    conf = read('[api_database]\nconnection = mysql://there\n')
    assert options.is_set(conf, 'api_database', 'connection')
    assert not options.is_set(conf, 'database', 'connection')
    conf.register_opt(cfg.URIOpt('connection'), group='api_database')


@pytest.mark.parametrize('text', [
    '[DEFAULT]\n[ovc\n', ' transport_url = rabbit://nova:S3CRET@b/\n',
    '[ovc_nova]\npassword S3CRET\n', '[ovc_nova\npassword = S3CRET\n'])
def test_a_line_that_cannot_be_read_is_named_by_its_number_and_not_shown(tmp_path, text):
    file = tmp_path / 'ovc.conf'
    file.write_text(text)
    with pytest.raises(options.ConfigError, match=f'{file}:[12]') as caught:
        options.read_files(cfg.ConfigOpts(), [str(file)], prog='ovc')
    assert 'CRET' not in str(caught.value)
