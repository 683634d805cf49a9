# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The only reader of nova's HostState and RequestSpec: what a host reports, what is in flight, what is asked.

Nothing of nova is imported here: its objects are known by their attributes, so that the rules can be tried without it.
"""
from __future__ import annotations

import logging
import re
import typing

from ovc_plugin import report as reports
from ovc_plugin.decide import guarantee, placement
from ovc_plugin.model import MIB, Level, Request
from ovc_plugin.nova import book
from ovc_plugin.nova.attributes import OVERCOMMIT, given, image_or_flavor, shares
from ovc_plugin.report import HostReport
from ovc_plugin.settings import SharedSettings

LOG = logging.getLogger(__name__)

RESERVATION = 'ovc:reservation'

# Resource classes of devices that reach into a guest's memory. Not all custom classes are such: these are what nova
# itself makes of devices.
DEVICES = re.compile(r'resources[^:]*:(VGPU|PGPU|PCI_DEVICE|CUSTOM_PCI_\w+)')
DEVICE_SPECS = ('pci_passthrough:alias', 'accel:device_profile')
SMALL_PAGE_KIB = 4
_warned: set[str] = set()


class Known:
    """A host's report with what follows from it for any request, and how the last request found it.

    ``domain`` is the one trust domain that shares there, ``None`` when there is none or several.
    """

    __slots__ = ('text', 'report', 'standing', 'counted', 'guests', 'domain', 'taken_at', 'short', 'seen', 'there')

    def __init__(self, text: str, report: HostReport) -> None:
        self.text, self.report = text, report
        self.standing = placement.standing(report)
        self.counted, self.guests = report.nova_reserved + report.claimed, report.guests
        self.domain = report.domains[0] if len(report.domains) == 1 else None
        self.there = book.read(report)
        # Read for each host of each request: an attribute here costs less than two.
        self.taken_at, self.short = report.taken_at, report.level >= Level.HARD
        self.seen = _NEVER


# By node. A report comes once a minute and requests far more often, each with HostStates made anew: only the text tells
# whether it is still the same report. Nodes that are gone stay; they are few.
_known: dict[str, Known] = {}


def known(host_state: typing.Any) -> Known | None:
    """What the host's report says as nova last stored it; ``None`` when the host sends none.

    :raises ovc_plugin.report.ReportError: there is one, and it cannot be read or cannot be true.
    """
    # nova leaves stats unset on a host whose first audit has not ended.
    try:
        text = host_state.stats.get(reports.STATS_KEY)
    except AttributeError:
        return None
    if text is None:
        return None
    found = _known.get(host_state.nodename)
    if found is None or found.text != text:
        found = _known[host_state.nodename] = Known(text, reports.decode(text))
    return found


def all_known() -> typing.Mapping[str, Known]:
    return _known


def used(host_state: typing.Any) -> int:
    """Bytes that nova counts as used: its reserve and the flavors of all that is claimed, this request's too."""
    return int(host_state.total_usable_ram_mb - host_state.free_ram_mb) * MIB


def in_flight(host_state: typing.Any, known: Known) -> tuple[int, int]:
    """(guests, bytes) that nova has claimed on the host and its report does not yet know.

    A migration on its way is in nova's memory and not in its count of guests: memory in flight is one guest at least.
    """
    memory = (host_state.total_usable_ram_mb - host_state.free_ram_mb) * MIB - known.counted
    if memory <= 0:
        memory = 0
    guests = host_state.num_instances - known.guests
    if guests <= 0:
        guests = 1 if memory else 0
    return guests, memory


class Seen(typing.NamedTuple):
    """A host as requests find it until a guest comes or goes: who is in flight, and by what is asked what each sum
    leaves (:func:`placement.margins`)."""

    free_mb: int
    instances: int
    guests: int
    memory: int
    left: dict[tuple[int, int], tuple[int, int, int]]


_NEVER = Seen(-1, -1, 0, 0, {})
_MOST_FLAVORS = 200


def left(host_state: typing.Any, known: Known, asking: Asking) -> tuple[int, int, int]:
    """What each sum leaves on the host with the request and all in flight.

    Kept while nothing changes there: filter and weigher ask for the same, the next request for a guest of the same size
    too, and few hosts change between two requests.
    """
    asked = asking.plain or asking.terms(host_state)
    seen = known.seen
    if seen[0] != host_state.free_ram_mb or seen[1] != host_state.num_instances or len(seen[4]) > _MOST_FLAVORS:
        guests, memory = in_flight(host_state, known)
        # In one piece: requests are served by several threads.
        known.seen = seen = Seen(host_state.free_ram_mb, host_state.num_instances, guests, memory, {})
    found = seen[4].get(asked.key)
    if found is None:
        found = seen[4][asked.key] = placement.margins(known.standing, asked, seen[2], seen[3], None)
    return found


def find(host_state: typing.Any, asking: Asking) -> tuple[Known, tuple[int, int, int]] | None:
    """:func:`known` and :func:`left` in one; ``None`` when the host sends no report. This is most of what a request
    costs on a host, so what was found out before is looked up first.

    :raises ovc_plugin.report.ReportError: as :func:`known`.
    """
    try:
        kept = _known[host_state.nodename]
        if kept.text == host_state.stats[reports.STATS_KEY]:
            seen = kept.seen
            if seen[0] == host_state.free_ram_mb and seen[1] == host_state.num_instances:
                return kept, seen[4][(asking.plain or asking.terms(host_state)).key]
    except (AttributeError, KeyError):
        pass
    fresh = known(host_state)
    return None if fresh is None else (fresh, left(host_state, fresh, asking))


class Asking:
    """What one request asks of a host. ``asked`` is a RequestSpec or an Instance.

    The reservation is that of the flavor, of the host's aggregates, or of the configuration, in this order. (nova
    drops image properties that it does not know, so an image cannot carry one.) A value that cannot be used
    guarantees the guest all its memory and is warned of once. ``domain`` names the trust domain of a guest that shares
    pages, ``None`` when it does not; ``kind`` is what makes guests alike.
    """

    def __init__(self, asked: typing.Any, shared: SharedSettings) -> None:
        flavor = asked.flavor
        specs = given(flavor, 'extra_specs') or {}
        self.guest = str(given(asked, 'instance_uuid') or given(asked, 'uuid') or '')
        self.memory = int(flavor.memory_mb) * MIB
        self._flavor = f'flavor {given(flavor, "name")!r}'
        self._shared = shared
        self._by_text: dict[str | None, Request] = {}
        self._terms: dict[tuple[int, ...], placement.Terms] = {}
        self._own = specs.get(RESERVATION)
        self._whole = untouchable(asked, specs) or self._opted_out(specs)
        project = given(asked, 'project_id')
        self.domain = reports.domain_name(project) if project and shares(specs) else None
        # Where the flavor says all, no host's aggregates need to be looked at.
        self.plain = self.terms(None) if self._whole or self._own is not None else None
        self.kind = (project, image_or_flavor(given(given(asked, 'image'), 'id'), given(flavor, 'id')))

    def of(self, host_state: typing.Any = None) -> Request:
        """The request as this host must judge it; without a host, by flavor and configuration."""
        text = None
        if self._own is None and host_state is not None and host_state.aggregates:
            text = self._of_aggregates(host_state)
        if text not in self._by_text:
            self._by_text[text] = self._request(text)
        return self._by_text[text]

    def terms(self, host_state: typing.Any) -> placement.Terms:
        """The same, as the sums take it."""
        # Many hosts are in the same aggregates, which live as long as the request.
        key = tuple(map(id, host_state.aggregates)) if host_state is not None else ()
        found = self._terms.get(key)
        if found is None:
            found = self._terms[key] = placement.terms(self.of(host_state), self._shared)
        return found

    def _request(self, aggregate: str | None) -> Request:
        if self._whole:
            return Request(memory=self.memory, reservation=self.memory, guest=self.guest, overcommit=False)
        reservation, complaint = guarantee.first_reservation(
            [(f'{self._flavor}, extra spec {RESERVATION}', self._own),
             (f'aggregate metadata {RESERVATION}', aggregate),
             ('[ovc] default_reservation', self._shared.default_reservation)], self.memory)
        if complaint:
            warn_once(complaint)
        return Request(memory=self.memory, reservation=reservation, guest=self.guest)

    def _of_aggregates(self, host_state: typing.Any) -> str | None:
        """Of several aggregates that disagree, the one that guarantees most: no promise is then too small."""
        texts = {a.metadata[RESERVATION] for a in host_state.aggregates if RESERVATION in a.metadata}
        return max(texts, key=lambda text: guarantee.first_reservation([('', text)], self.memory)[0], default=None)

    def _opted_out(self, specs: typing.Mapping[str, str]) -> bool:
        text = specs.get(OVERCOMMIT)
        try:
            return text is not None and not guarantee.yes(text)
        except ValueError as error:
            warn_once(f'{self._flavor}, extra spec {OVERCOMMIT}: {error}; the guest is not overcommitted until that '
                      'is corrected')
            return True


def untouchable(asked: typing.Any, specs: typing.Mapping[str, str]) -> str | None:
    """Why no mechanism may touch the guest, so that it counts at its full size; ``None`` when one may.

    What only the host can see (an interface of type vdpa, a device class of the operator's own making) is counted by
    its report once the guest runs there.
    """
    cells = getattr(given(asked, 'numa_topology'), 'cells', None) or ()
    if any((given(cell, 'pagesize') or SMALL_PAGE_KIB) != SMALL_PAGE_KIB for cell in cells):
        return 'huge pages'
    if any(given(cell, 'cpu_policy') in ('dedicated', 'mixed') for cell in cells):
        return 'pinned processors'
    if cells:
        return 'memory bound to NUMA nodes'
    if getattr(given(asked, 'pci_requests'), 'requests', None) or any(map(_is_device, specs.items())):
        return 'passed-through devices'
    image = getattr(given(asked, 'image'), 'properties', None)
    for name in ('locked_memory', 'mem_encryption'):
        text = specs.get(f'hw:{name}') or (given(image, f'hw_{name}') if image is not None else None)
        if str(text or '').strip().lower() in ('true', 'yes', '1', 'on', 't', 'y'):
            return name.replace('_', ' ')
    return None


def _is_device(spec: tuple[str, str]) -> bool:
    name, value = spec
    return bool(value) and (name in DEVICE_SPECS or (DEVICES.fullmatch(name) is not None and value.strip() != '0'))


def warn_once(complaint: str) -> None:
    if complaint not in _warned and len(_warned) < 10000:
        _warned.add(complaint)
        LOG.warning('%s', complaint)
