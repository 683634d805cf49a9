# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Every way in which nova places a guest, on the one-machine cloud, and whether a promise was ever broken by it."""
from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox')]

from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.errors import finish  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402

from benchmarks.paths_cells import GO, PATHS, Cell  # noqa: E402
from benchmarks.paths_cloud import AUDIT, STALE_AFTER, STATES, TICK, Stage, made  # noqa: E402
from benchmarks.paths_watch import MB, OVERHEAD, Watch  # noqa: E402

DESCRIPTION = f"""\
Three hosts. Each way of placing a guest ({', '.join(PATHS)}) is gone in each of four states:

fits          all hosts are well
does not fit  every host holds one guest to which half of it is guaranteed, and another such is asked for
stale         the nova-compute of the third host is halted, so that its report grows old
HARD          a process on the third host locks its memory, so that it reports HARD

Where the guest landed is told by nova. While all this happens, and after each step, the hosts themselves are asked
(libvirt's domains, their memory groups, the kernel's count of kills; not our report) whether on each of them the sum of
reservation + overhead is within memory - reserve, the sum of memory + overhead within memory - reserve + swap, each
guest's size at or above its reservation, nothing of that in swap, and nobody killed. Overhead is {OVERHEAD // MB} MB
or, where more, what the guest really takes. A guest counts from when its QEMU runs to when it does not. Exit status 0:
every guest landed where it may, no promise was ever broken, and after each step every host answered.
"""


def word(text: str) -> str:
    """For ``type`` of an argument: a word of at least one way."""
    if not any(text in path for path in PATHS):
        raise argparse.ArgumentTypeError(f'{text} is in none of: {", ".join(PATHS)}')
    return text


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/paths', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument('--host-memory', type=int, default=1200, help='MB of each of the three hosts (default 1200)')
    top.add_argument('--host-swap', type=int, default=1000, help='MB each may swap (default 1000)')
    top.add_argument('--paths', nargs='+', type=word, metavar='WORD', default=[],
                     help='only ways that have one of these words')
    top.add_argument('--states', nargs='+', choices=STATES, default=list(STATES), help='default: all')
    top.add_argument('--minutes', type=float, default=0, help='begin nothing more after so long (default: no end)')
    top.add_argument('--keep', action='store_true', help='leave the cloud up')
    return top


def _said(error: Exception) -> str:
    """The end of it: openstacksdk begins with the address, and nova's own words come last."""
    return ' '.join(str(error).split())[-120:]


def last_failure(log: str, lines: int = 80) -> str:
    """The last traceback of an API's log, '' without one: its answer names no more than the class of the error."""
    begin = log.rfind('Traceback (most recent call last)')
    return '\n'.join(log[begin:].splitlines()[:lines]) if begin >= 0 else ''


def in_state(stage: Stage, state: str, chosen: list[str], deadline: float) -> dict[str, Cell]:
    """All ways in one state."""
    stage.say(f'state: {state}')
    cells: dict[str, Cell] = {}
    with made(stage, state) as why:
        fillers = {s.id for s in stage.compute.servers(details=False)}
        for path in chosen:
            if time.monotonic() > deadline:
                break
            try:
                cells[path] = Cell(f'not tried: {why}', False) if why else GO[path](stage, state)
            except Exception as error:
                cells[path] = Cell(f'{type(error).__name__}: {_said(error)}', False)
                if getattr(error, 'status_code', 0) >= 500:
                    log = stage.cloud.log('nova-api').read_text(errors='replace')
                    stage.say(f'  nova-api failed:\n{last_failure(log)}')
                with contextlib.suppress(TimeoutError):  # the cell is wrong already, and those left are still owed
                    stage.delete([s.id for s in stage.compute.servers(details=False) if s.id not in fillers])
            stage.watch.look_after(f'{path}, {state}')
            if not cells[path].good:
                stage.say(f'  the scheduler said:\n{refusals(stage.cloud.log("nova-scheduler"))}')
            stage.say(f'  {path}: {cells[path].told}{"" if cells[path].good else "  WRONG"}')
    return cells


def refusals(log: Path, most: int = 6) -> str:
    """The last lines by which a scheduler refused hosts."""
    lines = [line for line in log.read_text(errors='replace').splitlines() if ' refused for guest ' in line]
    return '\n'.join(f'    {line[:300]}' for line in lines[-most:]) or '    nothing of ours'


def play(cloud: Cloud, options: argparse.Namespace, say: Progress) -> tuple[dict[str, dict[str, Cell]], Watch]:
    stage = Stage(cloud, say)
    chosen = [p for p in PATHS if not options.paths or any(word in p for word in options.paths)]
    try:
        if 'two schedulers, 20 boots' in chosen:
            stage.second_scheduler()
        deadline = time.monotonic() + (options.minutes * 60 if options.minutes else float('inf'))
        table = {state: in_state(stage, state, chosen, deadline) for state in STATES
                 if state in options.states and time.monotonic() < deadline}
    finally:
        stage.watch.stop()
        stage.bus.close()
    return table, stage.watch


def main() -> int:
    options = parser().parse_args()
    say = Progress()
    cloud = Cloud(say=say, options=Options(
        hosts=3, host_memory_mb=options.host_memory, host_swap_mb=options.host_swap,
        settings=(('ovc', 'report_max_age', str(STALE_AFTER)), ('DEFAULT', 'service_down_time', '900'),
                  ('DEFAULT', 'update_resources_interval', str(AUDIT)), ('ovc_host', 'tick', str(TICK)))))
    with cloud.while_up(keep=options.keep):
        table, looked = play(cloud, options, say)
    failed = 0
    for path in PATHS:
        cells = {state: column[path] for state, column in table.items() if path in column}
        for state, cell in cells.items():
            failed += not cell.good
            print(f'{path:26} {state:13} {cell.told:84} {"" if cell.good else "WRONG"}'.rstrip())
    asked = len(options.states) * sum(not options.paths or any(w in p for w in options.paths) for p in PATHS)
    print(f'\nlooked {looked.looks} times at each host itself; fullest: guarantees {looked.fullest["guaranteed"]:.0%}, '
          f'what may be touched {looked.fullest["backed"]:.0%} of what there is')
    for what in looked.broken:
        print(f'BROKEN: {what}')
    if looked.blind:
        print(f'{looked.blind} looks at a host had no answer, last {looked.why_blind}; after {looked.blind_after} '
              'steps a host never had one')
    cells_run = sum(len(column) for column in table.values())
    print(f'paths: cells={cells_run}/{asked} wrong={failed} looks={looked.looks} promises_broken={len(looked.broken)} '
          f'blind={looked.blind_after} '
          f'guarantees_max={looked.fullest["guaranteed"]:.2f} backing_max={looked.fullest["backed"]:.2f}')
    return 0 if cells_run == asked > 0 and not failed and not looked.broken and not looked.blind_after else 1


if __name__ == '__main__':
    finish('paths', main)
