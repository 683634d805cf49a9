# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a scene came to, in numbers, and whether what it had to show is so. Everything from looks at the host."""
from __future__ import annotations

import dataclasses
import re
import statistics

from benchmarks.scenes.look import MB, Look
from benchmarks.scenes.stage import Record
from benchmarks.scenes.table import Scene

MECHANISMS = ('balloon', 'ksm', 'swap')
PACE_SECONDS = 20
WALL = 4 * MB  # available: a host with less is at its limit, and its kernel swaps whatever it finds
AT_WALL = 0.1  # of the looks that may find it so: a plain nova's host is there in 30 to 80 % of them
SEEN = 0.9  # of the looks that must have read a guest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``freed`` by mechanism is the mean over the scene's last seconds; ``swap_in`` by guest; all in bytes.

    ``killed`` are guests that ran and do not any more, or what the kernel counts, whichever is more. ``full`` is how
    often the host met its limit, ``at_wall`` the share of the looks in which it had next to nothing available. ``pace``
    is what busy guests got done in the end of what they were to, from 0 to 1. ``below`` are guests seen below their
    reservation.
    """

    killed: int
    missing: int
    dead: int
    below: list[str]
    freed: dict[str, float]
    swapped: dict[str, float]
    swap_in: dict[str, int]
    lowest: int
    full: int
    at_wall: float
    pace: float | None
    silent: float
    gap: float
    probe: float

    @property
    def total_swap_in(self) -> int:
        return sum(self.swap_in.values())

    def share(self, mechanism: str) -> float:
        return self.freed[mechanism] / max(1.0, sum(self.freed.values()))


def outcome(scene: Scene, record: Record) -> Outcome:
    looks = record.looks
    end = [look for look in looks if look.at >= looks[-1].at - scene.last]
    names = list(record.maximum)
    gone = {n for look in looks for n, g in look.guests.items() if not g.running}
    return Outcome(
        killed=max(looks[-1].kernel_kills, len(gone)), missing=len(record.refused),
        dead=len(set(names) - set(record.alive)),
        below=sorted({text for look in looks for text in _below(look, record)}),
        freed={'balloon': statistics.fmean(ballooned(look, record) for look in end),
               'ksm': statistics.fmean(look.saved for look in end),
               'swap': statistics.fmean(look.swapped for look in end)},
        swapped={n: statistics.fmean([g.swapped for look in end if (g := look.guests[n]).swapped is not None] or [0])
                 for n in names},
        swap_in={n: max((g.swap_in or 0 for look in looks if (g := look.guests[n])), default=0)
                 - min((g.swap_in for look in looks if (g := look.guests[n]).swap_in is not None), default=0)
                 for n in names},
        lowest=min(look.available for look in looks), full=looks[-1].full,
        at_wall=statistics.fmean(look.available < WALL for look in looks), pace=_pace(scene, record),
        silent=max((g.silent or 0.0 for look in looks for g in look.guests.values() if g.running), default=0.0),
        gap=max((b.gap for b in record.beats.values()), default=0.0),
        probe=max((b.probe for b in record.beats.values()), default=0.0))


def ballooned(look: Look, record: Record) -> int:
    """Bytes that guests have handed back."""
    return sum(max(0, record.maximum[n] - g.actual) for n, g in look.guests.items() if g.running and g.actual)


def _below(look: Look, record: Record) -> list[str]:
    """Guests whose balloon is below their reservation, or of which more is in swap than beyond it may be."""
    found = []
    for name, guest in look.guests.items():
        if guest.actual is not None and guest.actual < record.reservation:
            found.append(f'{name}: balloon at {guest.actual // MB} MB')
        if guest.resident is not None and guest.swapped and (
                guest.resident + (guest.merged or 0) < record.reservation <= guest.resident + guest.swapped):
            found.append(f'{name}: {guest.resident // MB} MB resident')
    return found


def _pace(scene: Scene, record: Record) -> float | None:
    """Of what busy guests were to go through in the last seconds, the share that they went through."""
    paces = []
    for guest in scene.guests:
        rate = re.search(r'^(?:read|rewrite|cache).*rate=(\d+)', guest.steps[-1][1])
        beats = record.beats.get(guest.name)
        if not (guest.busy and rate and beats):
            continue
        if guest.name not in record.alive or len(beats.work) < 2:
            paces.append(0.0)
            continue
        last_up, last_work = beats.work[-1]
        up, work = next(w for w in beats.work if w[0] >= last_up - PACE_SECONDS)
        paces.append(min(1.0, (last_work - work) / MB / (last_up - up) / float(rate[1])) if last_up > up else 0.0)
    return statistics.fmean(paces) if paces else None


def seen(record: Record) -> dict[str, float]:
    """By guest, the share of the looks at it while it ran that have read its balloon's size and its memory: what was
    not read cannot be found below a reservation. 0 for one that never ran."""
    found = {}
    for name in record.maximum:
        ran = [g for look in record.looks if (g := look.guests[name]).running]
        read = sum(None not in (g.actual, g.resident, g.swapped) for g in ran)
        found[name] = read / len(ran) if ran else 0.0
    return found


def untold(scene: Scene, record: Record) -> list[str]:
    """Commands that guests were not told, and what they said that they could not do."""
    missing = [f'{guest.name}: {command}' for guest in scene.guests if guest.name in record.maximum
               for _, command in guest.steps
               if not any(f' {guest.name} told "{command}"' in event for event in record.events)]
    return missing + [event for event in record.events if ': refused ' in event]


def checks(scene: Scene, record: Record) -> list[tuple[str, str, bool]]:
    """(what, figure, whether it holds) for each thing that must hold with our rules."""
    one, missed, read = outcome(scene, record), untold(scene, record), min(seen(record).values(), default=0.0)
    within = {n: 'unknown' if (beats := record.beats.get(n)) is None or beats.oom is None else beats.oom
              for n in record.maximum}
    rows = [('guests placed', f'{len(record.maximum)} of {len(scene.guests)}', not one.missing),
            ('guests killed', f'{one.killed}', one.killed == 0),
            ('guests alive at the end', f'{len(record.maximum) - one.dead} of {len(record.maximum)}', one.dead == 0),
            ('below their reservation', '; '.join(one.below[:3]) or 'nobody', not one.below),
            ('untold or refused', '; '.join(missed[:3]) or 'nobody', not missed),
            ('seen', f'the least seen guest in {read:.0%} of the looks (at least {SEEN:.0%})', read >= SEEN),
            ('out of memory within', ', '.join(f'{n}: {k}' for n, k in within.items() if k != 0) or 'nobody',
             set(within.values()) <= {0})]
    if 'swap' in scene.carried_by:  # a kernel that is left alone swaps as well, but not before the host is full
        rows.append(('kept from its limit', f'met {one.full} times, at it in {one.at_wall:.0%} of the looks (at most '
                     f'{AT_WALL:.0%})', one.full == 0 or one.at_wall <= AT_WALL))
    freed = ', '.join(f'{m} {one.freed[m] / MB:.0f} MB' for m in MECHANISMS)
    if scene.only:
        others = sum(one.swapped.values()) - one.swapped.get(scene.only, 0)
        mine = one.swapped.get(scene.only, 0)
        rows.append((f'swap carries {scene.only} alone', f'{mine / MB:.0f} MB of it in swap, '
                     f'{others / MB:.0f} MB of others (at least {scene.each}, at most a tenth)',
                     mine >= scene.each * MB and others <= (mine + others) / 10))
        rows.append(('balloon carries the others', freed, one.freed['balloon'] >= scene.each * MB))
    elif len(scene.carried_by) > 1:
        rows += [(f'{m} carries its part', f'{freed} (at least {scene.each})', one.freed[m] >= scene.each * MB)
                 for m in scene.carried_by]
    else:
        name = scene.carried_by[0]  # all of next to nothing would be no shortage that it carried
        rows.append((f'{name} carries it', f'{freed}: {one.share(name):.0%} (at least {scene.share:.0%}, and '
                     f'{scene.each} MB)', one.share(name) >= scene.share and one.freed[name] >= scene.each * MB))
    if scene.most_swap_in is not None:
        rows.append(('read back from swap', f'{one.total_swap_in / MB:.1f} MB (at most {scene.most_swap_in})',
                     one.total_swap_in <= scene.most_swap_in * MB))
    return rows


COLUMNS = ('policy', 'killed', 'alive', 'below', 'lowest', 'full', 'balloon', 'ksm', 'swap', 'swap-in', 'by-busy',
           'pace', 'silent', 'probe')


def row(scene: Scene, record: Record) -> tuple[str, ...]:
    one = outcome(scene, record)
    busy = sum(one.swap_in.get(g.name, 0) for g in scene.guests if g.busy)
    return (record.policy, f'{one.killed}', f'{len(record.alive)}/{len(scene.guests)}', f'{len(one.below)}',
            f'{one.lowest / MB:.0f}', f'{one.full}', *(f'{one.freed[m] / MB:.0f}' for m in MECHANISMS),
            f'{one.total_swap_in / MB:.1f}', f'{busy / MB:.1f}', '-' if one.pace is None else f'{one.pace:.0%}',
            f'{one.silent:.1f}', f'{one.probe * 1000:.0f}')


def table(scene: Scene, records: dict[str, Record]) -> str:
    lines = [COLUMNS, *(row(scene, record) for record in records.values())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return '\n'.join('  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(line, widths, strict=True))) for line in lines)
