# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc release``: a host as if the plugin had never been there, as far as there is room; what is not is told."""
from __future__ import annotations

import argparse
import dataclasses
import errno
import sys

import pytest

from ovc_plugin import cli, conf, publish
from ovc_plugin.cli import check_host, release
from ovc_plugin.decide import pressure
from ovc_plugin.hypervisor import connection
from ovc_plugin.model import MIB
from ovc_plugin.settings import Settings
from tests.builders import GIB, FakeHypervisor, a_guest, a_host

KEEP = pressure.minimum(28 * GIB, 1.0)


class Host(FakeHypervisor):
    """Guests that take a new size at once; one that fills what it gets takes it from what is available."""

    def __init__(self, *guests, available, fills=0.0):
        super().__init__()
        self.snapshot, self.fills = a_host(*guests, available=available), fills

    def look(self):
        return self.snapshot

    def set_balloon(self, uuid, target):
        super().set_balloon(uuid, target)
        grown = [g if g.uuid != uuid else dataclasses.replace(g, actual=target, target=target)
                 for g in self.snapshot.guests]
        more = sum(a.actual - b.actual for a, b in zip(grown, self.snapshot.guests, strict=True))
        self.snapshot = dataclasses.replace(self.snapshot, guests=tuple(grown),
                                            available=self.snapshot.available - int(more * self.fills))


def small(name, lacks):
    return a_guest(name, actual=GIB - lacks, target=GIB - lacks)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(release, 'PAUSE', 0.01)

    def sizes(host, **options):
        said: list[str] = []
        args = argparse.Namespace(**{'wait': 0.2, 'into_swap': False, 'dry_run': False} | options)
        left = list(release.sizes(host.look, host, Settings(), args, said.append))
        return left, said
    return sizes


def test_everybody_has_its_full_size_where_there_is_room(run):
    host = Host(small('g1', 600 * MIB), small('g2', 100 * MIB), a_guest('g3'), available=10 * GIB)
    left, said = run(host)
    assert not left and len(said) == 2 and said[0].startswith('grow g1 from 424 MB to 1024 MB')
    assert all(g.actual == GIB for g in host.snapshot.guests)


@pytest.mark.parametrize('fills', [0.0, 1.0])
def test_what_looks_free_for_a_second_time_is_not_given_again(run, fills):
    host = Host(small('g1', 600 * MIB), small('g2', 600 * MIB), available=KEEP + 400 * MIB, fills=fills)
    left, _ = run(host)
    assert sum(g.actual for g in host.snapshot.guests) <= 2 * GIB - 1200 * MIB + 401 * MIB
    assert 'lack 800 MB' in left[0] and 'move guests away' in left[0] and '--into-swap' in left[0]


def test_what_is_missing_comes_from_swap_only_where_that_is_asked_for(run):
    host = Host(small('g1', 600 * MIB), available=KEEP)
    assert 'lack 600 MB' in run(host)[0][0] and not host.asked
    assert not run(host, into_swap=True)[0] and host.snapshot.guests[0].actual == GIB


def test_a_dry_run_asks_nobody(run):
    host = Host(small('g1', 600 * MIB), available=10 * GIB)
    left, said = run(host, dry_run=True)
    assert not host.asked and said[0].startswith('would grow g1') and 'lack 600 MB' in left[0]


def test_a_guest_that_fails_costs_the_others_nothing(run):
    host = Host(small('g1', 600 * MIB), small('g2', 100 * MIB), available=10 * GIB)
    host.broken.add('uuid-g1')
    left, said = run(host)
    assert host.snapshot.guests[1].actual == GIB and any('could not grow g1' in line for line in said)
    assert '1 guests (g1) lack 600 MB' in left[0]


def test_guests_of_a_silent_hypervisor_are_not_said_to_lack_nothing(run):
    host = Host(available=10 * GIB)
    host.snapshot = a_host(notes=('hypervisor did not answer; its guests are held as they are until it does (no)',))
    for options in ({}, {'dry_run': True}):
        left, _ = run(host, **options)
        assert 'not known' in left[0] and 'start libvirtd' in left[0] and len(left) == 1


@pytest.fixture
def ovc(written, capsys, log_as_before, monkeypatch, tmp_path):
    """The command on a host whose guests lack nothing, with its state below tmp_path."""
    monkeypatch.setattr(check_host, 'sense', lambda *args: a_host(a_guest()))
    # So that no libvirt is needed here.
    monkeypatch.setattr(release, 'Connection', lambda uri: None)
    monkeypatch.setattr('ovc_plugin.hypervisor.libvirt.LibvirtHypervisor', lambda connect: None)
    monkeypatch.setattr(check_host.privileged, 'LEASES', tmp_path / 'leases')
    written_knobs: list[tuple[str, int]] = []
    monkeypatch.setattr(release.privileged, 'set_ksm', lambda name, value: written_knobs.append((name, value)))
    config = written(f'[DEFAULT]\nhost = h1\n[ovc_host]\nstate_path = {tmp_path}\n')

    def run(*arguments):
        try:
            status = cli.main(['release', '--config-file', config, '--connect', 'test:///default', *arguments])
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr(), written_knobs
    return run


def test_nothing_left_is_status_0(ovc):
    status, out, _, knobs = ovc()
    assert status == 0 and 'nothing of the plugin is left' in out and not knobs


def test_it_refuses_while_a_controller_is_at_work(ovc, tmp_path):
    store = publish.Store(str(tmp_path), 'h1')
    assert store.claim() and not publish.Store(str(tmp_path), 'h1').claim()
    status, _, err, _ = ovc()
    assert status == 2 and 'stop nova-compute' in err
    store.give_up()
    assert ovc()[0] == 0


@pytest.mark.parametrize('state', ['', 'never'])
def test_it_refuses_while_one_is_at_work_on_this_libvirt_under_another_name(ovc, written, tmp_path, capsys, state):
    (tmp_path / 'driver.pid').write_text('1')
    config = written(f'[DEFAULT]\nhost = h1\n[ovc_host]\nstate_path = {tmp_path / state}\nrun_path = {tmp_path}\n')
    other = publish.Store(str(tmp_path / 'other'), 'h1.example.org', str(tmp_path))
    assert other.claim()
    assert cli.main(['release', '--config-file', config, '--connect', 'test:///default']) == 2
    assert 'stop nova-compute' in capsys.readouterr().err
    other.give_up()
    assert cli.main(['release', '--config-file', config, '--connect', 'test:///default']) == 0


def test_page_sharing_that_a_killed_controller_left_is_put_back_once(ovc, tmp_path):
    before = {'run': 0, 'saved': 0, 'shared': 0, 'pages_to_scan': 77}
    publish.Store(str(tmp_path), 'h1').save({'ladder': {'level': 'CLEAR', 'asked': {}}, 'ksm_before': before})
    assert ovc('--dry-run')[0] == 1
    status, _, _, knobs = ovc()
    assert status == 0 and knobs == [('run', 0), ('pages_to_scan', 77)]
    assert ovc()[3] == knobs


def test_a_limit_that_the_kernel_does_not_let_go_is_told(ovc, tmp_path, monkeypatch):
    monkeypatch.setattr(release.privileged, 'lift_leftovers', lambda: [])
    (tmp_path / 'leases').mkdir()
    (tmp_path / 'leases' / 'x').write_text('{}')
    status, out, _, _ = ovc()
    assert status == 1 and '1 lowered limits' in out and 'nothing of the plugin is left' not in out


def test_a_ratio_that_cannot_be_given_back_is_told_with_the_command_to_do_it(ovc, tmp_path):
    publish.Store(f'{tmp_path}/ratio', 'h1').save({'provider': 'p-1', 'ratios': [1.85]})
    status, out, _, _ = ovc()
    assert status == 1 and 'allocation_ratio=1' in out and '--amend p-1' in out


def test_a_ratio_that_others_had_set_is_the_one_to_be_put_back(ovc, tmp_path):
    publish.Store(f'{tmp_path}/ratio', 'h1').save({'provider': 'p-1', 'ratios': [1.85], 'before': 1.5})
    assert 'to be put back to 1.5' in ovc('--dry-run')[1]


def test_a_ratio_of_which_nothing_is_known_any_more_is_told_with_what_to_look_at(ovc, tmp_path):
    store = publish.Store(f'{tmp_path}/ratio', 'h1')
    store.save({'provider': 'p-1', 'ratios': [1.85]})
    store.path.write_text('')  # as after a loss of power
    status, out, _, _ = ovc()
    assert status == 1 and str(store.path) in out and 'MEMORY_MB:allocation_ratio=1 --amend UUID' in out


def test_a_host_that_never_had_a_state_is_left_without_one(ovc, tmp_path, written):
    config = written(f'[DEFAULT]\nhost = h1\n[ovc_host]\nstate_path = {tmp_path}/never\n')
    assert cli.main(['release', '--config-file', config, '--connect', 'test:///default']) == 0
    assert not (tmp_path / 'never').exists()


def test_without_libvirts_library_or_the_right_user_it_says_what_helps(ovc, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, 'libvirt', None)
        patched.setattr(release, 'Connection', connection.Connection)
        status, _, err, _ = ovc()
    assert status == 2 and 'libvirt' in err and 'run it with the Python of nova-compute or ovc-agent' in err

    def refuse(store):
        raise PermissionError(errno.EACCES, 'Permission denied', str(store.path))
    monkeypatch.setattr(publish.Store, 'claim', refuse)
    status, _, err, _ = ovc()
    assert status == 2 and 'h1.json' in err and 'run it as root' in err


def test_without_any_configuration_it_is_said_that_the_defaults_are_taken(written, tmp_path, monkeypatch, caplog):
    for name in ('NOVA_CONF', 'OVC_CONF'):
        monkeypatch.setattr(conf, name, str(tmp_path / 'none' / name))
    file = written('[DEFAULT]\n')
    release.configured(argparse.Namespace(config_file=[file], config_dir=[]))
    assert not caplog.messages
    release.configured(argparse.Namespace(config_file=[], config_dir=[]))
    assert 'the defaults are taken, unless the controller\'s file is named with --config-file' in caplog.text


def test_a_claim_that_root_made_can_be_taken_by_others(tmp_path):
    store = publish.Store(str(tmp_path), 'h1')
    store.claim()
    store.give_up()
    (tmp_path / 'h1.lock').chmod(0o444)
    assert store.claim()
    store.give_up()
