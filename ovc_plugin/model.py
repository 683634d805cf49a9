# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The nouns: what is sensed, decided and done. Quantities are bytes and seconds; unknown is ``None``."""
from __future__ import annotations

import dataclasses
import enum
import functools
import typing

from ovc_plugin.placing import InFlight as InFlight
from ovc_plugin.placing import Request as Request
from ovc_plugin.placing import Verdict as Verdict

MIB = 1 << 20

class Level(enum.IntEnum):
    """How short of memory a host is; it rises at once and falls after a dwell."""

    CLEAR = 0
    SOFT = 1
    HARD = 2
    CRITICAL = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestSnapshot:
    """One guest at one time.

    ``maximum`` is the flavor's memory, ``outside`` what of it is in huge pages that the boundary does not hold,
    ``reservation`` the least it is guaranteed, ``overhead`` what it costs the host beyond its memory. ``target`` is the
    balloon size last asked for and ``actual`` the size reported; ``usable`` is what the guest says it could use without
    swapping, ``unused`` what of that holds nothing. ``stats_age`` is the age in seconds of what the guest said.
    ``refaults`` are pages per second read back from swap, ``swap_room`` the bytes that a limit of its own still lets it
    have there. ``untouchable`` says why no mechanism may touch it. ``saved`` is its part of the host's merged bytes,
    ``merged`` what of its own is merged: of pages that n guests share each has saved 1 - 1/n, and has merged them
    whole. ``can_migrate``: it can move to another host while it runs; ``dirty_rate`` is how fast it writes, in bytes
    per second, measured only of guests that may have to move. ``reservation_from`` tells whose word the reservation is,
    ``title`` the name that the cloud's users gave it, ``image`` what it was made from. ``pressure`` is the share of
    time (0..1) in which its own processes waited for memory on the host, ``guest_swap_in`` (bytes) and ``major_faults``
    are what the guest itself reads back per second, ``pressures`` (by name, as in ``samples.Counted``) what else it
    suffers per second, ``published`` the working set that it has told, within [reservation, maximum], ``published_age``
    its age, ``None`` where it must not be acted on. ``busy``: it boots, pauses or moves, and is not asked for memory.
    ``gives_way``: its balloon deflates by itself when it runs out of memory.
    """

    uuid: str
    name: str
    maximum: int
    reservation: int
    overhead: int
    weight: float = 1.0
    running: bool = True
    managed: bool = True
    target: int | None = None
    actual: int | None = None
    usable: int | None = None
    unused: int | None = None
    stats_age: float | None = None
    resident: int | None = None
    swapped: int | None = None
    refaults: float | None = None
    swap_room: int | None = None
    saved: int | None = None
    merged: int | None = None
    dirty_rate: float | None = None
    pressure: float | None = None
    guest_swap_in: float | None = None
    major_faults: float | None = None
    pressures: typing.Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    published: int | None = None
    published_age: float | None = None
    busy: bool = False
    can_balloon: bool = False
    gives_way: bool = True
    can_share: bool = True
    can_swap: bool = False
    can_migrate: bool = False
    untouchable: str | None = None
    trust_domain: str = ''
    reservation_from: str = ''
    title: str = ''
    image: str = ''
    outside: int = 0

    @property
    def committed(self) -> int:
        """What the guest may cost its host at most."""
        return self.maximum - self.outside + self.overhead

    @property
    def guaranteed(self) -> int:
        """What the host owes the guest at any time; an untouchable guest is owed everything."""
        return self.committed if self.untouchable else self.reservation + self.overhead


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KsmState:
    """Page sharing as the kernel tells it: bytes ``saved`` by merging, bytes ``shared``, pages scanned a wake-up.

    ``advisor``: the kernel sets the speed itself. ``smart_scan``: it skips pages that found no twin; ``None`` before
    Linux 6.7. ``zero`` are the saved bytes that were zero pages merged into none. Counters since boot: pages
    ``scanned``, ``full_scans``, pages ``dissolved`` (merged ones that were copied because somebody wrote them or swap
    gave them back), and ``cpu`` seconds of the kernel's scanner. ``sleep`` is its pause between two wake-ups in
    seconds, ``profit`` the bytes saved less what merging costs, ``nodes`` how many NUMA nodes the host has.
    """

    run: int
    saved: int
    shared: int
    pages_to_scan: int
    advisor: bool = False
    smart_scan: int | None = None
    use_zero_pages: int | None = None
    merge_across_nodes: int | None = None
    nodes: int = 1
    zero: int | None = None
    profit: int | None = None
    sleep: float | None = None
    scanned: int | None = None
    full_scans: int | None = None
    dissolved: int | None = None
    cpu: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """What the cloud says of a guest that it was asked to move away; ``ended`` with an ``error`` when it stays."""

    guest: str
    ended: bool = False
    error: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostSnapshot:
    """One host at one time. ``total`` and ``available`` are inside the boundary; rates are bytes per second.

    ``others`` is what is used by anything but guests and cannot be dropped, ``swap_others`` what of swap is, and
    ``swap_usable`` the rest of swap. ``stall`` is the share (0..1) of time in which some task waited for memory,
    ``growth`` the speed at which available memory shrinks, ``evaporation`` that at which merged pages become single
    again. ``refaults`` are pages per second that had been dropped or swapped and were wanted again, ``zswap`` the bytes
    of memory that compressed swap takes, ``durations`` the seconds that each source of readings took. ``departures``
    are guests that the cloud was asked to move away, ``None`` where there is nobody to ask; ``arriving`` are the trust
    domains of mergeable guests that migrate to here. ``notes`` say to the operator which sensors failed and why.
    """

    host: str
    taken_at: float
    total: int
    available: int
    reserve: int
    others: int = 0
    swap_total: int
    swap_free: int
    swap_others: int = 0
    swap_in: float | None = None
    swap_out: float | None = None
    stall: float | None = None
    growth: float | None = None
    evaporation: float | None = None
    refaults: float | None = None
    zswap: int | None = None
    durations: typing.Mapping[str, float] = dataclasses.field(default_factory=dict)
    ksm: KsmState | None = None
    guests: tuple[GuestSnapshot, ...] = ()
    departures: tuple[Departure, ...] | None = None
    arriving: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def headroom(self) -> int:
        """Can be handed out now at no one's cost; negative when the reserve itself is used."""
        return self.available - self.reserve

    @property
    def swap_usable(self) -> int:
        return self.swap_total - self.swap_others

    @functools.cached_property
    def running(self) -> tuple[GuestSnapshot, ...]:
        return tuple(g for g in self.guests if g.running)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetBalloon:
    """Ask a guest to be ``target`` bytes large; ``previous`` is what was asked or reported before."""

    guest: str
    target: int
    previous: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuneKsm:
    """Switch page sharing: ``run`` 1 merges, 0 stops merging (what is merged stays merged); ``None`` leaves a knob."""

    run: int
    pages_to_scan: int | None
    smart_scan: int | None = None
    use_zero_pages: int | None = None
    merge_across_nodes: int | None = None
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimGuest:
    """Move up to ``amount`` bytes of one guest to swap, never below ``floor`` resident bytes."""

    guest: str
    amount: int
    floor: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskMigration:
    """Ask the cloud to move one guest to wherever its scheduler finds room: ``cost`` bytes to copy, and to lose of what
    is shared, for ``relief`` bytes that this host then has."""

    guest: str
    cost: int
    relief: int
    reason: str


Action = SetBalloon | TuneKsm | ReclaimGuest | AskMigration


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, and why at this level. ``notes`` say of passed over rules what they did wrong."""

    level: Level
    actions: tuple[Action, ...]
    reason: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one action: ``done`` false with ``error`` when it failed, ``dry`` when it was only told, ``freed``
    the bytes that a reclaim moved; ``None`` where it failed at once, or was not tried."""

    action: Action
    done: bool
    error: str | None = None
    dry: bool = False
    freed: int | None = None
