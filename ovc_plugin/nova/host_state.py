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
from ovc_plugin.decide import guarantee
from ovc_plugin.model import MIB, InFlight, Request
from ovc_plugin.report import HostReport
from ovc_plugin.settings import SharedSettings

LOG = logging.getLogger(__name__)

RESERVATION = 'ovc:reservation'
OVERCOMMIT = 'ovc:overcommit'

# Resource classes of devices that reach into a guest's memory. Not all custom classes are such: these are what nova
# itself makes of devices.
DEVICES = re.compile(r'resources[^:]*:(VGPU|PGPU|PCI_DEVICE|CUSTOM_PCI_\w+)')
DEVICE_SPECS = ('pci_passthrough:alias', 'accel:device_profile')
SMALL_PAGE_KIB = 4
_warned: set[str] = set()


def report_of(host_state: typing.Any) -> HostReport | None:
    """The host's report as nova last stored it; ``None`` when the host sends none.

    :raises ovc_plugin.report.ReportError: there is one, and it cannot be read or cannot be true.
    """
    # nova leaves stats unset on a host whose first audit has not ended.
    text = (getattr(host_state, 'stats', None) or {}).get(reports.STATS_KEY)
    return None if text is None else reports.decode(text)


def used(host_state: typing.Any) -> int:
    """Bytes that nova counts as used: its reserve and the flavors of all that is claimed, this request's too."""
    return int(host_state.total_usable_ram_mb - host_state.free_ram_mb) * MIB


def in_flight(host_state: typing.Any, report: HostReport) -> InFlight:
    """What nova has claimed on the host and its report does not yet know.

    A migration on its way is in nova's memory and not in its count of guests: memory in flight is one guest at least.
    """
    memory = max(0, used(host_state) - report.nova_reserved - report.claimed)
    return InFlight(memory=memory, guests=max(0, host_state.num_instances - report.guests, 1 if memory else 0))


class Asking:
    """What one request asks of a host. ``asked`` is a RequestSpec or an Instance.

    The reservation is that of the flavor, of the host's aggregates, or of the configuration, in this order. (nova
    drops image properties that it does not know, so an image cannot carry one.) A value that cannot be used
    guarantees the guest all its memory and is warned of once.
    """

    def __init__(self, asked: typing.Any, shared: SharedSettings) -> None:
        flavor = asked.flavor
        specs = _given(flavor, 'extra_specs') or {}
        self.guest = str(_given(asked, 'instance_uuid') or _given(asked, 'uuid') or '')
        self._memory = int(flavor.memory_mb) * MIB
        self._flavor = f'flavor {_given(flavor, "name")!r}'
        self._shared = shared
        self._by_text: dict[str | None, Request] = {}
        self._own = specs.get(RESERVATION)
        self._whole = untouchable(asked, specs) or self._opted_out(specs)

    def of(self, host_state: typing.Any = None) -> Request:
        """The request as this host must judge it; without a host, by flavor and configuration."""
        text = None
        if self._own is None and host_state is not None and host_state.aggregates:
            text = self._of_aggregates(host_state)
        if text not in self._by_text:
            self._by_text[text] = self._request(text)
        return self._by_text[text]

    def _request(self, aggregate: str | None) -> Request:
        if self._whole:
            return Request(memory=self._memory, reservation=self._memory, guest=self.guest, overcommit=False)
        reservation, complaint = guarantee.first_reservation(
            [(f'{self._flavor}, extra spec {RESERVATION}', self._own),
             (f'aggregate metadata {RESERVATION}', aggregate),
             ('[ovc] default_reservation', self._shared.default_reservation)], self._memory)
        if complaint:
            warn_once(complaint)
        return Request(memory=self._memory, reservation=reservation, guest=self.guest)

    def _of_aggregates(self, host_state: typing.Any) -> str | None:
        """Of several aggregates that disagree, the one that guarantees most: no promise is then too small."""
        texts = {a.metadata[RESERVATION] for a in host_state.aggregates if RESERVATION in a.metadata}
        return max(texts, key=lambda text: guarantee.first_reservation([('', text)], self._memory)[0], default=None)

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
    cells = getattr(_given(asked, 'numa_topology'), 'cells', None) or ()
    if any((_given(cell, 'pagesize') or SMALL_PAGE_KIB) != SMALL_PAGE_KIB for cell in cells):
        return 'huge pages'
    if any(_given(cell, 'cpu_policy') in ('dedicated', 'mixed') for cell in cells):
        return 'pinned processors'
    if getattr(_given(asked, 'pci_requests'), 'requests', None) or any(map(_is_device, specs.items())):
        return 'passed-through devices'
    image = getattr(_given(asked, 'image'), 'properties', None)
    for name in ('locked_memory', 'mem_encryption'):
        text = specs.get(f'hw:{name}') or (_given(image, f'hw_{name}') if image is not None else None)
        if str(text or '').strip().lower() in ('true', 'yes', '1', 'on', 't', 'y'):
            return name.replace('_', ' ')
    return None


def _is_device(spec: tuple[str, str]) -> bool:
    name, value = spec
    return bool(value) and (name in DEVICE_SPECS or (DEVICES.fullmatch(name) is not None and value.strip() != '0'))


def _given(thing: typing.Any, name: str) -> typing.Any:
    """An attribute that nova has set; one that is not set must not be asked for: nova would load it or raise."""
    return getattr(thing, name, None) if thing is not None and name in thing else None


def warn_once(complaint: str) -> None:
    if complaint not in _warned and len(_warned) < 10000:
        _warned.add(complaint)
        LOG.warning('%s', complaint)
