# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a modelled guest is: what it wants of memory over time, and how it behaves. Bytes and seconds."""
from __future__ import annotations

import dataclasses

from ovc_plugin.model import MIB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """``base`` bytes; from ``start`` on up to ``peak``: by ``rise`` bytes a second, or for ``length`` of every
    ``period`` seconds."""

    base: int
    peak: int = 0
    start: float = 0.0
    rise: float = 0.0
    period: float = 0.0
    length: float = 0.0

    def at(self, when: float) -> int:
        since = when - self.start
        if since < 0 or self.peak <= self.base:
            return self.base
        if self.rise:
            return min(self.peak, self.base + int(self.rise * since))
        return self.peak if not self.period or since % self.period < self.length else self.base

    @property
    def constant(self) -> bool:
        return self.peak <= self.base


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What a guest is and does. ``manner`` names it for a reader; the figures decide.

    ``cache`` bytes of files would serve it, of which the share ``reuse`` is read each second (``mapped`` of these reads
    are faults, which the guest tells of); the share ``hot`` of its anonymous memory is in steady use, and ``stirs`` of
    what is in swap otherwise is wanted each second. ``fill`` is the share of its free memory that it has touched and
    not told the host of (0: free page reporting). ``alike`` bytes equal those of all guests with the same ``image``;
    ``rewrites`` is how many of them it writes each second. The balloon moves by ``speed`` bytes a second while it
    answers: for the share ``answers`` of each minute; it does not go below ``least`` or above ``most``. Until it
    ``hangs`` it tells statistics every ``stats_period`` seconds, if it ``speaks``. ``garbled``: in every other half
    minute what it says makes no sense. If it ``publishes``, it tells its working set as often, too. ``reachable``: the
    hypervisor's calls to it succeed. ``locked``: the kernel cannot swap it; ``swaps`` is the share of each two minutes
    in which it can, and ``swap_limit`` the most bytes that the guest's own limit lets it have in swap. It ``reboots``
    each so many seconds, if ever.

    Others ask it for a size, too: before our controller started, when it is found with ``starts_at`` bytes (0: with its
    maximum), and once from ``meddled_at`` on, when somebody asks it for ``meddled_to`` if it gives something.
    """

    name: str
    manner: str
    maximum: int
    reservation: int
    demand: Demand
    overhead: int = 128 * MIB
    own_overhead: int = 48 * MIB
    weight: float = 1.0
    cache: int = 0
    reuse: float = 0.01
    mapped: float = 0.5
    hot: float = 0.3
    stirs: float = 0.0005
    fill: float = 0.0
    alike: int = 0
    image: str = ''
    rewrites: float = 0.0
    speed: int = 256 * MIB
    answers: float = 1.0
    least: int = 0
    most: int = 1 << 60
    speaks: bool = True
    publishes: bool = False
    hangs: float = 1e18
    stats_period: float = 10.0
    garbled: bool = False
    reachable: bool = True
    has_balloon: bool = True
    untouchable: str | None = None
    locked: bool = False
    swaps: float = 1.0
    swap_limit: int = 1 << 60
    reboots: float = 0.0
    trust_domain: str = 'tenant'
    arrives: float = 0.0
    starts_at: int = 0
    meddled_at: float = 1e18
    meddled_to: int = 0

    @property
    def limited(self) -> bool:
        """Whether its own limit lets less than all of it be in swap."""
        return self.swap_limit < self.maximum
