# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A guest of a given definition on a host in deep shortage, between two ordinary ones: what the rules do to it."""
from __future__ import annotations

import dataclasses

from ovc_plugin import report
from ovc_plugin.decide.host import decide_host
from ovc_plugin.decide.state import LadderState
from ovc_plugin.hypervisor import definition
from ovc_plugin.model import MIB, HostSnapshot, KsmState, ReclaimGuest, SetBalloon
from ovc_plugin.samples import GroupSample, GuestSample, MemorySample
from ovc_plugin.sense.derive import derive
from ovc_plugin.settings import HostSettings, Settings
from tests.builders import NOW, a_sample, facts, sampled

GIB = 1 << 30
SETTINGS = Settings(host=HostSettings(dry_run=False, stuck_after=1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """``why`` it is untouchable (``None``: it is not), what would be done to it, and how it is counted."""

    why: str | None
    ballooned: bool
    swapped: bool
    mergeable: bool
    at_maximum: bool

    @property
    def untouched(self) -> bool:
        return bool(self.why) and self.at_maximum and not (self.ballooned or self.swapped or self.mergeable)


def sample_of(xml: str, uuid: str, name: str) -> GuestSample:
    """As the libvirt hypervisor tells of a guest of this definition: willing, idle, and with a group of its own."""
    known = definition.read(xml)
    told = facts(name, uuid=uuid, maximum=known.maximum, actual=known.maximum, usable=known.maximum // 2,
                 has_balloon=known.has_balloon, mergeable=known.mergeable, untouchable=known.untouchable,
                 project='p1', reservation=known.extra_specs.get('ovc:reservation', '10%'),
                 overcommit=known.extra_specs.get('ovc:overcommit'))
    return GuestSample(facts=told, group=GroupSample(usage=known.maximum, swapped=0))


def short_host(guest: GuestSample) -> HostSnapshot:
    """All memory is gone, the swap is free, and everybody has half of its memory idle."""
    others = [sampled(name, reservation='10%') for name in ('other1', 'other2')]
    return derive(None, a_sample(guest, *others, memory=MemorySample(
        total=28 * GIB, available=20 * MIB, swap_total=64 * GIB, swap_free=64 * GIB),
        ksm=KsmState(run=0, saved=0, shared=0, pages_to_scan=100)), {}, 512 * MIB, SETTINGS)


def judge(xml: str) -> Judged:
    """What befalls the guest. The others must give by balloon and by swap, or the shortage would prove nothing."""
    snapshot = short_host(sample_of(xml, 'uuid-kept', 'kept'))
    plan, _ = decide_host(snapshot, LadderState(), SETTINGS.host, NOW)
    for action, kind in ((SetBalloon, 'ballooned'), (ReclaimGuest, 'swapped')):
        assert any(isinstance(a, action) and a.guest == 'uuid-other1' for a in plan.actions), f'nobody was {kind}'
    mine = [a for a in plan.actions if getattr(a, 'guest', None) == 'uuid-kept']
    kept = snapshot.guests[0]
    told = report.of(snapshot, plan, reclaimable=0, swap_usable=0, backed=True, dry_run=False)
    others = sum(g.guaranteed for g in snapshot.guests[1:])
    return Judged(why=kept.untouchable, ballooned=any(isinstance(a, SetBalloon) for a in mine),
                  swapped=any(isinstance(a, ReclaimGuest) for a in mine), mergeable=kept.can_share,
                  at_maximum=kept.guaranteed == kept.committed == told.reserved - others)
