# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the policies have in common: no memory of failed calls, no look between two passes."""
from __future__ import annotations

import typing

from ovc_plugin.model import Action, Level, Outcome, Plan, SetBalloon
from ovc_plugin.samples import Recent


class Periodic:
    """A policy that passes every ``tick`` seconds and forgets what failed."""

    name = ''
    tick = 10.0
    samples = False

    def failed(self, guests: typing.Collection[str]) -> None:
        pass

    def settled(self, outcomes: typing.Sequence[Outcome], now: float) -> None:
        pass

    def restarted(self, now: float, *, kept: bool) -> None:
        pass

    def wakes(self, recent: Recent, total: int, since: float) -> bool:
        return False


def plan(actions: typing.Iterable[Action], reason: str) -> Plan:
    return Plan(level=Level.CLEAR, actions=tuple(actions), reason=reason)


def balloon(guest: str, target: float, previous: int, reason: str) -> SetBalloon:
    return SetBalloon(guest=guest, target=int(target), previous=previous, reason=reason)
