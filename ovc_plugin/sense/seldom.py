# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Questions that are put to guests seldom, one guest at a time, in a thread of their own: no pass waits for them.

One that hangs costs its own turn. A guest that does not answer, or slowly, is asked half as often each time, one that
says that it never will once an hour.
"""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import typing

from ovc_plugin.hypervisor.monitor import Untold

LOG = logging.getLogger(__name__)
EVERY, LONGEST = 10.0, 3600.0   # seconds between two questions to a guest that answers, and to one that never does
LIFE = 100.0                    # seconds for which an answer is shown; the rules believe it for less
_SLOW = 1.0                     # seconds after which an answer has cost the others too much of their time
_SLOWEST = 600.0                # seconds between two questions to a guest that answers slowly
_BREATH = 0.02                  # seconds between two guests

T = typing.TypeVar('T')


@dataclasses.dataclass
class _Turn(typing.Generic[T]):
    known: T
    due: float = 0.0
    pause: float = EVERY


class Seldom(typing.Generic[T]):
    """Keeps a ``T`` of each guest, which ``ask`` brings up to date or raises anything."""

    def __init__(self, name: str, new: typing.Callable[[], T], ask: typing.Callable[[str, T, float], None],
                 clock: typing.Callable[[], float] = time.monotonic) -> None:
        self._name, self._new, self._ask_one, self._clock = name, new, ask, clock
        self._turns: dict[str, _Turn[T]] = {}
        self._changed = threading.Event()
        self._thread: typing.Any = None

    def asked(self, uuids: typing.Iterable[str]) -> dict[str, T]:
        """Ask these guests from now on; what is known of them."""
        self._turns = {uuid: self._turns.get(uuid) or _Turn(self._new()) for uuid in uuids}
        if self._thread is None and self._turns:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            with contextlib.suppress(RuntimeError):  # there is none to be had: the next pass tries again
                thread.start()
                self._thread = thread
        self._changed.set()
        return {uuid: turn.known for uuid, turn in self._turns.items()}

    def ask_due(self) -> float:
        """Ask every guest that is due; seconds until the next one is."""
        for uuid, turn in list(self._turns.items()):
            if turn.due <= self._clock():
                self._ask(uuid, turn)
                time.sleep(_BREATH)
        now = self._clock()
        return max(_BREATH, min((turn.due for turn in self._turns.values()), default=now + LONGEST) - now)

    def _ask(self, uuid: str, turn: _Turn[T]) -> None:
        began = self._clock()
        try:
            self._ask_one(uuid, turn.known, began)
            turn.pause = EVERY if self._clock() - began <= _SLOW else min(_SLOWEST, 2 * turn.pause)
        except Untold as error:
            LOG.debug('guest %s: %s', uuid, error)
            turn.pause = LONGEST
        except Exception as error:  # there are as many ways to fail as there are guests
            LOG.debug('guest %s does not answer (%s): %s', uuid, self._name, error)
            turn.pause = min(LONGEST, 2 * turn.pause)
        turn.due = self._clock() + turn.pause

    def _run(self) -> None:
        while True:
            self._changed.clear()
            self._changed.wait(min(EVERY, self.ask_due()))
