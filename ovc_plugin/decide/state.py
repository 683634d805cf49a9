# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the rules remember from one pass to the next; plain data, so that it can be kept across a restart."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin import codec
from ovc_plugin.decide import departing
from ovc_plugin.decide.departing import Departing
from ovc_plugin.decide.evaporation import Evaporation
from ovc_plugin.decide.scanning import Scanning
from ovc_plugin.model import Level

Kept = typing.TypeVar('Kept')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A balloon target that was asked for, and when the guest last came nearer to it.

    ``change`` is by how much it was asked to grow, below 0 where it was asked to shrink; 0 where that is not known.
    ``speed`` is how fast its balloon was seen to move, in bytes per second; ``None`` until it has. ``gave_way_at`` is
    when it was last seen to grow by itself: a guest out of memory takes it out of its balloon.
    """

    target: int
    at: float
    nearest: int
    moved_at: float
    change: int = 0
    speed: float | None = None
    gave_way_at: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a guest could not give up without swapping itself. ``slow`` follows what it says, fast up and slowly down;
    ``raised`` is what its faults add: bytes. ``heard_at`` is when it spoke, 0 where it has not since it was found.
    ``size`` is what it had when that was last seen to change, at ``sized_at``; 0 where that was never looked at."""

    slow: float
    raised: float
    heard_at: float
    size: int = 0
    sized_at: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How many bytes of a guest may be swapped in one pass, when that last changed, and how many were moved since.

    ``misses`` is how often in a row nothing of it was moved when that was tried, ``until`` when that is to be tried
    again (``swap.resting``).
    """

    step: int
    at: float
    misses: int = 0
    until: float = 0.0
    moved: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gift:
    """Bytes that a guest was given last, what of them it has not been seen to fill, and what its host was last seen to
    back of it; ``None`` where that is not known."""

    amount: int
    unfilled: int
    backed: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """Bytes that guests were seen at one look to have filled of what they were given, in the ``seconds`` since the one
    before."""

    at: float
    amount: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What guests were given, by uuid, when that was last looked at, and what they filled of it just now."""

    gifts: typing.Mapping[str, Gift] = dataclasses.field(default_factory=dict)
    at: float = 0.0
    recent: tuple[Filled, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LadderState:
    """``better_since`` is when the host first looked better than its level, ``None`` while it does not; ``soft_at``
    when it last looked no better than SOFT, ``None`` where it never did. ``watching``: this is not the only look,
    so a guest's next word may be waited for.

    ``unclear_at`` is when it was last not CLEAR, ``None`` where it was never seen so. ``asked``, ``needs`` and
    ``probes`` are by uuid; a guest of which nothing is known is missing. ``evaporation`` is how fast sharing has
    dissolved lately, ``scanning`` how fast equal pages are looked for, ``filling`` how guests fill what they were
    given.
    """

    level: Level = Level.CLEAR
    better_since: float | None = None
    soft_at: float | None = None
    watching: bool = False
    unclear_at: float | None = None
    asked: typing.Mapping[str, Asked] = dataclasses.field(default_factory=dict)
    needs: typing.Mapping[str, Need] = dataclasses.field(default_factory=dict)
    probes: typing.Mapping[str, Probe] = dataclasses.field(default_factory=dict)
    evaporation: Evaporation = Evaporation()
    departing: Departing = Departing()
    scanning: Scanning = Scanning()
    filling: Filling = Filling()

    def targets(self) -> dict[str, int]:
        return {uuid: asked.target for uuid, asked in self.asked.items()}


def to_dict(state: LadderState) -> dict[str, typing.Any]:
    return {'level': state.level.name, 'unclear_at': state.unclear_at,
            'evaporation': dataclasses.asdict(state.evaporation),
            'departing': departing.to_dict(state.departing),
            'gifts': _write(state.filling.gifts),
            'asked': _write(state.asked), 'needs': _write(state.needs), 'probes': _write(state.probes)}


def from_dict(fields: dict[str, typing.Any]) -> LadderState:
    """What an earlier version did not write has its default; what a later one wrote besides is passed over.

    :raises KeyError, TypeError, ValueError, AttributeError, ArithmeticError: not written by :func:`to_dict`.
    """
    return LadderState(
        level=Level[fields['level']], unclear_at=_time(fields.get('unclear_at')),
        asked=_read(Asked, fields['asked']), needs=_read(Need, fields.get('needs', {})),
        probes=_read(Probe, fields.get('probes', {})),
        filling=Filling(gifts=_read(Gift, fields.get('gifts', {}))),
        evaporation=codec.read(Evaporation, fields.get('evaporation', {})),
        departing=departing.from_dict(fields.get('departing')))


def _time(value: typing.Any) -> float | None:
    return None if value is None else float(value)


def _write(kept: typing.Mapping[str, typing.Any]) -> dict[str, typing.Any]:
    return {uuid: {f: getattr(one, f) for f in one.__dataclass_fields__} for uuid, one in kept.items()}


def _read(kind: type[Kept], entries: dict[str, dict[str, typing.Any]]) -> dict[str, Kept]:
    known, found = {f.name for f in dataclasses.fields(kind)}, {}  # type: ignore[arg-type]
    for uuid, entry in entries.items():
        values = {name: value for name, value in entry.items() if name in known}
        optional = ('speed', 'gave_way_at', 'backed')
        if wrong := [f for f, v in values.items() if not (isinstance(v, int | float) or v is None and f in optional)]:
            raise TypeError(f'guest {uuid}: {wrong[0]} is {values[wrong[0]]!r} and not a number')
        found[str(uuid)] = kind(**values)
    return found


def without(state: LadderState, guests: typing.Collection[str]) -> LadderState:
    """The same, with nothing asked of these guests: what failed, or was only told, has not been asked."""
    kept = {uuid: asked for uuid, asked in state.asked.items() if uuid not in guests}
    gifts = {uuid: gift for uuid, gift in state.filling.gifts.items() if uuid not in guests}
    return dataclasses.replace(state, asked=kept, filling=dataclasses.replace(state.filling, gifts=gifts))
