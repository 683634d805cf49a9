# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The kernel rings when the memory of a version 1 control group crosses a mark, up and down."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import until

from ovc_plugin.sense.marks import COUNT, Marks
from ovc_plugin.sense.sleeper import LONGEST, Sleeper

MB, ROOT = 1 << 20, Path('/sys/fs/cgroup/memory')
HOLDS = '''
import sys
open(sys.argv[1] + '/cgroup.procs', 'w').write('0')
held = []
for line in sys.stdin:
    held = [b'x' * (int(line) << 20)]
    print('held', flush=True)
'''


@pytest.fixture
def group() -> Iterator[Path]:
    if os.geteuid() != 0 or not (ROOT / 'cgroup.event_control').exists():
        pytest.skip('needs root and the memory controller of control groups v1')
    path = ROOT / f'ovc_marks_{os.getpid()}'
    path.mkdir()
    (path / 'memory.limit_in_bytes').write_text(str(640 * MB))
    yield path
    until(lambda: gone(path), 'its process to have ended')


def gone(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:  # its process has only just ended
        return False
    return True


def test_memory_that_crosses_a_mark_ends_a_sleep_at_once_and_memory_held_does_not(group: Path) -> None:
    marks = Marks(group, 640 * MB)
    step = 640 // COUNT
    sleeper = Sleeper(arm=lambda kept: marks, awake=0.0)
    sleeper.prepare()
    stopping = threading.Event()
    with subprocess.Popen([sys.executable, '-c', HOLDS, str(group)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, bufsize=1) as other:
        assert other.stdin is not None and other.stdout is not None

        def hold(amount: int) -> None:
            assert other.stdin is not None
            other.stdin.write(f'{amount}\n')

        def rings(seconds: float) -> bool:
            assert sleeper.listen(True)
            return sleeper.sleep(seconds, stopping).mark
        hold(0)
        other.stdout.readline()
        assert not rings(0.5), 'nothing is charged'
        threading.Timer(0.2, hold, [3 * step]).start()
        assert rings(LONGEST)
        other.stdout.readline()
        assert not (sleeper.listen(False) or rings(0.5))
        threading.Timer(0.2, hold, [0]).start()
        assert rings(LONGEST), 'also when it is given back'
        other.stdin.close()
    marks.close()
