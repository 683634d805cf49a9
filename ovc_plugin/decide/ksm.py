# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Page sharing: on while all guests that can share belong to one trust domain, paused otherwise (promise 8)."""
from __future__ import annotations

from ovc_plugin.model import HostSnapshot, TuneKsm
from ovc_plugin.settings import HostSettings

RISK = 'merged pages leak their presence to other tenants by timing and allow targeted bit flips'


def alarm(snapshot: HostSnapshot, settings: HostSettings) -> str | None:
    """What an operator must know of sharing for as long as it holds: why it is paused, or what it risks."""
    if snapshot.ksm is None or settings.ksm in ('leave', 'off'):
        return None
    run, reason = _wanted(snapshot, settings)
    domains = {g.trust_domain for g in snapshot.running if g.can_share}
    alone = any(g.can_share and g.untouchable for g in snapshot.running)
    return f'page sharing: {reason}' if alone or len(domains) > 1 else None


def tune(snapshot: HostSnapshot, settings: HostSettings) -> TuneKsm | None:
    """The change that page sharing needs now, if any."""
    state = snapshot.ksm
    if state is None or settings.ksm == 'leave':
        return None
    run, reason = _wanted(snapshot, settings)
    if run is None:
        return None
    pages = settings.ksm_pages_to_scan if run and not state.advisor else None
    # The smart scan looks again at a page without a twin only every few rounds: twins that are due in different rounds,
    # as those of a guest that comes later, then never meet.
    smart = 0 if run and state.smart_scan else None
    if int(state.run == 1) == run and (pages is None or state.pages_to_scan == pages) and smart is None:
        return None
    return TuneKsm(run=run, pages_to_scan=pages, smart_scan=smart, reason=reason)


def _wanted(snapshot: HostSnapshot, settings: HostSettings) -> tuple[int | None, str]:
    if settings.ksm == 'off':
        return 0, 'sharing is off by configuration'
    # The kernel merges whatever is marked mergeable, also of guests that we would leave alone: they count here.
    sharers = [g for g in snapshot.running if g.can_share]
    domains = {g.trust_domain for g in sharers}
    if alone := [g for g in sharers if g.untouchable]:
        return 0, (f'{alone[0].name} must not be touched ({alone[0].untouchable}) and is mergeable: sharing is paused '
                   'until it is started anew without')
    if settings.ksm == 'all-tenants':
        return 1, f'{len(sharers)} guests of {len(domains)} trust domains share by configuration (all-tenants): {RISK}'
    if len(sharers) < 2:
        return 0, 'fewer than two guests can share: nothing to merge, and the next guest may be another tenant\'s'
    if len(domains) > 1:
        return 0, (f'{len(sharers)} mergeable guests of {len(domains)} trust domains are on this host: sharing is '
                   'paused, since merging across tenants leaks; hard-reboot or move those of all domains but one')
    return 1, f'{len(sharers)} guests of one trust domain can share'
