# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc replay``: decide again what was decided, from the decision log."""
from __future__ import annotations

import argparse
import collections
import dataclasses
import logging
import typing

from cliff import command
from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin import settings
from ovc_plugin.cli import log
from ovc_plugin.decide import replay
from ovc_plugin.model import MIB, Plan, ReclaimGuest, SetBalloon

LOG = logging.getLogger('ovc')

EXAMPLES = '''\
examples:
  ovc replay /var/lib/ovc/record              everything recorded on this host
  ovc replay h1-000007.jsonl.gz               one file, packed or not, from anywhere
  ovc replay LOG --set ovc_host.balloon_step=0.2 --set ovc_host.dwell=30

Each pass is decided from what was recorded of it, by the rules installed here: the effect of
another decision on the passes after it is not modelled (benchmarks/worlds does that).

exit status:
  0  every plan is the same, but perhaps for the words of its reasons
  1  some plan differs
  2  wrong usage, or nothing that can be read
'''


@dataclasses.dataclass(slots=True)
class Tally:
    """What both did, over all passes."""

    passes: int = 0
    differing: int = 0
    words: int = 0
    first: float = 0.0
    last: float = 0.0
    hosts: set[str] = dataclasses.field(default_factory=set)
    recorded: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    again: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class Replay(command.Command):
    """Decide every recorded pass again with the rules installed here, and show where the plans differ."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = EXAMPLES
        parser.add_argument('log', nargs='+', metavar='LOG', help='a file of a decision log, or a directory of them')
        parser.add_argument('--set', action='append', default=[], metavar='GROUP.OPTION=VALUE', dest='changes',
                            help='decide with this setting in place of the recorded one; may be given more than once')
        parser.add_argument('--most', type=int, default=20, metavar='N',
                            help='differing passes that are shown (default: 20); all are counted')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        try:
            return self._run(parsed_args)
        except options.ConfigError as error:
            LOG.error('ovc replay: %s', error)
            return 2

    def _run(self, args: argparse.Namespace) -> int:
        changes, found, tally = changed(args.changes), log.find(args.log), Tally()
        for entry in found:
            again = decide(entry, changes)
            difference = replay.compare(entry.passed.plan, again, entry.passed.names)
            count(tally, entry, again, difference)
            if difference.lines and tally.differing <= args.most:
                self._print(f'{log.when(entry.passed.at)} {entry.host}')
                for line in difference.lines:
                    self._print(f'    {line}')
        for remark in found.remarks:
            LOG.warning('ovc replay: %s', remark)
        if not tally.passes:
            raise options.ConfigError('nothing there that can be decided again')
        for line in summary(tally, found.unreadable, args.most):
            self._print(line)
        return int(bool(tally.differing))

    def _print(self, line: str) -> None:
        print(line, file=self.app.stdout)


def decide(entry: log.Entry, changes: list[Change]) -> Plan:
    """What the installed rules decide, under the recorded settings but for the changes."""
    used = entry.settings
    for group, name, value in changes:
        part = dataclasses.replace(getattr(used, group), **{name: value})
        used = dataclasses.replace(used, **{group: part})
    return log.decider(used)(entry.passed.snapshot, entry.passed.state, used.host, entry.passed.at)[0]


Change = tuple[str, str, typing.Any]
_PARTS = {'ovc': 'shared', 'ovc_host': 'host', 'ovc_scheduler': 'scheduler'}


def changed(texts: list[str]) -> list[Change]:
    """(part of Settings, field, value) of each "group.option=value", as a configuration file with all of them would
    have it: options that must go together are judged together.

    :raises ConfigError: no such option, a value out of its bounds, or at odds with another.
    """
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    places = [_set(conf, text) for text in texts]
    try:
        loaded = options.load(conf)
    except options.ConfigError as error:
        raise options.ConfigError(f'--set {" --set ".join(texts)}: {error}') from None
    return [(part, name, getattr(getattr(loaded, part), name)) for part, name in places]


def _set(conf: cfg.ConfigOpts, text: str) -> tuple[str, str]:
    place, _, value = text.partition('=')
    group, _, name = place.strip().strip('[]').partition('.')
    kind = next((one for one in settings.GROUPS if group == one.GROUP), None)
    fields = dataclasses.fields(kind) if kind else ()
    field = next((f for f in fields if name in (f.name, options.option_name(f))), None)
    if field is None or not value:
        raise options.ConfigError(f'--set {text}: not GROUP.OPTION=VALUE with an option of {", ".join(_PARTS)}, as '
                                  'ovc_host.balloon_step=0.2')
    try:
        conf.set_override(options.option_name(field), value.strip(), group)
    except ValueError as error:
        raise options.ConfigError(f'--set {text}: {error}') from None
    return _PARTS[group], field.name


def count(tally: Tally, entry: log.Entry, again: Plan, difference: replay.Difference) -> None:
    tally.first = tally.first if tally.passes else entry.passed.at
    tally.last = entry.passed.at
    tally.passes += 1
    tally.hosts.add(entry.host)
    tally.differing += bool(difference.lines)
    tally.words += difference.words
    tally.recorded.update(sums(entry.passed.plan))
    tally.again.update(sums(again))


def sums(plan: Plan) -> dict[str, int]:
    """Actions by kind, and the bytes that they ask for."""
    found: collections.Counter[str] = collections.Counter()
    for action in plan.actions:
        kind = type(action).__name__
        if isinstance(action, SetBalloon):
            kind = 'shrink' if action.target < action.previous else 'grow'
            found[f'{kind} MB'] += abs(action.target - action.previous) // MIB
        elif isinstance(action, ReclaimGuest):
            kind = 'swap'
            found['swap MB'] += action.amount // MIB
        found[kind] += 1
    found[f'level {plan.level.name}'] += 1
    return found


def summary(tally: Tally, unreadable: int, most: int) -> typing.Iterator[str]:
    if tally.differing > most:
        yield f'... and {tally.differing - most} more passes that differ (--most shows more)'
    yield f'{"":16}{"recorded":>12}{"again":>12}'
    for kind in sorted(tally.recorded | tally.again):
        yield f'{kind:16}{tally.recorded[kind]:12}{tally.again[kind]:12}'
    yield (f'replay: hosts={",".join(sorted(tally.hosts))} from={log.when(tally.first)} to={log.when(tally.last)} '
           f'passes={tally.passes} differ={tally.differing} words={tally.words} unreadable={unreadable}')
