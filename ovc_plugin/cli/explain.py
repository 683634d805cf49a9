# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc explain``: one guest, what it may have, what it has, and why it is treated as it is."""
from __future__ import annotations

import argparse
import collections
import json
import logging
import time
import typing

import rich.console
from cliff import command

from ovc_plugin import conf as options
from ovc_plugin import describe, display, rpc
from ovc_plugin.cli import bus, log
from ovc_plugin.decide import why

LOG = logging.getLogger('ovc')
Fields = dict[str, typing.Any]

EXAMPLES = bus.WHICH_HOSTS + '''
examples:
  ovc explain web-1                                  by the name its user gave it
  ovc explain instance-0000002a --host compute1      by libvirt's name, on one host
  ovc explain 7c2f0d5e                               by its uuid, or how that begins
  ovc explain web-1 --record /var/lib/ovc/record     as it was when it was last recorded
  ovc explain web-1 --record LOG --at 2026-03-01T04:30:00Z

exit status:
  0  found
  1  no host that answered knows such a guest
  2  wrong usage or configuration; the message names the remedy
'''


class Explain(command.Command):
    """Say what a guest may have, what it has, what was last done to it and why, and what is next or keeps it away."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = EXAMPLES
        parser.add_argument('guest', metavar='GUEST', help='name, uuid, or the first four or more digits of the uuid')
        bus.add_arguments(parser)
        parser.add_argument('--record', action='append', default=[], metavar='LOG',
                            help='look into this decision log (a file or a directory) and ask no host')
        parser.add_argument('--at', type=log.moment, metavar='TIME',
                            help='with --record: the last pass before this time, such as 2026-03-01T04:30:00Z')
        parser.add_argument('--json', action='store_true', help='print one JSON object')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.at is not None and not parsed_args.record:
            LOG.error('ovc explain: --at looks back, and hosts know the present alone: name a decision log with '
                      '--record, such as /var/lib/ovc/record')
            return 2
        try:
            if parsed_args.record:
                accounts = recorded(parsed_args.record, parsed_args.guest, parsed_args.at)
            else:
                accounts = live(parsed_args)
        except (options.ConfigError, rpc.RpcError) as error:
            LOG.error('ovc explain: %s', error)
            return 2
        if not accounts:
            LOG.error('ovc explain: no guest %s there: it goes by its name, libvirt\'s name of it (instance-…) or its '
                      'uuid; "ovc status" lists all', parsed_args.guest)
            return 1
        if parsed_args.json:
            print(json.dumps({'hosts': accounts}), file=self.app.stdout)
        else:
            console = rich.console.Console(file=self.app.stdout, highlight=False, width=display.WIDTH)
            for account in accounts:
                console.print(display.account(account, time.time()), soft_wrap=True, end='')
        return 0


def live(args: argparse.Namespace) -> list[Fields]:
    """The answers of all hosts that know the guest; what the others said is a warning where none does."""
    asking = bus.connect(args)
    if asking.found.remark:
        LOG.warning('ovc explain: %s', asking.found.remark)
    answers = rpc.ask(asking.bus, asking.found.names, timeout=args.timeout, call='explain', guest=args.guest)
    known = [answer for answer in answers.values() if isinstance(answer, dict) and answer.get('guests')]
    if not known:
        for host, answer in sorted(answers.items()):
            if isinstance(answer, str):
                LOG.warning('ovc explain: %s: %s', host, answer)
    return known


def recorded(paths: list[str], guest: str, at: float | None) -> list[Fields]:
    """The guest as the last pass that knew it had it, on each host of the log; with what that host last did until then.
    Files are read in the order in which they are named, which need not be that of their times."""
    found: dict[str, log.Entry] = {}
    last: dict[str, dict[str, Fields]] = collections.defaultdict(dict)
    entries = log.find(paths)
    for entry in entries:
        passed, done = entry.passed, last[entry.host]
        if at is not None and passed.at > at:
            continue
        if why.find(passed.snapshot, guest) and (
                entry.host not in found or found[entry.host].passed.at <= passed.at):
            found[entry.host] = entry
        for outcome in passed.outcomes:
            uuid = getattr(outcome.action, 'guest', None)
            if uuid and (uuid not in done or done[uuid]['at'] <= passed.at):
                done[uuid] = describe.action_fields(outcome, passed.at, passed.names)
    for remark in entries.remarks:
        LOG.warning('ovc explain: %s', remark)
    return [why.explain(e.passed.snapshot, e.passed.state, e.settings.host, e.passed.at, guest, log.decider(e.settings),
                        last[e.host]) | {'at': e.passed.at, 'recorded': log.when(e.passed.at)} for e in found.values()]
