# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Carries a plan out: shrink before grow, each failure alone, nothing in a dry run."""
from __future__ import annotations

import logging
import pathlib
import time
import typing

from ovc_plugin.act import balloon, cgroup, ksm
from ovc_plugin.hypervisor.protocol import Hypervisor
from ovc_plugin.model import Action, AskMigration, Level, Outcome, Plan, ReclaimGuest, SetBalloon, TuneKsm

LOG = logging.getLogger(__name__)
_LONG, _LEFT_OUT = 2.0, 60.0


class Actuator:
    """``group_of`` finds a guest's control group; ``swap_seconds`` bounds the swapping of one pass,
    ``ask_away`` asks the cloud to move a guest."""

    def __init__(self, hypervisor: Hypervisor, group_of: typing.Callable[[str], pathlib.Path | None],
                 swap_seconds: float = 2.0, clock: typing.Callable[[], float] = time.monotonic,
                 ask_away: typing.Callable[[AskMigration], None] | None = None) -> None:
        self._hypervisor = hypervisor
        self._group_of = group_of
        self._swap_seconds = swap_seconds
        self._clock = clock
        self._ask_away = ask_away
        self._left_out: dict[str, float] = {}

    def apply(self, plan: Plan, *, dry_run: bool) -> list[Outcome]:
        swaps = sum(isinstance(a, ReclaimGuest) for a in plan.actions)
        seconds = self._swap_seconds / max(1, swaps)
        ordered = sorted(plan.actions, key=lambda action: _order(action, plan.level))
        return [self._one(action, dry_run, seconds) for action in ordered]

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
                self._ask(action)
            case TuneKsm():
                ksm.apply(action)
            case ReclaimGuest():
                return cgroup.apply(action, self._group_of(action.guest), seconds)
            case AskMigration():
                if self._ask_away is None:
                    raise LookupError('there is no cloud to ask')
                self._ask_away(action)
            case _:
                typing.assert_never(action)
        return None

    def _ask(self, action: SetBalloon) -> None:
        """Ask a guest for a size; one that takes long over it is left out for a while.

        libvirt lets a call wait half a minute for a guest that migrates or hangs, and the others wait with it.
        """
        began = self._clock()
        if began < self._left_out.get(action.guest, 0.0):
            raise TimeoutError(f'the guest took long over a size lately and is left out for {_LEFT_OUT:.0f} s')
        try:
            balloon.apply(action, self._hypervisor)
        finally:
            if self._clock() - began > _LONG:
                self._left_out[action.guest] = self._clock() + _LEFT_OUT


def _order(action: Action, level: Level) -> int:
    """What frees memory goes first, what hands it out last (promise 5); at CRITICAL what frees it without asking."""
    match action:
        case SetBalloon():
            return 1 if action.target < action.previous else 4
        case ReclaimGuest():
            return 0 if level is Level.CRITICAL else 2
        case TuneKsm():
            return 3
        case AskMigration():
            return 5
        case _:
            typing.assert_never(action)
