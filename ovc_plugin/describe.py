# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Plans and outcomes in words and in JSON, for the log and ``ovc status``. Pure."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.model import (
    MIB,
    Action,
    AskMigration,
    GuestSnapshot,
    HostSnapshot,
    Outcome,
    ReclaimGuest,
    Request,
    SetBalloon,
    TuneKsm,
    Verdict,
)


def sentence(outcome: Outcome, names: typing.Mapping[str, str]) -> str:
    """One line of the log: what was done or would be, to whom, and why."""
    what = verb(outcome.action, names)
    if outcome.dry:
        return f'would {what}: {outcome.action.reason}'
    if not outcome.done:
        return f'could not {what}: {outcome.error}; wanted because {outcome.action.reason}'
    freed = f' (freed {outcome.freed // MIB} MB)' if outcome.freed is not None else ''
    return f'{what}{freed}: {outcome.action.reason}'


def verb(action: Action, names: typing.Mapping[str, str]) -> str:
    match action:
        case SetBalloon():
            way = 'shrink' if action.target < action.previous else 'grow'
            return (f'{way} {names.get(action.guest, action.guest)} from {action.previous // MIB} MB to '
                    f'{action.target // MIB} MB')
        case ReclaimGuest():
            return f'swap {action.amount // MIB} MB of {names.get(action.guest, action.guest)}'
        case TuneKsm():
            speed = f', {action.pages_to_scan} pages at a time' if action.pages_to_scan else ''
            return f'merge equal pages{speed}' if action.run else 'stop merging pages'
        case AskMigration():
            return f'ask for {names.get(action.guest, action.guest)} to be moved to another host'
        case _:
            typing.assert_never(action)


def action_fields(outcome: Outcome, now: float, names: typing.Mapping[str, str]) -> dict[str, typing.Any]:
    return {'what': type(outcome.action).__name__, 'text': verb(outcome.action, names),
            'reason': outcome.action.reason, 'at': now, 'done': outcome.done, 'error': outcome.error,
            'dry': outcome.dry, 'freed': outcome.freed}


def guest_fields(guest: GuestSnapshot, last_action: dict[str, typing.Any] | None, *, need: int | None = None,
                 confidence: float | None = None) -> dict[str, typing.Any]:
    """``need`` is in bytes, ``confidence`` how far that can be trusted (0..1)."""
    return {f.name: getattr(guest, f.name) for f in dataclasses.fields(guest)} | {
        'last_action': last_action, 'need': need, 'need_confidence': confidence}


def ksm_fields(snapshot: HostSnapshot) -> dict[str, typing.Any] | None:
    return dataclasses.asdict(snapshot.ksm) if snapshot.ksm else None


def next_guest(snapshot: HostSnapshot | None,
               admits: typing.Callable[[Request], Verdict]) -> dict[str, typing.Any] | None:
    """What a scheduler would be told of one more guest like the largest that is here."""
    if snapshot is None or not snapshot.guests:
        return None
    like = max(snapshot.guests, key=lambda g: g.maximum)
    reservation = like.reservation if like.untouchable is None else like.maximum
    verdict = admits(Request(memory=like.maximum, reservation=reservation, overcommit=like.untouchable is None))
    return {'memory': like.maximum, 'reservation': reservation, 'ok': verdict.ok, 'reason': verdict.reason}
