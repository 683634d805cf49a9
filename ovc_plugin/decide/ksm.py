# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Page sharing: on while all guests that can share belong to one trust domain, paused otherwise (promise 8)."""
from __future__ import annotations

from ovc_plugin.decide.scanning import Scanning
from ovc_plugin.model import HostSnapshot, KsmState, TuneKsm
from ovc_plugin.settings import HostSettings

_UNKNOWN = Scanning()
_NEAR = 0.2  # changes of speed smaller than this are not worth a write
RISK = 'merged pages leak their presence to other tenants by timing and allow targeted bit flips'


def alarm(snapshot: HostSnapshot, settings: HostSettings) -> str | None:
    """What an operator must know of sharing for as long as it holds: why it is paused, or what it risks."""
    if snapshot.ksm is None or settings.ksm in ('leave', 'off'):
        return None
    _, reason = _wanted(snapshot, settings)
    domains = _domains(snapshot)
    if len(domains) > 1 or any(g.can_share and g.untouchable for g in snapshot.running):
        return f'page sharing: {reason}'
    if _apart(snapshot.ksm, settings) and snapshot.ksm.shared:
        return ('page sharing: pages are merged across NUMA nodes, and the kernel keeps them apart only from when none '
                'is merged. Unmerging them at once may need more memory than there is: that waits for a restart of the '
                'guests, or of the host')
    return None


def tune(snapshot: HostSnapshot, settings: HostSettings, scanning: Scanning = _UNKNOWN) -> TuneKsm | None:
    """The change that page sharing needs now, if any.

    Where the kernel's own advisor sets the speed, ours is not written: it would be refused, and is not needed. A speed
    that makes a small difference is left as it is.
    """
    state = snapshot.ksm
    if state is None or settings.ksm == 'leave':
        return None
    run, reason = _wanted(snapshot, settings)
    wanted = scanning.pages or settings.ksm_pages_to_scan
    slow_or_fast = abs(wanted - state.pages_to_scan) > _NEAR * wanted
    pages = wanted if run and not state.advisor and slow_or_fast else None
    # The smart scan looks again at a page without a twin only every few rounds: twins that are due in different rounds,
    # as those of a guest that comes later, then never meet.
    smart = 0 if run and state.smart_scan else None
    # Only where the kernel counts zero pages (Linux 6.6): what it saves by them could not be seen to dissolve.
    zero = 1 if run and settings.ksm_zero_pages and state.use_zero_pages == 0 and state.zero is not None else None
    nodes = 0 if run and _apart(state, settings) and not state.shared else None
    if int(state.run == 1) == run:
        if not any(knob is not None for knob in (pages, smart, zero, nodes)):
            return None
        if run and (pages or smart is not None) and scanning.reason:
            reason = scanning.reason
    return TuneKsm(run=run, pages_to_scan=pages, smart_scan=smart, use_zero_pages=zero, merge_across_nodes=nodes,
                   reason=reason)


def refused(snapshot: HostSnapshot, settings: HostSettings) -> str | None:
    """Why no pages may be merged now, whoever asks for it (promise 8); ``None`` where they may."""
    if settings.ksm == 'leave':
        return 'ksm = leave in [ovc_host]'
    run, reason = _wanted(snapshot, settings)
    return None if run else reason


def _apart(state: KsmState, settings: HostSettings) -> bool:
    """Whether pages of several NUMA nodes are merged though they shall not be."""
    return not settings.ksm_across_nodes and state.nodes > 1 and state.merge_across_nodes == 1


def _domains(snapshot: HostSnapshot) -> set[str]:
    """The trust domains of all that can merge, those on their way included: their pages will be here at once."""
    return {g.trust_domain for g in snapshot.running if g.can_share} | set(snapshot.arriving)


def _wanted(snapshot: HostSnapshot, settings: HostSettings) -> tuple[int, str]:
    if settings.ksm == 'off':
        return 0, 'sharing is off by configuration'
    # The kernel merges whatever is marked mergeable, also of guests that we would leave alone: they count here.
    sharers = [g for g in snapshot.running if g.can_share]
    domains = _domains(snapshot)
    if alone := [g for g in sharers if g.untouchable]:
        return 0, (f'{alone[0].name} must not be touched ({alone[0].untouchable}) and is mergeable: sharing is paused '
                   'until it is started anew without')
    if settings.ksm == 'all-tenants-despite-side-channels':
        return 1, f'{len(sharers)} guests of {len(domains)} trust domains share by configuration (all-tenants): {RISK}'
    if len(sharers) < 2:
        return 0, 'fewer than two guests can share: nothing to merge, and the next guest may be another tenant\'s'
    if len(domains) > 1:
        where = 'are on this host' + (', or on their way to it' if snapshot.arriving else '')
        return 0, (f'{len(sharers)} mergeable guests of {len(domains)} trust domains {where}: sharing is paused, since '
                   'merging across tenants leaks; hard-reboot or move those of all domains but one')
    return 1, f'{len(sharers)} guests of one trust domain can share'
