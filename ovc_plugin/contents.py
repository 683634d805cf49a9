# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a host tells of its guests' contents: what the kernel has merged of each image, and sketches of them.

Sketches are sampled slowly: one guest of each image, some pages a pass, until it is complete; and not at all unless
``[ovc_host] sample_pages`` says so: that reads guests' memory, with a root helper of its own.
"""
from __future__ import annotations

import logging
import typing

from ovc_plugin.decide import sketch
from ovc_plugin.model import GuestSnapshot, HostSnapshot

LOG = logging.getLogger(__name__)
AGAIN = 86400.0  # seconds until an image is looked at anew
_REST = 600.0    # and after a guest that could not be read
# A page is merged at the kernel's second look at the earliest; the round that a guest came into does not count.
_ROUNDS = 3

# (pid, size, first page, pages, salt, below) -> (next page or 0, hashes)
Reader = typing.Callable[[int, int, int, int, str, int], 'tuple[int, list[int]]']


class _Scan:
    """One guest, being looked at."""

    def __init__(self, guest: GuestSnapshot, name: str) -> None:
        self.uuid, self.name = guest.uuid, name
        self.first = 0
        self.kept: list[int] = []

    @property
    def below(self) -> int:
        """Hashes from here on cannot be among the smallest any more."""
        return self.kept[-1] if len(self.kept) > sketch.KEPT else sketch.SPACE

    def add(self, found: list[int]) -> None:
        self.kept = sorted({*self.kept, *found})[:sketch.KEPT + 1]


class Sampler:
    """``pages`` are looked at in each pass, none without a ``reader``; ``pid_of`` finds the process of a guest by its
    name."""

    def __init__(self, reader: Reader | None = None, pid_of: typing.Callable[[str], int] = int, pages: int = 0) -> None:
        self._reader, self._pid_of, self._pages = reader, pid_of, pages
        self._since: dict[str, int] = {}
        self._sketches: dict[str, sketch.Sketch] = {}
        self._due: dict[str, float] = {}
        self._scan: _Scan | None = None
        self._turn = 0

    def look(self, snapshot: HostSnapshot, now: float) -> None:
        """Go on with the guest under way, or begin with one whose image is due. Never raises."""
        if self._reader is None:
            return
        sharing = {g.uuid: g for g in snapshot.running if g.can_share and g.image and not g.untouchable}
        if self._scan is None or self._scan.uuid not in sharing:
            self._scan = self._next(sharing.values(), now)
        if self._scan is None:
            return
        scan, guest = self._scan, sharing[self._scan.uuid]
        try:
            scan.first, found = self._reader(self._pid_of(guest.name), guest.maximum, scan.first, self._pages,
                                             guest.trust_domain, scan.below)
            scan.add(found)
        except Exception as error:  # whatever it is, it costs a sketch and nothing else
            LOG.warning('pages of %s cannot be sampled (%s: %s); its image is looked at again in %.0f s', guest.name,
                        type(error).__name__, error, _REST)
            self._due[scan.name], self._scan = now + _REST, None
            return
        if not scan.first:
            self._sketches[scan.name] = sketch.of(scan.kept)
            self._due[scan.name], self._scan = now + AGAIN, None

    def _next(self, guests: typing.Iterable[GuestSnapshot], now: float) -> _Scan | None:
        self._due = {name: at for name, at in self._due.items() if 0 < at - now <= AGAIN}  # a clock may be set back
        here: dict[str, GuestSnapshot] = {}
        for guest in guests:
            here.setdefault(sketch.image_name(guest.trust_domain, guest.image), guest)
        self._sketches = {name: found for name, found in self._sketches.items() if name in self._due or name in here}
        return next((_Scan(guest, name) for name, guest in here.items() if name not in self._due), None)

    def told(self, snapshot: HostSnapshot, most: int) -> str:
        """What the report says of contents: the images that share here, what the kernel has merged of them, and other
        sketches each time."""
        self._turn += 1
        images = frozenset(sketch.image_name(g.trust_domain, g.image)
                           for g in snapshot.running if g.can_share and g.image)
        known = {name: found for name, found in self._sketches.items() if name in images}
        saved = sketch.measured(snapshot.running, self._scanned(snapshot))
        if self._reader is None and not saved:
            return ''
        return sketch.encode(sketch.Contents(images=images, sketches=known, saved=saved), most, self._turn)

    def _scanned(self, snapshot: HostSnapshot) -> frozenset[str]:
        """The guests that the kernel has looked through; where it does not count its rounds, those that save."""
        rounds = snapshot.ksm.full_scans if snapshot.ksm else None
        if rounds is None:
            return frozenset(g.uuid for g in snapshot.running if g.saved)
        self._since = {g.uuid: min(rounds, self._since.get(g.uuid, rounds)) for g in snapshot.running}
        return frozenset(uuid for uuid, since in self._since.items() if rounds >= since + _ROUNDS)
