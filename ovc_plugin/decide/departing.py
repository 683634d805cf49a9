# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What is remembered of a shortage that lasts, and of guests that the cloud was asked to move away; plain data."""
from __future__ import annotations

import dataclasses
import typing

Fields = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """A guest that was asked away, and when."""

    guest: str
    at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """How often in a row a guest could not be moved, and until when it is not asked away again."""

    count: int
    until: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Departing:
    """``short_since``: when the shortage began, ``short_at``: when it was last seen;
    ``critical_since``: since when the level has been CRITICAL without a break. ``returning`` is the smoothed rate
    at which guests read pages back from swap and ``usual`` its mean over the shortage, in bytes per second, both as of
    ``looked_at``. ``rest_until``: no guest is asked away before. ``here_since``: when each guest was first seen;
    ``None`` before the first look, whose guests count as having been here for long. ``measure`` are guests whose dirty
    rate is wanted.
    """

    short_since: float | None = None
    short_at: float = 0.0
    critical_since: float | None = None
    returning: float = 0.0
    usual: float = 0.0
    looked_at: float | None = None
    awaited: Awaited | None = None
    rest_until: float = 0.0
    setbacks: typing.Mapping[str, Setback] = dataclasses.field(default_factory=dict)
    here_since: typing.Mapping[str, float] | None = None
    measure: tuple[str, ...] = ()

    @property
    def guest(self) -> str | None:
        """The guest that is on its way, or should be."""
        return self.awaited.guest if self.awaited else None


def to_dict(departing: Departing) -> Fields:
    """What must survive a restart: whom the cloud moves, and who could not be moved.

    The shortage itself is not kept: it is judged anew, and a file written at each pass wears out a disk.
    """
    awaited = departing.awaited
    return {'rest_until': departing.rest_until,
            'awaited': {'guest': awaited.guest, 'at': awaited.at} if awaited else None,
            'setbacks': {uuid: {'count': s.count, 'until': s.until} for uuid, s in departing.setbacks.items()},
            'here_since': dict(departing.here_since) if departing.here_since is not None else None}


def from_dict(fields: Fields | None) -> Departing:
    """What :func:`to_dict` wrote; a release without it wrote nothing.

    :raises KeyError, TypeError, ValueError, AttributeError: not written by :func:`to_dict`.
    """
    if not fields:
        return Departing()
    awaited, here = fields['awaited'], fields['here_since']
    return Departing(
        rest_until=float(fields['rest_until']),
        awaited=Awaited(guest=str(awaited['guest']), at=float(awaited['at'])) if awaited else None,
        setbacks={str(uuid): Setback(count=int(s['count']), until=float(s['until']))
                  for uuid, s in fields['setbacks'].items()},
        here_since=None if here is None else {str(uuid): float(at) for uuid, at in here.items()})
