# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""DevStack with the plugin: what it writes, what it leaves alone, and what is left after it.

Each test runs twice where DEVSTACK_DIR names a checkout of DevStack: with our functions and with DevStack's own.
"""
from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.devstack.world import CLEAN, ROOT, STACK, UNSTACK, World, readme

LIBRARIES = ['', *filter(None, [os.environ.get('DEVSTACK_DIR')])]
# Beyond the options of README.rst: DevStack's nova-compute may not write where the default is.
ONLY_HERE = {('ovc_host', 'state_path')}


@pytest.fixture(params=LIBRARIES, ids=lambda checkout: 'devstack' if checkout else 'own')
def world(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> World:
    return World(tmp_path, request.param)


@pytest.fixture
def without(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A second machine, stacked with the same DevStack and no plugin."""
    other = World(tmp_path_factory.mktemp('without'), request.node.callspec.params['world'])
    other.run(*STACK, UNPLUGGED='1')
    return other


def added(world: World, without: World) -> dict[tuple[str, str], list[str]]:
    """Options of nova.conf that DevStack alone has not, or has otherwise."""
    return {(section, option): values for section, options in world.nova_conf.items()
            for option, values in options.items() if without.nova_conf.get(section, {}).get(option) != values}


def enabled(world: World) -> list[str]:
    return world.nova_conf['filter_scheduler']['enabled_filters'][0].split(',')


# -- what it writes ----------------------------------------------------------------------------------------------

def test_it_writes_what_the_readme_says_and_no_more(world, without):
    world.run(*STACK, OVC_MIGRATE='True')
    wanted = {(section, option): values for section, options in readme().items() for option, values in options.items()}
    written = added(world, without)
    assert written.keys() - ONLY_HERE == wanted.keys() and len(wanted) == 17
    assert written['ovc_host', 'state_path'] == [str(world.state)] and world.state.is_dir()
    for key in wanted.keys() - {('filter_scheduler', 'enabled_filters')}:
        assert [value.lower() for value in written[key]] == [value.lower() for value in wanted[key]], key
    assert enabled(world) == [*enabled(without), 'OvercommitFilter']
    assert wanted['filter_scheduler', 'enabled_filters'][0].endswith(',OvercommitFilter')


def test_nova_compute_is_started_with_it_and_nothing_is_restarted(world):
    said = world.run(*STACK)
    assert world.nova_cpu_conf['DEFAULT']['compute_driver'] == ['ovc.OvcLibvirtDriver']
    assert world.nova_cpu_conf['libvirt']['mem_stats_period_seconds'] == ['10']
    assert [call for call in world.calls if call.startswith('systemctl')] == [
        'systemctl --quiet is-enabled ksmtuned', 'systemctl --quiet is-active ksmtuned']
    assert 'WARNING' not in said and world.unit('devstack@n-cpu.service') == {'enabled', 'active'}


def test_the_checkout_is_installed_once_and_with_nothing_else(world):
    world.run(*STACK)
    assert [call for call in world.calls if call.startswith('pip')] == [f'pip install -e {ROOT}']


def test_tempest_is_told_of_the_filter_too(world):
    world.run()
    assert (world.path / 'nova-filters').read_text().strip().endswith(',OvercommitFilter')


@pytest.mark.parametrize('said, meant', [('False', 'False'), ('no', 'False'), ('0', 'False'), ('yes', 'True'),
                                         ('', 'True'), ('flase', 'True')])
def test_a_dry_run_ends_by_a_clear_no_alone(world, said, meant):
    world.run(*STACK, OVC_DRY_RUN=said)
    assert [world.nova_conf[group]['dry_run'] for group in ('ovc_host', 'ovc_scheduler')] == [[meant], [meant]]


def test_no_guest_is_asked_away_unless_it_is_said(world):
    world.run(*STACK)
    assert world.nova_conf['ovc_host']['migrate'] == ['False'] and world.nova_conf['ovc_nova']['username'] == ['nova']


def test_the_filter_of_trust_domains_is_added_when_asked_for_and_taken_out_whatever_is_said_then(world, without):
    world.run(*STACK, OVC_SHARING_DOMAINS='True')
    assert enabled(world) == [*enabled(without), 'OvercommitFilter', 'SharingDomainFilter']
    assert world.nova_conf['filter_scheduler']['available_filters'] == [
        'nova.scheduler.filters.all_filters', 'ovc_plugin.nova.filters.OvercommitFilter',
        'ovc_plugin.nova.filters.SharingDomainFilter']
    world.run(*UNSTACK)
    assert world.nova_conf == without.nova_conf


# -- by host -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('services, sections', [
    ('n-sch,n-api', {'filter_scheduler', 'ovc_scheduler'}),
    ('n-sch', {'filter_scheduler', 'ovc_scheduler'}),
    ('n-cpu', {'DEFAULT', 'libvirt', 'ovc_host', 'ovc_nova'}),
    ('n-api', set()),
    ('key,g-api', set())])
def test_a_host_gets_what_its_services_need(world, without, services, sections):
    world.unit('ksmtuned', 'enabled active')
    without.run('nova-conf', UNPLUGGED='1', SERVICES=services)
    assert 'WARNING' not in world.run(*STACK, SERVICES=services)
    assert {section for section, _ in added(world, without)} == sections
    assert any(call.startswith('pip') for call in world.calls) == ('n-' in services)
    assert world.state.exists() == (services == 'n-cpu')
    assert world.unit('ksmtuned') == (set() if services == 'n-cpu' else {'enabled', 'active'})


def test_disabled_it_leaves_all_to_devstack(world, without):
    world.unit('ksmtuned', 'enabled active')
    world.run(*STACK, DISABLED='ovc')
    assert world.nova_conf == without.nova_conf and not world.calls and world.unit('ksmtuned') == {'enabled', 'active'}


def test_a_hypervisor_other_than_libvirt_is_left_alone_and_it_says_so(world, without):
    said = world.run(*STACK, COMPUTE_DRIVER='fake.FakeDriver')
    assert 'compute_driver is "fake.FakeDriver"' in said and 'VIRT_DRIVER=libvirt' in said
    assert world.nova_conf['DEFAULT']['compute_driver'] == ['fake.FakeDriver']
    assert 'ovc_host' not in world.nova_conf and not world.state.exists()


# -- together with others ----------------------------------------------------------------------------------------

OTHERS = {'enabled_filters': 'ComputeFilter,ElsewhereFilter', 'available_filters': 'elsewhere.ElsewhereFilter',
          'weight_classes': 'elsewhere.Weigher'}


@pytest.mark.parametrize('option', OTHERS)
def test_what_another_plugin_has_set_is_added_to_and_given_back(world, option):
    world.run('nova-conf', 'local-conf', 'stack post-config', LOCAL=f'filter_scheduler {option} {OTHERS[option]}')
    values = ','.join(world.nova_conf['filter_scheduler'][option]).split(',')
    assert values[:-1] == OTHERS[option].split(',') and values[-1].startswith(('Overcommit', 'ovc_plugin.'))
    world.run(*UNSTACK)
    assert world.nova_conf['filter_scheduler'][option] == [OTHERS[option]]


@pytest.mark.parametrize('option', ['DEFAULT initial_ram_allocation_ratio', 'libvirt mem_stats_period_seconds'])
def test_a_number_that_is_set_already_stays(world, option):
    section, name = option.split()
    world.run('nova-conf', 'local-conf', 'stack post-config', LOCAL=f'{option} 3')
    assert world.nova_conf[section][name] == ['3']
    world.run(*UNSTACK)
    assert world.nova_conf[section][name] == ['3']


@pytest.mark.parametrize('local, words', [
    ('filter_scheduler enabled_filters ComputeFilter', ['lacks OvercommitFilter', 'local.conf']),
    ('DEFAULT ram_allocation_ratio 2.0', ['ram_allocation_ratio', 'remove it from local.conf'])])
def test_what_local_conf_takes_away_is_said_after_all_has_started(world, local, words):
    said = world.run(*STACK, LOCAL=local)
    assert all(word in said for word in words) and said.count('[WARNING]') == 1


def test_a_host_without_swap_is_told_what_it_misses(world):
    assert 'this host has no swap' in world.run(*STACK, SWAP='')
    assert 'no swap' not in world.run(*STACK, SWAP='', SERVICES='n-sch')


# -- page sharing ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('found', ['enabled active', 'enabled', 'active'])
def test_ksmtuned_is_stopped_before_nova_compute_starts_and_put_back_after_it(world, found):
    world.unit('ksmtuned', found)
    world.run(*STACK)
    calls = (world.path / 'calls').read_text().splitlines()
    assert not world.unit('ksmtuned')
    assert calls.index('systemctl disable --now ksmtuned') < calls.index('systemctl start devstack@n-cpu.service')
    world.run(*STACK)
    world.run(*UNSTACK)
    assert world.unit('ksmtuned') == set(found.split())
    if 'active' in found:
        calls = (world.path / 'calls').read_text().splitlines()
        assert calls.index('systemctl stop devstack@n-cpu.service') < calls.index('systemctl start ksmtuned')


@pytest.mark.parametrize('found', ['', None])
def test_ksmtuned_that_does_not_run_is_neither_stopped_nor_started(world, found):
    world.unit('ksmtuned', found)
    world.run(*STACK)
    world.run(*CLEAN)
    assert not [call for call in world.calls if call.endswith(' ksmtuned') and 'is-' not in call]


# -- again, and back ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('again', [STACK, tuple(step for step in STACK if step != 'nova-conf')],
                         ids=['as stack.sh does', 'into the same nova.conf'])
def test_stacking_twice_changes_nothing(world, again):
    world.unit('ksmtuned', 'enabled active')
    world.run(*STACK)
    files = world.files
    world.run(*again)
    changed = {name for name, text in world.files.items() if files.get(name) != text and not name.startswith('units/')}
    assert not changed and world.files.keys() == files.keys()


def test_unstack_leaves_nova_conf_as_devstack_alone_writes_it(world, without):
    world.run(*STACK)
    assert 'ovc' in (world.path / 'nova.conf').read_text()
    world.run(*UNSTACK)
    for name in ('nova.conf', 'nova-cpu.conf'):
        left = (world.path / name).read_text()
        assert 'ovc' not in left.lower()
        assert [line for line in left.splitlines() if line] == [
            line for line in (without.path / name).read_text().splitlines() if line]
    assert world.state.is_dir()


def test_unstack_leaves_what_others_have_put_into_our_sections(world):
    world.run(*STACK, LOCAL='ovc_host tick 3')
    world.run(*UNSTACK)
    assert world.nova_conf['ovc_host'] == {'tick': ['3']} and 'ovc_scheduler' not in world.nova_conf


def test_unstack_does_its_part_where_the_service_was_disabled_since(world, without):
    world.unit('ksmtuned', 'enabled active')
    world.run(*STACK)
    world.run(*UNSTACK, DISABLED='ovc')
    assert world.nova_conf == without.nova_conf and world.unit('ksmtuned') == {'enabled', 'active'}


def test_clean_removes_our_directory_and_nothing_else(world):
    world.run(*STACK)
    (world.state / 'host.json').write_text('{}')
    (world.path / 'data' / 'nova').mkdir()
    world.run(*CLEAN)
    assert [path.name for path in (world.path / 'data').iterdir()] == ['nova']
    world.run(*CLEAN)  # twice


@pytest.mark.parametrize('steps', [UNSTACK, CLEAN])
def test_there_is_nothing_to_undo_where_nothing_was_done(world, without, steps):
    (world.path / 'nova.conf').write_text((without.path / 'nova.conf').read_text() + """
[filter_scheduler]
available_filters = nova.scheduler.filters.all_filters
weight_classes = nova.scheduler.weights.all_weighers
""")
    files = world.files
    world.run(*steps, DISABLED='ovc')
    assert world.files == files
    (world.path / 'nova.conf').unlink()
    world.run(*steps)


@pytest.mark.parametrize('phase', ['stack', 'stack pre-install', 'stack test-config', 'stack post-extra',
                                   'a-mode-to-come a-phase-to-come'])
def test_unknown_phases_fall_through(world, phase):
    world.run('nova-conf')
    files, silence = world.files, world.run()
    assert world.run(phase) == silence and world.files == files and not world.calls


def test_names_of_others_are_safe_from_ours(world, without):
    world.run(*STACK)
    # DevStack's iniset_multiline leaves a variable of its own.
    new = world.names - without.names - {'v'}
    assert new and not [name for name in new if 'ovc' not in name.lower()]


# -- the files themselves ----------------------------------------------------------------------------------------

SHELL = ['devstack/plugin.sh', 'devstack/settings', 'tests/devstack/functions.sh', 'tests/devstack/drive',
         *(f'tests/devstack/bin/{name}' for name in ('sudo', 'swapon', 'systemctl'))]


@pytest.mark.parametrize('name', SHELL)
def test_shellcheck_has_nothing_to_say(name):
    """Not even on style; what is switched off in a file says there why."""
    for command in (['bash', '-n'], [pathlib.Path(sys.executable).parent / 'shellcheck', '-x', '--severity=style']):
        done = subprocess.run([*command, ROOT / name], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, '')


@pytest.mark.skipif(len(LIBRARIES) < 2, reason='set DEVSTACK_DIR to a checkout of DevStack')
def test_our_functions_write_what_devstacks_own_write(tmp_path_factory):
    written = []
    for library in LIBRARIES:
        world = World(tmp_path_factory.mktemp('library'), library)
        world.run(*STACK, LOCAL='ovc_host tick 3')
        conf = world.nova_conf
        assert conf['ovc_host'].pop('state_path') == [str(world.state)]
        # Which filters DevStack has is its own affair.
        conf['filter_scheduler']['enabled_filters'] = conf['filter_scheduler']['enabled_filters'][0].split(',')[-1:]
        written.append(conf)
    assert written[0] == written[1]
