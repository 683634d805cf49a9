# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How fast a real host answers a shock, and what it costs to be ready for one."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox'), str(CHECKOUT / 'tests' / 'real')]

from benchmarks.speed_agent import agent  # noqa: E402
from benchmarks.speed_scene import MB, measure  # noqa: E402
from benchmarks.speed_told import picture, rows, seconds  # noqa: E402

DESCRIPTION = """\
A private libvirtd with a limit on memory and swap, real guests, and ovc-agent with its defaults. First a quiet time, in
which the processor time of ovc-agent and its root helper is counted, and their memory beside that of a bare Python
process that talks to the same libvirtd. Beside it stands what touching a page costs after a rest: a virtual machine
whose host takes resting pages away pays for that in every pass, whatever is done in it. Then the shock, for which this
machine is made to have its memory, as free pages would cost a virtual machine the same once more: from --free percent
of the host's memory available, all guests together fill --rate MB/s until each holds --fill MB. Told is what was really
filled, seconds from the shock's begin (and from the moment when available memory fell below where SOFT begins) until
the first pass and the first action, the lowest available memory, the level over time, and whether any guest was killed
or lost a byte.
Exit status 0: the guests did fill that fast (on a busy machine they cannot, and nothing is shown), first action
done (not only tried) within 1 s of the shock's begin, none failed, at under 0.5 % of a core while nothing happened, no
guest killed, no byte lost, and under 60 MB more than the bare process and a nova-compute's own libraries take. Needs
root.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/speed', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('host-memory', 1500, 'MB'), ('host-swap', 1280, 'MB'), ('guests', 4, 'real guests'),
                              ('guest-memory', 512, 'MB of each'), ('free', 30, 'percent available before the shock'),
                              ('fill', 400, 'MB that each guest holds after it'),
                              ('rate', 200, 'MB/s, all guests together'),
                              ('quiet', 60, 'seconds of quiet, in which processor time is counted'),
                              ('watch', 40, 'seconds watched after the shock\'s begin')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--picture', metavar='FILE', type=Path, help='draw the shock as a PNG')
    top.add_argument('--set', metavar='OPTION=VALUE', action='append', default=[], help='an option of [ovc_host]')
    top.add_argument('--agent', nargs=2, metavar=('CONFIG', 'RECORD'), help=argparse.SUPPRESS)
    return top


def main() -> int:
    options = parser().parse_args()
    if options.agent:
        return agent(*options.agent)
    calm, hit = measure(options)
    table = rows(options, calm, hit)
    for what, figure, goal, held in table:
        print(f'{what:38}  {figure:70}  {goal:8}  {"" if held is None else "holds" if held else "FAILS"}'.rstrip())
    if options.picture:
        picture(options.picture, options, hit)
        print(f'picture: {options.picture}')
    print(f'speed: guests={options.guests} rate={hit.rate:.0f} free_percent={options.free} '
          f'first_pass={seconds(hit.passed).split()[0]} first_action={seconds(hit.acted).split()[0]} '
          f'lowest_mb={hit.lowest // MB} critical_seconds={hit.stuck:.1f} killed={hit.killed} lost={len(hit.lost)} '
          f'quiet_percent={calm.percent:.2f} added_mb={calm.added:.0f}')
    return 1 if any(row[3] is False for row in table) else 0


if __name__ == '__main__':
    sys.exit(main())
