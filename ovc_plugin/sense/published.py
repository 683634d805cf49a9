# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Working sets that guests publish themselves, read of a file in each of them through its guest agent."""
from __future__ import annotations

import dataclasses
import time
import typing

from ovc_plugin.sense.seldom import LIFE, Seldom

PATH = '/run/ovc/working-set'


class Told(typing.NamedTuple):
    """Bytes, and how old they are at most; ``None`` until the guest's number was seen to count on: the file of a script
    that has died can still be read."""

    amount: int
    age: float | None


@dataclasses.dataclass
class _Known:
    """``told_at`` is when the ``number`` was first read, ``lag`` how many seconds the guest takes for one."""

    number: int | None = None
    amount: int = 0
    told_at: float | None = None
    lag: float | None = None

    def take(self, amount: int, number: int, now: float) -> None:
        if number == self.number:  # one that stands still is that of a script which has died
            return
        lag = None
        if self.number is not None and self.told_at is not None:
            counted, seconds = number - self.number, now - self.told_at
            if 0 < counted <= 2 * seconds + 1:  # by more it does not count, but was started anew
                lag = seconds / counted
        self.amount, self.number, self.told_at, self.lag = amount, number, now, lag


class Published:
    """``read`` returns the text of a file of a guest, or raises anything."""

    def __init__(self, read: typing.Callable[[str, str], str],
                 clock: typing.Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self.seldom: Seldom[_Known] = Seldom('ovc-published', _Known, self._ask, clock)

    def follow(self, uuids: typing.Iterable[str]) -> dict[str, Told]:
        """Ask these guests from now on; the words of those that have told lately."""
        now, found = self._clock(), {}
        for uuid, known in self.seldom.asked(uuids).items():
            amount, told_at, lag = known.amount, known.told_at, known.lag  # another thread brings them up to date
            if told_at is not None and now - told_at <= LIFE:
                found[uuid] = Told(amount, None if lag is None else now - told_at + lag)
        return found

    def _ask(self, uuid: str, known: _Known, now: float) -> None:
        amount, number = (int(word) for word in self._read(uuid, PATH).split())
        if amount <= 0:
            raise ValueError(f'it publishes {amount} bytes')
        known.take(amount, number, now)
