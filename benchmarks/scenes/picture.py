# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One picture a scene: the mechanisms over time as stacked bands, the policies side by side, one scale."""
from __future__ import annotations

import typing
from pathlib import Path

from benchmarks.scenes import verdict
from benchmarks.scenes.stage import HOST_MEMORY, Record
from benchmarks.scenes.table import Scene

MB = 1 << 20
LEVELS = {'CLEAR': '#f4faf4', 'SOFT': '#fff8d6', 'HARD': '#ffe0b2', 'CRITICAL': '#ffcdd2'}
BANDS = (('in memory', '#4a7fb5'), ('in swap', '#b0763a'), ('merged (KSM)', '#6aa84f'), ('ballooned', '#9e8cc2'))
TITLES = {'ovc': 'ovc_plugin', 'mom': "MOM's policy", 'nothing': 'stock nova'}


def draw(scene: Scene, records: dict[str, Record], file: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(records), figsize=(4.3 * len(records) + 0.5, 5.0), sharex=True, sharey='row',
                                   squeeze=False, gridspec_kw={'height_ratios': (3, 1)})
    for column, (policy, record) in enumerate(records.items()):
        one = verdict.outcome(scene, record)
        axes[0][column].set_title(
            f'{TITLES[policy]}: {one.killed} killed\n{one.total_swap_in / MB:.0f} MB read back from swap, at least '
            f'{one.lowest / MB:.0f} MB available', fontsize=9)
        _bands(axes[0][column], record)
        _rates(axes[1][column], record)
    axes[0][0].set_ylabel('MB')
    axes[1][0].set_ylabel('swap-in\nMB/s')
    for axis in axes[1]:
        axis.set_xlabel('seconds')
    figure.suptitle(f'{scene.name}: {scene.says}', fontsize=9)
    figure.legend(handles=_legend(), loc='lower center', ncol=9 if len(records) > 2 else 5, fontsize=7.5, frameon=False)
    figure.tight_layout(rect=(0, 0.05 if len(records) > 2 else 0.09, 1, 1))
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def _bands(axis: typing.Any, record: Record) -> None:
    looks, times = record.looks, [look.at for look in record.looks]
    parts = ([look.used / MB for look in looks], [look.swapped / MB for look in looks],
             [look.saved / MB for look in looks], [verdict.ballooned(look, record) / MB for look in looks])
    axis.stackplot(times, *parts, colors=[colour for _, colour in BANDS], zorder=2)
    axis.axhline(HOST_MEMORY, color='#1f3b57', linewidth=1, linestyle='--', zorder=3)
    if record.policy == 'ovc':
        for one, following in zip(looks, looks[1:], strict=False):
            if colour := LEVELS.get(one.level or ''):
                axis.axvspan(one.at, following.at, color=colour, zorder=0, linewidth=0)
    killed = 0
    for look in looks:
        if (gone := sum(not g.running for g in look.guests.values())) > killed:
            axis.axvline(look.at, color='#d00000', linewidth=1.6, zorder=4)
            axis.annotate(f'{gone - killed} killed', (look.at, HOST_MEMORY * 0.1), fontsize=7, color='white',
                          rotation=90, ha='right', va='bottom', zorder=5)
            killed = gone
    axis.set_xlim(0, max(times) or 1)
    axis.set_ylim(0, None)


def _rates(axis: typing.Any, record: Record) -> None:
    """Read back from swap, by all guests together."""
    times, rates = [], []
    for earlier, later in zip(record.looks, record.looks[1:], strict=False):
        back = sum((g.swap_in or 0) - (earlier.guests[n].swap_in or 0) for n, g in later.guests.items()
                   if g.swap_in is not None and earlier.guests[n].swap_in is not None)
        times.append(later.at)
        rates.append(max(0, back) / MB / max(0.1, later.at - earlier.at))
    axis.fill_between(times, rates, color='#c0392b', step='pre', linewidth=0)
    axis.set_ylim(0, max(5.0, axis.get_ylim()[1]))


def _legend() -> list[typing.Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [*(Patch(color=colour, label=label) for label, colour in BANDS),
            Line2D([], [], color='#1f3b57', linestyle='--', label='memory of the host'),
            Line2D([], [], color='#d00000', label='guest killed'),
            *(Patch(color=LEVELS[level], label=level) for level in ('SOFT', 'HARD', 'CRITICAL'))]
