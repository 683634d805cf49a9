# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The controller killed (-9) at every boundary of its actions, one after the other, each time started again.

The controller under test is a process of its own: ``python boundaries.py JSON``. Every call by which it changes
anything is wrapped: before and after each balloon, each knob of page sharing, each limit that is lowered and put back,
each request to the cloud, each write of state and record. At the chosen one the process kills itself. Page sharing is a
directory of files here, since the machine has only one of it, and the cloud one that takes down whom it was asked to
move, and is not done with it.
"""
from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    from .scene import Scene

FOUND = {'run': '0', 'pages_to_scan': '100', 'pages_sharing': '0', 'pages_shared': '0'}
PASSES = 3
LIFTED_WITHIN = 3.0
TRIES = 3
# What is watched, and of that both sides: the kinds of boundary. A shortage of a few passes has them all.
DONE = ('balloon', 'page sharing knob', 'lowering of a limit', 'putting back of a limit', 'asking a guest away',
        'request to the cloud', 'write of the state', 'write of the record')
KINDS = tuple(f'{when} {what}' for what in DONE for when in ('before', 'after'))
# A guest is asked away in the second pass: the shortage has lasted, and a migration takes no time.
AT_ONCE = {'migrate': True, 'migrate_after': 1.0, 'migrate_bandwidth': 64 << 30}


# -- the process that is killed -------------------------------------------------------------------------------------
class Countdown:
    """Wraps calls; the ``last``-th boundary crossed is where the process ends, or the first of the kind ``at``. What
    another process crosses that was forked from it, as the watchdog over limits is, is neither counted nor ended."""

    def __init__(self, last: int | None, names: Path, at: str | None = None) -> None:
        self._last, self._at, self._names, self.crossed, self._process = last, at, names, 0, os.getpid()

    def cross(self, name: str) -> None:
        if os.getpid() != self._process:
            return
        if self._last is not None and self.crossed > self._last:
            time.sleep(60)  # another thread has come to the end already
        with self._names.open('a') as file:
            file.write(f'{name}\n')
        if self.crossed == self._last or name == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.crossed += 1

    def wrap(self, owner: typing.Any, name: str, what: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
            self.cross(f'before {what}')
            result = inner(*args, **kwargs)
            self.cross(f'after {what}')
            return result
        setattr(owner, name, wrapped)


class Cloud:
    """Takes down each request, in a file that outlives a kill; every guest is on its way for good."""

    def __init__(self, requests: Path) -> None:
        self._requests = requests

    def ask(self, guest: str) -> None:
        with self._requests.open('a') as file:
            file.write(f'{guest}\n')

    def outcome(self, guest: str) -> typing.Any:
        from ovc_plugin.model import Departure
        return Departure(guest=guest)


def under_test(order: dict[str, typing.Any]) -> int:
    """Make a controller, with the root helper's part in the same process, and run it."""
    from ovc_plugin import assembly, codec, leases, privileged
    from ovc_plugin.hypervisor.connection import Connection
    from ovc_plugin.settings import Settings
    privileged.context.set_client_mode(False)
    privileged.KSM = Path(order['ksm'])
    countdown = Countdown(order['last'], Path(order['names']), order['at'])
    cloud = Cloud(Path(order['requests']))
    settings = codec.read(Settings, order['settings'])
    controller = assembly.build(order['host'], settings, Connection(order['uri']), 0, cloud)
    controller._sensor._ksm._root = privileged.KSM
    sensed = controller._sensor._hypervisor
    guests = sensed.guests  # they pass for nova's: others are never asked away
    sensed.guests = lambda: [dataclasses.replace(guest, managed=True) for guest in guests()]
    controller.recall()
    if order['last'] is not None or order['at'] or order['count']:
        countdown.wrap(controller._actuator._hypervisor, 'set_balloon', 'balloon')
        countdown.wrap(privileged, 'set_ksm', 'page sharing knob')
        countdown.wrap(leases, 'write', 'lowering of a limit')
        countdown.wrap(leases, 'put_back', 'putting back of a limit')
        countdown.wrap(controller._actuator, '_ask_away', 'asking a guest away')
        countdown.wrap(cloud, 'ask', 'request to the cloud')
        countdown.wrap(controller._kept._store, 'save', 'write of the state')
        if controller._recorder is not None:
            countdown.wrap(controller._recorder, 'add', 'write of the record')
    for _ in range(order['passes']):
        controller.run_pass()
        time.sleep(0.5)
    if order['stop']:
        controller.stop()
    print(json.dumps({'crossed': countdown.crossed, 'targets': controller._state.targets()}))
    os._exit(0)


# -- the one who kills ----------------------------------------------------------------------------------------------
def start(scene: Scene, state: Path, *, last: int | None = None, at: str | None = None, count: bool = False,
          passes: int = PASSES, stop: bool = False) -> tuple[int, dict[str, typing.Any], list[str]]:
    """Run it; its exit status, what it said, and the boundaries that it crossed."""
    from ovc_plugin import codec
    from ovc_plugin.settings import Settings
    names, sharing = state / 'boundaries', state / 'ksm'
    names.unlink(missing_ok=True)
    if not sharing.exists():
        sharing.mkdir()
        for name, value in FOUND.items():
            (sharing / name).write_text(value)
    settings = scene.settings(state, ksm='all-tenants-despite-side-channels', ksm_pages_to_scan=1234, **AT_ONCE)
    order = {'host': scene.host.name, 'uri': scene.host.uri, 'settings': codec.write(Settings, settings, whole=True),
             'last': last, 'at': at, 'count': count, 'passes': passes, 'stop': stop, 'names': str(names),
             'ksm': str(sharing), 'requests': str(state / 'requests')}
    done = subprocess.run([sys.executable, '-W', 'ignore', __file__, json.dumps(order)], capture_output=True, text=True,
                          timeout=600)
    said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f'the controller under test failed:\n{done.stdout}{done.stderr}'[-3000:])
    return done.returncode, said, names.read_text().splitlines() if names.exists() else []


def ksm(state: Path) -> dict[str, str]:
    return {name: (state / 'ksm' / name).read_text().strip() for name in FOUND}


def killed_everywhere(scene: Scene, say: typing.Callable[[str], None], most: int | None) -> typing.Any:
    """``most``: at how many boundaries at most; ``None`` for all."""
    from .scene import Row
    names, passes = counted(scene)
    chosen = choose(names, most)
    say(f'{len(names)} boundaries in {passes} passes, killed at {len(chosen)} of them')
    met, wrong = [], []

    def kill(last: int | None, at: str | None = None) -> None:
        with tempfile.TemporaryDirectory() as directory:
            where, here = killed_once(scene, Path(directory), 3 * passes, last, at)
        wrong.extend(here)
        met.extend([where] if where else [])
        say('; '.join(here) or f'killed {where} ({at if last is None else last}): nothing lost')
    for last in chosen:
        kill(last)
    reached = len(met)
    if most is None or most >= len(KINDS):  # another run has another order: what it had at such a place is no kind
        for kind in KINDS:
            if kind not in met:
                kill(None, kind)
    wrong += too_few(reached, len(chosen), met, most)
    lowered = sum(where in LOWERED for where in met)
    return Row(fault=f'controller killed at {reached} of {len(names)} action boundaries', kind='real',
               lost=tuple(wrong), happened=f'{len(set(met))} kinds of boundary; {lowered} times between lowering and '
               'putting back of a limit, which the watchdog lifted before the next start; page sharing (injected) put '
               'back as it was found at the stop after each; never a second guest asked away')


def counted(scene: Scene) -> tuple[list[str], int]:
    """The boundaries that a run crosses, and its passes: more of them where a slow machine has not had all kinds."""
    names, passes = [], PASSES
    for passes in (PASSES, 3 * PASSES, 6 * PASSES):
        with tempfile.TemporaryDirectory() as directory:
            _, _, names = start(scene, Path(directory), count=True, passes=passes)
        scene.reset()
        if set(names) >= set(KINDS):
            break
    return names, passes


def killed_once(scene: Scene, directory: Path, passes: int, last: int | None,
                at: str | None) -> tuple[str | None, list[str]]:
    """Where it was killed (``None``: nowhere), and what is not as it should be after the next start.

    What is done differs a little from run to run: passes go on until the boundary is reached, and one that is not for
    all that is tried again from the start: one that remembers a guest on its way asks none away.
    """
    for number in range(TRIES):
        state = directory / f'{number}'
        state.mkdir()
        code, _, crossed = start(scene, state, last=last, at=at, passes=passes)
        if code:
            break
        scene.reset()
    where = crossed[-1] if code and crossed else None
    left = not_lifted(scene)
    _, said, _ = start(scene, state, passes=3, stop=True)
    here = [f'killed {where}: {text}' for text in left + broken(scene, state, said)]
    scene.reset()
    return where, here


def too_few(reached: int, chosen: int, met: list[str], most: int | None) -> list[str]:
    """What was not shown: a boundary in fifty may be missed, one of a few may not; and a kind only where fewer are
    wanted than there are kinds."""
    found = [f'only {reached} of {chosen} were killed'] if reached < max(1, chosen - chosen // 50) else []
    if most is None or most >= len(KINDS):
        found += [f'never killed {kind}' for kind in KINDS if kind not in met]
    return found


LOWERED = ('after lowering of a limit', 'before putting back of a limit')


def not_lifted(scene: Scene) -> list[str]:
    """Limits that the watchdog leaves lowered while no controller runs."""
    deadline = time.monotonic() + LIFTED_WITHIN
    while (left := scene.limits()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [f'limit {text} stays on {name} for {LIFTED_WITHIN:g} s' for name, text in left.items()]


def choose(names: list[str], most: int | None) -> list[int]:
    """Which boundaries: all, or the first of each kind and then evenly, at most so many."""
    if most is None:
        return list(range(len(names)))
    first = [names.index(name) for name in dict.fromkeys(names)]
    rest = [number for number in range(len(names)) if number not in first]
    room = max(0, most - len(first))
    step = max(1, -(-len(rest) // room)) if room else len(rest) + 1
    return sorted(first[:most] + rest[::step][:room])


def broken(scene: Scene, state: Path, said: dict[str, typing.Any]) -> list[str]:
    """What is not as it should be after a kill, a start, three passes and a stop."""
    uuids = {domain.UUIDString(): name for name, domain in scene.domains.items()}
    wrong = [f'target of {uuids[u]} {t >> 20} MB below its guarantee' for u, t in said['targets'].items()
             if u in uuids and t < scene.owed[uuids[u]]]
    if (left := ksm(state)) != FOUND:
        wrong.append(f'page sharing is left as {left}, was {FOUND}')
    requests = state / 'requests'
    if (asked := len(requests.read_text().splitlines()) if requests.exists() else 0) > 1:
        wrong.append(f'{asked} guests asked away, where one is on its way')
    return wrong + scene.lost()


if __name__ == '__main__':
    checkout = Path(__file__).resolve().parents[2]
    sys.path[:1] = [str(checkout)]
    sys.exit(under_test(json.loads(sys.argv[1])))
