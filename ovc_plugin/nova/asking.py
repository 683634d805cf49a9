# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a request, or a guest that is there, asks of a host: read from nova's RequestSpec and Instance.

As in ``host_state`` nothing of nova is imported: its objects are known by their attributes.
"""
from __future__ import annotations

import dataclasses
import logging
import re
import sys
import typing

from ovc_plugin import placing
from ovc_plugin import report as reports
from ovc_plugin.decide import guarantee, placement
from ovc_plugin.model import MIB, Request
from ovc_plugin.nova.attributes import OVERCOMMIT, given, image_or_flavor, shares, specs_of
from ovc_plugin.settings import SharedSettings

LOG = logging.getLogger(__name__)

RESERVATION = 'ovc:reservation'

# Resource classes of devices that reach into a guest's memory. Not all custom classes are such: these are what nova
# itself makes of devices.
DEVICES = re.compile(r'resources[^:]*:(VGPU|PGPU|PCI_DEVICE|CUSTOM_PCI_\w+)')
DEVICE_SPECS = ('pci_passthrough:alias', 'accel:device_profile')
# 4 KiB; -1 is nova's "small" in a request (MEMPAGES_SMALL), where "large" and "any" are -2 and -3.
SMALL_PAGES = (4, -1)
_warned: set[str] = set()
# One object for each key: what is the same object need not be compared. They are few, as flavors are.
_keys: dict[tuple[int, ...], tuple[int, ...]] = {}


class Asking:
    """What one request asks of a host. ``asked`` is a RequestSpec or an Instance.

    The reservation is that of the flavor, of the host's aggregates, or of the configuration, in this order. A value
    that cannot be used guarantees the guest all its memory and is warned of once. ``domain`` names the trust domain of
    a guest that shares pages, ``None`` when it does not: it is told not to, or nothing may be taken from it. ``kind``
    is what makes guests alike. ``unbacked``: the operator does without swap backing on hosts that do, too.
    ``flavor_only``: as if its image said nothing. ``whole``: it counts at its full size.
    """

    def __init__(self, asked: typing.Any, shared: SharedSettings, *, unbacked: bool = False,
                 flavor_only: bool = False) -> None:
        flavor = asked.flavor
        specs = specs_of(asked) if not flavor_only else given(flavor, 'extra_specs') or {}
        self.guest = str(given(asked, 'instance_uuid') or given(asked, 'uuid') or '')
        self.memory = int(flavor.memory_mb) * MIB
        self._flavor = f'flavor {given(flavor, "name")!r}'
        for complaint in placing.unread(specs):
            warn_once(f'{self._flavor}, {complaint}')
        self.shared, self._unbacked = shared, unbacked
        #: What counts the votes on hosts that the filter lets pass.
        self.counts: typing.Any = None
        self._judged: dict[tuple[str | None, str], tuple[Request, str | None]] = {}
        self._terms: dict[tuple[str | int, ...], placement.Terms] = {}
        self._own = specs.get(RESERVATION)
        self.whole = (untouchable(asked, specs, images=not flavor_only) is not None) or self._opted_out(specs)
        project = given(asked, 'project_id')
        domain = reports.domain_name(project) if project and shares(specs) and not self.whole else None
        self.domain = sys.intern(domain) if domain is not None else None
        self._move = _moves(asked)
        # Where the flavor says all, neither the host's aggregates nor its default need to be looked at.
        self.plain = self.terms() if self.whole or self._own is not None else None
        #: Requests that ask the same of any host whose aggregates say nothing to us.
        self.kindred = (self.memory, self.whole, self._own, self._move, unbacked, shared.default_reservation,
                        shared.default_overhead)
        self.kind = (project, image_or_flavor(given(given(asked, 'image'), 'id'), given(flavor, 'id')))

    def of(self, host_state: typing.Any = None, default: str = '') -> Request:
        """The request as this host must judge it; without a host, by flavor and configuration.

        ``default`` is what the host itself guarantees guests whose flavor says nothing ('': it has not said): that it
        will keep for this one, whatever the scheduler has in mind, so no less is counted.
        """
        return self._judge(host_state, default)[0]

    def conflict(self, host_state: typing.Any, default: str) -> str | None:
        """Why the host would not keep what its aggregates promise: it does not know them. ``None`` when it would."""
        return self._judge(host_state, default)[1]

    def terms(self, host_state: typing.Any = None, default: str = '') -> placement.Terms:
        """The same, as the sums take it."""
        # Many hosts are in the same aggregates, which live as long as the request.
        key = (default, *map(id, host_state.aggregates)) if host_state is not None else ()
        found = self._terms.get(key)
        if found is None:
            request, conflict = self._judge(host_state, default)
            found = placement.terms(request, self.shared)
            whole = (*found.key, self._move, conflict is None, self._unbacked)
            found = self._terms[key] = dataclasses.replace(
                found, share=1.0 if self._move else found.share, moves=self._move, kept=conflict is None,
                unbacked=self._unbacked, key=_keys.setdefault(whole, whole))
        return found

    def _judge(self, host_state: typing.Any, default: str) -> tuple[Request, str | None]:
        text = None
        if self._own is None and host_state is not None and host_state.aggregates:
            text = self._of_aggregates(host_state)
        found = self._judged.get((text, default))
        if found is None:
            found = self._judged[text, default] = self._request(text, default)
        return found

    def _request(self, aggregate: str | None, default: str) -> tuple[Request, str | None]:
        if self.whole:
            return Request(memory=self.memory, reservation=self.memory, guest=self.guest, overcommit=False), None
        promised, complaint = guarantee.first_reservation(
            [(f'{self._flavor}, extra spec {RESERVATION}', self._own),
             (f'aggregate metadata {RESERVATION}', aggregate),
             ('[ovc] default_reservation', self.shared.default_reservation)], self.memory)
        conflict = None
        if self._own is None and default:
            kept, _ = guarantee.first_reservation([('', default)], self.memory)
            if aggregate is not None and promised > kept:
                conflict = (f'aggregate metadata {RESERVATION}={aggregate} promises {placement.mb(promised)} > '
                            f'{placement.mb(kept)} that the host would keep (its [ovc] default_reservation is '
                            f'{default}; hosts know no aggregates): give {self._flavor} {RESERVATION}, or set that '
                            'option on the host alike')
            elif aggregate is None and promised != kept:
                complaint = complaint or (f'[ovc] default_reservation = {self.shared.default_reservation} here and '
                                          f'{default} on hosts: each keeps its own; set it alike everywhere')
            promised = max(promised, kept)
        if complaint:
            warn_once(complaint)
        return Request(memory=self.memory, reservation=promised, guest=self.guest), conflict

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


def _moves(asked: typing.Any) -> bool:
    """Whether the request is for a guest that exists: nova names a destination's cell for those alone
    (nova/scheduler/weights/cross_cell.py). A resize or cold migration is not judged again by its new host."""
    destination = given(asked, 'requested_destination')
    return destination is not None and bool(given(destination, 'cell') or given(destination, 'allow_cross_cell_move'))


def untouchable(asked: typing.Any, specs: typing.Mapping[str, str], *, images: bool = True) -> str | None:
    """Why no mechanism may touch the guest, so that it counts at its full size; ``None`` when one may. ``images``: by
    what its image says, too.

    What only the host can see (an interface of type vdpa, a device class of the operator's own making) is counted by
    its report once the guest runs there.
    """
    cells = getattr(given(asked, 'numa_topology'), 'cells', None) or ()
    if any((given(cell, 'pagesize') or SMALL_PAGES[0]) not in SMALL_PAGES for cell in cells):
        return 'huge pages'
    if any(given(cell, 'cpu_policy') in ('dedicated', 'mixed') for cell in cells):
        return 'pinned processors'
    if cells:
        return 'memory bound to NUMA nodes'
    if getattr(given(asked, 'pci_requests'), 'requests', None) or any(map(_is_device, specs.items())):
        return 'passed-through devices'
    # A request has its image; with an instance nova keeps the image's properties by these names.
    image, kept = getattr(given(asked, 'image'), 'properties', None), given(asked, 'system_metadata') or {}
    for name in ('locked_memory', 'mem_encryption'):
        text = specs.get(f'hw:{name}')
        if images and not text:
            text = given(image, f'hw_{name}') or kept.get(f'image_hw_{name}')
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
