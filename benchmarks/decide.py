# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How long the rules take to decide what to do about a host with a thousand guests."""
from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT)]

from benchmarks import arguments  # noqa: E402
from ovc_plugin.decide import pressure  # noqa: E402
from ovc_plugin.decide.host import decide_host  # noqa: E402
from ovc_plugin.decide.state import LadderState  # noqa: E402
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, KsmState, Level  # noqa: E402
from ovc_plugin.settings import HostSettings  # noqa: E402

GIB = 1 << 30
NOW, TICK = 1_000_000.0, 5.0
# Of the minimum that should stay available, so that each level is met.
AVAILABLE = {Level.CLEAR: 4.0, Level.SOFT: 0.5, Level.HARD: 0.25, Level.CRITICAL: 0.1}
DESCRIPTION = """\
Makes a snapshot of --guests guests at each level (some silent, stuck or untouchable) and lets the rules decide over it,
--passes times in a row, each pass with what the one before remembered and with guests whose sizes and words are others
than before, so that nearly each has to be followed anew. Counts processor time of decide_host alone: no sensing, no
acting.

Exit status 0: the median of every level is below --goal milliseconds. 1: not.
"""


def guest(number: int, chance: random.Random, age: float) -> GuestSnapshot:
    maximum = chance.choice((1, 2, 4, 8)) * GIB
    actual = int(maximum * chance.uniform(0.6, 1.0))
    usable = int(actual * chance.uniform(0.05, 0.7))
    silent, untouchable = chance.random() < 0.05, chance.random() < 0.02
    return GuestSnapshot(
        uuid=f'uuid-{number}', name=f'g{number}', maximum=maximum, reservation=maximum // 4, overhead=128 * MIB,
        weight=chance.choice((0.5, 1.0, 1.0, 2.0)), target=actual, actual=actual, usable=None if silent else usable,
        unused=None if silent else usable // 3, stats_age=None if silent else age, resident=int(actual * 0.9),
        swapped=0, refaults=chance.choice((0.0, 0.0, 5.0, 300.0)), trust_domain='p1', can_balloon=not untouchable,
        can_swap=not untouchable, untouchable='hugepages' if untouchable else None)


def snapshot(count: int, level: Level, chance: random.Random, number: int) -> HostSnapshot:
    guests = tuple(guest(n, chance, 2.0) for n in range(count))
    total = sum(g.resident or 0 for g in guests) + 8 * GIB
    available = int(AVAILABLE[level] * pressure.minimum(total, 1.0))
    return HostSnapshot(
        host='h', taken_at=NOW + TICK * number, total=total, available=available, reserve=512 * MIB, swap_total=total,
        swap_free=total, growth=0.0, stall=0.0, swap_in=0.0, swap_out=0.0,
        ksm=KsmState(run=1, saved=0, shared=0, pages_to_scan=1000), guests=guests)


def measure(count: int, level: Level, passes: int, seed: int) -> tuple[list[float], list[int]]:
    """Milliseconds and actions of each pass."""
    state, settings, took, acted = LadderState(), HostSettings(), [], []
    for number in range(passes):
        seen = snapshot(count, level, random.Random(f'decide {seed} {number % 3}'), number)
        began = time.process_time()
        plan, state = decide_host(seen, state, settings, seen.taken_at)
        took.append(1000 * (time.process_time() - began))
        acted.append(len(plan.actions))
        if plan.level is not level:
            raise SystemExit(f'decide: the host is at {plan.level.name}, not {level.name}: {plan.reason}')
        if plan.notes:
            raise SystemExit(f'decide: not all rules were measured: {"; ".join(plan.notes)}')
    return took, acted


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/decide', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for label, value, help in (('guests', 1000, 'guests'), ('passes', 30, 'passes at each level')):
        top.add_argument(f'--{label}', type=arguments.number(int, 1), default=value, help=f'{help} (default {value})')
    top.add_argument('--seed', type=int, default=1, help='seed (default 1)')
    top.add_argument('--goal', type=float, default=10.0, help='milliseconds (default 10)')
    return top


def main() -> int:
    options = parser().parse_args()
    print(f'{"":<10}{"median ms":>11}{"largest ms":>12}{"actions":>9}')
    medians, largest = {}, 0.0
    for level in Level:
        took, acted = measure(options.guests, level, options.passes, options.seed)
        medians[level] = statistics.median(took)
        largest = max(largest, *took)
        print(f'{level.name:<10}{medians[level]:>11.1f}{max(took):>12.1f}{max(acted):>9}')
    worst = max(medians.values())
    held = worst < options.goal
    print(f'decide: guests={options.guests} ' + ' '.join(f'{level.name.lower()}_ms={ms:.1f}'
                                                         for level, ms in medians.items())
          + f' largest_ms={largest:.1f} ok={int(held)}')
    return 0 if held else 1


if __name__ == '__main__':
    sys.exit(main())
