# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How slow this machine is: bounds on processor time are of the machine that they were set on, and grow on a slower."""
from __future__ import annotations

import json
import time

# Least processor time of the work below, in seconds, where the bounds of our tests were set.
THERE = 0.0011
_WORK = {'one': list(range(40)), 'two': {str(number): number * 1.5 for number in range(40)}}


def _work() -> None:
    for _ in range(50):
        found = json.loads(json.dumps(_WORK))
        sorted((value * 3.7 % 1.1, key) for key, value in found['two'].items())


def slower(times: int = 20) -> float:
    """By what factor plain Python takes longer here than there; 1 on any machine that is as fast.

    The least of several, as other work can only add to it: to be compared with what is the least of several, too.
    """
    found = []
    for _ in range(times):
        began = time.thread_time()
        _work()
        found.append(time.thread_time() - began)
    return max(1.0, min(found) / THERE)
