# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The guests that a host has let in and its report does not yet count."""
from __future__ import annotations

import dataclasses
import math
import threading
import typing

from ovc_plugin.model import InFlight, Request, Verdict


@dataclasses.dataclass(slots=True)
class _Entry:
    request: Request
    expires: float
    landed_at: float = math.inf


class Ledger:
    """In flight as the host itself knows it, so that guests that arrive together are not all judged by one report.

    An entry leaves once the report counts its guest, once the guests were listed after its arrival ended (well or
    badly), or when it expires (a migration that was checked and never came).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def admit(self, request: Request, judge: typing.Callable[[InFlight], Verdict], *, counted: typing.Collection[str],
              listed_at: float, now: float, expires: float = math.inf, force: bool = False) -> Verdict:
        """Judge one arrival with all others in flight and enter it; with ``force`` it is entered though refused.

        ``counted`` are the guests in the report: one of these (a rebuild) brings nothing new and is let in. They were
        listed at ``listed_at``, which is earlier than the report where the hypervisor did not answer.
        """
        with self._lock:
            self._prune(counted, listed_at, now)
            if request.guest in counted:
                return Verdict(ok=True, reason='the guest is here already')
            verdict = judge(self._in_flight(request.guest))
            if verdict.ok or force:
                self._entries[request.guest] = _Entry(request, expires)
            return verdict

    def landed(self, guest: str, now: float) -> None:
        """The arrival is over: the next report tells whether the guest is here."""
        with self._lock:
            if guest in self._entries:
                self._entries[guest].landed_at = now

    def _prune(self, counted: typing.Collection[str], listed_at: float, now: float) -> None:
        self._entries = {guest: entry for guest, entry in self._entries.items()
                         if guest not in counted and entry.landed_at >= listed_at and entry.expires > now}

    def _in_flight(self, but: str) -> InFlight:
        others = [entry.request for guest, entry in self._entries.items() if guest != but]
        return InFlight(guests=len(others), memory=sum(r.memory for r in others),
                        reserved=sum(r.reservation if r.overcommit else r.memory for r in others))
