# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Waiting in tests: for what is promised to come, not for a time by which a machine that is not busy has done it.

A deadline here ends a test whose condition never comes. It is no bound on how fast anything is.
"""
from __future__ import annotations

import time
import typing

LONG = 100.0

T = typing.TypeVar('T')


def until(look: typing.Callable[[], T], what: str = 'what was waited for', seconds: float = LONG,
          pause: float = 0.01) -> T:
    """What ``look`` returns, once that is true. It is asked once more after the deadline: the machine may have stood
    still until then.

    :raises AssertionError: it has not come to be true within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline
        if found := look():
            return found
        assert not late, f'waited {seconds:g} s in vain: {what}'
        time.sleep(pause)
