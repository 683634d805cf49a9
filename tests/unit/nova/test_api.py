# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Asking nova by its API: what is sent, what the answers mean, and which option each fault names."""
from __future__ import annotations

import uuid

import pytest
import requests
from keystoneauth1 import fixture
from oslo_config import cfg

from ovc_plugin.model import Departure
from ovc_plugin.nova import api

KEYSTONE, NOVA = 'http://keystone.example/v3', 'http://nova.example/v2.1'
GUEST = str(uuid.uuid4())
SECTION = {'auth_type': 'password', 'auth_url': KEYSTONE, 'username': 'ovc', 'password': 'secret',
           'project_name': 'service', 'user_domain_name': 'Default', 'project_domain_name': 'Default',
           'region_name': 'RegionOne'}


def configured(tmp_path, **section):
    path = tmp_path / 'nova.conf'
    path.write_text('[ovc_nova]\n' + ''.join(f'{k} = {v}\n' for k, v in (SECTION | section).items() if v is not None))
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)])
    return conf


class Cloud:
    """keystone and nova as far as they are asked; each answer may be replaced."""

    def __init__(self, mock, region='RegionOne', interfaces=('internal',)):
        self.mock = mock
        token = fixture.V3Token()
        service = token.add_service('compute', name='nova')
        for interface in interfaces:
            service.add_endpoint(interface, NOVA, region=region)
        mock.post(f'{KEYSTONE}/auth/tokens', json=token, headers={'X-Subject-Token': 'token'})
        mock.get(KEYSTONE, json={'version': fixture.V3Discovery(KEYSTONE)})
        mock.get(NOVA, json={'version': {
            'id': 'v2.1', 'status': 'CURRENT', 'version': '2.100', 'min_version': '2.1',
            'links': [{'rel': 'self', 'href': NOVA}]}})
        self.action = mock.post(f'{NOVA}/servers/{GUEST}/action', status_code=202)
        self.is_at('node1')

    def is_at(self, host, task=None):
        self.mock.get(f'{NOVA}/servers/{GUEST}', json={'server': {
            'id': GUEST, 'OS-EXT-SRV-ATTR:host': host, 'OS-EXT-STS:task_state': task, 'status': 'ACTIVE'}})

    def tells_why(self, *events):
        started = [{'action': 'create', 'request_id': 'req-0', 'start_time': '2026-01-01T00:00:00'},
                   {'action': 'live-migration', 'request_id': 'req-2', 'start_time': '2026-01-03T00:00:00'},
                   {'action': 'live-migration', 'request_id': 'req-1', 'start_time': '2026-01-02T00:00:00'}]
        base = f'{NOVA}/servers/{GUEST}/os-instance-actions'
        self.mock.get(base, json={'instanceActions': started})
        self.mock.get(f'{base}/req-2', json={'instanceAction': started[1] | {'events': list(events)}})


@pytest.fixture
def cloud(requests_mock):
    return Cloud(requests_mock)


def nova(tmp_path, **section):
    return api.Nova(configured(tmp_path, **section), 'node1')


# -- what is sent ------------------------------------------------------------------------------------------------

def test_a_live_migration_is_asked_for_without_a_target_and_without_force(cloud, tmp_path):
    nova(tmp_path).ask(GUEST)
    assert cloud.action.last_request.json() == {'os-migrateLive': {'host': None, 'block_migration': 'auto'}}
    version = cloud.action.last_request.headers['OpenStack-API-Version']
    assert version.startswith('compute 2.') and int(version.partition('.')[2]) >= 30


def test_nothing_is_asked_before_the_first_question(cloud, tmp_path):
    asking = nova(tmp_path)
    assert cloud.mock.call_count == 0
    asking.ask(GUEST)
    logins = [r for r in cloud.mock.request_history if r.path.endswith('/auth/tokens')]
    asking.ask(GUEST)
    assert len(logins) == len([r for r in cloud.mock.request_history if r.path.endswith('/auth/tokens')]) == 1
    assert logins[0].timeout == 30


def test_another_section_may_hold_the_credentials(cloud, tmp_path):
    conf = configured(tmp_path, **dict.fromkeys(SECTION) | {'auth_section': 'placement', 'region_name': 'RegionOne'})
    path = tmp_path / 'nova.conf'
    path.write_text(path.read_text() + '[placement]\n' + ''.join(
        f'{k} = {v}\n' for k, v in SECTION.items() if k != 'region_name'))
    conf.reload_config_files()
    api.Nova(conf, 'node1').ask(GUEST)
    assert cloud.action.called


# -- what the answers mean ---------------------------------------------------------------------------------------

def test_a_guest_that_nova_works_on_is_under_way(cloud, tmp_path):
    cloud.is_at('node1', 'migrating')
    assert nova(tmp_path).outcome(GUEST) == Departure(guest=GUEST)


def test_a_guest_on_another_host_or_deleted_is_gone(cloud, tmp_path):
    cloud.is_at('node2')
    assert nova(tmp_path).outcome(GUEST) == Departure(guest=GUEST, ended=True)
    cloud.mock.get(f'{NOVA}/servers/{GUEST}', status_code=404)
    assert nova(tmp_path).outcome(GUEST) == Departure(guest=GUEST, ended=True)


@pytest.mark.parametrize('events, why', [
    ([{'event': 'conductor', 'result': 'Error', 'details': 'No valid host was found. There are not enough hosts.'}],
     'No valid host was found. There are not enough hosts.'),
    ([{'event': 'ok', 'result': 'Success'},
      {'event': 'conductor', 'result': 'Error', 'details': None, 'traceback': 'Traceback:\n  x\nMigrationError: y\n'}],
     'MigrationError: y'),
    ([{'event': 'conductor', 'result': 'Success'}], 'the guest is still here'), ([], 'the guest is still here')])
def test_a_guest_that_stays_has_novas_words_on_the_last_try(cloud, tmp_path, events, why):
    cloud.tells_why(*events)
    told = nova(tmp_path).outcome(GUEST)
    assert told.ended and why in told.error


def test_a_guest_that_stays_without_a_reason_stays_all_the_same(cloud, tmp_path):
    cloud.mock.get(f'{NOVA}/servers/{GUEST}/os-instance-actions', status_code=403)
    assert 'still here' in nova(tmp_path).outcome(GUEST).error


# -- faults ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('section, words', [
    (dict.fromkeys(SECTION), ['[ovc_nova] auth_type is not set']),
    ({'auth_url': None}, ['[ovc_nova] lacks', 'auth_url']),
    ({'auth_type': 'passwort'}, ['[ovc_nova] auth_type = passwort', 'set password'])])
def test_a_section_that_cannot_be_used_is_said_at_the_start_and_stops_nothing(tmp_path, section, words):
    found, why = api.nova_or_why(configured(tmp_path, **section), 'node1')
    assert found is None and all(word in why for word in words)


@pytest.mark.parametrize('where, answer, words', [
    ('keystone', dict(status_code=401), ['keystone refuses the user', 'password']),
    ('keystone', dict(exc=requests.exceptions.ConnectionError('refused')), ['cannot be reached', 'auth_url']),
    ('keystone', dict(exc=requests.exceptions.SSLError('self-signed')), ['not trusted', 'cafile']),
    ('keystone', dict(exc=requests.exceptions.ConnectTimeout('slow')), ['cannot be reached', 'auth_url']),
    ('nova', dict(status_code=403), ['may not', 'role admin', 'migrate_live']),
    ('nova', dict(status_code=409, json={'conflictingRequest': {'message': 'Instance is locked', 'code': 409}}),
     ['Instance is locked']),
    ('nova', dict(exc=requests.exceptions.ConnectionError('refused')), ['cannot be reached', 'endpoint_override'])])
def test_every_fault_names_what_to_mend(cloud, tmp_path, where, answer, words):
    cloud.mock.post(f'{KEYSTONE}/auth/tokens' if where == 'keystone' else f'{NOVA}/servers/{GUEST}/action', **answer)
    with pytest.raises(api.NovaError) as caught:
        nova(tmp_path).ask(GUEST)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize('error', [requests.exceptions.ReadTimeout, requests.exceptions.ConnectTimeout])
def test_a_nova_that_does_not_answer_in_time_may_have_heard(cloud, tmp_path, error):
    cloud.mock.post(f'{NOVA}/servers/{GUEST}/action', exc=error('slow'))
    with pytest.raises(TimeoutError) as caught:
        nova(tmp_path).ask(GUEST)
    assert isinstance(caught.value, api.NovaError) and 'in time' in str(caught.value)


@pytest.mark.parametrize('section', [{'region_name': 'Elsewhere'}, {'valid_interfaces': 'admin'}])
def test_a_catalogue_without_nova_names_region_and_interface(cloud, tmp_path, section):
    with pytest.raises(api.NovaError) as caught:
        nova(tmp_path, **section).ask(GUEST)
    assert 'region_name' in str(caught.value) and 'valid_interfaces' in str(caught.value), str(caught.value)


def test_a_user_who_is_not_told_the_host_is_told_which_role_it_lacks(cloud, tmp_path):
    cloud.mock.get(f'{NOVA}/servers/{GUEST}', json={'server': {'id': GUEST, 'OS-EXT-STS:task_state': None}})
    with pytest.raises(api.NovaError, match='role admin'):
        nova(tmp_path).outcome(GUEST)


def test_an_endpoint_may_be_named_where_the_catalogue_is_wrong(requests_mock, tmp_path):
    cloud = Cloud(requests_mock, region='Elsewhere')
    nova(tmp_path, endpoint_override=NOVA).ask(GUEST)
    assert cloud.action.called


def test_the_password_is_not_in_what_is_logged():
    [(_, options)] = api.list_opts()
    assert {o.dest: o.secret for o in options}['password']
