# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The hosts nova knows and the last report of each, from nova's databases: what ``ovc status`` has of a silent host."""
from __future__ import annotations

import typing

from oslo_config import cfg

from ovc_plugin import report as reports


class InventoryError(RuntimeError):
    """Nova's hosts cannot be listed; the message names the remedy."""


class Known(typing.NamedTuple):
    """A host's last report as text (``None``: it sends none), and when its nova-compute was last seen, in seconds.
    ``apart``: in words, why no report is to be expected of it."""

    report: str | None
    seen: float
    apart: str = ''


T = typing.TypeVar('T')
LIBVIRT = 'QEMU'  # what nova's libvirt driver tells of its hypervisor, whatever virt_type


class Listed(dict[str, T]):
    """What is known, by host. ``left_out`` says in words which cells nothing is known of, and why, ``apart`` by host
    why no report is to be expected of it."""

    left_out: tuple[str, ...] = ()
    apart: typing.Mapping[str, str] = {}


def last_reports(conf: cfg.ConfigOpts) -> Listed[str | None]:
    """The last report, as text, of every nova-compute host. See :func:`known_hosts`."""
    hosts = known_hosts(conf)
    found = Listed[str | None]({host: known.report for host, known in hosts.items()})
    found.left_out = hosts.left_out
    found.apart = {host: known.apart for host, known in hosts.items() if known.apart}
    return found


def known_hosts(conf: cfg.ConfigOpts) -> Listed[Known]:
    """Every host with a nova-compute, in all cells. ``conf`` says which configuration files to give nova.

    :raises InventoryError: nova is not installed here, its API database is not configured, or it does not answer.
    """
    try:
        # Without nova.monkey_patch: we start none of nova's threads, and oslo.messaging may be loaded already.
        from nova import config, objects, rpc
    except ImportError:
        raise InventoryError('nova is not installed in this environment: run the command where nova-scheduler '
                             'runs') from None
    files = [part for name in conf.config_file or () for part in ('--config-file', name)]
    files += [part for name in conf.config_dir or () for part in ('--config-dir', name)]
    config.parse_args(['ovc', *files], init_rpc=False)
    # A cell's mapping may refer to nova's own transport_url, an option that is known only once it was asked for.
    rpc.get_transport_url()
    objects.register_all()
    return known_hosts_of(config.CONF)


def known_hosts_of(nova_conf: typing.Any) -> Listed[Known]:
    """The same, for a nova that is configured already."""
    from nova import context, objects
    from oslo_db import exception as db_exception
    if not nova_conf.api_database.connection:
        raise InventoryError('[api_database] connection is not set: name nova-api\'s or nova-scheduler\'s '
                             'configuration with --config-file (a compute host has no database)')
    admin = context.get_admin_context()
    try:
        cells = objects.CellMappingList.get_all(admin)
    except db_exception.DBError as error:
        raise InventoryError(f'nova\'s API database does not answer ({_first_line(error)}): is it up, and is '
                             '[api_database] connection right?') from None
    found = Listed[Known]()
    for cell in cells:
        try:
            with context.target_cell(admin, cell) as targeted:
                found.update(_one_cell(targeted))
        except db_exception.DBError as error:
            found.left_out += (f'cell {cell.name} ({cell.uuid}) is left out, its database does not answer: '
                               f'{_first_line(error)}',)
    return found


def _one_cell(targeted: typing.Any) -> dict[str, Known]:
    from nova import objects
    services = objects.ServiceList.get_by_binary(targeted, 'nova-compute', include_disabled=True)
    # Not updated_at: that moves with any change of the record, such as disabling the service.
    found = {service.host: Known(None, (service.last_seen_up or service.created_at).timestamp(), _closed(service))
             for service in services}
    for node in objects.ComputeNodeList.get_all(targeted):
        if node.host in found:
            one = found[node.host]
            kind = node.hypervisor_type or LIBVIRT
            other = f'its hypervisor is {kind}' if kind != LIBVIRT else ''
            found[node.host] = one._replace(report=(node.stats or {}).get(reports.STATS_KEY), apart=one.apart or other)
    return found


def _closed(service: typing.Any) -> str:
    if not (service.disabled or service.forced_down):
        return ''
    why = f' ({service.disabled_reason})' if service.disabled and service.disabled_reason else ''
    return f'{"disabled" if service.disabled else "forced down"}{why}'


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
