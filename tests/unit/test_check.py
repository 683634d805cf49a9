# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc check``: each thing that is missing or dangerous is found, with the line to change; what is right is not."""
from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading

import pytest
from oslo_config import cfg

from ovc_plugin import cli, conf, publish, report
from ovc_plugin.cli import check_cloud, check_host, check_scheduler, check_state, findings
from ovc_plugin.cli.findings import Severity
from ovc_plugin.model import MIB, KsmState, Level
from ovc_plugin.nova import inventory
from ovc_plugin.settings import ALL_TENANTS, HostSettings, Settings
from tests.builders import GIB, NOW, a_guest, a_host, a_report
from tests.waiting import LONG

GOOD = """
[DEFAULT]
compute_driver = ovc.OvcLibvirtDriver
initial_ram_allocation_ratio = 1.0
[filter_scheduler]
available_filters = nova.scheduler.filters.all_filters
available_filters = ovc_plugin.nova.filters.OvercommitFilter
available_filters = ovc_plugin.nova.filters.SharingDomainFilter
enabled_filters = ComputeFilter,OvercommitFilter,SharingDomainFilter
weight_classes = nova.scheduler.weights.all_weighers,ovc_plugin.nova.weights.OvercommitWeigher
[libvirt]
mem_stats_period_seconds = 10
[ovc_host]
dry_run = false
[ovc_scheduler]
dry_run = false
"""


def read(*files: str) -> cfg.ConfigOpts:
    found = cfg.ConfigOpts()
    conf.read_files(found, files, prog='test', also=(findings.register,))
    return found


def in_files(written, text: str) -> dict[str, findings.Finding]:
    """The worst finding of each check in a file with this text, of both roles."""
    found = read(written(text))
    settings = conf.load(found)
    told = [*check_scheduler.controller(found, settings), *findings.compute(found, settings)]
    return {one.check: one for one in sorted(told, key=lambda one: one.severity)}


def test_a_good_configuration_has_nothing_to_change(written):
    assert {one.severity for one in in_files(written, GOOD).values()} == {Severity.OK}


@pytest.mark.parametrize('line, other, check, severity, change', [
    ('initial_ram_allocation_ratio = 1.0', 'ram_allocation_ratio = 4.0', 'static ratio', Severity.ERROR,
     'remove the line [DEFAULT] ram_allocation_ratio'),
    ('initial_ram_allocation_ratio = 1.0', 'initial_ram_allocation_ratio = 1.5', 'initial ratio', Severity.WARNING,
     'initial_ram_allocation_ratio = 1.0'),
    ('compute_driver = ovc.OvcLibvirtDriver', 'compute_driver = libvirt.LibvirtDriver', 'compute driver',
     Severity.WARNING, '[DEFAULT] compute_driver = ovc.OvcLibvirtDriver'),
    ('compute_driver = ovc.OvcLibvirtDriver', 'compute_driver = nova.virt.ovc.OvcLibvirtDriver', 'compute driver',
     Severity.ERROR, '[DEFAULT] compute_driver = ovc.OvcLibvirtDriver'),
    ('ComputeFilter,OvercommitFilter,', 'ComputeFilter,OvercommitFiler,', 'filter OvercommitFiler', Severity.ERROR,
     'enabled_filters = ComputeFilter,OvercommitFilter,SharingDomainFilter'),
    ('ovc_plugin.nova.weights.OvercommitWeigher', 'OvercommitWeigher', 'weighers', Severity.ERROR,
     'weight_classes = nova.scheduler.weights.all_weighers,ovc_plugin.nova.weights.OvercommitWeigher'),
    ('ovc_plugin.nova.weights.OvercommitWeigher', 'ovc-plugin.nova.weights.OvercomitWeigher', 'weighers',
     Severity.ERROR, 'weight_classes = nova.scheduler.weights.all_weighers,ovc_plugin.nova.weights.OvercommitWeigher'),
    ('available_filters = nova.scheduler.filters.all_filters\n', '', 'available filters', Severity.ERROR,
     'available_filters = nova.scheduler.filters.all_filters'),
    ('available_filters = ovc_plugin.nova.filters.OvercommitFilter\n', '', 'filter OvercommitFilter', Severity.ERROR,
     'available_filters = ovc_plugin.nova.filters.OvercommitFilter'),
    ('ComputeFilter,OvercommitFilter,SharingDomainFilter', 'ComputeFilter,SharingDomainFilter',
     'filter OvercommitFilter', Severity.ERROR,
     'enabled_filters = ComputeFilter,SharingDomainFilter,OvercommitFilter'),
    (',SharingDomainFilter', '', 'filter SharingDomainFilter', None, None),
    ('available_filters = ovc_plugin.nova.filters.SharingDomainFilter\n', '', 'filter SharingDomainFilter',
     Severity.ERROR, 'available_filters = ovc_plugin.nova.filters.SharingDomainFilter'),
    (',ovc_plugin.nova.weights.OvercommitWeigher', '', 'weighers', Severity.WARNING, 'OvercommitWeigher'),
    ('nova.scheduler.weights.all_weighers,', '', 'weighers', Severity.WARNING, 'all_weighers'),
    ('mem_stats_period_seconds = 10', 'mem_stats_period_seconds = 0', 'balloon statistics', Severity.ERROR,
     '[libvirt] mem_stats_period_seconds = 10'),
    ('mem_stats_period_seconds = 10', 'mem_stats_period_seconds = 60', 'balloon statistics', Severity.WARNING,
     '[libvirt] mem_stats_period_seconds = 10'),
    ('[ovc_host]\ndry_run = false', '[ovc_host]', 'host dry run', Severity.WARNING, '[ovc_host] dry_run = false'),
    ('[ovc_scheduler]\ndry_run = false', '', 'scheduler dry run', Severity.WARNING, '[ovc_scheduler] dry_run = false'),
    ('[ovc_host]', f'[ovc_host]\nksm = {ALL_TENANTS}', 'page sharing', Severity.WARNING, '[ovc_host] ksm = auto'),
    ('[ovc_host]', '[ovc_host]\nrequire_swap_backing = false', 'backing', Severity.WARNING, 'require_swap_backing'),
    ('[libvirt]', 'update_resources_interval = 300\n[libvirt]', 'report age', None, None),
    ('initial_ram', 'update_resources_interval = 300\ninitial_ram', 'report age', Severity.ERROR,
     'report_max_age = 600'),
    # nova: "a number less than 0 means to disable the task completely"
    ('initial_ram', 'update_resources_interval = -1\ninitial_ram', 'report age', Severity.ERROR,
     'remove the line [DEFAULT] update_resources_interval'),
    ('initial_ram', 'periodic_enable = false\ninitial_ram', 'report age', Severity.ERROR,
     'remove the line [DEFAULT] periodic_enable'),
    # A report is as old as the last pass when nova takes it: at rest six ticks, 30 s at most, else one tick.
    ('[ovc_host]', '[ovc_host]\ntick = 300', 'report age', Severity.ERROR, 'report_max_age = 360'),
    ('initial_ram_allocation_ratio = 1.0', 'update_resources_interval = 20\n[ovc]\nreport_max_age = 45', 'report age',
     Severity.ERROR, 'report_max_age = 50'),
    ('initial_ram_allocation_ratio = 1.0', 'update_resources_interval = 20\n[ovc]\nreport_max_age = 50', 'report age',
     None, None),
    ('[ovc_host]', '[ovc]\nreport_max_age = 20\n[ovc_host]', 'report age', Severity.ERROR, 'report_max_age = 120'),
    ('[ovc_host]', '[ovc]\nreport_max_age = 86400\n[ovc_host]', 'report age', Severity.WARNING, 'report_max_age = 120'),
    ('initial_ram', 'update_resources_interval = 50000\ninitial_ram', 'report age', Severity.ERROR,
     '[DEFAULT] update_resources_interval = 60'),
    ('[ovc_host]', '[ovc_host]\nswap = false', 'mechanisms', Severity.WARNING, 'swap = true'),
    ('[ovc_host]', '[ovc_host]\nrules = sharing,swap', 'mechanisms', Severity.WARNING, 'balloon = true'),
    ('[ovc_host]', '[ovc_host]\nrules =\nballoon = false', 'mechanisms', Severity.WARNING, 'balloon = true and swap'),
    ('[ovc_host]', '[ovc_host]\nmin_ratio = 4.0', 'least ratio', Severity.WARNING, 'min_ratio = 1.0'),
    ('[ovc_host]', '[ovc_host]\nmin_ratio = 4.0\nmanage_ratio = false', 'least ratio', None, None),
    ('[ovc_host]', '[ovc_host]\nstats_max_age = 15', 'balloon statistics', Severity.WARNING, 'stats_max_age = 20'),
    # nova knows filters by the names of their classes
    (',OvercommitFilter', ',ovc_plugin.nova.filters.OvercommitFilter', 'filter OvercommitFilter', Severity.ERROR,
     'enabled_filters = ComputeFilter,OvercommitFilter,SharingDomainFilter'),
    (',SharingDomainFilter', ',ovc_plugin.nova.filters.SharingDomainFilter', 'filter SharingDomainFilter',
     Severity.ERROR, 'enabled_filters = ComputeFilter,OvercommitFilter,SharingDomainFilter'),
    ('filters.SharingDomainFilter', 'filters.SharingFilter', 'available filters', Severity.ERROR,
     'ovc_plugin.nova.filters.SharingDomainFilter'),
    ('weights.OvercommitWeigher', 'weights.OvercomitWeigher', 'weighers', Severity.ERROR,
     'ovc_plugin.nova.weights.OvercommitWeigher'),
    ('weights.OvercommitWeigher', 'OvercommitWeigher', 'weighers', Severity.ERROR,
     'ovc_plugin.nova.weights.OvercommitWeigher'),
    ('weights.OvercommitWeigher', 'weights.OvercommitWeigher,ovc_plugin.nova.weights.HeadroomWeigher', 'weighers',
     Severity.WARNING,
     'weight_classes = nova.scheduler.weights.all_weighers,ovc_plugin.nova.weights.OvercommitWeigher'),
    ('weights.OvercommitWeigher', 'weights.HeadroomWeigher,ovc_plugin.nova.weights.HeadroomWeigher', 'weighers',
     Severity.WARNING,
     'weight_classes = nova.scheduler.weights.all_weighers,ovc_plugin.nova.weights.HeadroomWeigher'),
    ('weights.OvercommitWeigher', 'weights.HeadroomWeigher,ovc_plugin.nova.weights.SharingAffinityWeigher', 'weighers',
     Severity.OK, '')])
def test_what_is_missing_or_dangerous_in_a_file_is_found_with_its_line(written, line, other, check, severity, change):
    assert GOOD.count(line) == 1, line
    found = in_files(written, GOOD.replace(line, other))
    if severity is None:
        assert check not in found
        return
    assert found[check].severity is severity and change in found[check].change


@pytest.mark.parametrize('line, severity, says, change', [
    ('ram_allocation_ratio = 16', Severity.WARNING, 'ram_allocation_ratio = 16: placement hands out so much, whatever',
     'ram_allocation_ratio = 1.0'),
    ('ram_allocation_ratio = 1.0', Severity.OK, 'ram_allocation_ratio = 1, as the plugin leaves the ratio alone', ''),
    ('', Severity.OK, 'nova\'s own, as the plugin leaves the ratio alone', '')])
def test_where_the_plugin_leaves_the_ratio_alone_it_is_told_what_holds_instead(written, line, severity, says, change):
    text = GOOD.replace('initial_ram_allocation_ratio = 1.0', line).replace(
        '[ovc_host]', '[ovc_host]\nmanage_ratio = false')
    found = in_files(written, text)['static ratio']
    assert (found.severity, says in found.what, change in found.change) == (severity, True, True), found


@pytest.mark.parametrize('ratio, manages, severity, change', [
    ('ram_allocation_ratio = 1.0', 'true', Severity.ERROR, '[ovc_host] manage_ratio = false'),
    ('ram_allocation_ratio = 1.0', 'false', Severity.OK, ''),
    ('', 'false', Severity.ERROR, '[DEFAULT] ram_allocation_ratio = 1.0'),
    ('', 'true', Severity.ERROR, '[DEFAULT] ram_allocation_ratio = 1.0, and [ovc_host] manage_ratio = false'),
    ('ram_allocation_ratio = 2.0', 'false', Severity.ERROR, '[DEFAULT] ram_allocation_ratio = 1.0')])
def test_with_file_backed_memory_the_ratio_must_be_fixed_at_one(written, ratio, manages, severity, change):
    """nova-compute does not start otherwise (nova/virt/libvirt/host.py): the line must not be removed there."""
    text = GOOD.replace('initial_ram_allocation_ratio = 1.0', ratio)
    text = text.replace('[libvirt]', '[libvirt]\nfile_backed_memory = 4096')
    text = text.replace('[ovc_host]', f'[ovc_host]\nmanage_ratio = {manages}')
    found = in_files(written, text)['static ratio']
    assert found.severity is severity and change in found.change and 'remove' not in found.change, found


def test_with_file_backed_memory_nothing_may_be_reserved_for_the_host(written):
    """nova-compute does not start otherwise either, and reserves 512 MB by default."""
    text = GOOD.replace('[libvirt]', '[libvirt]\nfile_backed_memory = 4096')
    found = in_files(written, text)['reserved memory']
    assert (found.severity, found.change) == (Severity.ERROR, '[DEFAULT] reserved_host_memory_mb = 0')
    none = text.replace('[DEFAULT]', '[DEFAULT]\nreserved_host_memory_mb = 0')
    assert 'reserved memory' not in in_files(written, none)


def test_a_controller_without_a_line_of_ours_has_the_plugin_off(written):
    """As README's "Turning it off" leaves it: nothing is an error, as on a host without our driver."""
    off = '[filter_scheduler]\nenabled_filters = ComputeFilter\n'
    for text in ('[DEFAULT]\n', off, off + 'available_filters = nova.scheduler.filters.all_filters\n'):
        found = read(written(text))
        told = list(check_scheduler.controller(found, conf.load(found)))
        assert [(one.check, one.severity) for one in told] == [('scheduler plugins', Severity.WARNING)], told
        assert 'the plugin is off here' in told[0].what and told[0].change
    half = read(written(off + 'weight_classes = ovc_plugin.nova.weights.OvercommitWeigher\n'))
    assert 'filter OvercommitFilter' in [one.check for one in check_scheduler.controller(half, conf.load(half))
                                         if one.severity is Severity.ERROR]


# -- the host --------------------------------------------------------------------------------------------------------
def one(found: findings.Findings) -> findings.Finding:
    return max(found, key=lambda finding: finding.severity)


def test_swap_that_does_not_hold_what_guests_may_touch_is_an_error_with_the_amount():
    guests = [a_guest(f'g{n}', maximum=8 * GIB) for n in range(5)]
    assert one(check_host.swap(a_host(*guests))).severity is Severity.ERROR  # 40.6 GiB > 27.5 + 8
    assert 'add 5248 MB of swap' in one(check_host.swap(a_host(*guests))).change
    assert one(check_host.swap(a_host(*guests, swap_total=16 * GIB))).severity is Severity.OK
    assert one(check_host.swap(a_host(swap_total=0))).severity is Severity.WARNING


def test_guarantees_beyond_memory_are_an_error_that_no_swap_mends():
    guests = [a_guest(f'g{n}', maximum=8 * GIB, reservation=8 * GIB) for n in range(5)]
    told = list(check_host.swap(a_host(*guests, swap_total=64 * GIB)))
    assert [(found.check, found.severity) for found in told] == [
        ('guarantees', Severity.ERROR), ('swap', Severity.OK)]
    assert 'guests of 13440 MB away' in told[0].change  # 40.6 GiB of 27.5


def test_a_reserve_beyond_memory_is_told_as_that_and_not_as_too_little_swap():
    told = one(check_host.swap(a_host(reserve=64 * GIB)))
    assert (told.check, told.severity) == ('memory', Severity.ERROR) and 'reserved_host_memory_mb' in told.change


def test_swap_that_others_use_holds_nothing_of_guests():
    guests = [a_guest(f'g{n}', maximum=8 * GIB) for n in range(4)]  # 32.5 GiB, of 27.5 + 8
    assert one(check_host.swap(a_host(*guests))).severity is Severity.OK
    found = one(check_host.swap(a_host(*guests, swap_others=6 * GIB)))
    assert found.severity is Severity.ERROR and '6144 MB of swap is used by others' in found.what


def test_memory_that_others_use_beyond_the_reserve_holds_nothing_of_guests():
    guests = [a_guest(f'g{n}', maximum=8 * GIB) for n in range(4)]  # 32.5 GiB, of 27.5 + 8
    found = one(check_host.swap(a_host(*guests, others=6 * GIB + 512 * MIB)))
    assert found.severity is Severity.ERROR and '6144 MB of memory beyond the reserve is used by others' in found.what
    assert 'add 3072 MB of swap' in found.change
    assert 'used by others' not in one(check_host.swap(a_host(*guests, others=512 * MIB))).what


def test_merging_across_projects_is_an_error_unless_it_was_asked_for():
    def host(run, *domains):
        return a_host(*(a_guest(f'g{n}', trust_domain=d) for n, d in enumerate(domains)),
                      ksm=KsmState(run=run, saved=0, shared=0, pages_to_scan=100))
    assert one(check_host.sharing(host(1, 'p1', 'p2'), Settings())).severity is Severity.ERROR
    assert one(check_host.sharing(host(1, 'p1', 'p1'), Settings())).severity is Severity.OK
    assert one(check_host.sharing(host(0, 'p1', 'p2'), Settings())).severity is Severity.OK
    asked = Settings(host=HostSettings(ksm=ALL_TENANTS))
    assert one(check_host.sharing(host(1, 'p1', 'p2'), asked)).severity is Severity.OK


def test_a_root_helper_that_does_not_start_or_hangs_is_an_error(monkeypatch):
    monkeypatch.setattr(check_host.privileged, 'prepare', lambda conf, become_root: None)
    monkeypatch.setattr(check_host.privileged, 'merged_pages', lambda pids: {})
    assert one(check_host.helper(read())).severity is Severity.OK

    def refused(pids):
        raise PermissionError('sudo: a password is required')
    monkeypatch.setattr(check_host.privileged, 'merged_pages', refused)
    found = one(check_host.helper(read()))
    assert found.severity is Severity.ERROR and 'password' in found.what and 'helper_command' in found.change
    let = threading.Event()
    with pytest.raises(TimeoutError):
        check_host.patiently(lambda: let.wait(LONG), 0.05)
    let.set()


@pytest.mark.parametrize('user, text, command', [
    (1000, '', 'sudo nova-rootwrap /etc/nova/rootwrap.conf privsep-helper'),
    (1000, 'rootwrap_config = /opt/rw.conf', 'sudo nova-rootwrap /opt/rw.conf privsep-helper'),
    (1000, 'rootwrap_config = /opt/rw.conf\n[workarounds]\ndisable_rootwrap = true', 'sudo privsep-helper'),
    (1000, '[ovc_privileged]\nhelper_command = doas helper', 'doas helper'),
    (0, '', f'{sys.prefix}/bin/privsep-helper')])
def test_the_root_helper_is_started_as_nova_compute_starts_it(monkeypatch, written, user, text, command):
    """nova-compute tells oslo.privsep how to become root; without that, sudo would be asked for the helper itself."""
    privileged, file = check_host.privileged, written(f'[DEFAULT]\n{text}\n')
    conf.read_files(cfg.CONF, [file], prog='test')  # where oslo.privsep looks
    monkeypatch.setattr(privileged.priv_context, '_HELPER_COMMAND_PREFIX', ['sudo'])
    monkeypatch.setattr(privileged.os, 'geteuid', lambda: user)
    started = []
    monkeypatch.setattr(privileged, 'merged_pages', lambda pids: started.append(
        ' '.join(privileged.context.helper_command('/socket'))))
    for group in ('ovc_privileged', 'ovc_privileged_pages'):
        cfg.CONF.clear_default('helper_command', group=group)  # root's, of a command run before
    assert one(check_host.helper(read(file))).severity is Severity.OK
    assert started[0].startswith(f'{command} --'), started


def test_a_state_path_that_is_not_there_or_another_users_is_an_error(tmp_path, monkeypatch):
    assert one(check_state.writable(tmp_path, 'root')).severity is Severity.OK
    absent = one(check_state.writable(tmp_path / 'absent', 'nova'))
    remedy = f'install -d -m 750 {tmp_path / "absent"} && chown nova: {tmp_path / "absent"}'
    assert absent.severity is Severity.ERROR and absent.change == remedy
    (tmp_path / 'file').write_text('')
    assert 'no directory' in one(check_state.writable(tmp_path / 'file', 'root')).what


@pytest.mark.parametrize('owner, group, mode, severity', [
    (4242, 0, 0o700, Severity.OK), (4242, 0, 0o500, Severity.ERROR), (0, 77, 0o770, Severity.OK),
    (0, 77, 0o750, Severity.ERROR), (0, 0, 0o1777, Severity.OK), (0, 0, 0o755, Severity.ERROR),
    (4242, 0, 0o077, Severity.ERROR)])  # its owner is judged by the owner's bits alone
def test_who_may_write_the_state_path_is_told_by_owner_groups_and_mode(tmp_path, monkeypatch, owner, group, mode,
                                                                       severity):
    monkeypatch.setattr(check_state.pwd, 'getpwnam', lambda name: type('User', (), {'pw_uid': 4242, 'pw_gid': 4242}))
    monkeypatch.setattr(check_state.os, 'getgrouplist', lambda name, gid: [gid, 77])
    place = tmp_path / 'state'
    place.mkdir()
    os.chown(place, owner, group)
    place.chmod(mode)
    told = one(check_state.writable(place, 'nova'))
    assert told.severity is severity
    assert severity is Severity.OK or told.change == f'install -d -m 750 {place} && chown nova: {place}'
    (place / 'theirs').write_text('')
    told = one(check_state.writable(place, 'nova'))
    assert 'install' not in told.change and 'chown' not in told.change  # it may be /var/lib


def test_what_is_left_of_the_plugin_is_told_once_it_is_off(tmp_path, monkeypatch, written):
    found = read(written('[DEFAULT]\nhost = h1\n'))
    monkeypatch.setattr(check_host.privileged, 'LEASES', tmp_path / 'leases')
    settings = Settings(host=HostSettings(state_path=str(tmp_path)))
    full, small = a_host(a_guest()), a_host(a_guest(actual=GIB // 2))
    clean = one(check_state.left_behind(found, settings, full, False, None))
    assert clean.severity is Severity.OK and 'nothing' in clean.what
    publish.Store(str(tmp_path), 'h1').save({'ladder': {}, 'ksm_before': {'run': 0}})
    publish.Store(str(tmp_path / 'ratio'), 'h1').save({'provider': 'u', 'ratios': [1.8]})
    (tmp_path / 'leases').mkdir()
    (tmp_path / 'leases' / 'one').write_text('')
    left = one(check_state.left_behind(found, settings, small, False, None))
    assert left.severity is Severity.WARNING and left.change == 'ovc release'
    for said in ('1 guests are smaller than their flavor by 512 MB', '1 limits', 'page sharing', 'allocation_ratio'):
        assert said in left.what
    assert not list(check_state.left_behind(found, settings, small, True, None))
    for name, said in (('', 'whether page sharing is'), ('ratio', 'whether placement\'s allocation_ratio is')):
        publish.Store(str(tmp_path / name), 'h1').path.write_text('')  # as after a loss of power
        told = [one for one in check_state.left_behind(found, settings, full, False, None) if said in one.what]
        assert [one.severity for one in told] == [Severity.UNKNOWN]


def test_of_a_state_that_cannot_be_read_it_is_not_said_that_nothing_is_left(tmp_path, monkeypatch, written):
    monkeypatch.setattr(check_host.privileged, 'LEASES', tmp_path / 'leases')
    (tmp_path / 'h1.json').mkdir()  # root may read any file
    settings = Settings(host=HostSettings(state_path=str(tmp_path)))
    named = read(written('[DEFAULT]\nhost = h1\n'))
    told = one(check_state.left_behind(named, settings, a_host(a_guest()), False, None))
    assert told.severity is Severity.UNKNOWN and f'{tmp_path} cannot be read' in told.what and 'root' in told.change


def test_rules_and_predictors_that_are_not_installed_are_named_with_those_that_are():
    for host in (HostSettings(), HostSettings(predictor='none')):
        assert not list(check_host.doors(Settings(host=host)))
    settings = Settings(host=HostSettings(rules=('sharing', 'swop'), predictor='oracle'))
    found = {one.check: one for one in check_host.doors(settings)}
    assert {one.severity for one in found.values()} == {Severity.ERROR}
    assert 'swop' in found['rules'].what and 'relief' in found['rules'].what and 'rules' in found['rules'].change
    assert 'oracle' in found['predictor'].what and 'calibrated' in found['predictor'].what


def test_where_the_hypervisor_is_silent_nothing_is_said_of_guests(tmp_path, monkeypatch, written):
    monkeypatch.setattr(check_host.privileged, 'LEASES', tmp_path / 'leases')
    silent = a_host(notes=('hypervisor did not answer; its guests are held as they are until it does (refused)',),
                    ksm=KsmState(run=1, saved=0, shared=0, pages_to_scan=100))
    monkeypatch.setattr(check_host, 'sense', lambda conf, settings, uri: silent)
    found = read(written('[DEFAULT]\nhost = h1\n'))
    settings = Settings(host=HostSettings(state_path=str(tmp_path)))
    told = {f.check: f for f in check_host.look(found, settings, 'uri', '')}
    assert told['hypervisor'].severity is Severity.ERROR and 'libvirtd' in told['hypervisor'].change
    assert told['guests'].severity is told['left behind'].severity is Severity.UNKNOWN
    assert not told.keys() & {'swap', 'page sharing', 'sensors'}
    monkeypatch.setattr(check_host, 'sense', lambda conf, settings, uri: dataclasses.replace(silent, swap_total=0))
    assert 'swap' in {f.check for f in check_host.look(found, settings, 'uri', '')}


# -- the cloud -------------------------------------------------------------------------------------------------------
class Preflight:
    """placement as a test wants it."""

    OLDEST, MICROVERSION = 14, '1.39'

    class PlacementError(RuntimeError):
        pass

    def __init__(self, release=None, newest='1.39'):
        self.release, self.newest = release, newest

    @staticmethod
    def too_old(newest):
        return newest == '1.36'


@pytest.mark.parametrize('release, newest, tried, severity', [
    ('16.0.0', '1.39', None, Severity.OK), ('13.0.0', '1.39', None, Severity.ERROR),
    (None, '1.36', None, Severity.ERROR), (None, '1.39', None, Severity.UNKNOWN),
    (None, '1.39', True, Severity.OK), (None, '1.39', False, Severity.ERROR)])
def test_a_placement_that_traps_guests_is_an_error(release, newest, tried, severity):
    told = Preflight(release, newest)
    assert one(check_cloud.age(told, told, lambda: tried)).severity is severity


def test_clocks_apart_are_told():
    severities = [one(check_cloud.clock(ahead)).severity for ahead in (None, 0.0, 5.0, -60.0)]
    assert severities == [Severity.UNKNOWN, Severity.OK, Severity.WARNING, Severity.ERROR]


def test_the_date_header_is_whole_seconds_and_the_request_took_time():
    preflight = pytest.importorskip('ovc_plugin.nova.preflight')
    from email.utils import formatdate
    assert preflight._ahead(formatdate(1000, usegmt=True), 1000.6, 1000.9) == 0
    assert preflight._ahead(formatdate(1100, usegmt=True), 1000.6, 1000.9) == pytest.approx(99.1)
    assert preflight._ahead(formatdate(900, usegmt=True), 1000.6, 1000.9) == pytest.approx(-99.6)
    assert preflight._ahead(None, 1, 2) is None


@pytest.mark.parametrize('text, severity, says', [
    (None, Severity.WARNING, 'none'), ('torn', Severity.ERROR, 'not readable'),
    (report.encode(a_report(taken_at=NOW - 5)), Severity.OK, '5 s old'),
    (report.encode(a_report(taken_at=NOW - 500)), Severity.ERROR, '500 s old > 120 s'),
    (report.encode(a_report(taken_at=NOW + 60)), Severity.ERROR, '60 s ahead'),
    (report.encode(a_report(taken_at=NOW - 5, dry_run=True)), Severity.WARNING, 'dry run'),
    (report.encode(a_report(taken_at=NOW - 5, level=Level.CRITICAL)), Severity.WARNING, 'CRITICAL: no guest')])
def test_a_report_that_is_absent_old_or_from_the_future_is_told(text, severity, says):
    found = one(check_cloud.one_report('h1', text, Settings(), NOW))
    assert found.severity is severity and says in found.what


def of_domains(written, text: str, *reports: str | None) -> list[findings.Finding]:
    return list(check_cloud.domains(read(written(text)), reports))


def test_projects_that_may_share_and_are_not_kept_apart_are_told_with_the_line(written):
    a, b = (report.encode(a_report(domains=(report.domain_name(project),))) for project in 'ab')
    nobody, torn = report.encode(a_report()), 'torn'
    bare = GOOD.replace(',SharingDomainFilter', '').replace(
        'available_filters = ovc_plugin.nova.filters.SharingDomainFilter\n', '')
    told = one(iter(of_domains(written, bare, a, b, None, torn)))
    assert told.severity is Severity.WARNING and 'guests of 2 projects' in told.what
    assert 'ComputeFilter,OvercommitFilter,SharingDomainFilter, and available_filters =' in told.change
    assert not of_domains(written, GOOD, a, b)
    assert not of_domains(written, bare, a, a, nobody)
    assert not of_domains(written, bare, *(report.encode(a_report(
        domains=(report.domain_name(project),), sharing='none')) for project in 'ab'))


# -- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def ovc(written, capsys, log_as_before, monkeypatch):
    monkeypatch.setattr(check_cloud, 'placement', lambda conf, probe: iter(()))
    monkeypatch.setattr(check_host, 'sense', lambda conf, settings, uri: a_host(a_guest(), swap_total=40 * GIB))
    monkeypatch.setattr(check_host, 'helper', lambda conf: iter(()))

    def run(text, *arguments):
        try:
            status = cli.main(['check', '--config-file', written(text), '--service-user', 'root', *arguments])
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()
    return run


def test_the_command_ends_with_1_for_an_error_and_shows_it_first(ovc, tmp_path):
    good = GOOD.replace('[ovc_host]', f'[ovc_host]\nstate_path = {tmp_path}')
    status, out, _ = ovc(good)
    assert status == 0 and 'check: error=0 warning=0' in out, out
    status, out, _ = ovc(good.replace('initial_ram', 'ram_allocation_ratio = 3\ninitial_ram'))
    assert status == 1 and out.startswith('error   static ratio') and '-> remove the line' in out
    assert max(map(len, out.splitlines())) <= 100


def test_json_has_every_finding(ovc, tmp_path):
    status, out, _ = ovc(GOOD.replace('[ovc_host]', f'[ovc_host]\nstate_path = {tmp_path}/absent'), '-f', 'json')
    told = {finding['check']: finding for finding in json.loads(out)['findings']}
    assert status == 1 and told['state path']['severity'] == 'error' and told['compute driver']['severity'] == 'ok'


def test_options_that_cannot_be_used_are_errors_with_their_line(ovc):
    status, out, _ = ovc(GOOD.replace('[ovc_host]', '[ovc_host]\nballoon_step = 7'))
    assert status == 1 and '[ovc_host] balloon_step = 7' in ' '.join(out.split())


@pytest.mark.parametrize('line, said', [
    ('baloon_step = 0.3', '[ovc_host] baloon_step in'), ('[ovc_hosts]\nballoon = false', '[ovc_hosts] in'),
    ('[ovc_nova]\nusrename = nova', '[ovc_nova] usrename in')])
def test_a_name_that_nothing_reads_is_a_warning_with_the_one_that_was_meant(ovc, line, said):
    status, out, _ = ovc(GOOD.replace('[ovc_host]\n', f'[ovc_host]\n{line}\n'))
    out = ' '.join(out.split())
    assert f'warning unread option: {said}' in out and '-> write ' in out, out


USER = ('auth_type = password\nauth_url = http://k/v3\nusername = nova\npassword = s3cret\nproject_name = service\n'
        'user_domain_name = Default\nproject_domain_name = Default\n')


@pytest.mark.parametrize('sections, says, change', [
    ('', 'migrate is on in [ovc_host], and no guest is asked away: [ovc_nova] auth_type is not set',
     '[ovc_nova] auth_type = password, with auth_url, username, password, user_domain_name, project_name, '
     'project_domain_name and region_name'),
    (f'[placement]\nregion_name = Two\n{USER}', 'auth_type is not set',
     '[ovc_nova] auth_section = placement and region_name = Two'),
    (f'[placement]\n{USER}', 'auth_type is not set', '[ovc_nova] auth_section = placement and region_name = RegionOne'),
    ('[ovc_nova]\nauth_type = password\nusername = nova\n', '[ovc_nova] lacks auth_url', 'auth_url'),
    ('[ovc_nova]\nauth_type = passwort\n', 'auth_type = passwort is no plugin', 'auth_type = password'),
    ('[ovc_nova]\nauth_section = placement\n', 'auth_type is not set', 'auth_type = password'),
    ('[ovc_nova]\nauth_section = $nowhere\n', '[ovc_nova] cannot be read: no such option nowhere',
     'auth_type = password'),
    ('[ovc_nova]\nauth_type = $nowhere\n', 'cannot be read: no such option nowhere', 'auth_type = password'),
    (f'[placement]\nregion_name = $nowhere\n{USER}', 'auth_type is not set', 'region_name = RegionOne')])
def test_migrations_that_nobody_can_be_asked_for_are_an_error_with_the_lines_to_add(ovc, sections, says, change):
    pytest.importorskip('keystoneauth1')
    status, out, _ = ovc(GOOD.replace('[ovc_host]', '[ovc_host]\nmigrate = true') + sections)
    found = ' '.join(out.split()).partition('error migration: ')[2]
    assert status == 1 and says in found.partition('->')[0] and change in found.partition('->')[2], out
    assert 's3cret' not in out
    assert 'migration:' not in ovc(GOOD + sections)[1], 'nobody wants it'


@pytest.mark.parametrize('sections', [f'[ovc_nova]\n{USER}',
                                      f'[ovc_nova]\nauth_section = placement\n[placement]\n{USER}'])
def test_credentials_that_migrations_can_be_asked_with_are_in_order(ovc, sections):
    pytest.importorskip('keystoneauth1')
    _, out, _ = ovc(GOOD.replace('[ovc_host]', '[ovc_host]\nmigrate = true') + sections)
    assert 'ok migration: ' in ' '.join(out.split()), out


def test_a_file_of_nobody_says_so(ovc):
    status, out, _ = ovc('[DEFAULT]\n')
    assert status == 0 and 'neither compute_driver nor [api_database] connection' in ' '.join(out.split())
    assert ovc('[DEFAULT]\n', '--config-file', '/absent')[0] == 2


def test_a_filter_that_is_misspelt_is_not_told_to_be_enabled(written):
    found = in_files(written, GOOD.replace('ComputeFilter,OvercommitFilter,', 'ComputeFilter,OvercommitFiler,'))
    assert 'filter OvercommitFilter' not in found and found['filter SharingDomainFilter'].severity is Severity.OK


def test_the_one_filter_that_is_ours_and_misspelt_is_not_told_as_a_plugin_that_is_off(written):
    found = in_files(written, GOOD.replace('ComputeFilter,OvercommitFilter,SharingDomainFilter', 'OvercomitFilter')
                     .replace('available_filters = ovc_plugin', '#').replace(',ovc_plugin.nova', ',#'))
    assert 'scheduler plugins' not in found and found['filter OvercomitFilter'].severity is Severity.ERROR


def test_the_file_that_wins_is_named_where_another_driver_is_set(written):
    found = in_files(written, GOOD.replace('ovc.OvcLibvirtDriver', 'libvirt.LibvirtDriver'))['compute driver']
    assert '.conf, to enable it' in found.change


@pytest.mark.parametrize('line', ['[DEFAULT]\nram_allocation_ratio = abc', '[libvirt]\nmem_stats_period_seconds = 10s'])
def test_a_value_that_nova_itself_cannot_use_is_a_finding_like_others(ovc, line):
    status, out, _ = ovc(line)
    assert status == 1 and 'cannot be used, nova does not start so' in ' '.join(out.split())
    assert line.split('\n')[1].split(' ')[0] in out and 'correct or remove that line' in out


def test_a_line_to_change_is_told_in_one_piece_however_long_it_is(ovc, monkeypatch):
    monkeypatch.setattr(check_host, 'sense', lambda *told: a_host())
    names = 'ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,ServerGroupAntiAffinityFilter,JsonFilter'
    _, out, _ = ovc(GOOD.replace('ComputeFilter,OvercommitFilter,SharingDomainFilter', names), '--role', 'controller')
    assert f'-> [filter_scheduler] enabled_filters = {names},OvercommitFilter\n' in out


def test_a_boundary_that_is_no_group_is_named_and_the_rest_is_looked_at(ovc, monkeypatch):
    monkeypatch.setattr(check_host, 'sense', lambda conf, settings, uri: a_host())
    status, out, _ = ovc(GOOD.replace('[ovc_host]', '[ovc_host]\nboundary = /nonexistent'))
    assert status == 1 and '/nonexistent is no memory control group' in out
    assert '[ovc_host] boundary = machine' in out and 'swap:' in out


def test_no_report_is_missed_of_a_host_that_is_out_of_service_or_runs_no_libvirt(monkeypatch):
    listed = inventory.Listed({'h1': None, 'h2': report.encode(a_report(taken_at=NOW - 86400)), 'h3': None})
    listed.apart = {'h1': 'its hypervisor is ironic', 'h2': 'disabled (ticket 4711)'}
    monkeypatch.setattr(check_cloud.hosts, 'last_reports', lambda conf: listed)
    told = {one.check: one for one in check_cloud.reports(read(), Settings(), NOW)}
    assert [told[f'report of h{n}'].severity for n in (1, 2, 3)] == [Severity.OK, Severity.OK, Severity.WARNING]
    assert 'ironic' in told['report of h1'].what and 'ticket 4711' in told['report of h2'].what


def test_cells_that_do_not_answer_are_told_and_no_cloud_is_whole_without_them(monkeypatch):
    listed = inventory.Listed({'h1': report.encode(a_report(taken_at=NOW))})
    listed.left_out = ('cell cell2 (1234) is left out, its database does not answer: refused',)
    monkeypatch.setattr(check_cloud.hosts, 'last_reports', lambda conf: listed)
    found = cfg.ConfigOpts()
    findings.register(found)
    found([])
    told = list(check_cloud.reports(found, Settings(), now=NOW))
    assert [(one.check, one.severity) for one in told] == [('reports', Severity.WARNING), ('report of h1', Severity.OK)]
    assert 'cell2' in told[0].what
    monkeypatch.setattr(check_cloud.hosts.options, 'is_set', lambda *option: True)
    all_hosts = check_cloud.hosts.find(found, [])
    assert all_hosts.names == ['h1'] and 'cell2' in all_hosts.remark and not all_hosts.whole


def test_what_hangs_or_fails_here_is_unknown_and_not_in_order(ovc, monkeypatch):
    def refused(conf, settings, uri):
        raise PermissionError('no')
    monkeypatch.setattr(check_host, 'sense', refused)
    status, out, _ = ovc(GOOD)
    assert status == 0 and 'unknown this host: could not be looked at (no)' in ' '.join(out.split())
