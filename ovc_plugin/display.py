# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the commands print: hosts, guests and plans as text that fits 100 columns. MB here, bytes everywhere else.

What is shown came over the network: what is missing or odd is shown as "-", and what a terminal would obey as "?".
"""
from __future__ import annotations

import dataclasses
import textwrap
import typing

from rich.text import Text

from ovc_plugin import describe
from ovc_plugin.model import MIB, Outcome, Plan
from ovc_plugin.plain import plain

WIDTH = 100
_NAME = 18
_MOST = 1e20
_STYLES = {'CLEAR': 'green', 'SOFT': 'yellow', 'HARD': 'red', 'CRITICAL': 'bold red'}
Fields = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One host as the asker sees it: its ``status``, or the ``error`` and what it last told nova.

    ``age`` is that of the report shown, in seconds.
    """

    host: str
    status: Fields | None = None
    error: str | None = None
    last_report: Fields | None = None
    age: float | None = None

    def to_dict(self) -> Fields:
        return {'error': self.error, 'age': self.age, 'status': self.status, 'last_report': self.last_report}


def mb(amount: typing.Any) -> str:
    return f'{amount / MIB:.0f}' if number(amount) else '-'


def seconds(amount: typing.Any) -> str:
    """A duration in the largest unit that leaves two digits or fewer to read."""
    if not number(amount):
        return '-'
    for size, unit in ((86400, 'd'), (3600, 'h'), (120, 'min')):
        if amount >= size:
            return f'{amount / (60 if unit == "min" else size):.0f} {unit}'
    return f'{amount:.0f} s'


def number(value: typing.Any) -> bool:
    """Whether it is one that can be shown: none that is infinite, or larger than any amount there is."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST < value < _MOST


def _dict(fields: Fields, name: str) -> Fields:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _list(fields: Fields, name: str) -> list[Fields]:
    value = fields.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _table(rows: list[list[str]], left: int, notes: list[list[str]]) -> Text:
    """Columns of ``rows`` (the first is the heading), the first ``left`` flush left; below each row its notes."""
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(len(rows[0]))]
    text = Text()
    for number, (row, below) in enumerate(zip(rows, [[], *notes], strict=True)):
        cells = [cell.ljust(width) if i < left else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=False))]
        line = Text('  '.join(cells).rstrip() + '\n', style='bold' if number == 0 else '')
        for level, style in _STYLES.items():
            line.highlight_words([level], style)
        text.append(line)
        for note in below:
            text.append(paragraph(note), style='dim')
    return text


def hosts(views: typing.Iterable[HostView]) -> Text:
    """Every host in one row, with its reason and its complaints below."""
    rows = [['Host', 'Level', 'Avail', 'Headroom', 'Committed', 'Reserved', 'Saved', 'Swap', 'Age']]
    notes = []
    for view in views:
        report = _dict(view.status or {}, 'report') or view.last_report or {}
        rows.append(_host_row(view, report) if view.status is not None else [_short(view.host), 'no answer'])
        notes.append(_host_notes(view, report))
    return Text('Hosts (MB)\n') + _table(rows, 2, notes)


def _host_row(view: HostView, report: Fields) -> list[str]:
    numbers = [report.get(name) for name in ('available', 'reserve', 'committed', 'total')]
    headroom, ratio = None, ''
    if all(map(number, numbers)):
        available, reserve, committed, total = typing.cast(list[int], numbers)
        headroom = available - reserve
        ratio = f' ({committed / (total - reserve):.2f}x)' if total > reserve else ''
    return [_short(view.host), _short(str(report.get('level', '-'))), mb(report.get('available')),
            mb(headroom), mb(report.get('committed')) + ratio, mb(report.get('reserved')), mb(report.get('saved')),
            f'{mb(report.get("swap_used"))}/{mb(report.get("swap_usable"))}', seconds(view.age)]


def _next(status: Fields) -> str:
    """Whether one more guest like the largest here would be admitted, and why not."""
    if not (told := _dict(status, 'next_guest')):
        return ''
    verdict = "would fit" if told.get("ok") else "is refused"
    return f"one more guest of {mb(told.get('memory'))} MB {verdict}: {told.get('reason')}"


def _predicted(status: Fields) -> str:
    """How often the expected peaks proved too low."""
    told = _dict(status, 'prediction')
    if told.get('error'):
        return f'predictor {told.get("predictor")} failed, nothing is predicted: {told["error"]}'
    parts = [f'{_span(one["horizon"])} {one["missed"]} of {one["judged"]} ({one["share"]:.1%}, margin '
             f'{one["margin"]:.2f})' for one in _list(told, 'horizons') if one.get('judged') and all(
                 number(one.get(name)) for name in ('horizon', 'missed', 'judged', 'share', 'margin'))]
    return f'predicted peaks that were too low: {"; ".join(parts)}' if parts else ''


def _span(horizon: float) -> str:
    return f'{horizon / 3600:.0f} h' if horizon >= 3600 else f'{horizon / 60:.0f} min'


def _host_notes(view: HostView, report: Fields) -> list[str]:
    if view.status is None:
        return [str(view.error), _last_words(view, report)]
    error = _dict(view.status, 'tick').get('error')
    failed = '' if not error else f'last pass failed: {error}' if report else f'does not run: {error}'
    dry = 'dry run: decides, but acts on nothing (dry_run in [ovc_host])' if view.status.get('dry_run') else ''
    unbacked = '' if report.get('backed', True) else 'not every byte promised is backed by memory or swap'
    notes = view.status.get('notes')
    more = _next(view.status)
    means = _dict(view.status, 'watch').get('means')
    watched = f'watched: {means}' if means else ''
    return [str(note) for note in (
        report.get('reason') or ('' if failed else 'no pass has finished yet'), failed, dry, unbacked, more, watched,
        _predicted(view.status),
        _sources(_dict(view.status, 'sources')),
        *(str(note) for note in (notes if isinstance(notes, list) else ()) if note != error)) if note]


def _sources(told: Fields) -> str:
    """What was read, how long each took, how often it failed, and what fails now."""
    parts = []
    for name, record in told.items():
        if not isinstance(record, dict) or not number(record.get('seconds')):
            continue
        often = f', failed {record["failed"]} times' if number(record.get('failed')) and record['failed'] else ''
        error = f', now: {record["error"]}' if record.get('error') else ''
        parts.append(f'{name} {1000 * record["seconds"]:.1f} ms{often}{error}')
    return f'read: {"; ".join(parts)}' if parts else ''


def _last_words(view: HostView, report: Fields) -> str:
    if not report:
        return 'nothing is known of an earlier report'
    return (f'last report {seconds(view.age)} old: {report.get("level", "-")}, {mb(report.get("available"))} MB of '
            f'{mb(report.get("total"))} MB available, {mb(report.get("committed"))} MB committed')


def guests(views: typing.Iterable[HostView], now: float) -> Text:
    """Every guest in one row, with its state and its last action below."""
    rows = [['Guest', 'Host', 'Maximum', 'Reserved', 'Target', 'Actual', 'Resident', 'Swapped', 'Heard']]
    notes = []
    for view in views:
        for guest in _list(view.status or {}, 'guests'):
            rows.append([_short(str(guest.get('name', '-'))), _short(view.host), *(mb(guest.get(name)) for name in (
                'maximum', 'reservation', 'target', 'actual', 'resident', 'swapped')), seconds(guest.get('stats_age'))])
            notes.append([f'{guest.get("uuid", "-")}: {state(guest)}', *_last_action(guest, now)])
    return Text('Guests (MB)\n') + _table(rows, 2, notes) if notes else Text('No guests.\n')


def state(guest: Fields) -> str:
    """What can be done with the guest, in words."""
    if not guest.get('running', True):
        return 'stopped'
    if why := guest.get('untouchable'):
        return f'untouchable: {why}'
    ways = [way for way, can in (('balloon', 'can_balloon'), ('swap', 'can_swap'), ('sharing', 'can_share'))
            if guest.get(can)]
    speaks = any(number(guest.get(age)) for age in ('stats_age', 'published_age'))
    silent = '' if speaks else '; says nothing of its memory, so it is not ballooned'
    if guest.get('busy'):
        silent = '; boots, pauses or moves, so it is not ballooned now'
    needs = ''
    if number(guest.get('need')) and number(guest.get('need_confidence')):
        needs = f'; needs {mb(guest["need"])} MB (confidence {guest["need_confidence"]:.2f})'
    return f'reached by {", ".join(ways) or "no mechanism"}{silent}{needs}'


def _last_action(guest: Fields, now: float) -> list[str]:
    if not (last := _dict(guest, 'last_action')):
        return []
    at = last.get('at')
    when = f'{seconds(now - at)} ago' if number(at) else 'once'
    how = 'would ' if last.get('dry') else '' if last.get('done') else 'could not '
    failed = f' ({last["error"]})' if last.get('error') else ''
    return [f'{when}: {how}{last.get("text", last.get("what", "-"))}{failed}: {last.get("reason", "-")}']


def account(told: Fields, now: float) -> Text:
    """What ``ovc explain`` was told of a guest. ``now`` is when an action's age is counted to."""
    text = Text()
    for guest in _list(told, 'guests'):
        names = [str(guest[name]) for name in ('title', 'name', 'uuid') if guest.get(name)]
        place = f'on {told.get("host", "-")}, level {told.get("level", "-")}: {told.get("reason", "-")}'
        text.append(plain(" / ".join(dict.fromkeys(names)) or "-") + '\n', style='bold')
        when = f'recorded {told["recorded"]}' if 'recorded' in told else f'{seconds(told.get("age"))} ago'
        text.append(paragraph(f'{place} ({when})'))
        then = told.get('at') if number(told.get('at')) else now
        for heading, lines in (('May have', guest.get('may')), ('Has', guest.get('has')),
                               ('Last done', _last_action(guest, then) or ['nothing that is remembered']),
                               ('Next', guest.get('next'))):
            text.append(f'  {heading}\n')
            for line in lines if isinstance(lines, list) else ['-']:
                text.append(paragraph(str(line)))
    return text


def plan(done: Plan, outcomes: typing.Sequence[Outcome], names: typing.Mapping[str, str]) -> Text:
    """One pass's plan, with the reason of the level and of every action."""
    text = Text(f'Plan: level {done.level.name}, {len(outcomes) or "no"} action{"s" * (len(outcomes) != 1)}\n')
    text.highlight_words([done.level.name], _STYLES[done.level.name])
    for line in (done.reason, *(describe.sentence(outcome, names) for outcome in outcomes)):
        text.append(paragraph(line))
    return text


def paragraph(note: str, indent: int = 4) -> str:
    """A paragraph, its lines after the first set in by two more."""
    return textwrap.fill(plain(note, '\n\t'), WIDTH, initial_indent=' ' * indent, subsequent_indent=' ' * (indent + 2),
                         break_long_words=False, break_on_hyphens=False) + '\n'


def _short(name: str) -> str:
    name = plain(name)
    return name if len(name) <= _NAME else f'{name[:_NAME - 6]}…{name[-5:]}'
