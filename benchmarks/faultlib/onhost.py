# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Faults on one host: each function lets one happen to a controller at work, and says what came of it."""
from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import tempfile
import threading
import time
import typing
from pathlib import Path

from ovc_plugin import record
from ovc_plugin.controller import Controller
from ovc_plugin.model import Outcome, ReclaimGuest, SetBalloon
from ovc_plugin.samples import GuestFacts

from .scene import ENDLESS, MB, Libvirtd, Row, Scene, until

HOUR = 3600.0


def run(controller: Controller, passes: int = 1, pause: float = 0.5) -> list[Outcome]:
    """Some passes, and all that came of them."""
    found: list[Outcome] = []
    for _ in range(passes):
        found += controller.run_pass()[1]
        time.sleep(pause)
    return found


def at_work(controller: Controller) -> None:
    """Passes until a balloon was asked and something was swapped."""
    done: list[Outcome] = []
    until(lambda: (done.extend(run(controller)), {type(o.action) for o in done if o.done} >= {SetBalloon, ReclaimGuest}
                   )[1], 40, 'the controller to balloon and to swap')


def guests(controller: Controller) -> dict[str, dict[str, typing.Any]]:
    return {guest['name']: guest for guest in controller.status()['guests']}


def notes(controller: Controller, text: str) -> bool:
    return any(text in note for note in controller.status()['notes'])


def missing(found: bool, what: str) -> list[str]:
    return [] if found else [f'missing: {what}']


def shrunk(scene: Scene, controller: Controller, enough: typing.Callable[[int], bool], what: str) -> None:
    """Passes until the willing guest's size is small enough. Raises TimeoutError, with what was decided about it."""
    try:
        until(lambda: (run(controller), enough(scene.size('willing')))[1], 60, what)
    except TimeoutError as error:
        lines = controller.explain('willing')
        raise TimeoutError(f'{error}; guest {guests(controller)["willing"]}, '
                           f'explained {lines}') from None


def libvirt_restarted(scene: Scene) -> Row:
    libvirtd = Libvirtd(scene.host)
    try:
        with scene.controller() as (controller, _):
            at_work(controller)
            before, known = controller._state.targets(), guests(controller).keys()
            libvirtd.kill()
            alone = run(controller, 4)
            told, held = notes(controller, 'hypervisor did not answer'), controller._state.targets()
            still = guests(controller).keys()
            libvirtd.start()
            began = time.monotonic()
            until(lambda: (run(controller), guests(controller)['willing']['stats_age'] is not None)[1], 60,
                  'guests to be seen again')
            back = time.monotonic() - began
            again = run(controller, 5)
        asked = [o for o in alone if isinstance(o.action, SetBalloon) and o.done]
        kept = held == before and still == known
        lost = [f'{len(asked)} balloons asked blindly'] * bool(asked) + missing(told, 'the note') + missing(
            kept, 'guests held') + [f'failed after: {o.error}' for o in again if o.error][:1]
    finally:
        libvirtd.close()
    scene.host.connection = scene.connect()
    return Row(fault='libvirt killed and started anew', kind='real', lost=tuple(lost + scene.lost()),
               happened=f'4 passes without it: guests held as they were; all seen again {back:.1f} s after its start')


def guest_reboots(scene: Scene) -> Row:
    with scene.controller(swap=False) as (controller, _):
        shrunk(scene, controller, lambda size: size < 300 * MB, 'the guest to be shrunk')
        small = scene.size('willing')
        console = scene.consoles['willing']
        starts, fills = len(console.events('start')), len(console.events('touched'))
        scene.domain('willing').reset(0)
        errors = []
        began = time.monotonic()

        def back() -> bool:
            errors.extend(o.error for o in run(controller) if o.error)
            return len(console.events('start')) > starts
        until(back, 600, 'the guest to be up again')
        up = time.monotonic() - began
        until(lambda: (run(controller), len(console.events('touched')) > fills)[1], 600, 'the guest to fill again')
        shrunk(scene, controller, lambda size: size <= small, 'it to be shrunk again')
        again = time.monotonic() - began
        target = guests(controller)['willing']['target']
    lost = missing(target >= scene.owed['willing'], 'the guarantee') + [f'failed: {error}' for error in errors[:1]]
    return Row(fault='guest resets itself', kind='real', lost=tuple(lost + scene.lost()),
               happened=f'at {small // MB} MB when it reset; up after {up:.0f} s, down to {target // MB} MB again '
                        f'after {again:.0f} s, guaranteed {scene.owed["willing"] // MB} MB')


def guest_hangs(scene: Scene) -> Row:
    pid = scene.host.pid(scene.domains['willing'])
    with scene.controller() as (controller, _):
        run(controller)
        os.kill(pid, signal.SIGSTOP)
        took = []
        rescue = threading.Timer(60, os.kill, (pid, signal.SIGCONT))  # else a pass that waits for it never ends
        rescue.start()
        try:
            began = time.monotonic()
            while time.monotonic() - began < 20:
                start = time.monotonic()
                run(controller, pause=0.0)
                took.append(time.monotonic() - start)
                time.sleep(0.5)
        finally:
            rescue.cancel()
            os.kill(pid, signal.SIGCONT)
            meanwhile = guests(controller)
        until(lambda: (run(controller), (guests(controller)['willing']['stats_age'] or 99) < 10)[1], 40,
              'the guest to be heard again')
    stuck, heard = meanwhile['stuck'], meanwhile['kept']['stats_age']
    lost = missing(stuck['swapped'] > 50 * MB, f'swapping of another guest ({stuck["swapped"] // MB} MB)')
    lost += missing(heard is not None and heard < 10, 'word of the third guest')
    lost += missing(max(took) < 5, f'a pass within 5 s (longest {max(took):.1f} s)')
    return Row(fault='guest hangs for 20 s (SIGSTOP)', kind='real', lost=tuple(lost + scene.lost()),
               happened=f'{len(took)} passes meanwhile, the longest {max(took):.1f} s; another guest was swapped '
                        f'({stuck["swapped"] // MB} MB), the third was heard')


class Twisted:
    """The hypervisor, with some of its answers changed."""

    def __init__(self, inner: typing.Any, twist: typing.Callable[[GuestFacts], GuestFacts]) -> None:
        self._inner, self._twist = inner, twist

    def guests(self) -> list[GuestFacts]:
        return [self._twist(facts) for facts in self._inner.guests()]

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._inner, name)


def twist(controller: Controller, how: typing.Callable[[GuestFacts], GuestFacts]) -> None:
    controller._sensor._hypervisor = Twisted(controller._sensor._hypervisor, how)


def balloon_lies(scene: Scene) -> Row:
    lies = [dict(actual=1 << 60), dict(actual=-1), dict(usable=1 << 60), dict(usable=-5), dict(actual=0)]
    turn = [0]

    def lie(facts: GuestFacts) -> GuestFacts:
        return dataclasses.replace(facts, **lies[turn[0]]) if facts.name == 'willing' else facts
    with scene.controller() as (controller, _):
        twist(controller, lie)
        uuid, before = scene.domains['willing'].UUIDString(), scene.size('willing')
        told = asked = swapped = 0
        for turn[0] in range(len(lies)):
            done = run(controller, 2)
            told += notes(controller, 'not believed')
            asked += sum(isinstance(o.action, SetBalloon) and o.action.guest == uuid for o in done)
            swapped += sum(isinstance(o.action, ReclaimGuest) and o.done for o in done)
        began = time.monotonic()
        while not swapped and time.monotonic() - began < 120:  # the last lie goes on
            done = run(controller)
            asked += sum(isinstance(o.action, SetBalloon) and o.action.guest == uuid for o in done)
            swapped += sum(isinstance(o.action, ReclaimGuest) and o.done for o in done)
        after = scene.size('willing')
    lost = [f'{asked} balloon targets asked on a lie'] * bool(asked) + missing(
        told == len(lies), 'a note for each lie') + missing(swapped > 0, 'swap that carries it')
    return Row(fault=f'balloon reports nonsense ({len(lies)} kinds)', kind='injected',
               lost=tuple(lost + missing(after == before, 'its size') + scene.lost()),
               happened=f'noted each time, the guest not shrunk by its word ({after // MB} MB throughout); swap '
                        f'carried it in {swapped} squeezes')


def group_vanishes(scene: Scene) -> Row:
    """A guest is ended between the plan and its execution: its group, and the guest, are gone when their turn comes."""
    with scene.controller() as (controller, _):
        scene.boot('leaving', 128, 'ovc.balloon=off ovc.touch=60', '0')
        scene.consoles['leaving'].wait_event('touched', timeout=600)
        uuid, apply = scene.domains['leaving'].UUIDString(), controller._actuator.apply
        ended: list[str] = []

        def end_first(plan: typing.Any, *, dry_run: bool) -> list[Outcome]:
            if not ended and any(getattr(a, 'guest', None) == uuid for a in plan.actions):
                ended.append(uuid)
                scene.host.discard(scene.domains.pop('leaving'))
            return apply(plan, dry_run=dry_run)
        controller._actuator.apply = end_first
        done: list[Outcome] = []
        until(lambda: (done.extend(run(controller)), ended)[1], 60, 'an action on the guest that leaves')
        done += run(controller, 3)
        left = guests(controller)
    failed = [o.error for o in done if o.error and getattr(o.action, 'guest', None) == uuid]
    others = [o.error for o in done if o.error and getattr(o.action, 'guest', None) != uuid]
    lost = missing('leaving' not in left and len(left) == 3, 'the guests that are there') + [
        f'another failed: {error}' for error in others[:1]]
    scene.domains.pop('leaving', None)
    return Row(fault='guest ends, and its group vanishes, before its action', kind='real',
               lost=tuple(lost + scene.lost()),
               happened=f'its action failed alone ({(failed or ["was dropped"])[0][-60:]}); the others had their turn')


def no_pressure(scene: Scene) -> Row:
    with scene.controller() as (controller, _):
        at_work(controller)
        told, level = notes(controller, 'no pressure stall information'), controller.report.level.name
    return Row(fault='no pressure stall information', kind='real (v1 group)', lost=tuple(
        missing(told, 'the note') + missing(level != 'CLEAR', 'a level') + scene.lost()),
        happened=f'noted; the level ({level}) came from available memory, and was acted on')


def clock_jumps(scene: Scene, offset: float) -> Row:
    jumped, moved_at = [0.0], [float('inf')]

    def restamped(facts: GuestFacts) -> GuestFacts:
        later = facts.last_update is not None and facts.last_update >= moved_at[0]
        return dataclasses.replace(facts, last_update=facts.last_update + offset) if later else facts
    with scene.controller(swap=False) as (controller, _):
        controller._clock = lambda: time.time() + jumped[0]
        twist(controller, restamped)
        run(controller, 3)
        jumped[0], moved_at[0] = offset, time.time()
        # Somebody gives the guest its full size: there is something to ask of it again.
        scene.domain('willing').setMemoryFlags(scene.most['willing'] // 1024, 1)
        began, errors = time.monotonic(), []

        def asked_again() -> bool:
            done = run(controller)
            errors.extend(o.error for o in done if o.error)
            return any(isinstance(o.action, SetBalloon) and o.done for o in done)
        until(asked_again, 60, 'a balloon to be asked again')
        after = time.monotonic() - began
        run(controller, 5)
        age = abs(controller.report.age(time.time() + offset))
        level = controller.report.level.name
    lost = [f'failed: {error}' for error in errors[:1]] + missing(age < 5, f'a fresh report ({age:.0f} s)') + missing(
        level != 'CLEAR', 'the level')
    return Row(fault=f'clock jumps by {offset / HOUR:+.0f} h', kind='injected', lost=tuple(lost + scene.lost()),
               happened=f'level {level} kept; ballooning went on {after:.1f} s later, with the guest\'s next word')


def disk_full(scene: Scene) -> Row:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory], check=True)
        try:
            return _disk_full(scene, Path(directory))
        finally:
            subprocess.run(['umount', '-l', directory], check=True)  # lazily: else whoever has it open keeps it


def recorded(disk: Path) -> list[float]:
    """When the passes were made that can be read from the decision log."""
    return sorted(line['pass']['at'] for path in (disk / 'record').iterdir() for line in record.Lines(path)
                  if 'pass' in line)


def _disk_full(scene: Scene, disk: Path) -> Row:
    retry, record.RETRY_SECONDS = record.RETRY_SECONDS, 3.0
    try:
        with scene.controller(state=str(disk)) as (controller, log):
            run(controller, 2)
            full_at = time.time()
            (disk / 'ballast').write_bytes(b'')
            with open(disk / 'ballast', 'wb', buffering=0) as ballast:
                try:
                    while ballast.write(os.urandom(4096)):
                        pass
                except OSError:
                    pass
            run(controller, 1)
            done = run(controller, 30, pause=0.2)
            told = notes(controller, 'decisions are not recorded')
            state = notes(controller, 'cannot be written')
            said = log.count('decisions are not recorded')
            (disk / 'ballast').unlink()
            room_at = time.time()
            until(lambda: (run(controller), not notes(controller, 'are not recorded'))[1], 60, 'recording again')
            until(lambda: (run(controller), recorded(disk)[-1:] >= [room_at])[1], 180, 'a pass in the record again')
        kept = recorded(disk)
        before, after = sum(at < full_at for at in kept), sum(at >= room_at for at in kept)
    finally:
        record.RETRY_SECONDS = retry
    lost = missing(told, 'the note') + missing(said == 1, f'one log line ({said})') + [
        f'failed: {o.error}' for o in done if o.error][:1] + missing(
            before > 0, 'the passes recorded before') + missing(after > 0, 'the passes recorded afterwards')
    return Row(fault='disk full at decision log and state file', kind='real (tmpfs)', lost=tuple(lost + scene.lost()),
               happened=f'30 passes without a record{" and a state file" * state}, noted in one line; {before} passes '
                        f'of before and {after} of afterwards can be read')


FAULTS: dict[str, typing.Callable[[Scene], Row]] = {
    'libvirt': libvirt_restarted, 'reboot': guest_reboots, 'hang': guest_hangs, 'nonsense': balloon_lies,
    'vanish': group_vanishes, 'pressure': no_pressure, 'clock-ahead': lambda scene: clock_jumps(scene, HOUR),
    'clock-back': lambda scene: clock_jumps(scene, -HOUR), 'disk': disk_full}
assert ENDLESS > 1
