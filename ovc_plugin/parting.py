# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Leaving a host to itself: guests are given what is free, as far as it can be told in seconds."""
from __future__ import annotations

import dataclasses
import time
import typing

from ovc_plugin.decide import leave
from ovc_plugin.model import HostSnapshot, Outcome, Plan, SetBalloon
from ovc_plugin.settings import HostSettings

SECONDS = 3.0

Apply = typing.Callable[[Plan], list[Outcome]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """What was given and what became of it; ``missing`` bytes guests lack still."""

    back: leave.GivingBack
    plan: Plan
    outcomes: list[Outcome]

    @property
    def given(self) -> int:
        return sum(o.action.target - o.action.previous for o in self.outcomes
                   if o.done and isinstance(o.action, SetBalloon))

    @property
    def missing(self) -> int:
        return self.back.lacking - self.given


def give_back(snapshot: HostSnapshot, settings: HostSettings, plan: Plan, apply: Apply, *, handed: int = 0,
              into_swap: bool = False, seconds: float = SECONDS) -> Parting:
    """Ask one guest after the other, for at most ``seconds``. ``plan`` is the last one made; its level is kept."""
    back, deadline = leave.give_back(snapshot, settings, handed, into_swap=into_swap), time.monotonic() + seconds
    outcomes: list[Outcome] = []
    for action in back.actions:
        if time.monotonic() >= deadline:
            break
        outcomes += apply(dataclasses.replace(plan, actions=(action,)))
    return Parting(back=back, plan=dataclasses.replace(plan, actions=back.actions), outcomes=outcomes)
