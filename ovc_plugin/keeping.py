# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a host's controller keeps for its next run: what the rules remember, and how page sharing was found."""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import typing

from ovc_plugin import codec, publish
from ovc_plugin.act import ksm
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.decide import state
from ovc_plugin.model import AskMigration, KsmState, Plan, TuneKsm

LOG = logging.getLogger(__name__)
LEARNED = 60.0  # seconds after which what was only learned is written: no restart needs the last word of it


class Keeper:
    """Over one file. What cannot be read or written is said, and costs nothing else."""

    def __init__(self, host: str, store: publish.Store, told: Chronicle) -> None:
        self._host, self._store, self._told = host, store, told
        self.ksm_before: KsmState | None = None
        self._written: tuple[typing.Any, float] | None = None
        self.alone = True  # false while another process is known to control this host: nothing is changed then

    def claim(self, *, dry_run: bool = False) -> bool:
        """Be the only one who controls this host; false while another does, which is said. In a dry run it is only
        looked: who acts on nothing keeps nobody else from acting."""
        try:
            if dry_run:
                self._store.give_up()
            self.alone = self._store.free() if dry_run else self._store.claim()
        except OSError as error:  # nobody can tell: a directory that cannot be written must not end our work
            LOG.debug('%s: %s cannot be claimed: %s', self._host, self._store.path, error)
            self.alone = True
        self._told.unwritten('claim', None if self.alone or dry_run else (
            'another process controls this host already (nova-compute or ovc-agent, under whatever name), so this one '
            'acts on nothing, as in a dry run: end one of them, or name this libvirt\'s own run_path in [ovc_host]'))
        return self.alone

    @property
    def held(self) -> bool:
        return self._store.held

    def started(self, thread: threading.Thread) -> threading.Thread:
        """The thread that acts under this claim. Where it cannot run, nobody else is kept from acting."""
        try:
            thread.start()
        except RuntimeError:
            self.give_up()
            raise
        return thread

    def give_up(self) -> None:
        self._store.give_up()

    def let_go(self, write: typing.Callable[[str, int], None], remembered: state.LadderState) -> KsmState | None:
        """What a dry run does not keep. The host: who acts on nothing keeps nobody else from acting. And page sharing
        as it was set before, in this run or in one that was killed: nobody watches any more whose pages meet (promise
        8). Returns what was put back just now; what cannot be is tried again by the next call."""
        if self.ksm_before is None or not self.alone:
            self._store.give_up()
            return None
        held, ours = self._store.held, True
        with contextlib.suppress(OSError):  # as in claim()
            ours = self._store.claim()
        if ours and not held:
            self.recall()  # "ovc release" may have put it back meanwhile
        before = self.ksm_before if ours else None
        done = before is not None and self.restore_ksm(write, remembered) is None
        self._store.give_up()
        return before if done else None

    def leave_ksm(self, write: typing.Callable[[str, int], None], remembered: state.LadderState) -> None:
        """Page sharing is left to others from now on, as it was found: nobody watches any more whose pages meet
        (promise 8). What cannot be put back is tried again by the next call."""
        before = self.ksm_before
        if before is not None and self.alone and self.restore_ksm(write, remembered) is None:
            LOG.warning('%s: page sharing is put back to run=%d, as it was found: with [ovc_host] ksm = leave nobody '
                        'watches whose pages meet', self._host, before.run)

    def recall(self) -> state.LadderState | None:
        """What the rules remembered, where that can be read."""
        self._written = None  # by whom, and when, is not known
        try:
            saved = self._store.load()
            if not saved:
                return None
            # Before all else: what the rules remembered can be sensed afresh, how page sharing was found cannot.
            before = saved.get('ksm_before')
            self.ksm_before = codec.read(KsmState, before) if before else None
            return state.from_dict(saved['ladder'])
        except (OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            LOG.warning('%s: %s could not be read (%s); the host is sensed afresh', self._host, self._store.path, error)
            return None

    def save(self, remembered: state.LadderState, *, whole: bool = False) -> None:
        """Write what changed: what was asked of anybody at once; what was learned of guests since, when that is a
        while old, or ``whole``."""
        if not self.alone:
            return  # the file is the other one's
        leaving = remembered.departing
        asked = (remembered.level, remembered.unclear_at, remembered.asked, remembered.probes, leaving.awaited,
                 leaving.rest_until, leaving.setbacks, leaving.here_since, self.ksm_before)
        now = time.monotonic()
        if not whole and self._written and asked == self._written[0] and now - self._written[1] < LEARNED:
            return
        before = dataclasses.asdict(self.ksm_before) if self.ksm_before else None
        try:
            self._store.save({'ladder': state.to_dict(remembered), 'ksm_before': before})
            self._written = asked, now
            self._told.unwritten('state', None)
        except OSError as error:
            self._written = None
            self._told.unwritten('state', f'{self._store.path} cannot be written ({error}): after a restart targets '
                                 'are asked anew; make [ovc_host] state_path a directory that this service may write')

    def remember(self, plan: Plan, found: KsmState | None, before: state.LadderState,
                 after: state.LadderState) -> None:
        """Write down what a plan must not be begun without, as we may be killed in the next moment: how page sharing
        was found before its first change, and whom the cloud is asked to move. Of one that is awaited and never was
        asked the cloud says that it has not gone; beside one that was asked and is not awaited another would go."""
        asks = any(isinstance(action, AskMigration) for action in plan.actions)
        first = self.ksm_before is None and any(isinstance(action, TuneKsm) for action in plan.actions)
        if first:
            self.ksm_before = found
        if first or asks:
            self.save(dataclasses.replace(before, departing=after.departing) if asks else before)

    def restore_ksm(self, write: typing.Callable[[str, int], None], remembered: state.LadderState) -> str | None:
        """Page sharing as it was found before the first change, in this run or one before it; why not, in words."""
        before = self.ksm_before
        if before is None or not self.alone:
            return None
        try:
            ksm.restore(before, write)
        except Exception as error:
            problem = f'{type(error).__name__}: {error}'
            self._told.unwritten('sharing', f'page sharing could not be put back to run={before.run}: {problem}')
            return problem
        self._told.unwritten('sharing', None)
        self.ksm_before = None
        self.save(remembered)
        return None
