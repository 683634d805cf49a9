# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How often the true peak of a host's sum exceeds its prediction, against the memory that the prediction saves."""
from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'benchmarks')]

import predict_trace  # noqa: E402

from benchmarks import arguments  # noqa: E402
from ovc_plugin import predictors  # noqa: E402
from ovc_plugin.decide.demand import DAY_STEPS, STEP, GuestDemand, HostDemand  # noqa: E402
from ovc_plugin.decide.margin import Tuning  # noqa: E402
from ovc_plugin.decide.predict import HORIZONS, Calibrated, Predictor  # noqa: E402

MIB = 1 << 20
SAMPLED = 0.75
LATE_FROM_DAY = 21  # shown apart: by then a predictor has seen all the past that it looks at
GOAL_SAVED = 70.0
ORACLE, SUMS_OF_PEAKS, HINDSIGHT = 'oracle', 'sum of guests\' peaks', 'in hindsight'

DESCRIPTION = """\
Deals the guests of a trace to hosts (another deal for each seed), lets every predictor of the namespace
ovc_plugin.predictors walk forward over the trace, a step of five minutes at a time, and asks it once an hour for the
largest sum of the host's guests within 5 minutes, 1 hour and 24 hours. A miss is an instant whose true peak was
larger; arrivals within the horizon count. Saved is 1 - predicted / limits, in bytes over all hosts and instants, and
as the mean of hosts' ratios.

A guest's limit is what the trace says is provisioned to it; its demand is what the trace says is used (for Bitbrains:
active memory), plus --resident of its limit. A guest without a sample is off; a step with samples of
less than 3/4 of the guests that the day around it has is an outage: neither learned nor judged, nor is an instant
whose horizon was not looked at for 3/4 of its time.

--trace reads an .npz with used_mib and prov_mib [guests, steps of 300 s], 0xFFFFFFFF in used_mib, or NaN, where there
is no sample; or a directory of CSV files as GWA-T-12 is published, one for each guest. Without it, a small trace is
generated from --trace-seed. The days from 21 on are shown apart: by then all the past that is looked at is there.

The Bitbrains "Rnd" trace of July 2013 is no proof, nor are its last ten days held out: all of that month was seen while
the defaults were chosen. The first choice missed 3.09 % of the 24 h peaks on the last ten days; lookback and trust were
changed after that was known. Only what is measured on other months and other machines says anything.

Two rows are not to be had by predicting: the oracle knows what comes, and "in hindsight" is our predictor with one
margin for all hosts and instants, the narrowest that would have missed no more than --target: so much could be saved by
whoever had chosen our settings for this trace, after it.

Exit status 0: the calibrated predictor misses at most --target of the 24 h peaks and saves at least 70 % of bytes, on
all days judged, and on those from day 21 on where there are any; 1: not; 2: the trace cannot be read.
"""


@dataclasses.dataclass(frozen=True)
class Trace:
    """Bytes, [guests, steps]; ``used`` is -1 where a guest is off. ``seen`` says at which steps anybody looked."""

    used: np.ndarray
    limit: np.ndarray
    seen: np.ndarray


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/predict', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument('--trace', type=Path, help='the trace to read (default: a generated one)')
    top.add_argument('--trace-seed', type=int, default=1, help='seed of the generated trace (default 1)')
    top.add_argument('--seeds', type=seeds, default='0-2',
                     help='seeds by which guests are dealt to hosts (default 0-2)')
    top.add_argument('--guests-per-host', type=arguments.number(int, 1), default=25, help='(default 25)')
    top.add_argument('--target', type=arguments.number(float, 0, below=1), default=Tuning().target,
                     help=f'share of misses to stay below (default {Tuning().target})')
    top.add_argument('--from-day', type=arguments.number(float, 0), default=7,
                     help='first day judged (default 7); all before is learned')
    top.add_argument('--until-day', type=arguments.number(float, 1), help='read no more than these days of the trace')
    top.add_argument('--resident', type=arguments.number(float, 0), default=0.0,
                     help='share of its limit a running guest holds beyond what is used (default 0)')
    top.add_argument('--cut-limit-gib', type=arguments.number(float, 0.001),
                     help='no guest has, or uses, more than this')
    top.add_argument('--only', type=named, metavar='NAMES',
                     help=f'predictors to run beside {predictors.DEFAULT}, comma separated (default: all installed: '
                          f'{", ".join(predictors.names())})')
    return top


def seeds(text: str) -> range:
    first, _, last = text.partition('-')
    if not (first.isdigit() and (last or first).isdigit() and int(first) <= int(last or first)):
        raise argparse.ArgumentTypeError(f'{text} is neither a seed like 3 nor a range of them like 0-2')
    return range(int(first), int(last or first) + 1)


def named(text: str) -> list[str]:
    names = text.split(',')
    if unknown := [name for name in names if name not in predictors.names()]:
        raise argparse.ArgumentTypeError(f'{unknown[0]} is not installed; there are {", ".join(predictors.names())}')
    return names


def read(path: Path, options: argparse.Namespace) -> Trace:
    """:raises predict_trace.TraceError: it cannot be used."""
    used, limit = predict_trace.read(path)
    end = int(options.until_day * DAY_STEPS) if options.until_day else None
    return shaped(used[:, :end], limit[:, :end], options)


def generated(seed: int, options: argparse.Namespace, guests: int = 250, days: int = 28) -> Trace:
    """Guests with a level, a day's rhythm, bursts of their own and a few together; some come late, some go. Mean use
    and how seldom guests peak together are near what was measured on business-critical machines (6 %, 0.47)."""
    chance = np.random.default_rng(seed)
    steps = np.arange(int(min(days, options.until_day or days) * DAY_STEPS))
    limit = 2.0 ** np.clip(chance.normal(2, 2, guests).round(), -1, 6) * 1024 * MIB
    everyone = chance.random(len(steps)) < 1 / (7 * DAY_STEPS)
    used = np.full((guests, len(steps)), -1, dtype=np.int64)
    for guest in range(guests):
        rhythm = 1 + chance.uniform(0, 0.5) * np.sin(2 * np.pi * (steps / DAY_STEPS + chance.uniform()))
        share = chance.beta(0.8, 14) * rhythm * chance.lognormal(0, 0.1, len(steps))
        often, high = min(chance.pareto(0.7) / 20, 4) / DAY_STEPS, chance.uniform(0.1, 0.9)
        begins = np.flatnonzero((chance.random(len(steps)) < often) | (everyone & (chance.random() < 0.2)))
        for begin in begins:
            share[begin:begin + 1 + int(chance.exponential(3))] += high * chance.beta(5, 2)
        there = (chance.random() > 0.05) | (steps >= chance.integers(len(steps)))
        there &= (chance.random() > 0.05) | (steps < chance.integers(len(steps)))
        used[guest] = np.where(there, np.minimum(share, 1) * limit[guest], -1)
    return shaped(used, np.where(used >= 0, limit[:, None], 0).astype(np.int64), options)


def shaped(used: np.ndarray, limit: np.ndarray, options: argparse.Namespace) -> Trace:
    on = used >= 0
    if options.cut_limit_gib:
        limit = np.minimum(limit, int(options.cut_limit_gib * 1024) * MIB)
    used = np.where(on, np.minimum(used + (options.resident * limit).astype(np.int64), limit), -1)
    return Trace(used=used, limit=limit, seen=looked(on.sum(0)))


def looked(counts: np.ndarray) -> np.ndarray:
    """Where the sampling worked: a step with far fewer guests than the day around it is an outage, not a shutdown."""
    padded = np.pad(counts, DAY_STEPS)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * DAY_STEPS + 1).max(1)
    return (counts > 0) & (counts >= SAMPLED * around)


def coming_peaks(sums: np.ndarray, steps: int) -> np.ndarray:
    """The largest of the next ``steps`` values; at the end, of those that are left, and -1 at the last."""
    padded = np.concatenate([sums[1:], np.full(steps, -1, dtype=sums.dtype)])
    return np.lib.stride_tricks.sliding_window_view(padded, steps).max(1)[:len(sums)]


@dataclasses.dataclass
class Score:
    """Per instant of all hosts: predicted, true and present limits in bytes, and the day, by horizon."""

    rows: dict[float, list[tuple[int, int, int, float]]] = dataclasses.field(
        default_factory=lambda: {h: [] for h in HORIZONS})
    #: What the predicted peak was made of: base and spread in bytes, by horizon.
    parts: dict[float, list[tuple[int, int]]] = dataclasses.field(default_factory=lambda: {h: [] for h in HORIZONS})

    def in_hindsight(self, target: float) -> Score:
        """With the narrowest margin, the same throughout, of which at most ``target`` (0..1) would have missed."""
        found = Score()
        for horizon, rows in self.rows.items():
            if not rows:
                continue
            _, true, limit, day = np.array(rows, dtype=float).T
            base, spread = np.array(self.parts[horizon], dtype=float).T
            rest = np.maximum(limit - base - spread, 0)
            need = np.where(true <= base + spread, (true - base) / np.maximum(spread, 1),
                            1 + (true - base - spread) / np.maximum(rest, 1))
            margin = max(0.0, np.sort(need)[math.ceil((1 - target) * len(need)) - 1])
            peaks = np.ceil(base + min(margin, 1) * spread + max(margin - 1, 0) * rest)
            found.rows[horizon] = list(zip(peaks.tolist(), true.tolist(), limit.tolist(), day.tolist(), strict=True))
        return found

    def figures(self, horizon: float, from_day: float = 0) -> tuple[float, float, float, float, int]:
        """Misses, saved bytes, mean of saved, mean overrun of a miss (of limits), all in per cent; instants."""
        rows = np.array([row for row in self.rows[horizon] if row[3] >= from_day], dtype=float)
        if not len(rows):
            return (math.nan,) * 4 + (0,)
        predicted, true, limit, _ = rows.T
        missed = true > predicted
        overrun = ((true - predicted) / limit)[missed].mean() if missed.any() else 0.0
        return (100 * missed.mean(), 100 * (1 - predicted.sum() / limit.sum()), 100 * (1 - (predicted / limit).mean()),
                100 * overrun, len(rows))


def walk(trace: Trace, host: np.ndarray, made: dict[str, Predictor], scores: dict[str, Score], from_day: float) -> None:
    """One host over the whole trace; what a predictor is told at a step ends with that step."""
    used, limit = trace.used[host], trace.limit[host]
    sums = np.where((used >= 0) & trace.seen, used, 0).sum(0)
    coming = {h: coming_peaks(sums, round(h / STEP)) for h in HORIZONS}
    watched = np.cumsum(trace.seen)
    limits = limit.sum(0)
    peaks = np.maximum.accumulate(np.where(used >= 0, used, 0), axis=1)
    uuids = [str(number) for number in host]
    used_at, limit_at = used.T.tolist(), limit.T.tolist()
    for now in np.flatnonzero(trace.seen).tolist():
        guests = tuple([GuestDemand(uuid=uuid, used=amount, limit=most) for uuid, amount, most
                        in zip(uuids, used_at[now], limit_at[now], strict=True) if amount >= 0])
        step = HostDemand(at=now * STEP, guests=guests)
        for predictor in made.values():
            predictor.observe(step)
        if now % 12 or now < from_day * DAY_STEPS or not guests:
            continue
        for horizon in HORIZONS:
            ahead = now + round(horizon / STEP)
            if ahead >= len(sums) or watched[ahead] - watched[now] < SAMPLED * (ahead - now):
                continue
            true, day = int(coming[horizon][now]), now / DAY_STEPS
            for name, predictor in made.items():
                found = predictor.peak(step, horizon)
                scores[name].rows[horizon].append((found.peak, true, int(limits[now]), day))
                scores[name].parts[horizon].append((found.base, found.spread))
            scores[ORACLE].rows[horizon].append((true, true, int(limits[now]), day))
            scores[SUMS_OF_PEAKS].rows[horizon].append(
                (int(np.minimum(peaks[:, now], limit[:, now]).sum()), true, int(limits[now]), day))


def run(trace: Trace, options: argparse.Namespace) -> dict[str, Score]:
    names = list(dict.fromkeys([*options.only, predictors.DEFAULT])) if options.only else predictors.names()
    scores = {name: Score() for name in [*names, SUMS_OF_PEAKS, ORACLE]}
    for seed in options.seeds:
        dealt = np.random.default_rng(seed).permutation(len(trace.used))
        count = len(dealt) // options.guests_per_host
        for host in dealt[:count * options.guests_per_host].reshape(count, -1):
            made = {name: predictors.load(name) for name in names}
            if predictors.DEFAULT in made:
                made[predictors.DEFAULT] = Calibrated(Tuning(target=options.target))
            walk(trace, host, made, scores, options.from_day)
    scores[HINDSIGHT] = scores[predictors.DEFAULT].in_hindsight(options.target)
    return scores


def show(scores: dict[str, Score], from_day: float, title: str) -> None:
    print(f'\n{title}')
    print(f'{"predictor":20}' + ''.join(f'{"misses " + label:>14}{"saved":>8}' for label in ('24 h', '1 h', '5 min'))
          + f'{"24 h: mean saved":>18}{"overrun of a miss":>19}')
    for name, score in scores.items():
        cells = [score.figures(h, from_day) for h in reversed(HORIZONS)]
        print(f'{name:20}' + ''.join(f'{cell[0]:>12.2f} %{cell[1]:>6.1f} %' for cell in cells)
              + f'{cells[0][2]:>16.1f} %{cells[0][3]:>9.1f} % of limits')


def verdict(scores: dict[str, Score], options: argparse.Namespace, end: float, took: float) -> bool:
    """Both tables, the last line, and whether the goals hold."""
    show(scores, 0, f'days {options.from_day:g} to {end:g}, {scores[ORACLE].figures(86400.0)[4]} instants')
    ours = scores[predictors.DEFAULT]
    missed, saved, mean, _, count = ours.figures(86400.0)
    held = missed <= 100 * options.target and saved >= GOAL_SAVED
    best = scores[HINDSIGHT].figures(86400.0)[1]
    line = (f'predict: instants={count} miss_24h={missed:.2f} saved_24h={saved:.1f} mean_saved_24h={mean:.1f} '
            f'hindsight_saved_24h={best:.1f}')
    apart = ours.figures(86400.0, LATE_FROM_DAY)
    if apart[4] and options.from_day < LATE_FROM_DAY:
        show(scores, LATE_FROM_DAY, f'of these, day {LATE_FROM_DAY} and later, {apart[4]} instants')
        held = held and apart[0] <= 100 * options.target and apart[1] >= GOAL_SAVED
        line += f' late_miss_24h={apart[0]:.2f} late_saved_24h={apart[1]:.1f} late_mean_saved_24h={apart[2]:.1f}'
    for label, horizon in (('1h', 3600.0), ('5min', 300.0)):
        figures = ours.figures(horizon)
        line += f' miss_{label}={figures[0]:.2f} saved_{label}={figures[1]:.1f}'
    print(f'\ngoal: at most {100 * options.target:g} % misses of 24 h at {GOAL_SAVED:g} % saved or more: '
          f'{"holds" if held else "FAILS"}')
    print(f'{line} seconds={took:.0f} ok={int(held)}')
    return held


def main() -> int:
    options = parser().parse_args()
    began = time.monotonic()
    try:
        trace = read(options.trace, options) if options.trace else generated(options.trace_seed, options)
    except predict_trace.TraceError as error:
        print(f'predict: {error}', file=sys.stderr)
        return 2
    days = trace.used.shape[1] / DAY_STEPS
    if len(trace.used) < options.guests_per_host or days < options.from_day + 1:
        print(f'predict: {len(trace.used)} guests over {days:.1f} days are too few for hosts of '
              f'{options.guests_per_host} judged from day {options.from_day:g} on: lower --guests-per-host or '
              '--from-day', file=sys.stderr)
        return 2
    print(f'trace: {options.trace.name if options.trace else f"generated, seed {options.trace_seed}"}, '
          f'{len(trace.used)} guests, {days:.1f} days, demand = used'
          + (f' + {options.resident:.0%} of the limit' if options.resident else ''))
    scores = run(trace, options)
    if not scores[ORACLE].rows[max(HORIZONS)]:
        print('predict: nothing of the trace could be judged: in no hour a day ahead was sampled with guests there',
              file=sys.stderr)
        return 2
    return 0 if verdict(scores, options, days, time.monotonic() - began) else 1


if __name__ == '__main__':
    sys.exit(main())
