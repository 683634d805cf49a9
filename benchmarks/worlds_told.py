# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Where somebody is better than ours in benchmarks/worlds, by how much, and why: in words."""
from __future__ import annotations

import dataclasses
import statistics

from benchmarks.policies import POLICIES

PARTS = ('starved', 'squeezed', 'paged', 'missed', 'dead')
EQUAL = 5e-6  # of a guest's time: less is no difference


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    kind: str
    seed: int
    policy: str
    kills: int
    slowdown: float
    reversals: int
    asks: int
    freed_mb: float
    control: float | None
    parts: dict[str, float]
    free_mb: float
    swap_out_mb: float
    available: tuple[int, ...]


def means(results: list[Result], kind: str, name: str) -> dict[str, float]:
    """What a policy did in worlds of one kind, on average."""
    mine = [r for r in results if r.kind == kind and r.policy == name]
    return {part: statistics.fmean(r.parts[part] for r in mine) for part in PARTS} | {
        'free': statistics.fmean(r.free_mb for r in mine), 'asks': statistics.fmean(r.asks for r in mine),
        'swapped': statistics.fmean(r.swap_out_mb for r in mine), 'freed': statistics.fmean(r.freed_mb for r in mine)}


def reasons(results: list[Result], kinds: dict[str, dict[str, float]]) -> list[str]:
    """For each kind of world in which somebody is better than we are: who, by how much, in which part, doing what."""
    lines = []
    for kind, slow in kinds.items():
        name = min(slow, key=lambda policy: slow[policy])
        if slow[name] >= slow['ovc'] - EQUAL:
            continue
        ours, best = means(results, kind, 'ovc'), means(results, kind, name)
        gains = sorted(((ours[part] - best[part], part) for part in PARTS), reverse=True)
        more = ', '.join(f'{gain:.3%} {part}' for gain, part in gains if gain > EQUAL)
        less = ', '.join(f'{-gain:.3%} {part}' for gain, part in reversed(gains) if gain < -EQUAL)
        lines.append(f'{kind}: {name} {slow[name]:.3%} < ours {slow["ovc"]:.3%}. Ours loses more by {more or "nothing"}'
                     f'; less by {less or "nothing"}.')
        lines.append(' ' * (len(kind) + 2) + '; '.join(
            f'{who} swaps out {did["swapped"]:.0f} MB, changes {did["asks"]:.0f} targets, keeps {did["free"]:.0f} MB '
            f'available' for who, did in (('ours', ours), (name, best))))
    return lines + _single(results) + _turns(results, kinds) + _late(results) + _fewer_killed(results)


def _single(results: list[Result]) -> list[str]:
    """Each single world in which somebody is better than we are, which a mean over its kind may hide."""
    lines, worlds = [], sorted({r.seed for r in results})
    for number in worlds:
        here = {r.policy: r for r in results if r.seed == number}
        ours, best = here['ovc'], min(here.values(), key=lambda one: one.slowdown)
        if best.slowdown >= ours.slowdown - EQUAL:
            continue
        gain, part = max((ours.parts[part] - best.parts[part], part) for part in PARTS)
        lines.append(f'  {number:3} {ours.kind:9} {best.policy:9}{best.slowdown:8.3%} < {ours.slowdown:.3%}, most of it'
                     f' {gain:.3%} {part}')
    return [f'single worlds in which somebody is better: {len(lines)} of {len(worlds)}', *lines]


def _turns(results: list[Result], kinds: dict[str, dict[str, float]]) -> list[str]:
    """Who changes its mind less often than ours, and in which worlds ours does."""
    def turned(name: str, kind: str | None = None) -> tuple[int, int]:
        mine = [r for r in results if r.policy == name and kind in (None, r.kind)]
        return sum(r.reversals for r in mine), sum(r.asks for r in mine)

    (ours, asked), lines = turned('ovc'), []
    for name in [name for name in POLICIES if name != 'ovc']:
        theirs, changes = turned(name)
        if not changes or theirs >= ours:
            continue
        where = sorted(((turned('ovc', kind)[0] - turned(name, kind)[0], kind) for kind in kinds), reverse=True)
        lines.append(f'reversals: {name} {theirs} (in {changes} changes) < ours {ours} (in {asked}). Ours has more in '
                     + ', '.join(f'{kind} {turned("ovc", kind)[0]} > {turned(name, kind)[0]}'
                                 for more, kind in where if more > 0))
    return lines


def _late(results: list[Result]) -> list[str]:
    """Who brings a shock under control sooner than ours, with what each swapped and how long its guests waited."""
    shocks = [r for r in results if r.control is not None]
    took = {name: statistics.fmean(r.control or 0.0 for r in shocks if r.policy == name)
            for name in POLICIES if any(r.policy == name for r in shocks)}
    sooner = [name for name in took if took[name] < took.get('ovc', 0.0)]
    if not sooner:
        return []
    told = []
    for name in ('ovc', *sooner):
        mine = [r for r in shocks if r.policy == name]
        told.append(f'{name} {took[name]:.0f} s (swapped {statistics.fmean(r.swap_out_mb for r in mine):.0f} MB, paged '
                    f'{statistics.fmean(r.parts["paged"] for r in mine):.3%}, slowdown '
                    f'{statistics.fmean(r.slowdown for r in mine):.3%})')
    return ['time to control a shock: ' + ', '.join(told)]


def _fewer_killed(results: list[Result]) -> list[str]:
    """Each single world in which ours kills more than somebody else does, with what swap there was to fill."""
    lines = []
    for number in sorted({r.seed for r in results}):
        here = {r.policy: r for r in results if r.seed == number}
        fewer = [f'{r.policy} {r.kills}' for r in here.values() if r.kills < here['ovc'].kills]
        if fewer:
            ours = here['ovc']
            lines.append(f'kills: in world {number} ({ours.kind}) ours {ours.kills} > {", ".join(fewer)}: '
                         + ', '.join(f'{r.policy} kept {r.free_mb:.0f} MB available and swapped {r.swap_out_mb:.0f} MB'
                                     for r in here.values() if r.policy == 'ovc' or r.kills < here['ovc'].kills))
    return lines
