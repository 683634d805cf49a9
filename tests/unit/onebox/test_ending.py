# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A command that is told to end cleans up first."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from onebox_cloud import ending

WORK = """
import signal, sys, time
from onebox_cloud import ending
ending.as_interrupted()
try:
    print('working', flush=True)
    time.sleep(600)
finally:
    print('cleaned up', flush=True)
"""


def test_a_command_that_is_told_to_end_cleans_up_first():
    path = os.pathsep.join([str(Path(ending.__file__).parents[1]), *sys.path])
    with subprocess.Popen([sys.executable, '-c', WORK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          env=os.environ | {'PYTHONPATH': path}) as process:
        assert process.stdout and process.stdout.readline() == 'working\n'
        process.terminate()
        assert process.communicate(timeout=100)[0] == 'cleaned up\n' and process.returncode


def test_whoever_handles_it_goes_on_doing_so(monkeypatch):
    set_ = []
    monkeypatch.setattr(signal, 'signal', lambda *words: set_.append(words))
    monkeypatch.setattr(signal, 'getsignal', lambda number: print)
    ending.as_interrupted()
    monkeypatch.setattr(signal, 'getsignal', lambda number: signal.SIG_DFL)
    other = threading.Thread(target=ending.as_interrupted)
    other.start()
    other.join()
    assert not set_
    ending.as_interrupted()
    assert set_ == [(signal.SIGTERM, signal.default_int_handler)]
