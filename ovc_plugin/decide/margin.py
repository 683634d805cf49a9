# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How much is added to a prediction, kept by how often it proved too low.

Adaptive conformal inference (Gibbs and Candes, 2021): each miss widens the margin by ``gain * (1 - target)``, each
prediction that held narrows it by ``gain * target``. At 2 it reaches what cannot be exceeded: so in the long run the
share of misses is at most the target, whatever the guests do; it is less only where a margin of 0 already holds.
"""
from __future__ import annotations

import collections
import dataclasses
import typing

from ovc_plugin.decide.demand import STEP

WIDEST = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What can be set; the defaults were chosen once, for hosts of 10 to 100 guests.

    ``target``: share of predictions that may prove too low. ``margin``: where it begins, ``gain``: how far one miss
    moves it, both in units of the guests' spread. ``lookback``: how many horizons of the host's own past count;
    ``trusted``: after how many of them they stand for themselves. ``memory_days``: days of a guest's past.
    ``warm_up``: seconds after which a guest can be judged at all.
    """

    target: float = 0.01
    margin: float = 0.75
    gain: float = 0.01
    lookback: int = 14
    trusted: int = 7
    memory_days: int = 14
    warm_up: float = 7200.0


@dataclasses.dataclass(slots=True)
class Pending:
    """A prediction that is not proven yet: the step when it is ``due``, the ``peak`` in bytes with the limits of the
    guests that ``came`` since and are there, and whether it was ``missed``."""

    due: int
    peak: int
    missed: bool = False
    came: dict[str, int] = dataclasses.field(default_factory=dict)


class Track:
    """The margin of one horizon, and the predictions not yet proven.

    ``proven``: predictions whose time is over, ``missed``: those that were too low, from when that was seen.
    """

    __slots__ = ('margin', 'pending', 'every', 'proven', 'missed')

    def __init__(self, horizon: float, margin: float) -> None:
        self.margin, self.every = margin, max(1, round(horizon / 24 / STEP))
        self.pending: collections.deque[Pending] = collections.deque()
        self.proven = self.missed = 0

    def judge(self, now: int, total: int, tuning: Tuning) -> None:
        """A miss counts as soon as it is seen, a success when its time is over."""
        self.pass_over(now)
        for entry in self.pending:
            if not entry.missed and total > entry.peak:
                entry.missed = True
                self.margin = min(WIDEST, self.margin + tuning.gain * (1 - tuning.target))
                self.missed += 1
        while self.pending and self.pending[0].due <= now:
            self.proven += 1
            if not self.pending.popleft().missed:
                self.margin = max(0.0, self.margin - tuning.gain * tuning.target)

    def pass_over(self, now: int) -> None:
        """Leave those uncounted whose time ended in steps in which nobody knew the sum."""
        while self.pending and self.pending[0].due < now:
            self.proven += self.pending.popleft().missed

    @property
    def judged(self) -> int:
        """Predictions of which it is known whether they held."""
        return self.proven + sum(1 for entry in self.pending if entry.missed)

    def arrived(self, more: typing.Mapping[str, int]) -> None:
        """Guests that came later, or were made larger by so much, were admitted on top of what was predicted."""
        for entry in self.pending:
            for guest, limit in more.items():
                entry.came[guest] = entry.came.get(guest, 0) + limit
                entry.peak += limit

    def left(self, gone: typing.Iterable[str]) -> None:
        """Those that are gone are on top of nothing any more."""
        guests = tuple(gone)
        for entry in self.pending:
            for guest in guests:
                entry.peak -= entry.came.pop(guest, 0)
