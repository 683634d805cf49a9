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

from onebox_cloud import ending  # noqa: E402
from onebox_cloud.errors import finish  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402
from onebox_cloud.state import cache_dir  # noqa: E402

from benchmarks.scenes import picture, stage, table, verdict  # noqa: E402

#: The one scene that needs two hosts, and a nova that moves guests, has a stage of its own and runs with ours alone.
SUSTAINED = 'sustained'
SUSTAINED_COMMAND = CHECKOUT / 'benchmarks' / 'sustained'
DESCRIPTION = """\
Brings up a real OpenStack with one small hypervisor on this machine, boots real guests, lets them fill their memory,
and measures from outside what carries it: memory groups, /proc/vmstat, libvirt, the guests' own heartbeats. Each scene
runs three times with the same guests and load: with our plugin (ovc), with MOM's balloon and KSM policy
beside a plain nova (mom), and with a plain nova (nothing). Ends with a table and a picture for each scene.

Exit status 0: in each scene, with our plugin, nobody was killed, nor ran out of memory within, nobody was below its
reservation, every guest was told what to do and seen throughout, and the mechanism that the scene names is the one that
carried it: where that is swap, before the host was at its limit. What the others do is shown, not judged.

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
    top.add_argument('--policies', default=','.join(stage.POLICIES),
                     help='of these only (default %(default)s); "" with --with-earlier shows an earlier run again')
    top.add_argument('--picture-dir', type=Path, metavar='DIR', help='where the pictures go (default: beside samples)')
    top.add_argument('--samples', type=Path, metavar='DIR', default=cache_dir() / 'real',
                     help='where samples and logs go (default %(default)s)')
    top.add_argument('--with-earlier', action='store_true',
                     help='policies that are not run now are shown from the samples of an earlier run')
    return top


def asked(options: argparse.Namespace) -> list[str]:
    return [policy for policy in options.policies.split(',') if policy]


def run(scenes: list[table.Scene], options: argparse.Namespace, say: Progress) -> None:
    """Play the scenes under each policy and keep the records. Raises OneboxError."""
    for policy in asked(options):
        with stage.Stage(policy, options.samples, say) as on:
            for scene in scenes:
                on.play(scene).save(kept(scene, policy, options))


def kept(scene: table.Scene, policy: str, options: argparse.Namespace) -> Path:
    return options.samples / f'{scene.name}-{policy}.json'


def show(scene: table.Scene, options: argparse.Namespace, pictures: Path) -> tuple[str, list[str]]:
    """Print what became of a scene and draw it; the kills by policy, and what failed with our rules."""
    policies = [p for p in stage.POLICIES if p in asked(options)
                or options.with_earlier and kept(scene, p, options).exists()]
    records = {p: stage.Record.load(kept(scene, p, options)) for p in policies}
    if not records:
        return 'none', [f'{scene.name}: there are no samples to show']
    picture.draw(scene, records, pictures / f'{scene.name}.png')
    print(f'\n{scene.name}: {scene.says}\n{verdict.table(scene, records)}')
    for policy, record in records.items():
        if record.refused:
            print(f'{policy}: refused {"; ".join(record.refused)}')
    failures = []
    for what, figure, held in verdict.checks(scene, records['ovc']) if 'ovc' in records else ():
        print(f'  {what:28}  {figure:84}  {"holds" if held else "FAILS"}')
        failures += [] if held else [f'{scene.name}: {what}: {figure}']
    print(f'  picture: {pictures / f"{scene.name}.png"}', flush=True)
    words = [f'{policy}:{verdict.outcome(scene, record).killed}' for policy, record in records.items()]
    return ','.join(words if 'ovc' in records else [*words, 'ovc-not-judged']), failures


def sustained(options: argparse.Namespace, pictures: Path) -> tuple[bool, str]:
    """Whether it held, and a word on it; its output goes where ours goes."""
    sys.stdout.flush()
    # In a session of its own, so that an interruption reaches it once, from here: a second one would end its clean-up,
    # and it has a cloud to take down.
    child = subprocess.Popen([str(SUSTAINED_COMMAND), '--picture', str(pictures / f'{SUSTAINED}.png'),
                              '--logs', str(options.samples / SUSTAINED)], start_new_session=True)
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    return code == 0, 'held' if code == 0 else f'failed ({code})'


def main() -> int:
    top = parser()
    options = top.parse_args()
    if unknown := [policy for policy in asked(options) if policy not in stage.POLICIES]:
        top.error(f'argument --policies: there is no {", ".join(unknown)} (only {", ".join(stage.POLICIES)})')
    if not asked(options) and not options.with_earlier:
        top.error('argument --policies: none is for --with-earlier only, which shows an earlier run again')
    ending.as_interrupted()
    failures: list[str] = []
    words: list[str] = []
    names = options.scene or [*table.SCENES, SUSTAINED]
    scenes = [table.SCENES[name] for name in names if name != SUSTAINED]
    pictures = options.picture_dir or options.samples
    for directory in (options.samples, pictures):
        directory.mkdir(parents=True, exist_ok=True)
    if scenes and asked(options):
        run(scenes, options, Progress())
    for scene in scenes:
        word, failed = show(scene, options, pictures)
        words.append(f'{scene.name}={word}')
        failures += failed
    if SUSTAINED in names:
        held, word = sustained(options, pictures)
        words.append(f'{SUSTAINED}={word.replace(" ", "-")}')
        failures += [] if held else [f'{SUSTAINED}: {word}']
    for failure in failures:
        print(f'FAILED: {failure}')
    print(f'real: killed {" ".join(words)} failures={len(failures)}')
    return 1 if failures else 0


if __name__ == '__main__':
    finish('real', main)
