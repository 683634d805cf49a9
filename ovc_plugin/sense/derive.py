# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""From two samples to one snapshot: rates, ages and what may be done with each guest. Pure."""
from __future__ import annotations

import dataclasses

from ovc_plugin.decide import ksm
from ovc_plugin.decide.guarantee import first_reservation, yes
from ovc_plugin.model import GuestSnapshot, HostSnapshot, KsmState
from ovc_plugin.samples import GroupSample, GuestFacts, GuestSample, HostSample, MemorySample
from ovc_plugin.sense import others as besides
from ovc_plugin.settings import Settings

PAGE = 4096
_AHEAD = 5.0  # seconds by which a word may be newer than its pass: that began before the guest was read, which may wait


def derive(earlier: HostSample | None, later: HostSample, targets: dict[str, int], reserve: int,
           settings: Settings) -> HostSnapshot:
    """The host as the rules see it.

    ``earlier`` gives the rates; where the hypervisor did not answer, its guests stand in with what they said marked
    as too old, so that nothing is promised twice. ``targets`` are the balloon sizes last asked for.
    """
    notes = list(later.notes)
    seconds = _between(earlier, later) if earlier else 0.0
    known = {g.facts.uuid: g for g in (earlier.guests or ())} if earlier else {}
    if later.guests is None:
        guests = tuple(_guest(g, None, 0.0, None, later, targets, settings, notes) for g in known.values())
    else:
        guests = tuple(_guest(g, known.get(g.facts.uuid), seconds, later.taken_at, later, targets, settings, notes)
                       for g in later.guests)
    guests = apportioned(later.ksm, later.guests, guests)
    # Without word of the guests, as when they were last named: whatever was used then and was not theirs.
    named = later if later.guests is not None or earlier is None else earlier
    others = besides.memory(named, guests)
    if later.guests is not None:
        notes += filter(None, [besides.alarm(others, guests, reserve)])
    before = earlier.memory if earlier else later.memory
    growth = later.growth if later.growth is not None else _growth(before, later.memory, seconds)
    found = HostSnapshot(
        host=later.host, taken_at=later.taken_at, total=later.memory.total, available=later.memory.available,
        reserve=reserve, others=others, swap_total=later.memory.swap_total, swap_free=later.memory.swap_free,
        swap_others=besides.swap(later, guests),
        swap_in=_rate(before.swap_in_pages, later.memory.swap_in_pages, seconds, PAGE),
        swap_out=_rate(before.swap_out_pages, later.memory.swap_out_pages, seconds, PAGE),
        stall=later.stall, growth=growth, ksm=later.ksm,
        evaporation=_evaporation(earlier, later, seconds), zswap=later.zswap, durations=later.durations,
        refaults=_rate(earlier.refault_pages if earlier else None, later.refault_pages, seconds), guests=guests)
    notes += filter(None, [ksm.alarm(found, settings.host)])
    return dataclasses.replace(found, notes=tuple(dict.fromkeys(notes)))


def _between(earlier: HostSample, later: HostSample) -> float:
    if earlier.steady is None or later.steady is None:
        return later.taken_at - earlier.taken_at
    return later.steady - earlier.steady


def _growth(before: MemorySample, after: MemorySample, seconds: float) -> float | None:
    """By how much more is wanted per second, of memory and swap together: what is moved between them is not wanted
    anew."""
    if seconds <= 0:
        return None
    lost = before.available - after.available
    moved = (after.swap_total - after.swap_free) - (before.swap_total - before.swap_free)
    return (lost + moved) / seconds


def apportioned(state: KsmState | None, samples: tuple[GuestSample, ...] | None,
                guests: tuple[GuestSnapshot, ...]) -> tuple[GuestSnapshot, ...]:
    """The guests with their part of what the host has saved.

    A page that n guests share saves n - 1 pages, and each of the n counts it as merged: so guest i has saved
    sharing * merging_i / (sharing + shared). Zero pages are saved whole. The parts add up to the host's truth, less
    what processes that are no guests have merged. Rounding falls to the next guest, not under the table. ``merged`` is
    each one's own count: that does not add up.
    """
    if state is None or samples is None:
        return guests
    merged = {s.facts.uuid: s.merged for s in samples if s.merged is not None}
    zero = state.zero or 0
    users = max((state.saved - zero + state.shared) // PAGE, sum(m.merging for m in merged.values()), 1)
    parts, before, counted = [], 0, 0
    for guest in guests:
        pages = merged.get(guest.uuid)
        if pages is None:
            parts.append(dataclasses.replace(guest, saved=None if state.saved and guest.running else 0))
            continue
        counted += pages.merging
        after = (state.saved - zero) * counted // users
        parts.append(dataclasses.replace(guest, saved=after - before + pages.zero * PAGE,
                                         merged=(pages.merging + pages.zero) * PAGE))
        before = after
    return tuple(parts)


def _evaporation(earlier: HostSample | None, later: HostSample, seconds: float) -> float | None:
    """Bytes per second of merged pages that became single again.

    Where the kernel does not count them, the fall of what is saved, as long as no guest came or went: what a guest
    takes along when it ends is no loss to the host.
    """
    if earlier is None or earlier.ksm is None or later.ksm is None or seconds <= 0:
        return None
    stayed = _running(earlier) == _running(later)
    told = _rate(earlier.ksm.dissolved, later.ksm.dissolved, seconds, PAGE)
    if told is not None:  # which leaves out zero pages: no merged page is behind them
        zero = (earlier.ksm.zero or 0) - (later.ksm.zero or 0)
        return told + (max(0, zero) / seconds if stayed else 0.0)
    return max(0.0, (earlier.ksm.saved - later.ksm.saved) / seconds) if stayed else None


def _running(sample: HostSample) -> set[str]:
    return {g.facts.uuid for g in sample.guests or () if g.facts.running}


def _rate(before: int | None, after: int | None, seconds: float, factor: int = 1) -> float | None:
    if before is None or after is None or seconds <= 0 or after < before:
        return None
    return (after - before) * factor / seconds


def _guest(sample: GuestSample, earlier: GuestSample | None, seconds: float, now: float | None, host: HostSample,
           targets: dict[str, int], settings: Settings, notes: list[str]) -> GuestSnapshot:
    facts, group = sample.facts, sample.group
    reservation, complaint = first_reservation(
        [('flavor extra spec ovc:reservation', facts.reservation),
         ('option default_reservation', settings.shared.default_reservation)], facts.maximum)
    if complaint:
        notes.append(f'guest {facts.name}: {complaint}')
    if facts.complaint:
        notes.append(f'guest {facts.name}: {facts.complaint}')
    untouchable = facts.untouchable or _opted_out(facts, notes)
    spoke = _age(facts, now, notes)
    actual, usable, age = _believed(facts, spoke, notes)
    sane = now is not None and actual == facts.actual and usable == facts.usable
    published, published_age = _published(sample, reservation, spoke, sane)
    resident = group.usage - group.cached - group.compressed if group else facts.rss
    overhead = settings.shared.default_overhead
    if resident is not None and facts.running:
        overhead = besides.overhead(facts, sample, resident, overhead)
    if now is not None and not untouchable:
        _complain(facts, group, published_age is not None, notes)
    before = earlier.group if earlier else None
    return GuestSnapshot(
        uuid=facts.uuid, name=facts.name, maximum=facts.maximum, reservation=reservation, overhead=overhead,
        weight=_weight(facts, notes), running=facts.running, managed=facts.managed,
        target=targets.get(facts.uuid, actual), actual=actual, usable=usable, stats_age=age,
        unused=facts.unused if usable is not None else None, resident=resident,
        swapped=group.swapped if group else None, swap_room=group.swap_room if group else None,
        refaults=_rate(before.refault_pages, group.refault_pages, seconds) if before and group else None,
        can_balloon=facts.running and facts.has_balloon and not facts.busy and not untouchable,
        can_share=facts.mergeable,
        can_swap=facts.running and group is not None and group.can_reclaim and not untouchable,
        # one that opted out is left where it is
        can_migrate=facts.running and facts.movable and not facts.busy and untouchable == facts.untouchable,
        dirty_rate=facts.dirty_rate, pressure=group.pressure if group else None, guest_swap_in=sample.guest_swap_in,
        major_faults=sample.major_faults, pressures=sample.pressures, published=published, published_age=published_age,
        busy=facts.busy, gives_way=facts.gives_way, untouchable=untouchable,
        trust_domain=facts.project or f'guest:{facts.uuid}', title=facts.title, image=facts.image,
        outside=besides.outside(facts, resident, host.memory),
        reservation_from='ovc:reservation' if facts.reservation is not None else 'option default_reservation')


def _complain(facts: GuestFacts, group: GroupSample | None, publishes: bool, notes: list[str]) -> None:
    """What keeps a mechanism from a guest that could be reached, with the remedy."""
    if group is not None and not group.can_reclaim:
        notes.append(f'guest {facts.name}: the kernel cannot swap it alone: its control group has neither '
                     'memory.reclaim (Linux 5.19) nor memory.high, or memory.swap.max of it or of a group around it '
                     '(version 1: memory.swappiness) is 0')
    if facts.running and facts.has_balloon and facts.usable is None and not publishes and not facts.busy:
        notes.append(f'guest {facts.name}: says nothing of its memory and is not shrunk: give it a statistics period '
                     '(nova: [libvirt] mem_stats_period_seconds; libvirt: <stats period=...> in <memballoon>) and a '
                     'balloon driver')
    if facts.running and facts.managed and not facts.has_balloon:
        notes.append(f'guest {facts.name}: was started without a balloon device and is never shrunk: set [libvirt] '
                     'mem_stats_period_seconds = 10 and hard reboot it')


def _published(sample: GuestSample, reservation: int, spoke: float | None,
               sane: bool) -> tuple[int | None, float | None]:
    """The working set that a guest tells, as a size to be asked for, within what it is guaranteed and may have at most
    (promise 3, and no more than it was sold); and its age, ``None`` where it must not be acted on.

    It is counted in what the guest's kernel sees. That is less than its size by what the kernel keeps itself, or more
    by a balloon that gives way when memory runs out (autodeflate): the total is then left as it was. Where the guest
    does not say what it sees, its cushion has to hold what its kernel keeps: seldom more than a twentieth.
    """
    facts, age = sample.facts, sample.published_age if sane else None
    if sample.published is None:
        return None, None
    apart = 0
    if facts.actual is not None and facts.seen is not None:
        apart = facts.actual - facts.seen
        told = spoke is not None and 0 < facts.seen <= facts.maximum
        age = None if age is None or not told else max(age, spoke or 0.0)  # as old as the older of both words
    return max(reservation, min(sample.published + apart, facts.maximum)), age


def _opted_out(facts: GuestFacts, notes: list[str]) -> str | None:
    if facts.overcommit is None:
        return None
    try:
        return None if yes(facts.overcommit) else 'opted out by ovc:overcommit'
    except ValueError as error:
        notes.append(f'guest {facts.name}: extra spec ovc:overcommit {error}; it is left untouched until corrected')
        return 'unreadable ovc:overcommit'


def _weight(facts: GuestFacts, notes: list[str]) -> float:
    if facts.weight is None:
        return 1.0
    try:
        weight = float(facts.weight)
    except ValueError:
        weight = -1.0
    if not 0.01 <= weight <= 100:
        notes.append(f'guest {facts.name}: extra spec ovc:weight {facts.weight!r} is not a number from 0.01 to 100; '
                     '1 is taken')
        return 1.0
    return weight


def _age(facts: GuestFacts, now: float | None, notes: list[str]) -> float | None:
    """Seconds since the guest spoke; unknown, not 0, where that was in what is the future after the clock was set
    back."""
    if now is None or not facts.last_update:
        return None
    if facts.last_update > now + _AHEAD:
        notes.append(f'guest {facts.name}: spoke in the future, so the clock was set back; it is not shrunk until it '
                     'speaks again')
        return None
    return max(0.0, now - facts.last_update)


def _believed(facts: GuestFacts, age: float | None, notes: list[str]) -> tuple[int | None, int | None, float | None]:
    """(actual, usable, age) of what can be true; nonsense and silence are unknown, never zero."""
    actual, usable = facts.actual, facts.usable
    if actual is not None and not 0 < actual <= facts.maximum:
        notes.append(f'guest {facts.name}: balloon reports {actual} bytes, of a maximum of {facts.maximum}; not '
                     'believed, the guest is not shrunk')
        actual = age = None
    if usable is not None and not 0 <= usable <= facts.maximum:
        notes.append(f'guest {facts.name}: reports {usable} bytes usable, of a maximum of {facts.maximum}; not '
                     'believed, the guest is not shrunk')
        usable = age = None
    return actual, usable, age if usable is not None else None
