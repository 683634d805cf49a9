# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How fast the kernel looks for equal pages: by what a second of its scanner's processor time brings.

The scanner costs the same whether there is something to find or not. So it runs at full speed, which is a bounded share
of one core (a larger one while the host is short), until a guest's pages were seen twice; and from then on its speed is
halved at the end of each round that saved too little per processor second, down to a trickle, and doubled as soon as
it saves more than twice as much. Both are measured: bytes by the kernel's count of what is saved and what has been
written since, seconds by the scanner's own clock.
"""
from __future__ import annotations

import dataclasses

from ovc_plugin.model import MIB, HostSnapshot, KsmState, Level
from ovc_plugin.settings import HostSettings

# A page is merged at the second look at the earliest, and rounds of guests that came meanwhile overlap.
_ROUNDS = 3
_TRICKLE = 16
_LEAST_SECONDS = 0.2
# 10 µs a page where the kernel does not tell: the slower end of what was measured for pages without a twin.
_PAGE_SECONDS, _FASTEST, _SLOWEST = 1e-5, 2e-7, 1e-4
_ENOUGH_PAGES = 100_000
_SLEEP = 0.02  # the kernel's own default between two wake-ups


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scanning:
    """``pages`` to scan at each wake-up, 0 before the first look; ``guests`` whose pages are being merged; ``until``
    which full scan it stays at full speed.

    The stretch that is measured began after ``scans`` full scans and ``cpu`` scanner seconds and has ``gained`` bytes;
    ``saved`` and ``at`` are of the last look.
    """

    pages: int = 0
    guests: tuple[str, ...] = ()
    until: int | None = None
    scans: int = 0
    cpu: float = 0.0
    gained: float = 0.0
    saved: int = 0
    at: float = 0.0
    reason: str = ''


def follow(before: Scanning, snapshot: HostSnapshot, level: Level, settings: HostSettings) -> Scanning:
    """The speed from now on. Without sharing, or where the kernel does not tell what it costs, full speed."""
    state = snapshot.ksm
    if state is None:
        return Scanning()
    most = fastest(state, settings, level)
    guests = tuple(sorted(g.uuid for g in snapshot.running if g.can_share))
    if state.run != 1 or state.full_scans is None or (cpu := spent(state)) is None:
        return Scanning(pages=most, guests=guests)
    fresh = dataclasses.replace(before, guests=guests, scans=state.full_scans, cpu=cpu, gained=0.0, saved=state.saved,
                                at=snapshot.taken_at)
    came = set(guests) - set(before.guests)
    if level >= Level.SOFT or came or before.until is None:
        why = f'level {level.name}' if level >= Level.SOFT else f'{len(came or guests)} guests to look through'
        return dataclasses.replace(fresh, pages=most, until=state.full_scans + _ROUNDS, reason=why)
    if state.full_scans < before.until:
        return dataclasses.replace(fresh, pages=most)
    seconds = max(0.0, snapshot.taken_at - before.at)
    gained = before.gained + max(0.0, state.saved - before.saved + (snapshot.evaporation or 0.0) * seconds)
    went_on = dataclasses.replace(before, guests=guests, gained=gained, saved=state.saved, at=snapshot.taken_at)
    return _judge(went_on, fresh, state.full_scans, cpu - before.cpu, most, settings)


def _judge(now: Scanning, fresh: Scanning, scans: int, seconds: float, most: int, settings: HostSettings) -> Scanning:
    """Faster at once, slower at the end of a round, else as before."""
    pages, least = min(now.pages, most), settings.ksm_least_profit
    profit = now.gained / seconds if seconds > 0 else 0.0
    told = f'{profit / MIB:.1f} MB saved per second of ksmd'
    if seconds >= _LEAST_SECONDS and profit >= 2 * least and pages < most:
        return dataclasses.replace(fresh, pages=min(most, 2 * pages), reason=f'{told} >= {2 * least / MIB:.1f} MB')
    if scans == now.scans:
        return dataclasses.replace(now, pages=pages)
    trickle = max(1, most // _TRICKLE)
    if profit < least and pages > trickle:
        return dataclasses.replace(fresh, pages=max(trickle, pages // 2), reason=f'{told} < {least / MIB:.1f} MB')
    return dataclasses.replace(fresh, pages=max(trickle, pages))


def fastest(state: KsmState, settings: HostSettings, level: Level = Level.CLEAR) -> int:
    """Pages a wake-up that keep the scanner within its share u of a core: pages * cost = u * (sleep + pages * cost)."""
    cost = _PAGE_SECONDS
    if state.cpu is not None and state.scanned is not None and state.scanned >= _ENOUGH_PAGES:
        cost = min(max(state.cpu / state.scanned, _FASTEST), _SLOWEST)
    share = max(settings.ksm_max_cpu, settings.ksm_boost_cpu if level >= Level.SOFT else 0.0)
    sleep = _SLEEP if state.sleep is None else state.sleep
    return max(1, min(settings.ksm_pages_to_scan, round(share * sleep / (cost * (1 - share)))))


def spent(state: KsmState) -> float | None:
    """Processor seconds of the scanner since boot, by the pages it went through where its clock cannot be read."""
    if state.cpu is not None:
        return state.cpu
    return None if state.scanned is None else state.scanned * _PAGE_SECONDS
