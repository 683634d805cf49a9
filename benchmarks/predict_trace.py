# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Traces of guests' memory for benchmarks/predict: an .npz, or a directory of CSV files as GWA-T-12 is published."""
from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from ovc_plugin.decide.demand import STEP

KIB, MIB = 1 << 10, 1 << 20
OFF = 0xFFFFFFFF
TIME, USED, LIMIT = 'Timestamp [ms]', 'Memory usage [KB]', 'Memory capacity provisioned [KB]'
FORM = (f'each file is one guest: columns separated by ";" and a tab, with a first line that names them, among these '
        f'"{TIME}", "{USED}" and "{LIMIT}", and a sample every {STEP:.0f} s')
_MS_FROM = 1e11  # the published files say ms in their first line, and count seconds
_MOST = 1 << 30  # MiB of one guest
_OVER = 0.05     # of all samples that may use more than is provisioned: some are taken while a guest is resized
_LONGEST = 366 * 10 * 288  # steps: of ten years
UNREADABLE = OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile
_LATE = 1.5      # steps after which a guest without a sample was off; what comes sooner has only slid over a slot


class TraceError(ValueError):
    """A trace that cannot be used; the message names the file and the remedy."""


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Bytes used (-1 where a guest is off) and provisioned (0 there), [guests, steps of 300 s].

    :raises TraceError: it is neither of the two forms, or cannot be what its form says.
    """
    used, limit = directory(path) if path.is_dir() else _packed(path)
    on = used >= 0
    over = int((used > limit)[on].sum())
    if over > _OVER * on.sum():
        raise TraceError(f'{path}: {over / on.sum():.0%} of the samples use more than is provisioned: are the two '
                         'columns swapped, or of different units?')
    return used, limit


def _packed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        return packed(path)
    except UNREADABLE as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f'{path} cannot be read ({error}): give an .npz with used_mib and prov_mib [guests, steps], '
                         f'or a directory of .csv files where {FORM}') from None


def packed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as stored:
        if 'step_s' in stored and int(stored['step_s']) != STEP:
            raise TraceError(f'{path}: a step is {int(stored["step_s"])} s, not {STEP:.0f} s: resample the trace')
        used, limit = stored['used_mib'], stored['prov_mib']
    if used.shape != limit.shape or used.ndim != 2:
        raise TraceError(f'{path}: used_mib is {used.shape} and prov_mib {limit.shape}: both must be [guests, steps]')
    if used.dtype.kind not in 'iuf' or limit.dtype.kind not in 'iuf':
        raise TraceError(f'{path}: used_mib is of {used.dtype} and prov_mib of {limit.dtype}: both must be numbers')
    used, limit = used.astype(float), limit.astype(float)
    off = (used == OFF) | (limit == 0) | np.isnan(used) | np.isnan(limit)
    used, limit = np.where(off, 0, used), np.where(off, 0, limit)
    if min(used.min(initial=0), limit.min(initial=0)) < 0 or max(used.max(initial=0), limit.max(initial=0)) > _MOST:
        raise TraceError(f'{path}: used_mib and prov_mib must be MiB from 0 to {_MOST}, with {OFF:#x} or NaN where '
                         'there is no sample')
    return np.where(off, -1, (used * MIB).astype(np.int64)), (limit * MIB).astype(np.int64)


def directory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(path.glob('*.csv'), key=lambda file: (len(file.name), file.name))
    if not files:
        raise TraceError(f'{path} has no .csv file: give the directory that holds them; {FORM}')
    guests = [samples(file) for file in files]
    times = [rows[:, 0] for rows in guests if len(rows)]
    if not times:
        raise TraceError(f'{path}: no file has a sample: {FORM}')
    began = min(each[0] for each in times)
    steps = int((max(each[-1] for each in times) - began) // STEP) + 1
    if steps > _LONGEST:
        raise TraceError(f'{path}: the samples lie {steps * STEP / 86400:.0f} days apart: is a timestamp wrong, or in '
                         f'another unit than the others? {FORM}')
    used, limit = np.full((len(files), steps), -1, np.int64), np.zeros((len(files), steps), np.int64)
    for number, rows in enumerate(guests):
        _place(rows, began, used[number], limit[number])
    return used, limit


def samples(file: Path) -> np.ndarray:
    """Rows of (seconds, bytes used, bytes provisioned), by time."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f'{file} cannot be read ({error}): {FORM}') from None
    names = [name.strip() for name in lines[0].split(';')] if lines else []
    missing = [name for name in (TIME, USED, LIMIT) if name not in names]
    if missing:
        raise TraceError(f'{file} has no column "{missing[0]}": {FORM}')
    wanted = [names.index(name) for name in (TIME, USED, LIMIT)]
    rows = np.empty((len(lines) - 1, 3))
    for number, line in enumerate(lines[1:]):
        cells = line.split(';')
        try:
            rows[number] = [float(cells[index]) for index in wanted] if line.strip() else math.nan
        except (IndexError, ValueError):
            raise TraceError(f'{file}, line {number + 2} is not a sample ({line[:60]!r}): mend or remove it; '
                             f'{FORM}') from None
    rows = rows[np.isfinite(rows).all(1)]
    rows[:, 0] /= 1000 if len(rows) and rows[0, 0] > _MS_FROM else 1
    rows[:, 1:] *= KIB
    return rows[np.argsort(rows[:, 0], kind='stable')]


def _place(rows: np.ndarray, began: float, used: np.ndarray, limit: np.ndarray) -> None:
    """Several samples of a slot count by their largest. A sample that came a little late leaves no slot empty."""
    before, before_at = -1, -math.inf
    for at, amount, most in rows[rows[:, 2] > 0].tolist():
        slot = int((at - began) // STEP)
        if slot == before + 2 and at - before_at < _LATE * STEP:
            used[slot - 1], limit[slot - 1] = used[before], limit[before]
        used[slot], limit[slot] = max(used[slot], int(amount)), max(limit[slot], int(most))
        before, before_at = slot, at
