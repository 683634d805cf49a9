# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Carries a plan out: shrink before grow, each failure alone, nothing in a dry run."""
from __future__ import annotations

import logging
import math
import pathlib
import threading
import time
import typing

from ovc_plugin.act import balloon, ksm, reclaimer
from ovc_plugin.hypervisor.protocol import Hypervisor
from ovc_plugin.model import Action, AskMigration, Level, Outcome, Plan, ReclaimGuest, SetBalloon, TuneKsm

LOG = logging.getLogger(__name__)
_LONG, _LEFT_OUT = 2.0, 60.0
_PATIENCE = 0.3  # seconds that a pass waits for swapping to end; what takes longer is told in a later one


class Actuator:
    """``group_of`` finds a guest's control group, ``ask_away`` asks the cloud to move a guest. ``patience`` is for how
    many seconds a pass waits for its swapping, which goes on meanwhile and after it."""

    def __init__(self, hypervisor: Hypervisor, group_of: typing.Callable[[str], pathlib.Path | None],
                 patience: float = _PATIENCE, clock: typing.Callable[[], float] = time.monotonic,
                 ask_away: typing.Callable[[AskMigration], None] | None = None) -> None:
        self._hypervisor = hypervisor
        self._swapping = reclaimer.Reclaimer(group_of)
        self._patience = patience
        self._clock = clock
        self._ask_away = ask_away
        self._left_out: dict[str, float] = {}
        self._lock = threading.Lock()  # held to begin an action, not while it lasts
        self._barred: threading.Thread | None = None
        self._at: dict[threading.Thread, Action] = {}

    def apply(self, plan: Plan, *, dry_run: bool) -> list[Outcome]:
        """What became of the plan's actions, and of swapping that an earlier plan began.

        Swapping begins first, as it goes on while the others are done; it is told when it has ended.
        """
        ordered = sorted(plan.actions, key=_order)
        if dry_run:
            self._swapping.begin((), urgent=False)
            return self._swapping.collect(0) + [Outcome(action=a, done=False, dry=True) for a in ordered]
        with self._lock:
            if threading.current_thread() is not self._barred:
                self._swapping.begin([a for a in ordered if isinstance(a, ReclaimGuest)],
                                     urgent=plan.level is Level.CRITICAL)
        outcomes = [self._one(action) for action in ordered if not isinstance(action, ReclaimGuest)]
        return sorted(outcomes + self._swapping.collect(self._patience), key=lambda outcome: _order(outcome.action))

    @property
    def swapping(self) -> bool:
        """Whether memory is being moved to swap."""
        return self._swapping.busy

    def finish(self, seconds: float) -> list[Outcome]:
        """What became of swapping that was begun, waited for."""
        return self._swapping.collect(seconds)

    def bar(self, thread: threading.Thread, seconds: float) -> Action | None:
        """Begin nothing more for this thread, and wait so long for it to end. What it is at still is returned: that it
        may yet carry out, and nothing else."""
        with self._lock:
            self._barred = thread
        self.stop()
        thread.join(seconds)
        with self._lock:
            return self._at.get(thread)

    def late(self) -> dict[str, int]:
        """Guests that were asked for a size by a call that has not come back, with that size in bytes: it may be
        carried out at any time, even when nobody waits for it any more."""
        at = {a.guest: a.target for a in list(self._at.values()) if isinstance(a, SetBalloon)}
        told: typing.Callable[[], dict[str, int]] = getattr(self._hypervisor, 'late', dict)
        return {**at, **told()}

    def readmit(self, guest: str) -> None:
        """Leave the guest out no longer: it is to be asked once more, whatever that takes."""
        self._left_out.pop(guest, None)

    def stop(self) -> None:
        """Drop what swapping is still wanted; what the root helper has begun ends by itself, its limits put back."""
        self._swapping.begin((), urgent=False)

    def _one(self, action: Action) -> Outcome:
        thread = threading.current_thread()
        with self._lock:
            if thread is self._barred:
                return Outcome(action=action, done=False, dry=True)
            self._at[thread] = action
        try:
            self._do(action)
            return Outcome(action=action, done=True)
        except Exception as error:  # one guest's failure must not cost the others their turn
            LOG.debug('%s failed', action, exc_info=True)
            return Outcome(action=action, done=False, error=f'{type(error).__name__}: {error}')
        finally:
            self._at.pop(thread, None)

    def _do(self, action: Action) -> None:
        match action:
            case SetBalloon():
                self._ask(action)
            case TuneKsm():
                ksm.apply(action)
            case ReclaimGuest():
                raise AssertionError('swapping is begun for all guests together')
            case AskMigration():
                if self._ask_away is None:
                    raise LookupError('there is no cloud to ask')
                self._ask_away(action)
            case _:
                typing.assert_never(action)

    def _ask(self, action: SetBalloon) -> None:
        """Ask a guest for a size; one that takes long over it is left out for a while.

        libvirt lets a call wait half a minute for a guest that migrates or hangs, and the others wait with it.
        """
        began = self._clock()
        if began < self._left_out.get(action.guest, 0.0):
            raise TimeoutError(f'the guest took long over a size lately and is left out for {_LEFT_OUT:.0f} s')
        self._left_out[action.guest] = math.inf  # nor does another thread wait with this one
        try:
            balloon.apply(action, self._hypervisor)
        finally:
            if self._clock() - began > _LONG:
                self._left_out[action.guest] = self._clock() + _LEFT_OUT
            else:
                self._left_out.pop(action.guest, None)


def _order(action: Action) -> int:
    """What frees memory goes first, what hands it out last (promise 5)."""
    match action:
        case SetBalloon():
            return 1 if action.target < action.previous else 4
        case ReclaimGuest():
            return 0
        case TuneKsm():
            return 3
        case AskMigration():
            return 5
        case _:
            typing.assert_never(action)
