# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc check``: is what nova and this host are set to safe, and does it work?"""
from __future__ import annotations

import argparse
import contextlib
import json
import logging
import typing

from cliff import command
from oslo_config import cfg
from rich.console import Console
from rich.text import Text

from ovc_plugin import conf as options
from ovc_plugin import display, unread
from ovc_plugin.cli import bus, check_cloud, check_host, check_scheduler, findings
from ovc_plugin.cli.findings import Finding, Severity
from ovc_plugin.plain import plain
from ovc_plugin.settings import Settings

LOG = logging.getLogger('ovc')
CONTROLLER, COMPUTE = 'controller', 'compute'
_STYLES = {Severity.OK: 'green', Severity.UNKNOWN: 'dim', Severity.WARNING: 'yellow', Severity.ERROR: 'bold red'}

EXAMPLES = '''\
What this machine is, its configuration says: a compute host where compute_driver is set, a
controller where [api_database] connection is. What cannot be looked at from here is said.

examples:
  ovc check                                   with what nova reads in /etc/nova
  ovc check --config-file /opt/nova.conf      with this file alone
  sudo -u nova ovc check                      the root helper as nova-compute uses it
  ovc check --probe                           also try how old placement is
  ovc check -f json | jq '.findings[] | select(.severity == "error")'

exit status:
  0  no errors; there may be warnings
  1  an error: a promise cannot be kept, or something does not work
  2  wrong usage, or a file that cannot be read
'''


class Check(command.Command):
    """Say what is missing or dangerous in nova's configuration and on this machine, with the line to change."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = EXAMPLES
        bus.add_config_arguments(parser, 'of nova')
        parser.add_argument('--role', action='append', default=[], choices=(CONTROLLER, COMPUTE),
                            help='what this machine is; may be given twice (default: what its configuration says)')
        parser.add_argument('--service-user', default='nova', metavar='USER',
                            help='the user that nova-compute runs as (default: nova)')
        parser.add_argument('--probe', action='store_true',
                            help='try whether placement lets guests leave a full host, with a provider and a resource '
                                 'class that are removed again')
        parser.add_argument('-f', '--format', choices=('text', 'json'), default='text', help='how to print it')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        try:
            found = list(look(parsed_args))
        except options.ConfigError as problem:
            LOG.error('ovc check: %s', problem)
            return 2
        if parsed_args.format == 'json':
            print(json.dumps({'findings': [one.to_dict() for one in found]}, indent=1), file=self.app.stdout)
        else:
            Console(file=self.app.stdout, highlight=False, width=display.WIDTH).print(page(found), soft_wrap=True,
                                                                                     end='')
        return int(findings.worst(found) is Severity.ERROR)


def look(args: argparse.Namespace) -> typing.Iterator[Finding]:
    """All findings, of the files first.

    :raises ConfigError: a file cannot be read.
    """
    read = bus.sources(args)
    conf, more = _read(read)
    if not any(read):
        raise options.ConfigError(f'neither {options.NOVA_CONF} nor {options.OVC_CONF} is there: name nova\'s '
                                  'configuration with --config-file')
    settings = yield from _usable(conf, more, read)
    if settings is None:
        return
    roles = args.role or [role for role, told in (
        (CONTROLLER, conf.api_database.connection), (COMPUTE, conf.compute_driver)) if told]
    if not roles:
        yield findings.unknown('role', f'{read} has neither compute_driver nor [api_database] connection',
                               'name the file that nova-compute or nova-scheduler reads, or say what it is with '
                               '--role; of a host without nova, "ovc-agent --once" tells')
    if CONTROLLER in roles:
        yield from check_scheduler.controller(conf, settings)
    if COMPUTE in roles:
        yield from findings.compute(conf, settings)
        yield from check_host.look(conf, settings, _uri(conf), args.service_user)
        yield from check_cloud.migration(conf, settings)
    yield from check_cloud.releases()
    if roles:
        yield from check_cloud.placement(conf, probe=args.probe)
    if CONTROLLER in roles:
        yield from check_cloud.reports(conf, settings)


def _usable(conf: cfg.ConfigOpts, more: unread.Options,
            read: bus.Sources) -> typing.Generator[Finding, None, Settings | None]:
    """Whether the options can be used at all; ``None``: nothing else can be judged until they are corrected."""
    for one in unread.find(conf, more):
        yield findings.warning('unread option', one.what, one.change)
    if strange := list(findings.unusable(conf)):
        yield from strange
        return None
    try:
        settings = options.load(conf)
    except options.ConfigError as problem:
        for line in str(problem).splitlines():
            yield findings.error('options', line, 'correct or remove that line: until then nova-scheduler does not '
                                 'start, and nova-compute runs without the plugin')
        return None
    yield findings.ok('options', f'those of ovc in {read} can be used')
    return settings


def _read(read: bus.Sources) -> tuple[cfg.ConfigOpts, unread.Options]:
    """The configuration, and what [ovc_nova] may hold, where keystoneauth1 is there to tell.

    :raises ConfigError: a file cannot be read.
    """
    conf, known = cfg.ConfigOpts(), False
    also: list[typing.Callable[[cfg.ConfigOpts], None]] = [findings.register]
    with contextlib.suppress(ImportError):
        from ovc_plugin.nova import api, preflight
        also, known = [*also, preflight.register], True
    options.read_files(conf, *read, prog='ovc', also=also)
    options.read_files(cfg.CONF, *read, prog='ovc')
    return conf, api.options_of(conf) if known else ()


def _uri(conf: cfg.ConfigOpts) -> str:
    return str(conf.libvirt.connection_uri or options.load_agent(conf).connection_uri)


def page(found: list[Finding]) -> Text:
    """Errors first; each with what to change below it."""
    text = Text()
    for finding in sorted(found, key=lambda one: -one.severity):
        word = finding.severity.name.lower()
        text.append(display.paragraph(f'{word:8}{finding.check}: {finding.what}', indent=0),
                    style=_STYLES[finding.severity])
        if finding.change and finding.severity is not Severity.OK:
            # In one piece, however long: it is there to be copied.
            text.append(f'{" " * 8}-> {plain(finding.change)}\n')
    counts = [f'{severity.name.lower()}={sum(one.severity is severity for one in found)}'
              for severity in sorted(Severity, reverse=True)]
    return text.append(f'check: {" ".join(counts)}\n')
