# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Looking at placement before trusting it: whether it answers, how old it is, and what its clock says.

Placement before 14 keeps guests from leaving a host whose ratio was set below what is used. Its API does not tell the
release: only that it is older than 8 (microversion below 1.39). The package where it is installed beside us tells, and
:func:`lets_leave` finds out by trying, with a provider and a resource class of its own that no guest can ask for. The
driver tries at its first audit, ``ovc check --probe`` when it is asked to.
"""
from __future__ import annotations

import dataclasses
import email.utils
import importlib.metadata
import math
import time
import typing
import uuid

from keystoneauth1 import exceptions as ksa
from keystoneauth1 import loading
from oslo_config import cfg

OLDEST = 14
TESTED = range(32, 35)  # of nova
MICROVERSION = '1.39'  # placement 8 to 16; none of these tells itself from the others
GROUP = 'placement'
PROBE = 'CUSTOM_OVC_PROBE'
SAME = 1e-3  # placement's database may hold single precision


class PlacementError(RuntimeError):
    """Placement cannot be asked; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """``newest`` is its newest microversion, ``ahead`` how many seconds its clock is ahead of this one's (a request's
    duration fewer or more), ``release`` that of the package where it is installed here."""

    newest: str
    ahead: float | None
    release: str | None


def register(conf: cfg.ConfigOpts) -> None:
    loading.register_auth_conf_options(conf, GROUP)
    loading.register_session_conf_options(conf, GROUP)
    names = {option.dest for option in loading.get_session_conf_options()}
    conf.register_opts([option for option in loading.get_adapter_conf_options(include_deprecated=False)
                        if option.dest not in names], group=GROUP)


def adapter(conf: cfg.ConfigOpts) -> typing.Any:
    """:raises PlacementError: [placement] cannot be used."""
    try:
        auth = loading.load_auth_from_conf_options(conf, GROUP)
        if auth is None:
            raise PlacementError('[placement] has no auth_type')
        session = loading.load_session_from_conf_options(conf, GROUP, auth=auth, timeout=10)
        if conf[GROUP].service_type is None:
            conf.set_override('service_type', 'placement', group=GROUP)
        return loading.load_adapter_from_conf_options(conf, GROUP, session=session)
    except (ksa.ClientException, cfg.Error) as error:
        raise PlacementError(_line(error)) from None


def look(client: typing.Any) -> Placement:
    """:raises PlacementError: it does not answer as placement does."""
    began = time.time()
    try:
        answer = client.get('/', headers={'Accept': 'application/json'}, raise_exc=False)
    except ksa.ClientException as error:
        raise PlacementError(_line(error)) from None
    ended = time.time()
    ahead = _ahead(answer.headers.get('Date'), began, ended)
    return Placement(newest=newest_of(answer), ahead=ahead, release=installed())


def newest_of(answer: typing.Any) -> str:
    """The newest microversion of the answer to a GET of placement's root.

    :raises PlacementError: that was not placement.
    """
    try:
        return str(answer.json()['versions'][0]['max_version'])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PlacementError(f'does not answer as placement does ({_line(error)})') from None


def installed() -> str | None:
    try:
        return importlib.metadata.version('openstack-placement')
    except importlib.metadata.PackageNotFoundError:
        return None


def too_old(newest: str) -> bool:
    """Whether the microversion alone shows that it is older than 14."""
    return _numbers(newest) < _numbers(MICROVERSION)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split('.') if part.isdigit())


def _ahead(date: str | None, began: float, ended: float) -> float | None:
    """The Date header has whole seconds: what it is ahead or behind beyond that and the request's own duration."""
    try:
        told = email.utils.parsedate_to_datetime(date or '').timestamp()
    except ValueError:
        return None
    if told + 1 < began:
        return told + 1 - began
    return max(0.0, told - ended)


def lets_leave(client: typing.Any) -> bool:
    """Try whether guests may leave a host whose ratio is below what is used: make such a host, and move its guest.

    :raises PlacementError: it refused something else than want of room; all that was made is removed all the same.
    """
    provider, guest, moved = (str(uuid.uuid4()) for _ in range(3))
    # A class of its own for each trial: hosts that start together must not remove each other's.
    probe = f'{PROBE}_{provider.replace("-", "").upper()}'
    try:
        _do(client, 'put', f'/resource_classes/{probe}')
        _do(client, 'post', '/resource_providers', {'uuid': provider, 'name': f'ovc-probe-{provider}'})
        _inventory(client, provider, probe, 0, 2.0)
        _do(client, 'put', f'/allocations/{guest}', _allocation(provider, probe))
        generation = _do(client, 'get', f'/resource_providers/{provider}').json()['generation']
        _inventory(client, provider, probe, generation, 0.5)
        found = client.post('/allocations', raise_exc=False, microversion='1.36', json={
            guest: {**_allocation(provider, probe), 'allocations': {}, 'consumer_generation': 1},
            moved: _allocation(provider, probe)})
        if found.status_code >= 300 and (found.status_code != 409 or 'concurrent_update' in found.text):
            raise PlacementError(f'POST /allocations: {found.status_code} {found.text[:200]}')
        return bool(found.status_code < 300)
    except (ksa.ClientException, KeyError, ValueError) as error:
        raise PlacementError(_line(error)) from None
    finally:
        for path in (f'/allocations/{guest}', f'/allocations/{moved}', f'/resource_providers/{provider}',
                     f'/resource_classes/{probe}'):
            try:
                client.delete(path, raise_exc=False, microversion='1.36')
            except ksa.ClientException:
                continue


def used_mb(client: typing.Any, provider: str) -> int:
    """MEMORY_MB that is allocated on a host.

    :raises PlacementError: it does not say.
    """
    try:
        return int(_do(client, 'get', f'/resource_providers/{provider}/usages').json()['usages'].get('MEMORY_MB', 0))
    except (ksa.ClientException, KeyError, TypeError, ValueError) as error:
        raise PlacementError(_line(error)) from None


def floor(used: int, memory: typing.Mapping[str, typing.Any]) -> float:
    """The least ratio at which ``used`` MB fit an inventory of MEMORY_MB."""
    capacity = memory['total'] - memory.get('reserved', 0)
    return math.ceil(used / capacity * 1e4) / 1e4 if capacity > 0 else 0.0


def give_back(client: typing.Any, provider: str, ours: list[float], ratio: float) -> bool:
    """Set a host's MEMORY_MB allocation_ratio back to ``ratio``, if it is one of ``ours``; whether it was.

    :raises PlacementError: it does not take it, or guests could then not be moved away.
    """
    path = f'/resource_providers/{provider}/inventories/MEMORY_MB'
    try:
        memory = _do(client, 'get', path).json()
        if not any(abs(memory['allocation_ratio'] - one) < SAME for one in ours):
            return False
        used = used_mb(client, provider)
        if ratio < floor(used, memory) and not lets_leave(client):
            raise PlacementError(f'{used} MB are in use there, and placement is older than {OLDEST}: guests could not '
                                 'be moved away afterwards; move some away first')
        _do(client, 'put', path, {**memory, 'allocation_ratio': ratio})
    except (ksa.ClientException, KeyError, ValueError) as error:
        raise PlacementError(_line(error)) from None
    return True


class OfNova:
    """Nova's own client of placement (``SchedulerReportClient``), as the functions here take one."""

    def __init__(self, client: typing.Any) -> None:
        self._client = client

    def get(self, path: str, *, microversion: str | None = None, raise_exc: bool = True) -> typing.Any:
        return self._checked(self._client.get(path, version=microversion), path, raise_exc)

    def put(self, path: str, *, microversion: str, raise_exc: bool = True, json: typing.Any = None) -> typing.Any:
        return self._checked(self._client.put(path, json, version=microversion), path, raise_exc)

    def post(self, path: str, *, microversion: str, raise_exc: bool = True, json: typing.Any = None) -> typing.Any:
        return self._checked(self._client.post(path, json, version=microversion), path, raise_exc)

    def delete(self, path: str, *, microversion: str, raise_exc: bool = True) -> typing.Any:
        return self._checked(self._client.delete(path, version=microversion), path, raise_exc)

    def _checked(self, answer: typing.Any, path: str, raise_exc: bool) -> typing.Any:
        if raise_exc and answer.status_code >= 400:
            raise PlacementError(f'{path}: {answer.status_code} {answer.text[:200]}')
        return answer


def _inventory(client: typing.Any, provider: str, probe: str, generation: int, ratio: float) -> None:
    _do(client, 'put', f'/resource_providers/{provider}/inventories', {
        'resource_provider_generation': generation,
        'inventories': {probe: {'total': 100, 'allocation_ratio': ratio}}})


def _allocation(provider: str, probe: str) -> dict[str, typing.Any]:
    owner = '00000000-0000-0000-0000-000000000000'
    return {'allocations': {provider: {'resources': {probe: 60}}}, 'project_id': owner, 'user_id': owner,
            'consumer_generation': None}


def _do(client: typing.Any, method: str, path: str, body: dict[str, typing.Any] | None = None) -> typing.Any:
    return getattr(client, method)(path, microversion='1.36', **({'json': body} if body is not None else {}))


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
