# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What commands that ask hosts have in common: which configuration, which hosts, which message bus."""
from __future__ import annotations

import argparse
import os
import typing

from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin import rpc
from ovc_plugin.cli import hosts

WHICH_HOSTS = '''\
which hosts:
  those of --host; else all in nova's database ([api_database] connection in the
  configuration); else the compute services of the cloud (OS_CLOUD, or OS_AUTH_URL and
  its like); else this machine alone.
'''


class Asking(typing.NamedTuple):
    """The configuration, the message bus, and the hosts to ask."""

    conf: cfg.ConfigOpts
    bus: typing.Any
    found: hosts.Found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--host', action='append', default=[], metavar='HOST',
                        help='ask this host; may be given more than once')
    parser.add_argument('--config-file', action='append', default=[], metavar='FILE',
                        help='take transport_url and the database from here; may be given more than once '
                             f'(default: {options.NOVA_CONF} if it is there, else {options.OVC_CONF})')
    parser.add_argument('--timeout', type=seconds, default=5.0, metavar='S',
                        help='seconds to wait for each host (default: 5)')


def connect(args: argparse.Namespace) -> Asking:
    """By the arguments of :func:`add_arguments`.

    :raises ConfigError, RpcError: the message names the remedy.
    """
    conf, files = cfg.ConfigOpts(), args.config_file or default_files()
    options.read_files(conf, files, prog='ovc')
    if not rpc.has_transport(conf):
        raise options.ConfigError(f'no transport_url in {", ".join(files) or "any configuration file"}: name '
                                  'nova\'s configuration, or ovc-agent\'s, with --config-file')
    found = hosts.find(conf, args.host)
    options.read_files(cfg.CONF, files, prog='ovc')
    bus = rpc.transport(cfg.CONF)
    if not found.names:
        raise options.ConfigError('nova knows of no compute host yet: start nova-compute, or name hosts with --host')
    return Asking(conf, bus, found)


def default_files() -> list[str]:
    return next(([path] for path in (options.NOVA_CONF, options.OVC_CONF) if os.path.exists(path)), [])


def seconds(text: str) -> float:
    try:
        if 0.1 <= (value := float(text)) <= 3600:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'{text} is not a number of seconds from 0.1 to 3600')
