# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""nova-compute killed (-9) in the middle of a shortage on the one-machine cloud, and started again."""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox')]

from onebox_cloud import cgroup  # noqa: E402
from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.demo import run, watch  # noqa: E402
from onebox_cloud.errors import finish  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402

MB = 1 << 20
# How a memory group says that it has no limit: file, word. Version 1, then version 2.
UNLIMITED = (('memory.limit_in_bytes', '9223372036854771712'), ('memory.max', 'max'), ('memory.high', 'max'))
CONTEXT = b'ovc_plugin.privileged'
DESCRIPTION = """\
One host; guests fill it until the controller balloons and swaps. nova-compute is then killed with signal 9, together
with nothing else. For --dead seconds nobody is in charge. Then it is started again. Checked: no guest dies; the level
comes back to SOFT or better within --watch seconds; the first decision afterwards, by the decision log, is made from
each balloon target as it was asked before; no guest is asked twice for the same size; no limit is left on any guest's
control group. Exit status 0: all of that held.

With --helper the root helper is killed as well, and before nova-compute: in the middle of a swap, with a limit lowered,
that its watchdog lifts while nobody is in charge.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/crash', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('host-memory', 1500, 'MB'), ('host-swap', 1280, 'MB'), ('guests', 4, 'guests'),
                              ('guest-memory', 512, 'MB'), ('cache', 150, 'MB of files each guest writes first'),
                              ('fill', 400, 'MB each guest fills'),
                              ('rate', 10, 'MB/s'), ('dead', 20, 'seconds without nova-compute'),
                              ('watch', 90, 'seconds watched afterwards')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--helper', action='store_true', help='kill the root helper in the middle of a swap, too')
    return top


class Scene:
    """The cloud, its guests, and how to look at them."""

    def __init__(self, cloud: Cloud, options: argparse.Namespace, say: Progress) -> None:
        self.cloud, self.say = cloud, say
        self.kills_before = watch.kernel_kills()
        # What lies in the page cache a balloon can take for the host; what was never touched frees nothing.
        image = cloud.ensure_image('guest', f'console=ttyS0 quiet ovc.store={options.cache},rate=40 '
                                            f'ovc.touch={options.fill},rate={options.rate}')
        flavor = cloud.ensure_flavor('crash', options.guest_memory, {'ovc:reservation': '25%'})
        compute = cloud.connect().compute
        self.servers = {name: compute.create_server(name=name, image_id=image.id, flavor_id=flavor.id,
                                                    networks='none').id
                        for name in (f'vm{number}' for number in range(options.guests))}
        placed, _ = run._settled(cloud.connect(), self.servers, say, 'crash', 120)
        self.placed = {name: host for name, host in placed.items() if host}
        self.watcher = watch.Watcher(cloud, self.servers, options.guest_memory * MB // 4)
        self.host = cloud.hosts[0]
        self.over = False

    def status(self) -> dict | None:
        answer = self.watcher.ask()[self.host.name]
        return answer if isinstance(answer, dict) and answer.get('report') else None

    def asked(self) -> dict[str, int]:
        """The targets that the controller has written down, by guest."""
        saved = json.loads((self.cloud.state / 'ovc' / f'{self.host.name}.json').read_text())
        return {uuid: asked['target'] for uuid, asked in saved['ladder']['asked'].items()}

    def limits(self) -> dict[str, str]:
        """The limits that stand on guests' memory groups, by guest and file; {} when there are none."""
        found = {}
        for name, group in self.host.guests().items():
            for file, unlimited in UNLIMITED:
                path = group / file
                if path.exists() and (text := path.read_text().strip()) != unlimited:
                    found[f'{name} {file}'] = text
        return found

    def helper(self, pid: int) -> int:
        """The root helper of the nova-compute with this process id."""
        for member in cgroup.session_members(self.cloud.runner.group, pid):
            if CONTEXT in Path(f'/proc/{member}/cmdline').read_bytes():
                return member
        raise SystemExit(f'crash: nova-compute (pid {pid}) has no root helper to kill')

    def killed(self) -> int:
        return watch.kernel_kills() - self.kills_before

    def log(self) -> str:
        return self.cloud.log(f'compute-{self.host.name}').read_text(errors='replace')

    def until(self, look, seconds: float, what: str):
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise SystemExit(f'crash: waited {seconds:g} s in vain for {what}')
            time.sleep(1)
        return found


def short(scene: Scene) -> dict | None:
    """The status once balloons were asked and something was swapped."""
    status = scene.status()
    if status and status['report']['level'] != 'CLEAR' and scene.asked() and (scene.host.swap_used() or 0) > 50 * MB:
        return status
    return None


def kill(scene: Scene, options: argparse.Namespace) -> int:
    """Kill nova-compute, and before it its helper if that is wanted; how many swaps were begun and not ended."""
    pid, begun = scene.cloud.pid(f'compute-{scene.host.name}'), 0
    if options.helper:
        begun = kill_helper(scene, scene.helper(pid))
    os.kill(pid, signal.SIGKILL)
    return begun


def kill_helper(scene: Scene, helper: int, patience: float = 90.0) -> int:
    """Kill the helper when it has lowered a limit and not yet put it back; if need be, at any time within a swap.

    The limit is low for a moment only. So the helper is halted whenever it looks so, and looked at in peace.
    """
    leases = Path(f'/proc/{helper}/root/run/ovc-plugin')
    limits = [(group / UNLIMITED[0][0], UNLIMITED[0][1]) for group in scene.host.guests().values()]

    def lowered() -> bool:
        return any(file.read_text().strip() != unlimited for file, unlimited in limits)

    def begun() -> int:
        return sum(1 for _ in leases.glob('*'))

    began = time.monotonic()
    while (waited := time.monotonic() - began) < patience:
        enough = begun if waited > patience / 2 else lowered
        if not enough():
            continue
        try:
            os.kill(helper, signal.SIGSTOP)
            while Path(f'/proc/{helper}/stat').read_text().rpartition(')')[2].split()[0] != 'T':
                time.sleep(0.001)
            if enough() and (count := begun()):
                scene.say(f'root helper (pid {helper}) halted and killed within a swap; '
                          f'limits: {scene.limits() or "none"}')
                os.kill(helper, signal.SIGKILL)
                return count
        except BaseException:  # an interruption: whoever cleans up would wait for it for ever
            with contextlib.suppress(OSError):
                os.kill(helper, signal.SIGCONT)
            raise
        os.kill(helper, signal.SIGCONT)
    raise SystemExit(f'crash: in {patience:g} s the helper could not be met within a swap')


def await_answer(scene: Scene) -> None:
    """Bring nova-compute up again, until its controller answers."""
    answered = threading.Event()

    def look() -> None:
        while not answered.is_set() and not scene.over:
            if scene.status():
                answered.set()
            time.sleep(0.2)

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        scene.cloud.up()
        scene.until(answered.is_set, 60, 'the controller to answer again')
    finally:
        scene.over = True
        looker.join(10)


def read_back(record: Path, before: set[Path]) -> dict[str, int] | None:
    """The balloon targets from which the first decision after the restart was made, by guest: as its decision log has
    them, which begins a new file at each start. ``before`` are the files from before; ``None``: it has decided nothing.
    """
    from ovc_plugin.cli.log import Log
    for entry in Log(sorted(set(record.glob('*.jsonl.gz')) - before)):
        return entry.passed.state.targets()
    return None


def calm_again(scene: Scene, within: float) -> tuple[str, float, bool]:
    """The level and after how many seconds, once all guests are filled and it is SOFT or better; or as it is then."""
    began, level = time.monotonic(), 'no answer'
    while (waited := time.monotonic() - began) <= within:
        status = scene.status()
        level = status['report']['level'] if status else 'no answer'
        if level in run.CALM and all(scene.watcher.touched(name) for name in scene.placed):
            return level, waited, True
        time.sleep(1)
    return level, waited, False


def play(cloud: Cloud, options: argparse.Namespace, say: Progress) -> tuple[list[tuple[str, str, bool]], str]:
    scene = Scene(cloud, options, say)
    before = scene.until(lambda: short(scene), 240, 'a shortage')
    names = {guest['uuid']: guest['name'] for guest in before['guests']}
    begun = kill(scene, options)
    say(f'nova-compute killed at level {before["report"]["level"]}, {len(scene.asked())} guests asked, '
        f'{(scene.host.swap_used() or 0) // MB} MB in swap')
    time.sleep(options.dead)
    alone, dead_limits = len(scene.host.guests()), scene.limits()
    say(f'{options.dead} s without it: {alone} of {len(scene.placed)} guests run, {scene.killed()} killed, '
        f'limits: {dead_limits or "none"}')
    kept, record = scene.asked(), cloud.state / 'ovc' / 'record'
    recorded, began = set(record.glob('*.jsonl.gz')), time.monotonic()
    await_answer(scene)  # which begins a new log
    back = time.monotonic() - began
    limits = scene.limits()
    scene.until(lambda: read_back(record, recorded) is not None, 30, 'the first decision to be recorded')
    first = read_back(record, recorded) or {}
    told = [uuid for uuid, target in kept.items() if first.get(uuid) == target]
    level, calm_after, calm = calm_again(scene, options.watch)
    time.sleep(5)
    alive = sum(scene.watcher.beating(name) for name in scene.placed)
    anew = asked_in(scene.log())
    twice = [names[u] for u, target in kept.items() if target // MB in anew.get(names.get(u), ())]
    say(f'answers after {back:.0f} s; level {level}, {alive} of {len(scene.placed)} beating')
    scene.watcher.close()
    # A chunk of a swap under way is the limit of a moment: what is left behind is there at both looks.
    stale = {what: text for what, text in scene.limits().items() if limits.get(what) == text}
    stale |= dead_limits
    rows = [('guests killed', f'{scene.killed()}', scene.killed() == 0),
            ('guests alive', f'{alive} of {len(scene.placed)}', alive == len(scene.placed) == alone),
            ('targets re-read', f'{len(told)} of {len(kept)}', len(told) == len(kept) == len(first) > 0),
            ('asked twice for the same size', f'{twice or "nobody"}', not twice),
            ('limits left behind', f'{stale or "none"} (of {begun} swaps not ended when the helper was killed)',
             not stale and begun >= options.helper),
            (f'SOFT or better within {options.watch} s', f'{level} after {calm_after:.0f} s', calm)]
    line = (f'crash: helper={int(options.helper)} guests={len(scene.placed)} killed={scene.killed()} alive={alive} '
            f'targets_reread={len(told)}/{len(kept)} asked_twice={len(twice)} limits_left={len(stale)} '
            f'cut_short={begun} back_seconds={back:.0f} calm_seconds={calm_after:.0f}')
    return rows, line


def asked_in(text: str) -> dict[str, set[int]]:
    """The sizes in MB that each guest was asked for, by the controller's log lines."""
    found: dict[str, set[int]] = {}
    for name, size in re.findall(r': (?:shrink|grow) (\S+) from \d+ MB to (\d+) MB', text):
        found.setdefault(name, set()).add(int(size))
    return found


def main() -> int:
    options = parser().parse_args()
    say = Progress()
    cloud = Cloud(options=Options(hosts=1, host_memory_mb=options.host_memory, host_swap_mb=options.host_swap), say=say)
    with cloud.while_up():
        rows, line = play(cloud, options, say)
    for what, figure, held in rows:
        print(f'{what:32}  {figure:54}  {"holds" if held else "FAILS"}')
    print(line)
    return 0 if all(held for *_, held in rows) else 1


if __name__ == '__main__':
    finish('crash', main)
