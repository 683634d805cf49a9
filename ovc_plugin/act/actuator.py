# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Carries a plan out: shrink before grow, each failure alone, nothing in a dry run."""
from __future__ import annotations

import logging
import pathlib
import typing

from ovc_plugin.act import balloon, cgroup, ksm
from ovc_plugin.hypervisor.protocol import Hypervisor
from ovc_plugin.model import Action, Outcome, Plan, ReclaimGuest, SetBalloon, TuneKsm

LOG = logging.getLogger(__name__)


class Actuator:
    """``group_of`` finds a guest's control group; ``swap_seconds`` bounds the swapping of one pass."""

    def __init__(self, hypervisor: Hypervisor, group_of: typing.Callable[[str], pathlib.Path | None],
                 swap_seconds: float = 2.0) -> None:
        self._hypervisor = hypervisor
        self._group_of = group_of
        self._swap_seconds = swap_seconds

    def apply(self, plan: Plan, *, dry_run: bool) -> list[Outcome]:
        swaps = sum(isinstance(a, ReclaimGuest) for a in plan.actions)
        seconds = self._swap_seconds / max(1, swaps)
        return [self._one(action, dry_run, seconds) for action in sorted(plan.actions, key=_order)]

    def _one(self, action: Action, dry_run: bool, seconds: float) -> Outcome:
        if dry_run:
            return Outcome(action=action, done=False, dry=True)
        try:
            return Outcome(action=action, done=True, freed=self._do(action, seconds))
        except Exception as error:  # one guest's failure must not cost the others their turn
            LOG.debug('%s failed', action, exc_info=True)
            return Outcome(action=action, done=False, error=f'{type(error).__name__}: {error}')

    def _do(self, action: Action, seconds: float) -> int | None:
        match action:
            case SetBalloon():
                balloon.apply(action, self._hypervisor)
            case TuneKsm():
                ksm.apply(action)
            case ReclaimGuest():
                return cgroup.apply(action, self._group_of(action.guest), seconds)
            case _:
                typing.assert_never(action)
        return None


def _order(action: Action) -> int:
    """What frees memory goes first, what hands it out last (promise 5)."""
    match action:
        case SetBalloon():
            return 0 if action.target < action.previous else 3
        case ReclaimGuest():
            return 1
        case TuneKsm():
            return 2
        case _:
            typing.assert_never(action)
