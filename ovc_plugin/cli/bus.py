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
# Each of nova's reads the first, and its own; nova-api has no option of ours.
NOVA_PROGRAMS = ('nova', 'nova-compute', 'nova-scheduler')
_NOVA_DIRECTORY = os.path.dirname(options.NOVA_CONF)


class Sources(typing.NamedTuple):
    """Configuration files, and directories of such files, in the order in which they are read."""

    files: list[str]
    directories: list[str]

    def __str__(self) -> str:
        return ', '.join([*self.files, *self.directories])


class Asking(typing.NamedTuple):
    """The configuration, the message bus, and the hosts to ask."""

    conf: cfg.ConfigOpts
    bus: typing.Any
    found: hosts.Found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--host', action='append', default=[], metavar='HOST',
                        help='ask this host; may be given more than once')
    add_config_arguments(parser, 'take transport_url and the database from here')
    parser.add_argument('--timeout', type=seconds, default=5.0, metavar='S',
                        help='seconds to wait for each host (default: 5)')


def add_config_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """The arguments of :func:`sources`."""
    parser.add_argument('--config-file', action='append', default=[], metavar='FILE',
                        help=f'{what}; may be given more than once (default: as nova\'s programs {options.NOVA_CONF}, '
                             f'and {" and ".join(f"{one}.conf" for one in NOVA_PROGRAMS[1:])} beside it; else '
                             f'{options.OVC_CONF})')
    parser.add_argument('--config-dir', action='append', default=[], metavar='DIR',
                        help='a directory of such files (*.conf), read after those; may be given more than once '
                             f'(default: with files of {_NOVA_DIRECTORY}, as nova does, {options.NOVA_CONF}.d and '
                             'those of these programs)')


def sources(args: argparse.Namespace) -> Sources:
    """What to read by the arguments of :func:`add_config_arguments`.

    Without any: what nova's programs read when they are told nothing, else the file of ovc-agent. With files of nova's
    own directory come the directories there, as with nova itself, unless others are named.
    """
    nova = os.path.dirname(options.NOVA_CONF)
    of_nova = [os.path.join(nova, f'{program}.conf') for program in NOVA_PROGRAMS]
    files = args.config_file or list(filter(_there, of_nova)) or list(filter(_there, [options.OVC_CONF]))
    if args.config_dir or any(os.path.dirname(os.path.abspath(file)) != nova for file in files):
        return Sources(files, args.config_dir)
    return Sources(files, [directory for file in of_nova if _there(directory := f'{file}.d')])


def _there(path: str) -> bool:
    """Of what may not be looked at it is not known: reading it will tell."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def connect(args: argparse.Namespace) -> Asking:
    """By the arguments of :func:`add_arguments`.

    :raises ConfigError, RpcError: the message names the remedy.
    """
    conf, read = cfg.ConfigOpts(), sources(args)
    options.read_files(conf, *read, prog='ovc')
    if not rpc.has_transport(conf):
        raise options.ConfigError(f'no transport_url in {str(read) or "any configuration file"}: name '
                                  'nova\'s configuration, or ovc-agent\'s, with --config-file')
    found = hosts.find(conf, args.host)
    options.read_files(cfg.CONF, *read, prog='ovc')
    bus = rpc.transport(cfg.CONF)
    if not found.names:
        raise options.ConfigError('nova knows of no compute host yet: start nova-compute, or name hosts with --host')
    return Asking(conf, bus, found)


def seconds(text: str) -> float:
    try:
        if 0.1 <= (value := float(text)) <= 3600:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'{text} is not a number of seconds from 0.1 to 3600')
