# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The picture: memory and swap of each host over time, one column a run, with levels and kills marked."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import Accident
    from .run import Run

MB = 1 << 20
LEVELS = {'CLEAR': '#e8f5e9', 'SOFT': '#fff8d6', 'HARD': '#ffe0b2', 'CRITICAL': '#ffcdd2'}
TITLES = {'ratio1': 'stock nova, ram_allocation_ratio 1.0', 'ratio4': 'stock nova, ram_allocation_ratio {high:g}',
          'ovc': 'ovc_plugin in charge'}


def draw(accident: Accident, runs: dict[str, Run], file: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    hosts = list(next(iter(runs.values())).placed)
    figure, axes = pyplot.subplots(len(hosts), len(runs), figsize=(5.6 * len(runs), 2.9 * len(hosts) + 0.9),
                                   sharey=True, squeeze=False)
    for column, (part, run) in enumerate(runs.items()):
        for row, host in enumerate(hosts):
            _panel(axes[row][column], accident, run, host)
        axes[0][column].set_title(
            f'{TITLES[part].format(high=accident.high_ratio)}\n{run.total} of {run.asked} placed, {run.killed} killed, '
            f'{run.alive} alive at the end', fontsize=10)
    for row, host in enumerate(hosts):
        axes[row][0].set_ylabel(f'{host}\nMB')
    for axis in axes[-1]:
        axis.set_xlabel('seconds since the guests were asked for')
    handles = _legend(pyplot)
    columns = len(handles) if len(runs) > 1 else 4
    figure.legend(handles=handles, loc='lower center', ncol=columns, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.05 if len(runs) > 1 else 0.1, 1, 1))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, accident: Accident, run: Run, host: str) -> None:
    times = [s.at for s in run.samples]
    used = [s.used[host] / MB for s in run.samples]
    swapped = [s.swapped[host] / MB for s in run.samples]
    axis.stackplot(times, used, swapped, colors=['#4a7fb5', '#b0763a'], zorder=2)
    axis.axhline(accident.host_memory, color='#1f3b57', linewidth=1, linestyle='--', zorder=3)
    axis.axhline(accident.host_memory + accident.host_swap, color='#a00000', linewidth=1, linestyle='--', zorder=3)
    _levels(axis, run, host)
    kills = 0
    for sample in run.samples:
        if sample.kills[host] > kills:
            axis.axvline(sample.at, color='#d00000', linewidth=1.6, zorder=4)
            axis.annotate(f'{sample.kills[host] - kills} killed', (sample.at, accident.host_memory * 0.12), fontsize=8,
                          color='white', rotation=90, ha='right', va='bottom', zorder=5)
            kills = sample.kills[host]
    axis.set_xlim(0, max(times) or 1)
    axis.set_ylim(0, (accident.host_memory + accident.host_swap) * 1.08)
    axis.text(0.01, 0.97, f'{run.placed[host]} guests placed', transform=axis.transAxes, va='top', fontsize=8)


def _levels(axis: Any, run: Run, host: str) -> None:
    """The background shows the level that the host itself reported."""
    for one, following in zip(run.samples, run.samples[1:], strict=False):
        if colour := LEVELS.get(one.level.get(host, '')):
            axis.axvspan(one.at, following.at, color=colour, zorder=0, linewidth=0)


def _legend(pyplot: Any) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [Patch(color='#4a7fb5', label='memory'), Patch(color='#b0763a', label='swap'),
            Line2D([], [], color='#1f3b57', linestyle='--', label='RAM of the host'),
            Line2D([], [], color='#a00000', linestyle='--', label='RAM + swap'),
            Line2D([], [], color='#d00000', label='guests killed'),
            *(Patch(color=colour, label=f'level {level}') for level, colour in LEVELS.items())]
