# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Raw readings, before anything is derived from them. Bytes, seconds and kernel counters; unknown is ``None``."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.model import KsmState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestFacts:
    """One guest as its hypervisor tells it in one call, with what its definition says.

    ``last_update`` is when the guest last spoke of its memory (seconds since the epoch). ``reservation`` and
    ``weight`` are the texts of the flavor's extra specs. ``project`` is ``None`` where no owner is recorded.
    ``seen`` is the memory that its kernel has to give, without what that keeps itself. ``gives_way``: its balloon
    deflates by itself when it runs out of memory. ``movable``: it can go to another host while it runs, and that frees
    memory here. ``dirty_rate`` is in bytes per second, where it was measured lately. ``complaint`` is what an operator
    must know of how it was read. ``huge`` is how much of its maximum is in huge pages.
    """

    uuid: str
    name: str
    running: bool
    maximum: int
    actual: int | None = None
    usable: int | None = None
    unused: int | None = None
    rss: int | None = None
    last_update: float | None = None
    has_balloon: bool = False
    gives_way: bool = True
    mergeable: bool = True
    untouchable: str | None = None
    managed: bool = False
    project: str | None = None
    reservation: str | None = None
    weight: str | None = None
    overcommit: str | None = None
    title: str = ''
    image: str = ''
    complaint: str = ''
    busy: bool = False
    movable: bool = False
    dirty_rate: float | None = None
    seen: int | None = None
    swap_in: int | None = None
    major_faults: int | None = None
    huge: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a guest counts of its own pressure since it booted, by name, told ``at`` (seconds since the epoch):
    ``oom_kills``, ``alloc_stalls`` (a task had to look for memory itself), and pages looked at and taken, by the
    kernel's thread (``async_scans``, ``async_reclaims``) and by such tasks (``direct_scans``, ``direct_reclaims``)."""

    at: float
    counts: typing.Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupSample:
    """One control group's memory: bytes charged, bytes in swap, pages read back from swap since its start.

    ``cached`` bytes of what is charged are file pages, which the kernel drops when it must, and ``compressed`` ones
    (version 2) hold what is counted as in swap, in zswap. ``can_reclaim`` is false where the kernel offers no way to
    swap this group alone, ``swap_room`` the bytes that its own limit of swap still takes, ``None`` where it has none.
    ``pressure`` is PSI ``some`` over 10 s, as a share (0..1).
    ``refaults_guessed``: the kernel does not count such pages, and major faults stand for them.
    """

    usage: int
    cached: int = 0
    compressed: int = 0
    can_reclaim: bool = True
    swap_room: int | None = None
    swapped: int | None = None
    refault_pages: int | None = None
    refaults_guessed: bool = False
    pressure: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergedPages:
    """Pages of one process that page sharing holds: ``merging`` ones map a merged page (its first user counts too),
    ``zero`` ones the kernel's zero page."""

    merging: int
    zero: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestSample:
    """``guest_swap_in`` (bytes) and ``major_faults`` are rates between the last two times that the guest spoke,
    ``published`` the working set that it has told, where it told one lately, ``published_age`` how old that was, where
    it is known to be counted on. ``pressures`` are the rates of what is ``counted``, per second."""

    facts: GuestFacts
    group: GroupSample | None = None
    merged: MergedPages | None = None
    guest_swap_in: float | None = None
    major_faults: float | None = None
    published: int | None = None
    published_age: float | None = None
    counted: Counted | None = None
    pressures: typing.Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    """The boundary's memory. The page counters run since boot (machine) or since the group was made.

    ``group``: it is of a control group, which does not hold the huge pages of its guests. ``huge`` are the bytes in the
    machine's pools of huge pages, in use or not. ``zram`` is what is in swap that is itself memory: in no other sum.
    """

    total: int
    available: int
    swap_total: int
    swap_free: int
    swap_in_pages: int | None = None
    swap_out_pages: int | None = None
    group: bool = False
    huge: int | None = None
    zram: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """What cheap looks between two passes have seen: bytes ``available`` now, ``growth`` of demand in bytes per second
    and ``stall`` (PSI some, 0..1), both over the last second or so; ``None`` where it is not known."""

    available: int
    growth: float | None = None
    stall: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """Everything read in one pass. ``guests`` is ``None`` when the hypervisor did not answer.

    ``growth`` is by how many bytes a second demand has grown lately, where somebody watched between two passes.
    ``steady`` is when it was taken by a clock that nobody sets, in seconds since boot: rates go by that one.
    """

    host: str
    taken_at: float
    memory: MemorySample
    steady: float | None = None
    stall: float | None = None
    growth: float | None = None
    refault_pages: int | None = None
    zswap: int | None = None
    durations: typing.Mapping[str, float] = dataclasses.field(default_factory=dict)
    ksm: KsmState | None = None
    guests: tuple[GuestSample, ...] | None = None
    notes: tuple[str, ...] = ()
