# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Raw readings, before anything is derived from them. Bytes, seconds and kernel counters; unknown is ``None``."""
from __future__ import annotations

import dataclasses

from ovc_plugin.model import KsmState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestFacts:
    """One guest as its hypervisor tells it in one call, with what its definition says.

    ``last_update`` is when the guest last spoke of its memory (seconds since the epoch). ``reservation`` and
    ``weight`` are the texts of the flavor's extra specs. ``project`` is ``None`` where no owner is recorded.
    """

    uuid: str
    name: str
    running: bool
    maximum: int
    actual: int | None = None
    usable: int | None = None
    rss: int | None = None
    last_update: float | None = None
    has_balloon: bool = False
    mergeable: bool = True
    untouchable: str | None = None
    managed: bool = False
    project: str | None = None
    reservation: str | None = None
    weight: str | None = None
    overcommit: str | None = None
    busy: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupSample:
    """One control group's memory: bytes charged, bytes in swap, pages read back from swap since its start.

    ``cached`` bytes of what is charged are file pages, which the kernel drops when it must. ``can_reclaim`` is false
    where the kernel offers no way to swap this group alone.
    """

    usage: int
    cached: int = 0
    can_reclaim: bool = True
    swapped: int | None = None
    refault_pages: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergedPages:
    """Pages of one process that page sharing holds: ``merging`` ones map a merged page (its first user counts too),
    ``zero`` ones the kernel's zero page."""

    merging: int
    zero: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestSample:
    facts: GuestFacts
    group: GroupSample | None = None
    merged: MergedPages | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    """The boundary's memory. The page counters run since boot (machine) or since the group was made."""

    total: int
    available: int
    swap_total: int
    swap_free: int
    swap_in_pages: int | None = None
    swap_out_pages: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """Everything read in one pass. ``guests`` is ``None`` when the hypervisor did not answer."""

    host: str
    taken_at: float
    memory: MemorySample
    stall: float | None = None
    ksm: KsmState | None = None
    guests: tuple[GuestSample, ...] | None = None
    notes: tuple[str, ...] = ()
