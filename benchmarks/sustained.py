# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A shortage that lasts, on the one-machine cloud: the host asks nova to move one guest away, and that ends it."""
from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox')]

from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.errors import finish  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402
from onebox_cloud.state import cache_dir  # noqa: E402

from benchmarks.scenes.stage import POLICIES, RATIO  # noqa: E402
from benchmarks.sustained_stage import Stage  # noqa: E402
from benchmarks.sustained_told import checks, draw, last_line, table  # noqa: E402

DESCRIPTION = """\
Two hosts, the second one empty. Three guests on the first touch more than it has, and go on touching it: its memory is
short for as long as they live. Balloons have nothing to give, so swap carries it, and pages come back all the time.
Once that has lasted --after seconds (at level CRITICAL a fifth of it, as migrate_after does) the host's controller asks
nova to move one guest; nova's scheduler chooses where to.

Everything is watched from outside: memory groups, nova's own record of the migration, and each guest's console, on
which it beats every 0.2 s. Checked: exactly one guest moves, not the one that writes, to the other host, a fifth of
--after seconds after the start at the earliest, and by the kernel's own word the host was short until then; no
heartbeat pauses for more than --pause seconds; nobody is killed, short of memory within, or below its reservation, and
all were seen throughout; afterwards the first host is out of its shortage: at SOFT or better, a tenth of its memory
available, and less is read back from swap than the limit. Exit status 0: all of that held. The same guests under MOM's
policy beside a plain nova (mom), and under a plain nova (nothing), are shown and not judged.

The product waits ten minutes by default (migrate_after in [ovc_host]); here it is told to wait --after seconds, so that
the scene takes minutes.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/sustained', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('host-memory', 1500, 'MB'), ('host-swap', 1280, 'MB'), ('touch', 400, 'MB each'),
                              ('rate', 20, 'MB/s at which each guest goes through its memory'),
                              ('after', 60, 'seconds of shortage after which a guest is asked away'),
                              ('settle', 60, 'seconds watched after the move'),
                              ('limit', 300, 'seconds to wait for the move'),
                              ('pause', 3, 'longest pause of a heartbeat')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--policies', default=','.join(POLICIES), help='of these only (default %(default)s)')
    top.add_argument('--picture', type=Path, metavar='FILE', default=cache_dir() / 'real' / 'sustained.png',
                     help='where the picture goes (default %(default)s)')
    top.add_argument('--logs', type=Path, metavar='DIR', default=cache_dir() / 'real' / 'sustained',
                     help='where the logs of all services go (default %(default)s)')
    return top


def play(policy: str, options: argparse.Namespace, say: Progress) -> Stage:
    """One run on fresh hosts. Raises OneboxError."""
    settings = (('ovc_host', 'migrate', 'true'), ('ovc_host', 'migrate_after', str(options.after)),
                ('ovc_host', 'migrate_cooldown', str(options.after)),
                ('ovc_host', 'ksm', 'leave'))  # two pretend hosts have one kernel, and would undo each other's setting
    cloud = Cloud(options=Options(hosts=2, host_memory_mb=options.host_memory, host_swap_mb=options.host_swap,
                                  ratio=None if policy == 'ovc' else RATIO,
                                  settings=settings if policy == 'ovc' else ()), say=say)

    def keep_logs() -> None:
        logs = options.logs / policy
        shutil.rmtree(logs, ignore_errors=True)
        if (cloud.state / 'log').exists():
            shutil.copytree(cloud.state / 'log', logs)
            for console in cloud.state.dir.glob('instances/*/console.log'):
                shutil.copy(console, logs / f'console-{console.parent.name}.log')
    with cloud.while_up(last=keep_logs):
        stage = Stage(cloud, options, say, policy)
        stage.begin()
        stage.watch()
        stage.end()
        return stage


def main() -> int:
    top, say = parser(), Progress()
    options = top.parse_args()
    asked = options.policies.split(',')
    if unknown := [policy for policy in asked if policy not in POLICIES]:
        top.error(f'argument --policies: there is no {", ".join(map(repr, unknown))} (only {", ".join(POLICIES)})')
    stages: list[Stage] = []
    rows: list[tuple[str, str, bool]] = []
    for policy in (one for one in POLICIES if one in asked):
        stages.append(play(policy, options, say))
        if policy == 'ovc':  # said at once: what comes after is only shown beside it
            rows = checks(stages[0], options)
            for text in (line for lines in stages[0].words.values() for line in lines):
                print(f'controller: {text}')
            for what, figure, held in rows:
                print(f'{what:32}  {figure:70}  {"holds" if held else "FAILS"}', flush=True)
    print(table(stages))
    draw(stages, options.picture)
    print(f'picture: {options.picture}\n{last_line(stages)}')
    return 0 if all(held for *_, held in rows) else 1


if __name__ == '__main__':
    finish('sustained', main)
