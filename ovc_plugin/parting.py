# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Leaving a host to itself: guests are given what is free, as far as it can be told in seconds."""
from __future__ import annotations

import dataclasses
import logging
import time
import typing

from ovc_plugin.chronicle import Chronicle
from ovc_plugin.decide import leave
from ovc_plugin.model import MIB, HostSnapshot, Outcome, Plan, SetBalloon
from ovc_plugin.samples import MemorySample
from ovc_plugin.settings import HostSettings

LOG = logging.getLogger(__name__)
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


def hand_over(snapshot: HostSnapshot, memory: typing.Callable[[], MemorySample], settings: HostSettings, plan: Plan,
              apply: Apply, told: Chronicle, now: float) -> set[str]:
    """Give guests what is free at this moment, by the last ``snapshot`` of them, and tell it; returns who was asked."""
    try:
        snapshot = dataclasses.replace(snapshot, available=memory().available)
    except (OSError, KeyError, ValueError):
        return set()  # nothing is given blindly
    done = give_back(snapshot, settings, plan, apply)
    told.tell(done.plan, plan.level, done.outcomes, snapshot, now)
    if done.missing > 0:
        LOG.warning('%s: guests lack %d MB of their full size, for which there is no room now: see "ovc release"',
                    snapshot.host, done.missing // MIB)
    return {o.action.guest for o in done.outcomes if isinstance(o.action, SetBalloon)}
