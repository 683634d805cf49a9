# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests that are on their way to this host: sharing shall know of their trust domains before their pages come."""
from __future__ import annotations

import dataclasses
import threading

from ovc_plugin.model import HostSnapshot

EXPECTED = 120.0  # seconds until a guest that was to migrate to here is expected no longer


class Arrivals:
    """Told by any thread, looked at by the one of the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: dict[str, tuple[str, float]] = {}
        self._news: str | None = None

    @property
    def news(self) -> str | None:
        """Who was announced, or asked for a look, since the last one, in words."""
        return self._news

    def expect(self, guest: str, domain: str, now: float) -> None:
        """A mergeable guest of this trust domain is about to migrate to here."""
        with self._lock:
            self._coming[guest] = (domain, now)
            self._news = f'guest {guest} arrives'

    def ask(self, why: str) -> None:
        """A look is wanted for somebody who waits for what it shows."""
        with self._lock:
            self._news = self._news or why

    def told(self) -> None:
        """What was news has brought a pass forward; it need bring no other, where that could look at no guest."""
        with self._lock:
            self._news = None

    def seen(self, snapshot: HostSnapshot, now: float) -> HostSnapshot:
        """The host with those that are expected: until they are here, or have not come for a while."""
        here = {g.uuid for g in snapshot.guests}
        with self._lock:
            self._news = None
            self._coming = {guest: (domain, at) for guest, (domain, at) in self._coming.items()
                            if guest not in here and abs(now - at) < EXPECTED}
            domains = {domain for domain, _ in self._coming.values()}
        return dataclasses.replace(snapshot, arriving=tuple(sorted(domains)))
