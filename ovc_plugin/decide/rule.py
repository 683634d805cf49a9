# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a rule of the ladder is told and what it answers. A rule keeps nothing itself: what it may know is told."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import Action, GuestSnapshot, HostSnapshot, Level
from ovc_plugin.settings import HostSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One pass as the next rule finds it: bytes, seconds.

    ``short`` is what is still missing after the rules before this one; ``wanted`` of it not by the host, but by guests
    in need (on a clear host, by those below their reservation): nothing is worth that but what somebody else does not
    use. ``until`` is the time to exhaustion: memory that arrives later comes too late and earns no credit; infinite
    while available memory does not shrink. ``spare`` may go to guests in need, ``surplus`` to anybody: free already,
    and given to nobody yet. ``state`` is what is remembered after this look (what was asked of each guest, what each
    needs), with this pass's balloon targets in it.
    ``backed``: memory and swap hold all that guests may ever touch (promise 2), so that nobody can be killed.
    ``turned`` are the guests whose balloon was asked in this very pass: not to be asked again. ``lacking`` are the
    guests in need, with their size and what they lack (:func:`ovc_plugin.decide.giving.wants`); ``None`` where nobody
    has looked for them yet. ``owed``: what is free does not do for the reservations of those below theirs.
    """

    snapshot: HostSnapshot
    level: Level
    short: int
    wanted: int
    until: float
    spare: int
    surplus: int
    backed: bool
    state: LadderState
    settings: HostSettings
    now: float
    turned: frozenset[str] = frozenset()
    lacking: tuple[tuple[GuestSnapshot, int, int], ...] | None = None
    owed: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one rule adds to the plan. ``credit`` is how much of what is short will be there in time thanks to it, in
    bytes; negative where the rule takes memory itself."""

    actions: tuple[Action, ...] = ()
    credit: int = 0


NOTHING = Part()


class Rule(typing.Protocol):
    """Pure and without memory: the same situation gives the same part. ``name`` is what ``[ovc_host] rules`` says."""

    @property
    def name(self) -> str:
        """What an operator calls it."""

    def plan(self, situation: Situation) -> Part:
        """What to do about the situation. Whatever it raises is noted, and the other rules go on without it."""
