# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Moves guests' memory to swap in a thread of its own, so that the host is sensed and judged meanwhile."""
from __future__ import annotations

import dataclasses
import logging
import pathlib
import threading
import time
import typing

from ovc_plugin import privileged
from ovc_plugin.model import Outcome, ReclaimGuest

LOG = logging.getLogger(__name__)
SLICE = 0.5  # seconds of one call of the root helper: a newer plan waits no longer than that

Round = typing.Callable[[list[tuple[str, int, int]], float, bool], typing.Sequence[tuple[int, str | None]]]


@dataclasses.dataclass
class _Entry:
    action: ReclaimGuest
    group: str
    freed: int = 0
    error: str | None = None
    ended: bool = False
    idle: int = 0

    def outcome(self) -> Outcome:
        """That nothing was moved is known only once it was tried to the end: a newer plan may have come before."""
        tried = self.error is None and self.ended
        return Outcome(action=self.action, done=self.error is None, error=self.error,
                       freed=self.freed if self.freed or tried else None)


class Reclaimer:
    """The newest plan is the one that counts: what an earlier one still wanted is dropped, as that plan was made of an
    older look at the host. Each action has one outcome, in the pass in which it ends."""

    def __init__(self, group_of: typing.Callable[[str], pathlib.Path | None], call: Round | None = None,
                 lift: typing.Callable[[], object] | None = None) -> None:
        self._group_of = group_of
        self._call, self._lift = call or _helper, lift or _lift
        self._changed = threading.Condition()
        self._next: tuple[list[_Entry], bool] | None = None
        self._busy = False
        self._ended: list[Outcome] = []
        self._thread: threading.Thread | None = None

    def begin(self, actions: typing.Sequence[ReclaimGuest], *, urgent: bool) -> None:
        """Take these up, at the latest when the call under way has ended; ``urgent`` brakes the guests too."""
        entries, failed = [], []
        for action in actions:
            group = self._group_of(action.guest)
            if group is None:
                failed.append(Outcome(action=action, done=False,
                                      error='LookupError: the guest has no memory control group of its own'))
            else:
                entries.append(_Entry(action, str(group)))
        with self._changed:
            self._ended += failed
            if not entries and not self._busy and self._next is None:
                return
            if self._next is not None:  # a plan that was never begun
                self._ended += [entry.outcome() for entry in self._next[0]]
            if why := self._started():
                self._ended += [Outcome(action=entry.action, done=False, error=why) for entry in entries]
                return
            self._next = entries, urgent
            self._changed.notify_all()

    def _started(self) -> str | None:
        """Why there is no thread to move memory in: they run out where memory does. The next plan asks again."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name='ovc-reclaim', daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                return f'{type(error).__name__}: {error}'
            self._thread = thread
        return None

    @property
    def busy(self) -> bool:
        """Whether something that was begun has not ended."""
        return self._busy or self._next is not None

    def collect(self, seconds: float) -> list[Outcome]:
        """What has ended since the last call, waiting up to ``seconds`` for all that was begun."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (self._busy or self._next is not None) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            ended, self._ended = self._ended, []
        return ended

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._next is None:
                    self._changed.wait()
                (entries, urgent), self._next, self._busy = self._next, None, True
            going = entries
            while self._next is None and going:
                self._round(going, urgent)
                # Another one is the first of the next call: on a slow device one call may not come to all of them.
                going = [entry for entry in [*going[1:], *going[:1]] if not entry.ended]
            with self._changed:
                self._ended += [entry.outcome() for entry in entries]
                self._busy = False
                self._changed.notify_all()

    def _round(self, going: list[_Entry], urgent: bool) -> None:
        """One call for all. A call that took less than its time is done with all that it could do; one that was cut
        short is done with those of which it moved all, or again and again nothing."""
        began = time.monotonic()
        try:
            found = self._call([(e.group, e.action.amount - e.freed, e.action.floor) for e in going], SLICE, urgent)
            if len(found) != len(going):
                raise ValueError(f'the root helper has answered for {len(found)} guests of {len(going)}')
        except Exception as error:  # the thread must outlive anything
            LOG.debug('reclaim failed', exc_info=True)
            self._lift()
            found = [(0, f'{type(error).__name__}: {error}')] * len(going)
        early = time.monotonic() - began < SLICE
        for entry, (freed, why) in zip(going, found, strict=True):
            entry.freed += freed
            entry.error = why
            entry.idle = 0 if freed else entry.idle + 1
            entry.ended = (early or why is not None or entry.freed >= entry.action.amount
                           or entry.idle > len(going))


def _helper(wanted: list[tuple[str, int, int]], seconds: float, brake: bool) -> list[tuple[int, str | None]]:
    return [(int(freed), why) for freed, why in privileged.reclaim(wanted, seconds, brake)]


def _lift() -> None:
    """A helper that died in a call has left a limit lowered; the next call starts another one."""
    try:
        for group in privileged.lift_leftovers():
            LOG.warning('a limit that was left behind was lifted from %s', group)
    except Exception:
        LOG.debug('limits cannot be lifted now', exc_info=True)
