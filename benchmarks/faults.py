# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Faults on real hosts: what happened, and what was lost."""
from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
import time
import traceback
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox'), str(CHECKOUT / 'tests' / 'real'),
                str(CHECKOUT / 'benchmarks')]

from faultlib import boundaries, onhelper, onhost  # noqa: E402
from faultlib.scene import Row, Scene  # noqa: E402

from benchmarks import arguments  # noqa: E402

MB = 1 << 20
CLOUD = ('rabbitmq', 'placement')
KILLS = 'kills'
ON_HOST = onhost.FAULTS | onhelper.FAULTS
DESCRIPTION = f"""\
Lets faults happen to a host controller at work over a real libvirt and real guests, and prints for each: what happened,
and what was lost. Lost is: a guest, a byte of what its guest wrote (each guest recomputes all of it), a guarantee, a
limit left lowered, or the controller's ability to go on. The table says which faults are real, and which are injected
into what the controller reads.

faults on one host: {', '.join(ON_HOST)}, {KILLS}
faults on the one-machine cloud: {', '.join(CLOUD)}

Exit status 0: nothing was lost in any of them. Needs root.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/faults', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument('fault', nargs='*', metavar='FAULT', help='only these (default: all)')
    top.add_argument('--kills', type=arguments.number(int, 1), metavar='N',
                     help='most boundaries at which the controller is killed, each kind at least once where N allows '
                     'it (default: all; how many there are is told before the first)')
    return top


def say(text: str) -> None:
    print(f'  {text}', file=sys.stderr, flush=True)


def on_one_host(wanted: list[str], kills: int | None) -> list[Row]:
    from guest import direct
    from libvirt_host import libvirt_host
    rows = []
    with tempfile.TemporaryDirectory() as directory, libvirt_host(memory=1200 * MB, swap=800 * MB) as host:
        scene = Scene(host, direct.build(Path(directory)), say)
        say('guests are up')
        for name in wanted:
            began = time.monotonic()
            try:
                row = boundaries.killed_everywhere(scene, say, kills) if name == KILLS else ON_HOST[name](scene)
                scene.reset()
            except Exception as error:
                traceback.print_exc()
                row = Row(fault=name, kind='?', happened='not shown', lost=(f'{type(error).__name__}: {error}',))
            rows.append(row)
            say(f'{name}: {time.monotonic() - began:.0f} s; {"; ".join(row.lost) or "nothing lost"}')
    return rows


def table(rows: list[Row]) -> str:
    width = (30, 16, 50, 24)
    lines = []
    for cells in [('fault', 'kind', 'what happened', 'lost'),
                  *((r.fault, r.kind, r.happened, '; '.join(r.lost) or 'nothing') for r in rows)]:
        wrapped = [textwrap.wrap(cell, size) for cell, size in zip(cells, width, strict=True)]
        for number in range(max(map(len, wrapped))):
            lines.append('  '.join((part[number] if number < len(part) else '').ljust(size)
                                   for part, size in zip(wrapped, width, strict=True)).rstrip())
    return '\n'.join(lines)


def main() -> int:
    options = parser().parse_args()
    known = [*ON_HOST, KILLS, *CLOUD]
    if unknown := set(options.fault) - set(known):
        parser().error(f'no such fault: {", ".join(sorted(unknown))}')
    wanted = options.fault or known
    rows: list[Row] = []
    if here := [name for name in known if name in wanted and name not in CLOUD]:
        rows += on_one_host(here, options.kills)
    if there := [name for name in CLOUD if name in wanted]:
        from faultlib import oncloud
        rows += oncloud.run(there, say)
    print(table(rows))
    lost = sum(bool(row.lost) for row in rows)
    print(f'faults: shown={len(rows)} real={sum(row.kind.startswith("real") for row in rows)} lost_something={lost}')
    return int(bool(lost))


if __name__ == '__main__':
    sys.exit(main())
