# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Working sets that guests publish themselves: asked for in a thread of its own, seldom, and one guest at a time.

An agent that hangs costs its own turn and no pass. One that does not answer is asked half as often each time.
"""
from __future__ import annotations

import dataclasses
import logging
import threading
import time
import typing

LOG = logging.getLogger(__name__)
PATH = '/run/ovc/working-set'
EVERY, LONGEST = 15.0, 3600.0   # seconds between two questions to a guest that answers, and to one that never does
LIFE = 100.0                    # seconds for which an answer is shown; the rules believe it for less
_BREATH = 0.1                   # seconds between two guests


class Told(typing.NamedTuple):
    """Bytes, and how old they are at most; ``None`` until the guest's number was seen to count on: the file of a script
    that has died can still be read."""

    amount: int
    age: float | None


@dataclasses.dataclass
class _Known:
    """``told_at`` is when the ``number`` was first read, ``lag`` how many seconds the guest takes for one."""

    due: float = 0.0
    pause: float = EVERY
    number: int | None = None
    amount: int = 0
    told_at: float | None = None
    lag: float | None = None

    def take(self, amount: int, number: int, now: float) -> None:
        if number == self.number:  # one that stands still is that of a script which has died
            return
        self.lag = None
        if self.number is not None and self.told_at is not None:
            counted, seconds = number - self.number, now - self.told_at
            if 0 < counted <= 2 * seconds + 1:  # by more it does not count, but was started anew
                self.lag = seconds / counted
        self.amount, self.number, self.told_at = amount, number, now


class Published:
    """``read`` returns the text of a file of a guest, or raises anything."""

    def __init__(self, read: typing.Callable[[str, str], str],
                 clock: typing.Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._known: dict[str, _Known] = {}
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, uuids: typing.Iterable[str]) -> dict[str, Told]:
        """Ask these guests from now on; the words of those that have told lately."""
        self._known = {uuid: self._known.get(uuid) or _Known() for uuid in uuids}
        if self._thread is None and self._known:
            self._thread = threading.Thread(target=self._run, name='ovc-published', daemon=True)
            self._thread.start()
        self._changed.set()
        now = self._clock()
        return {uuid: Told(known.amount, None if known.lag is None else now - known.told_at + known.lag)
                for uuid, known in self._known.items()
                if known.told_at is not None and now - known.told_at <= LIFE}

    def ask_due(self) -> float:
        """Ask every guest that is due; seconds until the next one is."""
        for uuid, known in list(self._known.items()):
            if known.due <= self._clock():
                self._ask(uuid, known)
                time.sleep(_BREATH)
        return max(_BREATH, min((known.due for known in self._known.values()), default=LONGEST) - self._clock())

    def _ask(self, uuid: str, known: _Known) -> None:
        try:
            amount, number = (int(word) for word in self._read(uuid, PATH).split())
            if amount <= 0:
                raise ValueError(f'{amount} bytes')
        except Exception as error:  # there are as many ways to fail as there are guests
            LOG.debug('guest %s publishes nothing: %s', uuid, error)
            known.pause = min(LONGEST, 2 * known.pause)
        else:
            known.take(amount, number, self._clock())
            known.pause = EVERY
        known.due = self._clock() + known.pause

    def _run(self) -> None:
        while True:
            self._changed.clear()
            self._changed.wait(min(EVERY, self.ask_due()))
