# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""No lowered limit outlives who lowered it, and the watchdog that sees to it outlives nobody."""
from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from ovc_plugin import leases
from tests.builders import a_v1_group
from tests.waiting import LONG, until

MB = 1 << 20
ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLDER = '''
import pathlib, sys, threading, time
from ovc_plugin import leases
file, directory, deadline = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), float(sys.argv[3])
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()  # as a root helper has others
watchdog = leases.Watchdog(directory, pathlib.Path, deadline)
with leases.lowered(file, 100 << 20, directory):
    print('lowered', flush=True)
    sys.stdin.readline()
    watchdog.rouse()
    print('watched', flush=True)
    sys.stdin.readline()
print('put back', flush=True)
sys.stdin.readline()
'''


class Holder:
    """A process that keeps a limit lowered until it is told, with a watchdog."""

    def __init__(self, tmp_path: pathlib.Path, deadline: float = 30.0):
        self.file = a_v1_group(tmp_path / 'g', usage=500 * MB, limit=900 * MB) / 'memory.limit_in_bytes'
        self.leases, self.mark = tmp_path / 'leases', f'OVC_TEST_HOLDER={tmp_path}'
        name, _, value = self.mark.partition('=')
        self.process = subprocess.Popen(
            [sys.executable, '-c', HOLDER, str(self.file), str(self.leases), str(deadline)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {name: value})
        assert self.process.stdout.readline() == 'lowered\n'
        assert self.limit == 100 * MB
        self.tell()  # from here on it has so many seconds
        assert self.process.stdout.readline() == 'watched\n'
        until(lambda: len(self.watchdogs) == 1 and _ready(self.watchdogs[0]))

    def tell(self):
        self.process.stdin.write('\n')
        self.process.stdin.flush()

    @property
    def limit(self):
        return int(self.file.read_text() or -1)

    @property
    def watchdogs(self):
        found = []
        for entry in pathlib.Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if int(entry.name) != self.process.pid and self.mark.encode() in (entry / 'environ').read_bytes():
                    found.append(int(entry.name))
        return found

    def end(self):
        for pid in [self.process.pid, *self.watchdogs]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def holder(tmp_path):
    made = []

    def make(**options):
        made.append(Holder(tmp_path, **options))
        return made[-1]
    yield make
    for one in made:
        one.end()


def test_a_limit_is_back_within_moments_of_the_death_of_who_lowered_it(holder):
    one = holder()
    one.process.kill()
    until(lambda: one.limit == 900 * MB and not list(one.leases.iterdir()))
    until(lambda: not one.watchdogs)


def test_the_watchdog_is_not_ended_by_what_ends_its_helper(holder):
    one = holder()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for pid in one.watchdogs:
            os.kill(pid, number)
    assert all(os.getsid(pid) != os.getsid(one.process.pid) for pid in one.watchdogs)
    one.process.kill()
    until(lambda: one.limit == 900 * MB)


def test_a_clean_end_ends_the_watchdog_at_once(holder):
    one = holder()
    one.tell()
    assert one.process.stdout.readline() == 'put back\n' and one.limit == 900 * MB
    assert len(one.watchdogs) == 1, 'one for all that it lowers'
    one.tell()
    one.process.wait(LONG)
    until(lambda: not one.watchdogs)


def test_a_helper_that_hangs_has_its_limit_put_back_and_dies_with_its_lease_in_place(holder):
    one = holder(deadline=0.3)
    one.process.send_signal(signal.SIGSTOP)
    until(lambda: one.limit == 900 * MB)
    assert len(list(one.leases.iterdir())) == 1, 'it may yet go on, and lower it again'
    one.process.kill()
    until(lambda: not list(one.leases.iterdir()) and not one.watchdogs)


def test_a_watchdog_that_was_killed_is_followed_by_another(tmp_path):
    made = leases.Watchdog(tmp_path / 'leases', pathlib.Path)
    made.rouse()
    until(lambda: _others(made._pipe))
    (first,) = _others(made._pipe)
    os.kill(first, signal.SIGKILL)
    until(lambda: not _others(made._pipe))
    made.rouse()
    until(lambda: _others(made._pipe))
    assert _others(made._pipe) != [first]
    os.close(made._pipe)


def _ready(pid: int) -> bool:
    """Whether it has left its parent's signals and files; that it takes its name is the last of it."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f'/proc/{pid}/comm').read_text() == 'ovc-watchdog\n'
    return False


def _others(pipe: int) -> list[int]:
    """Watchdogs at the other end."""
    return [int(entry.name) for entry in pathlib.Path('/proc').glob('[0-9]*')
            if _holds_other_end(entry, pipe) and _ready(int(entry.name))]


def _holds_other_end(entry: pathlib.Path, pipe: int) -> bool:
    with contextlib.suppress(OSError):
        ours = os.readlink(f'/proc/self/fd/{pipe}')
        return int(entry.name) != os.getpid() and os.readlink(entry / 'fd' / '3') == ours
    return False
