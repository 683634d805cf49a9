# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Modelled hosts that report as ours do, and placement by their reports: a part of benchmarks/pack.

Whatever decides is the product's: the report (its level, what it can reclaim, what it keeps against evaporation, the
peak it expects), what it tells of contents, whether a guest fits, and the votes.
"""
from __future__ import annotations

import collections
import typing

import numpy as np
from pack_world import Guest, Size, Tree

from ovc_plugin import foresight, report
from ovc_plugin.contents import Sampler
from ovc_plugin.decide import evaporation, learned, placement, pressure, score, sketch
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.predict import Calibrated
from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, InFlight, KsmState, Request
from ovc_plugin.settings import Settings

PAGES = 256       # of 4 KiB in a MiB
OTHERS = 256      # MB that the host uses itself, within its reserve
WATERMARK = 64    # MB that its kernel never hands out
TENANT = 'tenant'
ROUNDS = 4        # of the kernel's scanner between two reports that count: all that is alike is merged by then


def smallest(dice: np.random.Generator, pages: float, kept: int) -> list[int]:
    """The smallest of that many evenly spread hashes, without drawing all of them."""
    steps = np.cumsum(dice.exponential(size=min(kept, max(1, int(pages)))))
    return [int(s / (pages + 1) * sketch.SPACE) for s in steps if s < pages + 1]


class Pages:
    """Hashes of guests' pages, as the root helper reads them: those of a page set are the same in all guests."""

    def __init__(self, of: Tree, seed: int) -> None:
        self._dice = np.random.default_rng(seed)
        self._of = of
        self._sets = [smallest(self._dice, size * PAGES, sketch.KEPT + 1) for size in of.size]

    def of(self, guest: Guest) -> list[int]:
        hashes = smallest(self._dice, guest.own * PAGES, sketch.KEPT + 1)
        for node in self._of.path(guest.image):
            hashes += self._sets[node]
        return sorted(hashes)


class Cloud(typing.NamedTuple):
    """What all hosts have in common. ``merges``: page sharing is on; ``hourly``: the share of merged memory that is
    written, and merged again, in an hour."""

    of: Tree
    size: Size
    pages: Pages
    settings: Settings
    hourly: float
    merges: bool


class Host:
    """``report`` is its last one; ``used`` MB after merging, ``swapped`` of them in swap."""

    def __init__(self, number: int, cloud: Cloud) -> None:
        self.name, self._cloud = f'h{number}', cloud
        self.guests: dict[str, Guest] = {}
        self.sets: collections.Counter[int] = collections.Counter()
        self.promised = 0.0
        self._rounds = 0
        # Sampled pages are all looked at between two guests that come.
        self._sampler = Sampler(lambda pid, size, first, count, salt, below: (0, cloud.pages.of(self.guests[str(pid)])),
                                int, 1 << 40)
        self._tell()

    def more(self, guest: Guest) -> float:
        """MB by which this guest would make the host fuller, once merged."""
        return guest.own + sum(self._cloud.of.size[n] for n in self._cloud.of.path(guest.image) if not self.sets[n])

    def add(self, guest: Guest) -> None:
        self.guests[str(guest.number)] = guest
        self.sets.update(self._cloud.of.path(guest.image))
        self.promised += guest.full
        self._tell()  # before anything of it is merged
        self._tell()

    @property
    def used(self) -> float:
        if not self._cloud.merges:
            return sum(g.full for g in self.guests.values())
        return sum(g.own for g in self.guests.values()) + sum(self._cloud.of.size[n] for n, c in self.sets.items() if c)

    @property
    def swapped(self) -> float:
        """What no memory is left for; or, where guests may be swapped, what gets a short host back to its goal."""
        size, options = self._cloud.size, self._cloud.settings.host
        total = int(size.memory * MIB)
        left = size.memory - OTHERS - self.used - len(self.guests) * size.overhead
        if options.swap and left * MIB < pressure.enter_soft(total, options):
            spare = sum(map(self._spare, self.guests.values()))
            return max(0.0, min(pressure.goal(total, options) / MIB - left, spare))
        return max(0.0, WATERMARK - left)

    def _backed(self, guest: Guest) -> float:
        return guest.full + self._cloud.size.overhead - self._saved(guest)

    def _spare(self, guest: Guest) -> float:
        """What the guest holds beyond what it is guaranteed."""
        return max(0.0, self._backed(guest) - guest.full * self._cloud.size.share - self._cloud.size.overhead)

    def _saved(self, guest: Guest) -> float:
        """Its part: of a page set that n guests have, each saves 1 - 1/n."""
        of = self._cloud.of
        return sum(of.size[n] * (1 - 1 / self.sets[n]) for n in of.path(guest.image)) if self._cloud.merges else 0.0

    def _merged(self, guest: Guest) -> float:
        """What it holds together with others, as the kernel counts it: whole, in each of them."""
        of = self._cloud.of
        return sum(of.size[n] for n in of.path(guest.image) if self.sets[n] > 1) if self._cloud.merges else 0.0

    def snapshot(self) -> HostSnapshot:
        """All guests are busy: nothing of their memory is idle, and they say so."""
        size, swapped = self._cloud.size, self.swapped
        spare = sum(map(self._spare, self.guests.values()))
        seen, saved = [], 0.0
        for uuid, guest in self.guests.items():
            mine = self._saved(guest)
            saved += mine
            backed = self._backed(guest)
            out = int(min(swapped, spare) * self._spare(guest) / spare * MIB) if spare else 0
            full = int(guest.full * MIB)
            seen.append(GuestSnapshot(
                uuid=uuid, name=uuid, maximum=full, reservation=int(guest.full * size.share * MIB),
                overhead=int(size.overhead * MIB), target=full, actual=full, usable=0, stats_age=1.0,
                resident=int(backed * MIB) - out, swapped=out, refaults=0.0, saved=int(mine * MIB),
                merged=int(self._merged(guest) * MIB), can_balloon=True, can_swap=True, trust_domain=TENANT,
                image=f'image {guest.image}'))
        memory, swap = int(size.memory * MIB), int(size.swap * MIB)
        return HostSnapshot(
            host=self.name, taken_at=1e9 + self._rounds, total=memory, reserve=int(size.reserve * MIB),
            available=memory - OTHERS * MIB - sum(g.resident or 0 for g in seen), others=OTHERS * MIB, swap_total=swap,
            swap_free=swap - sum(g.swapped or 0 for g in seen), growth=0.0, stall=0.0, guests=tuple(seen),
            ksm=KsmState(run=1, saved=int(saved * MIB), shared=int(saved * MIB) // 4, pages_to_scan=100,
                         full_scans=self._rounds) if self._cloud.merges else None)

    def _tell(self) -> None:
        """Report as the controller does. Sharing has been watched for long; the predictor has seen nothing yet, and
        expects each guest to fill up."""
        self._rounds += ROUNDS
        seen, options = self.snapshot(), self._cloud.settings.host
        plan, _ = ladder.decide_host(seen, LadderState(), options, seen.taken_at)
        rate = (seen.ksm.saved if seen.ksm else 0) * self._cloud.hourly / 3600
        watched = evaporation.Evaporation(mean=rate, watched=options.evaporation_window, at=seen.taken_at)
        expected = Calibrated().peak(foresight.demand(seen), foresight.HORIZON)
        self._sampler.look(seen, seen.taken_at)
        self.report = report.decode(report.encode(report.of(
            seen, plan, reclaimable=ladder.reclaimable(seen, options), swap_usable=seen.swap_total, backed=True,
            dry_run=False, predicted_peak=expected.peak + seen.others,
            evaporation=evaporation.reserve_against(seen, watched, options),
            sketch=self._sampler.told(seen, report.LONGEST_SKETCH))))


Pick = typing.Callable[[list[Host], Guest], Host | None]


class Scheduler:
    """Our filter, and our weigher's sum. ``held`` says in place of the book what a host holds of a guest already."""

    def __init__(self, cloud: Cloud, *, affinity: float,
                 held: typing.Callable[[Host, Guest], float] | None = None) -> None:
        self._size, self._settings, self._affinity, self._held = cloud.size, cloud.settings, affinity, held
        self._book = learned.Book()
        self._there: dict[str, tuple[report.HostReport, sketch.There]] = {}

    def fitting(self, hosts: list[Host], guest: Guest) -> list[Host]:
        asked, options = self._asked(guest), self._settings
        return [h for h in hosts if placement.fits(h.report, asked, InFlight(), options.scheduler, options.shared,
                                                   h.report.taken_at).ok]

    def best(self, hosts: list[Host], guest: Guest) -> Host | None:
        for host in hosts:
            self._read(host)
        return max(self.fitting(hosts, guest), default=None, key=lambda h: self._votes(h, guest))

    def _asked(self, guest: Guest) -> Request:
        return Request(memory=int(guest.full * MIB), reservation=int(guest.full * self._size.share * MIB))

    def _read(self, host: Host) -> None:
        """A host whose report is new."""
        known = self._there.get(host.name)
        if known is None or known[0] is not host.report:
            contents = sketch.decode(host.report.sketch)
            self._book.learn(contents, host.name)
            self._there[host.name] = host.report, self._book.there(contents.images, contents.saved)

    def _votes(self, host: Host, guest: Guest) -> float:
        """As ovc_plugin.nova.weights.OvercommitWeigher, which needs nova's objects."""
        asked, told, options = self._asked(guest), host.report, self._settings.scheduler
        left = placement.margins(placement.standing(told), placement.terms(asked, self._settings.shared), 0, 0, None)
        room = min(left[1:])
        total = options.headroom_weight_multiplier * score.headroom(room, asked.memory)
        total += options.pressure_trend_weight_multiplier * score.trend(room, told.growth, told.stall)
        if self._affinity and len(told.domains) == 1:
            there = self._there[host.name][1]
            held = self._held(host, guest) if self._held else self._book.expected(
                sketch.image_name(TENANT, f'image {guest.image}'), there) if told.sketch else None
            alike = any(g.image == guest.image for g in host.guests.values())
            total += self._affinity * score.affinity(told, report.domain_name(TENANT), alike, held)
        return total


def policies(cloud: Cloud, affinity: float) -> dict[str, tuple[Cloud, Pick]]:
    """Each with the hosts that it is given. On those without page sharing nothing is credited to it."""
    plain = cloud._replace(merges=False)
    admits = Scheduler(plain, affinity=0.0)

    def true(host: Host, guest: Guest) -> float:
        return 1 - host.more(guest) / guest.full

    return {
        'ram': (plain, lambda hosts, g: min(admits.fitting(hosts, g), default=None, key=lambda h: h.promised)),
        'best fit': (plain, lambda hosts, g: max(admits.fitting(hosts, g), default=None, key=lambda h: h.promised)),
        'blind': (cloud, Scheduler(cloud, affinity=0.0).best),
        'ovc': (cloud, Scheduler(cloud, affinity=affinity).best),
        'all-knowing': (cloud, Scheduler(cloud, affinity=affinity, held=true).best)}


def fill(coming: list[Guest], count: int, policy: tuple[Cloud, Pick]) -> list[Host]:
    """Guests until the first that nobody takes."""
    cloud, pick = policy
    hosts = [Host(number, cloud) for number in range(count)]
    for guest in coming:
        host = pick(hosts, guest)
        if host is None:
            return hosts
        host.add(guest)
    raise SystemExit('pack: all guests fit: fewer --hosts, please')
