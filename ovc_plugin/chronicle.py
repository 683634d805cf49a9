# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a host's controller has told: to the log as it happens, to ``ovc status`` when asked. Nothing is said twice."""
from __future__ import annotations

import collections
import logging
import re
import time
import typing

from ovc_plugin import describe
from ovc_plugin.model import HostSnapshot, Level, Outcome, Plan, TuneKsm

LOG = logging.getLogger(__name__)
KEPT = 50
_NAMED = 4  # guests that one line names
_AGAIN = 600.0  # seconds in which a note on a guest is logged once, however often it ends and begins: guests cause them
_GUEST = re.compile(r'guest ([^:]+): ')
_NUMBER = re.compile(r'\b\d+(\.\d+)?\b')


def condensed(notes: typing.Collection[str]) -> list[str]:
    """The notes, sorted; those that say the same of several guests as one line with their count and first names."""
    alike: dict[str, list[str]] = {}
    for note in sorted(notes):
        found = _GUEST.match(note)
        alike.setdefault(note[found.end():] if found else note, []).append(found[1] if found else '')
    return [_line(text, names) for text, names in alike.items()]


def _line(text: str, names: list[str]) -> str:
    if names == ['']:
        return text
    if len(names) == 1:
        return f'guest {names[0]}: {text}'
    more = ', …' if len(names) > _NAMED else ''
    return f'{len(names)} guests ({", ".join(names[:_NAMED])}{more}): {text}'


def _kind(note: str) -> str:
    """The note without its numbers, but for those in a guest's name: what it says again with others is nothing new."""
    found = _GUEST.match(note)
    head = found.end() if found else 0
    return note[:head] + _NUMBER.sub('', note[head:])


class Chronicle:
    """The last action on each guest and on the host, the notes that hold now, and the last events."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.guest_actions: dict[str, dict[str, typing.Any]] = {}
        self._host_action: dict[str, typing.Any] | None = None
        self._events: collections.deque[dict[str, typing.Any]] = collections.deque(maxlen=KEPT)
        self._notes: frozenset[str] = frozenset()
        self._logged: dict[str, float] = {}  # notes on guests by kind, and when each was logged last
        self._errors: dict[tuple[str, str], str | None] = {}  # of the last action of each kind on each guest
        self._troubles: dict[str, str] = {}

    def note(self, notes: typing.Iterable[str]) -> None:
        """What the sensors could not do, in words; logged when it begins."""
        told = frozenset(notes)
        if told == self._notes:
            return
        now = time.monotonic()
        self._logged = {kind: at for kind, at in self._logged.items() if now - at < _AGAIN}
        known = {*map(_kind, self._notes), *self._logged}
        fresh = {note for note in told if _kind(note) not in known}
        for text in condensed(fresh):
            LOG.warning('%s: %s', self._host, text)
        self._logged |= {_kind(note): now for note in fresh if _GUEST.match(note)}
        self._notes = told

    def unwritten(self, what: str, note: str | None) -> None:
        """Why ``what`` cannot be written, or is another's; ``None`` when it is well. Logged when it begins."""
        if note is None:
            self._troubles.pop(what, None)
        elif self._troubles.get(what) != note:
            LOG.warning('%s: %s', self._host, note)
            self._troubles[what] = note

    def tell(self, plan: Plan, before: Level, outcomes: list[Outcome], snapshot: HostSnapshot, now: float) -> None:
        """One pass: a change of level, and each action with its reason."""
        names = {g.uuid: g.name for g in snapshot.guests}
        if plan.level != before:
            LOG.info('%s: level %s -> %s: %s', self._host, before.name, plan.level.name, plan.reason)
            self._events.append({'at': now, 'level': plan.level.name, 'text': plan.reason})
        self.note((*snapshot.notes, *plan.notes))
        self.guest_actions = {u: a for u, a in self.guest_actions.items() if u in names}
        self._errors = {key: error for key, error in self._errors.items() if not key[0] or key[0] in names}
        for outcome in outcomes:
            self._one(outcome, names, now)

    def _one(self, outcome: Outcome, names: dict[str, str], now: float) -> None:
        fields, text = describe.action_fields(outcome, now, names), describe.sentence(outcome, names)
        whose = '' if isinstance(outcome.action, TuneKsm) else outcome.action.guest
        if isinstance(outcome.action, TuneKsm):
            self._host_action = fields
        else:
            self.guest_actions[outcome.action.guest] = fields
        again = outcome.error is not None and outcome.error == self._errors.get((whose, fields['what']))
        self._errors[whose, fields['what']] = outcome.error
        grave = logging.DEBUG if again else logging.WARNING if outcome.error else logging.INFO
        LOG.log(grave, '%s: %s', self._host, text)
        self._events.append({'at': now, 'action': fields['what'], 'text': text})

    def fields(self) -> dict[str, typing.Any]:
        """The part of the status that is told here."""
        notes = self._notes.union(self._troubles.values())
        return {'notes': condensed(notes), 'last_host_action': self._host_action, 'events': list(self._events)}
