# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The root helper killed (-9) in the middle of a squeeze, under a controller that goes on."""
from __future__ import annotations

import contextlib
import os
import signal
import time
import typing
from pathlib import Path

from ovc_plugin import privileged
from ovc_plugin.controller import Controller
from ovc_plugin.model import MIB as MB
from ovc_plugin.model import Outcome, ReclaimGuest

from .onhost import missing, run
from .scene import Row, Scene, until

CONTEXT = b'ovc_plugin.privileged.context'
LIFTED_WITHIN = 2.0
_PATIENCE = 60.0


def helpers() -> list[int]:
    """The root helpers of this process: other controllers on this machine have theirs, in process groups of their own,
    and so has a helper's watchdog."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            if (pid != os.getpid() and os.getpgid(pid) == os.getpgrp()
                    and CONTEXT in (entry / 'cmdline').read_bytes().split(b'\0')):
                found.append(pid)
    return found


def halted_within(pid: int, begun: typing.Callable[[], bool], seconds: float) -> bool:
    """Stop the process while ``begun``: as that lasts for a moment only, it is halted, and then looked at in peace."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not begun():
            continue
        try:
            os.kill(pid, signal.SIGSTOP)
            while Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'T':
                time.sleep(0.001)
            if begun():
                return True
        except BaseException:  # an interruption: whoever cleans up would wait for it for ever
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
            raise
        os.kill(pid, signal.SIGCONT)
    return False


def leases() -> int:
    return sum(1 for _ in privileged.LEASES.glob('*'))


def _met(scene: Scene, controller: Controller) -> int | None:
    """Let the controller squeeze, and the helper, halted in the middle of it; None: it was not met in it."""
    # Its first pass asks of nobody less than a whole step: of guests that have read back it would ask little from then
    # on, which is over at once.
    scene.reset()
    run(controller, pause=0)
    (pid,) = helpers()
    return pid if halted_within(pid, lambda: leases() > 0, 2.0) else None


def _killed(scene: Scene, controller: Controller, pid: int) -> Row:
    # The kernel sets a limit once it has freed enough: most often the lease alone is met.
    try:
        held, lowered = leases(), len(scene.limits())
    finally:
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    while (left := leases() or len(scene.limits())) and time.monotonic() - began < LIFTED_WITHIN:
        time.sleep(0.01)
    took = time.monotonic() - began
    done: list[Outcome] = []

    def swaps_again() -> bool:
        scene.reset()
        done.extend(run(controller))
        return any(isinstance(o.action, ReclaimGuest) and o.done for o in done)
    until(swaps_again, 40, 'swapping to go on')
    return Row(fault='root helper killed in the middle of a squeeze', kind='real', lost=tuple(
        missing(not left, f'limits lifted within {LIFTED_WITHIN:g} s') + scene.lost()),
        happened=f'{held} squeezes were under way, {lowered} limits lowered; the watchdog had put all right '
                 f'{took:.2f} s later; another helper swapped on')


def helper_killed(scene: Scene) -> Row:
    def tried() -> Row | None:
        # In large steps: squeezes that last long enough to be met.
        with scene.controller(swap_step=256 * MB) as (controller, _):
            pid = _met(scene, controller)
            return None if pid is None else _killed(scene, controller, pid)
    return typing.cast(Row, until(tried, _PATIENCE, 'the helper to be met in a squeeze'))


FAULTS: dict[str, typing.Callable[[Scene], Row]] = {'helper': helper_killed}
