# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Six scenes with real guests on the one-machine cloud, each with our rules, with MOM's policy, and with nothing."""
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox')]

from onebox_cloud.errors import OneboxError  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402
from onebox_cloud.state import cache_dir  # noqa: E402

from benchmarks.scenes import picture, stage, table, verdict  # noqa: E402

#: The one scene that needs two hosts has a stage of its own.
SUSTAINED = 'sustained'
SUSTAINED_COMMAND = CHECKOUT / 'benchmarks' / 'sustained'
DESCRIPTION = """\
Brings up a real OpenStack with one small hypervisor on this machine, boots real guests, lets them fill their memory,
and measures from outside what carries it: memory groups, /proc/vmstat, libvirt, the guests' own heartbeats. Each scene
runs three times on a fresh host with the same guests and load: with our plugin (ovc), with MOM's balloon and KSM policy
beside a plain nova (mom), and with a plain nova (nothing). Ends with a table and a picture for each scene.

Exit status 0: in each scene, with our plugin, nobody was killed, nobody was below its reservation, and the mechanism
that the scene names is the one that carried it. What the others do is shown, not judged.

"""
COLUMNS = """
columns: killed, alive guests; below: seen below their reservation; lowest: MB available; full: times the host met its
limit; balloon, ksm, swap: MB freed at the end; swap-in: MB read back; by-busy: of that by guests that work; pace: of
what these were to do at the end, what they did; silent: longest pause of a heartbeat, s; probe: longest read of one
page, ms
"""


def parser() -> argparse.ArgumentParser:
    scenes = ''.join(f'  {s.name:10} {s.says}\n' for s in table.SCENES.values())
    top = argparse.ArgumentParser(
        prog='benchmarks/real', formatter_class=argparse.RawDescriptionHelpFormatter, epilog=COLUMNS,
        description=f'{DESCRIPTION}{scenes}  {SUSTAINED:10} a shortage that lasts: one guest is migrated, and its '
                    'heartbeat goes on')
    top.add_argument('scene', nargs='*', metavar='SCENE', choices=[[], *table.SCENES, SUSTAINED],
                     help='one or more of them (default: all)')
    top.add_argument('--policies', default=','.join(stage.POLICIES), help='of these only (default %(default)s)')
    top.add_argument('--picture-dir', type=Path, metavar='DIR', help='where the pictures go (default: beside samples)')
    top.add_argument('--samples', type=Path, metavar='DIR', default=cache_dir() / 'real',
                     help='where samples and logs go (default %(default)s)')
    top.add_argument('--with-earlier', action='store_true',
                     help='policies that are not run now are shown from the samples of an earlier run')
    top.add_argument('--seconds', type=int, help='length of each scene, for a quick look (default: its own)')
    return top


def run(scene: table.Scene, options: argparse.Namespace, say: Progress) -> dict[str, stage.Record]:
    """The records of a scene by policy, in the order of showing. Raises OneboxError."""
    found = {}
    for policy in stage.POLICIES:
        file = options.samples / f'{scene.name}-{policy}.json'
        if policy in options.policies.split(','):
            record = stage.play(scene, policy, options.samples, say)
            record.save(file)
        elif options.with_earlier and file.exists():
            record = stage.Record.load(file)
        else:
            continue
        found[policy] = record
    return found


def sustained() -> tuple[bool, str]:
    """Whether it held, and a word on it; its output goes where ours goes."""
    if not SUSTAINED_COMMAND.exists():
        return False, 'not there yet'
    sys.stdout.flush()
    done = subprocess.run([str(SUSTAINED_COMMAND)], check=False)
    return done.returncode == 0, 'held' if done.returncode == 0 else f'failed ({done.returncode})'


def main() -> int:
    options = parser().parse_args()
    say, failures, words = Progress(), [], []
    names = options.scene or [*table.SCENES, SUSTAINED]
    options.samples.mkdir(parents=True, exist_ok=True)
    pictures = options.picture_dir or options.samples
    pictures.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name == SUSTAINED:
            held, word = sustained()
            words.append(f'{name}={word.replace(" ", "-")}')
            failures += [] if held else [f'{name}: {word}']
            continue
        scene = table.SCENES[name]
        if options.seconds:
            import dataclasses
            scene = dataclasses.replace(scene, seconds=options.seconds)
        records = run(scene, options, say)
        picture.draw(scene, records, pictures / f'{name}.png')
        print(f'\n{name}: {scene.says}\n{verdict.table(scene, records)}')
        for policy, record in records.items():
            if record.refused:
                print(f'{policy}: refused {"; ".join(record.refused)}')
        if 'ovc' in records:
            for what, figure, held in verdict.checks(scene, records['ovc']):
                print(f'  {what:32}  {figure:70}  {"holds" if held else "FAILS"}')
                failures += [] if held else [f'{name}: {what}: {figure}']
        print(f'  picture: {pictures / f"{name}.png"}', flush=True)
        words.append(f'{name}=' + ','.join(f'{policy}:{verdict.outcome(scene, record).killed}'
                                           for policy, record in records.items()))
    for failure in failures:
        print(f'FAILED: {failure}')
    print(f'real: killed {" ".join(words)} failures={len(failures)}')
    return 1 if failures else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except OneboxError as error:
        sys.exit(f'real: {error}')
