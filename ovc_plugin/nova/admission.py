# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The guests that a host has let in and its report does not yet count."""
from __future__ import annotations

import dataclasses
import math
import threading
import typing

from ovc_plugin.model import InFlight, Request, Verdict

# What each guest in the report is guaranteed there, in bytes without overhead, by its uuid.
Counted = typing.Mapping[str, int]
_UNKNOWN: typing.Mapping[str, int] = {}


@dataclasses.dataclass(slots=True)
class _Entry:
    request: Request
    expires: float
    patience: float  # seconds from its entry until it expires
    landed_at: float = math.inf

    @property
    def owed(self) -> int:
        return owed(self.request)


def owed(request: Request) -> int:
    """What a guest is guaranteed, in bytes without overhead; one that may not be touched, everything."""
    return request.reservation if request.overcommit else request.memory


class Ledger:
    """In flight as the host itself knows it, so that guests that arrive together are not all judged by one report.

    Of a guest that the report counts with less than it is to have, or to be guaranteed, the difference is in flight.
    An entry leaves once the guests were listed after its arrival ended (well or badly). One of which nobody tells the
    end (a migration that was checked, a guest defined anew) leaves once the report counts it in full, or when it
    expires.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def admit(self, request: Request, judge: typing.Callable[[InFlight], Verdict], *, counted: Counted,
              listed_at: float, now: float, expires: float = math.inf, force: bool = False,
              sizes: typing.Mapping[str, int] = _UNKNOWN) -> Verdict:
        """Judge one arrival with all others in flight and enter it; with ``force`` it is entered though refused.

        One of the guests ``counted`` (a rebuild, a resize on the same host) is let in; it is entered as it is gone
        meanwhile, or larger. They were listed at ``listed_at``, earlier than the report where the hypervisor did not
        answer, of ``sizes``, in bytes.
        """
        with self._lock:
            self._prune(counted, listed_at, now)
            if request.guest in counted:
                verdict = Verdict(ok=True, reason='the guest is here already')
            else:
                verdict = judge(self._in_flight(request.guest, counted, sizes))
            if verdict.ok or force:
                self._entries[request.guest] = _Entry(request, expires, expires - now)
            return verdict

    def grow(self, request: Request, judge: typing.Callable[[int, InFlight], Verdict], *, otherwise: Request,
             counted: Counted, listed_at: float, now: float, expires: float, force: bool = False) -> Verdict:
        """Judge a guest that is defined anew by what it is guaranteed then beyond what it is counted with: ``judge``
        takes that, in bytes, and all else in flight. Refused it counts as ``otherwise``, unless by ``force``."""
        with self._lock:
            self._prune(counted, listed_at, now)
            here = request.guest in counted
            more = owed(request) - counted.get(request.guest, 0)
            if more <= 0:
                return Verdict(ok=True, reason='the guest is counted so already')
            flying = self._in_flight(request.guest, counted)
            # With its own overhead, where no report counts it just then.
            verdict = judge(more, flying if here else dataclasses.replace(flying, guests=flying.guests + 1))
            entry = self._entries.setdefault(request.guest, _Entry(otherwise, expires, expires - now))
            entry.request = request if verdict.ok or force else otherwise
            return verdict

    def landed(self, guest: str, now: float) -> None:
        """The arrival is over: the next report tells whether the guest is here."""
        with self._lock:
            if guest in self._entries:
                self._entries[guest].landed_at = now

    def _prune(self, counted: Counted, listed_at: float, now: float) -> None:
        for entry in self._entries.values():  # a clock may have been set back
            entry.expires = min(entry.expires, now + entry.patience)
            if now < entry.landed_at < math.inf:
                entry.landed_at = now
        self._entries = {guest: entry for guest, entry in self._entries.items()
                         if entry.landed_at >= listed_at and entry.expires > now
                         and (entry.expires == math.inf or counted.get(guest, -1) < entry.owed)}

    def _in_flight(self, but: str, counted: Counted, sizes: typing.Mapping[str, int] = _UNKNOWN) -> InFlight:
        others = {guest: entry for guest, entry in self._entries.items() if guest != but}
        new = [entry.request for guest, entry in others.items() if guest not in counted]
        grown = sum(max(0, entry.request.memory - sizes[guest]) for guest, entry in others.items() if guest in sizes)
        return InFlight(guests=len(new), memory=sum(r.memory for r in new) + grown,
                        reserved=sum(max(0, entry.owed - counted.get(guest, 0)) for guest, entry in others.items()))
