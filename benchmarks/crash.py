# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""nova-compute killed (-9) in the middle of a shortage on the one-machine cloud, and started again."""
from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox')]

from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.demo import run, watch  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402

MB = 1 << 20
NONE = '9223372036854771712'
DESCRIPTION = """\
One host; guests fill it until the controller balloons and swaps. nova-compute is then killed with signal 9, together
with nothing else. For --dead seconds nobody is in charge. Then it is started again. Checked: no guest dies; the level
comes back to SOFT or better; the balloon targets are those asked before, and no guest is asked twice for the same
size; no limit is left on any guest's control group. Exit status 0: all of that held.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/crash', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('host-memory', 1500, 'MB'), ('host-swap', 1280, 'MB'), ('guests', 4, 'guests'),
                              ('guest-memory', 512, 'MB'), ('fill', 400, 'MB each guest fills'),
                              ('rate', 10, 'MB/s'), ('dead', 20, 'seconds without nova-compute'),
                              ('watch', 90, 'seconds watched afterwards')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    return top


class Scene:
    """The cloud, its guests, and how to look at them."""

    def __init__(self, cloud: Cloud, options: argparse.Namespace, say: Progress) -> None:
        self.cloud, self.say = cloud, say
        self.kills_before = watch.kernel_kills()
        image = cloud.ensure_image('guest', f'console=ttyS0 quiet ovc.touch={options.fill},rate={options.rate}')
        flavor = cloud.ensure_flavor('crash', options.guest_memory, {'ovc:reservation': '25%'})
        compute = cloud.connect().compute
        self.servers = {name: compute.create_server(name=name, image_id=image.id, flavor_id=flavor.id,
                                                    networks='none').id
                        for name in (f'vm{number}' for number in range(options.guests))}
        placed, _ = run._settled(cloud.connect(), self.servers, say, 'crash', 120)
        self.placed = {name: host for name, host in placed.items() if host}
        self.watcher = watch.Watcher(cloud, self.servers, options.guest_memory * MB // 4)
        self.host = cloud.hosts[0]

    def status(self) -> dict | None:
        answer = self.watcher.ask()[self.host.name]
        return answer if isinstance(answer, dict) and answer.get('report') else None

    def asked(self) -> dict[str, int]:
        """The targets that the controller has written down, by guest."""
        saved = json.loads((self.cloud.state / 'ovc' / f'{self.host.name}.json').read_text())
        return {uuid: asked['target'] for uuid, asked in saved['ladder']['asked'].items()}

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


def play(cloud: Cloud, options: argparse.Namespace, say: Progress) -> tuple[list[tuple[str, str, bool]], str]:
    scene = Scene(cloud, options, say)
    before = scene.until(lambda: short(scene), 240, 'a shortage')
    part = f'compute-{scene.host.name}'
    pid, names = cloud.pid(part), {guest['uuid']: guest['name'] for guest in before['guests']}
    os.kill(pid, signal.SIGKILL)
    written, asked_before = len(scene.log()), scene.asked()
    say(f'{part} (pid {pid}) killed at level {before["report"]["level"]}, {len(asked_before)} guests asked, '
        f'{(scene.host.swap_used() or 0) // MB} MB in swap')
    time.sleep(options.dead)
    alone = len(scene.host.guests())
    limits = {(group / 'memory.limit_in_bytes').read_text().strip() for group in scene.host.guests().values()}
    say(f'{options.dead} s without it: {alone} of {len(scene.placed)} guests run, {scene.killed()} killed')
    kept = scene.asked()
    began = time.monotonic()
    cloud.up()
    status = scene.until(scene.status, 60, 'the controller to answer again')
    back = time.monotonic() - began
    anew = asked_in(scene.log()[written:])
    told = {guest['uuid']: guest['target'] for guest in status['guests']}
    reread = [u for u in kept if told.get(u) == kept[u] or names.get(u) in anew]
    calm = scene.until(lambda: (s := scene.status()) and s['report']['level'] in run.CALM and all(
        scene.watcher.touched(n) for n in scene.placed) and s, options.watch, 'SOFT or better after the restart')
    time.sleep(5)
    alive = sum(scene.watcher.beating(name) for name in scene.placed)
    anew = asked_in(scene.log()[written:])
    twice = [names[u] for u, target in kept.items() if target // MB in anew.get(names.get(u), ())]
    say(f'answers after {back:.0f} s; level {calm["report"]["level"]}, {alive} of {len(scene.placed)} beating')
    rows = [('guests killed', f'{scene.killed()}', scene.killed() == 0),
            ('guests alive', f'{alive} of {len(scene.placed)}', alive == len(scene.placed) == alone),
            ('targets re-read', f'{len(reread)} of {len(kept)}', len(reread) == len(kept) > 0),
            ('asked twice for the same size', f'{twice or "nobody"}', not twice),
            ('limits left behind', f'{limits - {NONE} or "none"}', limits <= {NONE}),
            ('level', calm['report']['level'], True)]
    line = (f'crash: guests={len(scene.placed)} killed={scene.killed()} alive={alive} '
            f'targets_reread={len(reread)} asked_twice={len(twice)} back_seconds={back:.0f}')
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
    cloud.up()
    try:
        rows, line = play(cloud, options, say)
    finally:
        cloud.wipe()
    for what, figure, held in rows:
        print(f'{what:32}  {figure:24}  {"holds" if held else "FAILS"}')
    print(line)
    return 0 if all(held for *_, held in rows) else 1


if __name__ == '__main__':
    sys.exit(main())
