# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What benchmarks/speed tells of a shock and of the quiet before it, beside the goals, and its picture."""
from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.speed_agent import Quiet
from benchmarks.speed_scene import MB, Shock

ANSWER_GOAL, CPU_GOAL, MEMORY_GOAL = 1.0, 0.5, 60.0   # seconds, % of a core, MB
# On a slow machine a guest takes long over a size, and the product leaves it alone for a while: that is no failure.
LEFT_OUT = 'TimeoutError: the guest took long over a size'
SHOCK = 0.75  # of the rate asked for that the guests must reach: on a busy machine they do not, and nothing is shown


def seconds(value: float | None) -> str:
    return 'never' if value is None else f'{value:.2f} s'


def told_levels(levels: list[tuple[float, int]]) -> str:
    from ovc_plugin.model import Level
    changes, before = [], None
    for at, level in levels:
        if level != before:
            changes.append(f'{max(0.0, at):.1f} s {Level(level).name}')
        before = level
    return ', '.join(changes)


def rows(options: argparse.Namespace, calm: Quiet, hit: Shock) -> list[tuple[str, str, str, bool | None]]:
    import rested
    return [
        ('quiet: ovc-agent and helper', f'{calm.percent:.2f} % of a core over {options.quiet} s, {calm.passes} passes',
         f'< {CPU_GOAL} %', calm.percent < CPU_GOAL),
        rested.told(0.0, 0.2, 5.0),
        ('memory beyond nova-compute\'s own', f'{calm.added:.0f} MB, {calm.helper:.0f} of it the root helper',
         f'< {MEMORY_GOAL:.0f} MB', calm.added < MEMORY_GOAL),
        ('memory of ovc-agent', f'{calm.agent:.0f} MB resident; a bare Python that talks to libvirt has '
         f'{calm.bare:.0f} MB', '', None),
        ('shock', f'{hit.rate:.0f} MB/s up to the first action, from {hit.before // MB} MB available of '
         f'{options.host_memory} MB', f'>= {SHOCK * options.rate:.0f} MB/s', hit.rate >= SHOCK * options.rate),
        ('SOFT\'s threshold crossed after', seconds(hit.crossed), '', None),
        ('first pass above CLEAR after', seconds(hit.passed), f'< {ANSWER_GOAL:.0f} s',
         hit.passed is not None and hit.passed < ANSWER_GOAL),
        ('first action done after', seconds(hit.acted), f'< {ANSWER_GOAL:.0f} s',
         hit.acted is not None and hit.acted < ANSWER_GOAL),
        ('lowest available', f'{hit.lowest // MB} MB', '', None),
        ('last below SOFT\'s threshold after', seconds(hit.back), '', None),
        ('at CRITICAL', f'{hit.stuck:.1f} s', '', None),
        ('levels', told_levels(hit.levels), '', None),
        ('actions that failed', '; '.join(hit.failed) or 'none', 'none',
         all(text.startswith(LEFT_OUT) for text in hit.failed)),
        ('guests killed', str(hit.killed), '0', hit.killed == 0),
        ('guests that lost data or did not fill', ', '.join(hit.lost) or 'none', 'none', not hit.lost)]


def picture(path: Path, options: argparse.Namespace, hit: Shock) -> None:
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    from ovc_plugin.decide import pressure
    from ovc_plugin.model import Level
    from ovc_plugin.settings import HostSettings
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6), height_ratios=(3, 1))
    times = [at for at, _, _ in hit.points]
    above.plot(times, [available / MB for _, available, _ in hit.points], label='available')
    above.plot(times, [swapped / MB for _, _, swapped in hit.points], label='in swap')
    above.axhline(pressure.enter_soft(options.host_memory * MB, HostSettings()) / MB, color='grey', linestyle=':',
                  label='where SOFT begins')
    above.axvline(hit.acted or 0, color='green', linestyle='--', label='first action done')
    above.set_ylabel('MB')
    above.legend()
    above.set_title(f'{hit.rate:.0f} MB/s on a host of {options.host_memory} MB')
    below.step([at for at, _ in hit.levels], [level for _, level in hit.levels], where='post')
    below.set_yticks(range(4), [level.name for level in Level])
    below.set_xlim(-1, times[-1])
    below.set_xlabel('seconds since the shock\'s begin')
    figure.tight_layout()
    figure.savefig(path, dpi=110)
