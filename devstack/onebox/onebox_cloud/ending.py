# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What ends this process while it has something to clean up."""
from __future__ import annotations

import signal
import threading


def as_interrupted() -> None:
    """Let SIGTERM, as timeout(1) and service managers send it, end this process as Ctrl-C does: what it has set up is
    then cleaned up. Not where somebody else handles it, nor from another thread than the main one."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
