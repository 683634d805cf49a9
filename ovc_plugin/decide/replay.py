# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One pass as it is recorded, and what would be decided in its place today."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin import describe
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import Action, HostSnapshot, Level, Outcome, Plan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Everything a decision was made of, ``state`` as it was before; what was decided; what became of it."""

    at: float
    state: LadderState
    snapshot: HostSnapshot
    plan: Plan
    outcomes: tuple[Outcome, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether nothing was done and nothing had to be."""
        return self.state.level is self.plan.level is Level.CLEAR and not self.plan.actions

    @property
    def names(self) -> dict[str, str]:
        return {g.uuid: g.name for g in self.snapshot.guests}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """``lines`` say what another plan does otherwise; ``words`` that only its reasons read otherwise."""

    lines: tuple[str, ...]
    words: bool


def compare(recorded: Plan, again: Plan, names: typing.Mapping[str, str]) -> Difference:
    """Level and actions count; a reason in other words does not."""
    lines = []
    if recorded.level is not again.level:
        lines.append(f'level {recorded.level.name} ({recorded.reason}), now {again.level.name} ({again.reason})')
    before, after = _by_target(recorded), _by_target(again)
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old is None and new is not None:
            lines.append(f'now: {describe.verb(new, names)}: {new.reason}')
        elif new is None and old is not None:
            lines.append(f'no longer: {describe.verb(old, names)} ({old.reason})')
        elif old is not None and new is not None and _bare(old) != _bare(new):
            lines.append(f'instead of {_numbers(old, new, names)}')
    words = [a.reason for a in recorded.actions] != [a.reason for a in again.actions] or recorded.reason != again.reason
    return Difference(lines=tuple(lines), words=words and not lines)


def _by_target(plan: Plan) -> dict[tuple[str, str, int], Action]:
    found: dict[tuple[str, str, int], Action] = {}
    for action in plan.actions:
        kind, guest = type(action).__name__, getattr(action, 'guest', '')
        number = sum(1 for key in found if key[:2] == (kind, guest))
        found[kind, guest, number] = action
    return found


def _bare(action: Action) -> Action:
    return dataclasses.replace(action, reason='')


def _numbers(old: Action, new: Action, names: typing.Mapping[str, str]) -> str:
    """Both in words; where these round to the same, the fields that differ."""
    first, second = describe.verb(old, names), describe.verb(new, names)
    if first != second:
        return f'{first}: {second}: {new.reason}'
    changed = [f'{f.name} {getattr(old, f.name)} -> {getattr(new, f.name)}' for f in dataclasses.fields(old)
               if f.name != 'reason' and getattr(old, f.name) != getattr(new, f.name)]
    return f'{first}, otherwise in {", ".join(changed)}'
