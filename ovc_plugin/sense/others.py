# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What is used by others than guests, in memory and in swap, and where guests have huge pages. Pure.

Where something is not known to be a guest's, it is taken to be others': a host then promises less than it could, never
more (promises 1 and 2). But for swap of a guest that cannot be read: see :func:`swap`.
"""
from __future__ import annotations

from ovc_plugin.model import GuestSnapshot
from ovc_plugin.samples import GuestFacts, GuestSample, HostSample, MemorySample


def memory(later: HostSample, guests: tuple[GuestSnapshot, ...]) -> int:
    """Bytes that cannot be dropped and are not known to belong to a guest: what a guest has whose size is not known is
    among them."""
    used = later.memory.total - later.memory.available
    # What holds guests' pages in compressed swap is in nobody's resident, and is there for guests alone.
    zswap = sum(s.group.compressed for s in later.guests or () if s.group is not None and s.facts.running)
    return max(0, used - sum(g.resident or 0 for g in guests if g.running) - zswap - _in_pools(later, guests))


def alarm(others: int, guests: tuple[GuestSnapshot, ...], reserve: int) -> str | None:
    """What an operator should know of what others use, in words."""
    if others <= reserve:
        return None
    if unread := [g.name for g in guests if g.running and g.resident is None]:
        return (f'what {len(unread)} guests have in memory cannot be read ({", ".join(unread[:3])}), so that it counts '
                'as others\' and is not promised to guests: neither their control groups nor libvirt tell')
    return (f'more than the reserve of {reserve >> 20} MB is used by others than guests, and what they use is not '
            'promised to guests: raise reserve_mb, or see what runs beside them')


def _in_pools(later: HostSample, guests: tuple[GuestSnapshot, ...]) -> int:
    """Bytes of the machine's pools of huge pages that guests have. They are not available, and in nobody's resident.

    A guest that does not run has its pages in a pool too, if that is as large, and is committed like the others; where
    the size of the pools is not told, only those that run are known to have theirs. Never more than the pools hold
    beyond what is charged to groups: what is in no pool is there for others.
    """
    if later.memory.group:
        return 0
    known, pools = {g.uuid: g.resident for g in guests if g.running}, later.memory.huge
    theirs = charged = 0
    for facts in (sample.facts for sample in later.guests or ()):
        own = uncharged(facts, known.get(facts.uuid))
        charged += facts.huge - own
        theirs += own if facts.running or pools is not None else 0
    return theirs if pools is None else min(theirs, max(0, pools - charged))


def uncharged(facts: GuestFacts, resident: int | None) -> int:
    """Bytes of a guest in huge pages that are not in what it has ``resident``.

    The kernel charges huge pages to no memory group unless its hierarchy is mounted with memory_hugetlb_accounting
    (Linux 6.6). Then the guest has at least as much resident, for libvirt takes all its huge pages when it starts; one
    that has so much for another reason counts twice in part.
    """
    return facts.huge if resident is None or resident < facts.huge else 0


def outside(facts: GuestFacts, resident: int | None, where: MemorySample) -> int:
    """Bytes of a guest in huge pages that a group boundary does not hold: they are in none of its sums."""
    known = facts.running and resident is not None
    return uncharged(facts, resident) if where.group and known else 0


def overhead(facts: GuestFacts, sample: GuestSample, resident: int, least: int) -> int:
    """What a guest was measured to cost beyond its memory; ``least`` where it is not more."""
    swapped = sample.group.swapped or 0 if sample.group else 0
    return max(least, resident + swapped - (facts.maximum - uncharged(facts, resident)))


def swap(later: HostSample, guests: tuple[GuestSnapshot, ...]) -> int:
    """Bytes of swap that are in use and known to be no guest's.

    A guest of which it is not known may have there what it does not have in memory, and is committed to; a host where
    no guest's can be read would otherwise seem to have no swap. With control groups of version 1 those of guests' pages
    count that are in memory again and not written since: such a group is not charged for them. What guests may have in
    swap that is itself memory is none of this: nobody knows whose that is, so all of it is taken to be theirs.
    """
    used = later.memory.swap_total - later.memory.swap_free
    theirs = sum(max(0, g.maximum + g.overhead - (g.resident or 0)) if g.swapped is None else g.swapped
                 for g in guests if g.running)
    return min(later.memory.swap_total, max(0, used - max(0, theirs - later.memory.zram)))
