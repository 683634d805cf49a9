# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What is remembered of a shortage that lasts, and of guests that the cloud was asked to move away; who may not be."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.model import GuestSnapshot, HostSnapshot
from ovc_plugin.settings import HostSettings

Fields = dict[str, typing.Any]
_LONGEST = 86400.0


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


def rest(count: int, settings: HostSettings) -> float:
    """Seconds for which a guest that could not be moved so often is left alone."""
    return float(min(_LONGEST, settings.migrate_cooldown * 2 ** min(count, 16)))


def bounded(departing: Departing, settings: HostSettings, now: float) -> Departing:
    """The same, with no rest that lasts longer from now on than one does at first: a clock may have been set back."""
    return dataclasses.replace(
        departing, rest_until=min(departing.rest_until, now + settings.migrate_cooldown),
        setbacks={uuid: Setback(count=s.count, until=min(s.until, now + rest(s.count, settings)))
                  for uuid, s in departing.setbacks.items()})


def closed(snapshot: HostSnapshot, departing: Departing, settings: HostSettings, now: float) -> str | None:
    """Why no guest at all may be asked away now, whoever wants it to go; ``None`` where one may."""
    if not settings.migrate or snapshot.departures is None:
        return 'nobody is asked away here: ' + ('there is no cloud to ask, though migrate is on in [ovc_host]'
                                                if settings.migrate else 'migrate is off in [ovc_host]')
    if departing.guest is not None:
        name = next((g.name for g in snapshot.guests if g.uuid == departing.guest), departing.guest)
        return f'{name} is on its way: one guest at a time'
    left = departing.rest_until - now
    return f'this host asks nobody away for another {left:.0f} s (migrate_cooldown)' if left > 0 else None


def stays(guest: GuestSnapshot, departing: Departing, settings: HostSettings, now: float) -> str | None:
    """Why this guest may not be asked away now, whoever wants it to go; ``None`` where it may. One that has just come
    stays, lest two hosts pass it to and fro."""
    if not guest.can_migrate:
        return (f'{guest.name} must not be touched ({guest.untouchable})' if guest.untouchable else
                f'{guest.name} cannot be moved (by its definition, or it boots, pauses or moves)')
    if not guest.managed:
        return f'{guest.name} is none of the cloud\'s guests'
    setback = departing.setbacks.get(guest.uuid)
    if setback and now < setback.until:
        return (f'{guest.name} could not be moved {setback.count} times, and is left alone for another '
                f'{setback.until - now:.0f} s')
    here = now - (departing.here_since or {}).get(guest.uuid, now)
    if here < settings.migrate_cooldown:
        return f'{guest.name} came {here:.0f} s ago < {settings.migrate_cooldown:.0f} s (migrate_cooldown)'
    return None


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
