# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What runs a modelled host: anything that turns readings into plans, and our own rules as one of them."""
from __future__ import annotations

import dataclasses
import json
import typing

from ovc_plugin.decide import host as ladder
from ovc_plugin.decide import pressure, state, swap
from ovc_plugin.model import HostSnapshot, Level, Outcome, Plan
from ovc_plugin.samples import Recent
from ovc_plugin.settings import HostSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A host at one time. ``unused`` is what each guest calls free (without its cache), and ``active`` what each has
    touched lately, for policies that sample pages; our rules use neither."""

    snapshot: HostSnapshot
    unused: typing.Mapping[str, int | None]
    active: typing.Mapping[str, int] = dataclasses.field(default_factory=dict)


class Policy(typing.Protocol):
    """``tick``: seconds between two passes. ``samples``: it sees which pages are in use."""

    name: str
    tick: float
    samples: bool

    def decide(self, reading: Reading, now: float) -> Plan:
        """What to do now; may remember."""

    def failed(self, guests: typing.Collection[str]) -> None:
        """These guests could not be told of their balloon targets."""

    def settled(self, outcomes: typing.Sequence[Outcome], now: float) -> None:
        """What became of the swapping of the pass before, told before the next one."""

    def restarted(self, now: float, *, kept: bool) -> None:
        """It was started anew, with what it keeps outside its process or (its file was lost) without."""

    def wakes(self, recent: Recent, total: int, since: float) -> bool:
        """Whether a pass is due at once, by a cheap look, ``since`` seconds after the last one."""


class Ours:
    """The product's ladder, called as the host controller calls it. ``before``: what it remembered a pass ago."""

    name = 'ovc'
    samples = False

    def __init__(self, settings: HostSettings | None = None) -> None:
        self.settings = settings or HostSettings()
        self.tick = self.settings.tick
        self.state = self.before = state.LadderState(watching=True)
        self._snapshot: HostSnapshot | None = None

    def decide(self, reading: Reading, now: float) -> Plan:
        self.before = self.state
        plan, self.state = ladder.decide_host(reading.snapshot, self.state, self.settings, now)
        self._snapshot = reading.snapshot
        return plan

    def failed(self, guests: typing.Collection[str]) -> None:
        self.state = state.without(self.state, guests)

    def settled(self, outcomes: typing.Sequence[Outcome], now: float) -> None:
        self.state = swap.settle(self.state, outcomes, self.settings, now)

    def restarted(self, now: float, *, kept: bool) -> None:
        known = state.from_dict(json.loads(json.dumps(state.to_dict(self.state)))) if kept else state.LadderState()
        self.state = dataclasses.replace(known, watching=True)
        self._snapshot = None

    def wakes(self, recent: Recent, total: int, since: float) -> bool:
        if not self.settings.fast_look or self._no_worse(recent):
            return False
        return pressure.urgent(recent, self._snapshot, self.state.level, since, self.settings) is not None

    def _no_worse(self, recent: Recent) -> bool:
        """Nothing is worse than at the last pass, and that was not bad: nothing can be urgent, and that is quickly
        seen."""
        seen = self._snapshot
        return (seen is not None and self.state.level < Level.HARD and recent.available >= seen.available
                and (recent.growth or 0.0) <= 0.0 and (recent.stall or 0.0) <= (seen.stall or 0.0))


class Nothing:
    """No policy: the kernel alone swaps."""

    name = 'nothing'
    tick = 60.0
    samples = False

    def decide(self, reading: Reading, now: float) -> Plan:
        return Plan(level=Level.CLEAR, actions=(), reason='no policy')

    def failed(self, guests: typing.Collection[str]) -> None:
        pass

    def settled(self, outcomes: typing.Sequence[Outcome], now: float) -> None:
        pass

    def restarted(self, now: float, *, kept: bool) -> None:
        pass

    def wakes(self, recent: Recent, total: int, since: float) -> bool:
        return False
