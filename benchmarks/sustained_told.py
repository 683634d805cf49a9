# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What benchmarks/sustained tells of its runs: checks, the table and line of figures, and the picture."""
from __future__ import annotations

import argparse
import typing
from pathlib import Path

from benchmarks.sustained_stage import MAXIMUM, MB, Stage

LIMIT = 4  # MB/s read back, the default of migrate_swap_in_mb
FREE = 0.1  # of the host's memory that must be available when its shortage is over
SEEN = 0.9  # of the looks that must have read each guest: what was not read cannot be found below its reservation


def checks(stage: Stage, options: argparse.Namespace) -> list[tuple[str, str, bool]]:
    """(what, figure, whether it holds) for each thing that must hold with our rules."""
    first, second = stage.hosts
    move = next((m for m in stage.moves.values() if m.status == 'completed'), None)
    last, back = stage.looks[-1][first], stage.swap_in(first, -stage.tail)
    asked, others = (sum('to be moved' in line for line in stage.words[name]) for name in (first, second))
    missed, read = sum(stage.hearts.missed(name) for name in stage.servers), stage.seen()
    low, before = stage.short(first, move.begun) if move else (0.0, float('nan'))
    within = {name: stage.hearts.oom.get(name, 'unknown') for name in stage.servers}
    refused = [f'{name}: {words}' for name in stage.servers for words in sorted(stage.hearts.refused[name])]
    return [
        ('guests asked away', f'{asked} by {first}, {others} by {second}', (asked, others) == (1, 0)),
        ('short before it moved', f'in the {options.after} s before at most a fifth available in {low:.0%} of looks'
         f' (at least half), {before:.1f} MB/s read back (or over {LIMIT})', low >= 0.5 or before > LIMIT),
        # At CRITICAL the product waits for a fifth of the time: migrate_after says so.
        (f'asked after {options.after / 5:.0f} s at the earliest', f'{move.begun:.0f} s' if move else '-',
         move is not None and move.begun >= options.after / 5),
        ('nova has moved', '; '.join(f'{m.guest} {m.source} -> {m.target}: {m.status}' for m in stage.moves.values())
         or 'nobody', len(stage.moves) == 1 and move is not None and move.target == second),
        ('it is one that writes little', move.guest if move else '-', bool(move and move.guest != 'writer')),
        (f'heartbeats pause at most {options.pause} s', ', '.join(f'{n} {p:.1f} s' for n, p in stage.pauses.items())
         + f'; {missed} beats unseen', max(stage.pauses.values()) <= options.pause),
        ('guests killed', f'{stage.kills} by the kernel, {len(stage.alive)} of {len(stage.servers)} live',
         stage.kills == 0 and len(stage.alive) == len(stage.servers)),
        ('below their reservation', '; '.join(stage.below()[:3]) or 'nobody', not stage.below()),
        ('seen', f'the least seen guest in {read:.0%} of the looks (at least {SEEN:.0%})', read >= SEEN),
        ('out of memory within', ', '.join(f'{n}: {killed}' for n, killed in within.items() if killed != 0) or 'nobody',
         set(within.values()) == {0}),
        ('refused', '; '.join(refused[:3]) or 'nobody', not refused),
        ('the shortage is over', f'{last.level}, {last.available // MB} MB available (at least {FREE:.0%}), '
         f'{back:.1f} MB/s read back in the last {stage.tail} s (limit {LIMIT})', last.level in ('CLEAR', 'SOFT')
         and back < LIMIT and last.available >= FREE * options.host_memory * MB)]


def row(stage: Stage) -> tuple[str, ...]:
    first = stage.hosts[0]
    last = stage.looks[-1][first]
    return (stage.policy, f'{sum(m.status == "completed" for m in stage.moves.values())}', f'{stage.kills}',
            f'{len(stage.alive)}/{len(stage.servers)}', f'{len(stage.below())}', f'{last.available // MB}',
            f'{last.swapped // MB}', f'{stage.swap_in(first, 0) * last.at:.0f}',
            f'{stage.swap_in(first, -stage.tail):.1f}', f'{max(stage.pauses.values()):.1f}')


def table(stages: list[Stage]) -> str:
    lines = [('policy', 'moved', 'killed', 'alive', 'below', 'available', 'swapped', 'read back', 'MB/s at end',
              'longest pause'), *map(row, stages)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def last_line(stages: list[Stage]) -> str:
    words = [] if any(stage.policy == 'ovc' for stage in stages) else ['ovc=not-judged']
    for stage in stages:
        done = [m for m in stage.moves.values() if m.status == 'completed' and m.ended is not None]
        words += [f'{stage.policy}: moved={len(done)} killed={stage.kills} alive={len(stage.alive)} '
                  f'below={len(stage.below())} swap_in_end={stage.swap_in(stage.hosts[0], -stage.tail):.1f} '
                  f'longest_pause={max(stage.pauses.values()):.2f}']
        if done:
            words.append(f'guest={done[0].guest} asked_after={done[0].begun:.0f} '
                         f'move_seconds={done[0].ended - done[0].begun:.1f}')
    return 'sustained: ' + ' '.join(words)


def draw(stages: list[Stage], file: Path) -> None:
    """Both hosts' memory and swap over time with our rules, what is read back with each, and each guest's pauses."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    stage = stages[0]
    figure, axes = pyplot.subplots(len(stage.hosts) + 2, 1, figsize=(9, 8), sharex=True)
    times = [look[stage.hosts[0]].at for look in stage.looks]
    for axis, host in zip(axes, stage.hosts, strict=False):
        _bands(axis, host, stage, times)
    for one in stages:
        rates = [one.swap_in(stage.hosts[0], n, n + 1) for n in range(len(one.looks) - 1)]
        smooth = [sum(rates[max(0, n - 4):n + 1]) / min(5, n + 1) for n in range(len(rates))]
        axes[-2].plot([look[stage.hosts[0]].at for look in one.looks[1:]], smooth, label=one.policy, linewidth=1)
    axes[-2].set_ylabel(f'read back on\n{stage.hosts[0]}, MB/s')
    axes[-2].legend(fontsize=7, ncol=3)
    began = next(iter(stage.lookers.values())).began
    for name, beats in stage.hearts.beats.items():
        at = [when - began for when, _ in beats]
        axes[-1].plot(at[1:], [b - a for a, b in zip(at, at[1:], strict=False)], linewidth=0.7, label=name)
    axes[-1].axhline(stage.options.pause, color='#d00000', linewidth=0.8, linestyle='--')
    axes[-1].set_ylabel('pause between\nbeats, s')
    axes[-1].legend(fontsize=7, ncol=len(stage.servers))
    axes[-1].set_xlabel('seconds')
    for move in stage.moves.values():
        for axis in axes:
            axis.axvspan(move.begun, move.ended or times[-1], color='#9e8cc2', alpha=0.35, linewidth=0)
        axes[0].annotate(f'{move.guest} is moved', (move.begun, axes[0].get_ylim()[1] * 0.9), fontsize=8, ha='right')
    figure.suptitle('a shortage that lasts: swap carries it until one guest has moved', fontsize=10)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def _bands(axis: typing.Any, host: str, stage: Stage, times: list[float]) -> None:
    looks = [look[host] for look in stage.looks]
    ballooned = [sum(max(0, MAXIMUM - g.actual) for g in look.guests.values() if g.running and g.actual) / MB
                 for look in looks]
    axis.stackplot(times, [look.used / MB for look in looks], [look.swapped / MB for look in looks], ballooned,
                   colors=['#4a7fb5', '#b0763a', '#9e8cc2'], labels=['in memory', 'in swap', 'ballooned'])
    axis.axhline(stage.options.host_memory, color='#1f3b57', linewidth=1, linestyle='--')
    for one, following, right in zip(looks, looks[1:], times[1:], strict=False):
        if following.level != one.level and following.level:
            axis.annotate(following.level, (right, stage.options.host_memory), fontsize=6, rotation=90, va='bottom')
    axis.set_ylabel(f'{host}, MB')
    axis.set_ylim(0, stage.options.host_memory + stage.options.host_swap)
    axis.legend(fontsize=7, loc='lower right', ncol=3)
