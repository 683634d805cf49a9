# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the rules remember from one pass to the next; plain data, so that it can be kept across a restart."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide import departing
from ovc_plugin.decide.departing import Departing
from ovc_plugin.decide.evaporation import Evaporation
from ovc_plugin.decide.scanning import Scanning
from ovc_plugin.model import Level


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A balloon target that was asked for, and when the guest last came nearer to it."""

    target: int
    at: float
    nearest: int
    moved_at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LadderState:
    """``better_since`` is when the host first looked better than its level; ``None`` while it does not.

    ``evaporation`` is how fast sharing has dissolved lately, ``scanning`` how fast equal pages are looked for.
    """

    level: Level = Level.CLEAR
    better_since: float | None = None
    asked: typing.Mapping[str, Asked] = dataclasses.field(default_factory=dict)
    evaporation: Evaporation = Evaporation()
    departing: Departing = Departing()
    scanning: Scanning = Scanning()

    def targets(self) -> dict[str, int]:
        return {uuid: asked.target for uuid, asked in self.asked.items()}


def to_dict(state: LadderState) -> dict[str, typing.Any]:
    return {'level': state.level.name, 'evaporation': dataclasses.asdict(state.evaporation),
            'departing': departing.to_dict(state.departing),
            'asked': {uuid: {f: getattr(a, f) for f in ('target', 'at', 'nearest', 'moved_at')}
                      for uuid, a in state.asked.items()}}


def from_dict(fields: dict[str, typing.Any]) -> LadderState:
    """:raises KeyError, TypeError, ValueError, AttributeError: not a state written by :func:`to_dict`."""
    asked = {str(uuid): Asked(target=int(a['target']), at=float(a['at']), nearest=int(a['nearest']),
                              moved_at=float(a['moved_at'])) for uuid, a in fields['asked'].items()}
    return LadderState(level=Level[fields['level']], asked=asked,
                       evaporation=Evaporation(**fields.get('evaporation', {})),
                       departing=departing.from_dict(fields.get('departing')))


def without(state: LadderState, guests: typing.Collection[str]) -> LadderState:
    """The same, with nothing asked of these guests: what failed, or was only told, has not been asked."""
    kept = {uuid: asked for uuid, asked in state.asked.items() if uuid not in guests}
    return dataclasses.replace(state, asked=kept)
