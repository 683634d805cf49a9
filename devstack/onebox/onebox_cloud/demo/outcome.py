# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the demo says at its end: the table, what did not hold, and the line of figures."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import Accident
    from .run import Run

MB = 1 << 20
CALM_WITHIN = 60.0
SEEN = 0.9  # of the looks that must have read a guest: what was not read cannot be found below its reservation
#: What two hosts of 1,500 + 1,280 MB can promise to guests that cost some 610 MB when full: four each.
PROMISED_BY_DEFAULT = 8
TITLES = {'ratio1': 'stock nova, ratio 1.0', 'ratio4': 'stock nova, ratio {high:g}', 'ovc': 'ovc_plugin'}


def table(accident: Accident, runs: dict[str, Run]) -> str:
    """One row a run, 100 columns at the most."""
    rows = [('', 'asked', 'placed', 'where', 'killed', 'alive at end', 'swap-ins', 'calm after')]
    for part, run in runs.items():
        last = run.samples[-1]
        where = '  '.join(f'{host} {count}' for host, count in run.placed.items())
        swap_ins = '  '.join(f'{host} {amount // MB} MB' for host, amount in last.swap_ins.items())
        calm = f'{run.calm_after:.0f} s' if run.calm_after is not None else '-'
        rows.append((TITLES[part].format(high=accident.high_ratio), str(run.asked), str(run.total), where,
                     str(run.killed), f'{run.alive} of {run.total}', swap_ins, calm))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, '  '.join('-' * width for width in widths))
    if (ovc := runs.get('ovc')) and ovc.why:
        lines += ['', f'refused guests got from nova: {ovc.why.strip()}']
        lines += [f'{where}: {reason}' for where, reason in ovc.reasons.items()]
    return '\n' + '\n'.join(lines) + '\n'


def failures(accident: Accident, runs: dict[str, Run]) -> list[str]:
    """What should hold and did not, in words; only of the runs that were played."""
    found = []
    careful, careless, ovc = (runs.get(part) for part in ('ratio1', 'ratio4', 'ovc'))
    if careful and careful.killed:
        found.append(f'stock nova with ratio 1.0 had {careful.killed} guests killed, which no overcommit should')
    if careless and careless.killed != careless.kernel_kills:
        found.append(f'with ratio {accident.high_ratio:g} {careless.killed} guests are gone, but the kernel counts '
                     f'{careless.kernel_kills} kills')
    if careless and not careless.killed:
        found.append(f'the accident did not happen: no guest was killed with ratio {accident.high_ratio:g} '
                     f'({careless.total} placed); ask for more guests, or give the hosts less')
    if ovc:
        found += _ovc(accident, ovc)
    if ovc and careful and ovc.total <= careful.total:
        found.append(f'the plugin placed {ovc.total} guests, not more than ratio 1.0 did ({careful.total})')
    return found


def _ovc(accident: Accident, run: Run) -> list[str]:
    found = []
    if run.killed or run.kernel_kills:
        found.append(f'with the plugin {run.killed} guests were killed (the kernel counts {run.kernel_kills})')
    if run.alive != run.total:
        found.append(f'with the plugin only {run.alive} of {run.total} placed guests have a heartbeat at the end')
    if accident.is_default() and run.total < PROMISED_BY_DEFAULT:
        found.append(f'the plugin placed {run.total} guests < {PROMISED_BY_DEFAULT} that these hosts can promise')
    if run.below:
        found.append(f'below the reservation: {", ".join(run.below)}')
    if run.seen < SEEN:
        found.append(f'guests could be read in {run.seen:.0%} of the looks at them only, which is less than {SEEN:.0%}')
    if run.within:
        found.append(f'out of memory within: {", ".join(run.within)}')
    if run.touched_at is None:
        found.append(f'not every guest had filled its memory within {accident.limit} s')
    elif run.calm_after is None or run.calm_after > CALM_WITHIN:
        found.append(f'the hosts were not back at SOFT or better within {CALM_WITHIN:.0f} s of the last touch')
    return found


def last_line(accident: Accident, runs: dict[str, Run], seconds: float) -> str:
    """The figures of the runs that were played."""
    figures = [f'asked={accident.guests}']
    for part in ('ratio1', 'ratio4', 'ovc'):
        if part in runs:
            figures += [f'{part}_placed={runs[part].total}', f'{part}_killed={runs[part].killed}']
    if 'ovc' in runs:
        figures.append(f'ovc_alive={runs["ovc"].alive}')
    return f'demo: {" ".join(figures)} seconds={seconds:.0f}'
