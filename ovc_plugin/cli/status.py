# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc status``: ask every host, print every host and guest."""
from __future__ import annotations

import argparse
import json
import logging
import time
import typing

import rich.console
import rich.live
from cliff import command
from oslo_config import cfg
from rich.text import Text

from ovc_plugin import conf as options
from ovc_plugin import display, rpc
from ovc_plugin.cli import bus, hosts

LOG = logging.getLogger('ovc')

EXAMPLES = bus.WHICH_HOSTS + '''
examples:
  ovc status                                  on a nova controller: every host
  ovc status --host compute1 --host compute2  these two
  ovc status --watch                          again every 5 s, until ^C
  ovc status --json | jq '.hosts[].status.report.level'
  ovc status --config-file /etc/ovc/ovc.conf  hosts of ovc-agent, by its transport_url

exit status:
  0  every host answered
  1  some host did not; what it last told nova is shown instead
  2  wrong usage or configuration; the message names the remedy
'''


class Status(command.Command):
    """Show every host and guest: level, headroom, what is promised, and why what was done last was done.

    Asks each host's nova-compute (or ovc-agent) over the message bus of nova.conf. Amounts are in MB; bytes with
    --json.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = EXAMPLES
        bus.add_arguments(parser)
        parser.add_argument('--watch', type=bus.seconds, nargs='?', const=5.0, metavar='S',
                            help='ask again every S seconds (default: 5)')
        parser.add_argument('--json', action='store_true', help='print one JSON object, in bytes and seconds')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.watch and parsed_args.json:
            LOG.error('ovc status: --watch and --json exclude each other: run it with --json again and again instead')
            return 2
        try:
            return self._run(parsed_args)
        except (options.ConfigError, rpc.RpcError) as error:
            LOG.error('ovc status: %s', error)
            return 2

    def _run(self, args: argparse.Namespace) -> int:
        conf, line, found = bus.connect(args)
        if found.remark:
            LOG.warning('ovc status: %s', found.remark)
        if args.watch:
            return self._watch(conf, line, found, args)
        views = look(conf, line, found, args.timeout)
        if args.json:
            print(json.dumps({'hosts': {view.host: view.to_dict() for view in views}}), file=self.app.stdout)
        else:
            self._console().print(page(views), soft_wrap=True)
        return int(any(view.status is None for view in views) or not found.whole)

    def _watch(self, conf: cfg.ConfigOpts, line: typing.Any, found: hosts.Found, args: argparse.Namespace) -> int:
        with rich.live.Live(console=self._console(), auto_refresh=False, vertical_overflow='visible') as live:
            while True:
                views = look(conf, line, found, args.timeout)
                live.update(page(views), refresh=True)
                time.sleep(args.watch)

    def _console(self) -> rich.console.Console:
        return rich.console.Console(file=self.app.stdout, highlight=False,
                                    width=None if self.app.stdout.isatty() else display.WIDTH)


def look(conf: cfg.ConfigOpts, line: typing.Any, found: hosts.Found, timeout: float) -> list[display.HostView]:
    """Ask once; for the silent ones take what nova last heard, where that can be had."""
    answers = rpc.ask(line, found.names, timeout=timeout)
    reports = found.reports or {}
    if any(isinstance(answer, str) for answer in answers.values()) and options.is_set(
            conf, 'api_database', 'connection'):
        try:
            reports = hosts.last_reports(conf)
        except options.ConfigError as error:
            LOG.warning('ovc status: %s', error)
    return [hosts.view(host, answer, reports.get(host)) for host, answer in sorted(answers.items())]


def page(views: list[display.HostView]) -> Text:
    text = display.hosts(views)
    text.append('\n')
    return text.append(display.guests(views, time.time()))
