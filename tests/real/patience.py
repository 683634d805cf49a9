# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Waiting for guests and hosts: what they show on their way from one state to another is neither, and says nothing."""
from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from guest.client import Beat, Console

from tests import waiting

SECONDS = 600.0  # for a guest without hardware virtualisation on a busy machine; no bound on how fast anything is

T = TypeVar("T")


def until(look: Callable[[], T], what: str = "what was waited for") -> T:
    """What look returns, once that is true."""
    return waiting.until(look, what, SECONDS, pause=0.2)


def beat_when(console: Console, holds: Callable[[Beat], object], what: str = "such a beat") -> Beat:
    """The first beat from now on of which that holds."""
    before = len(console.beats())
    try:
        return until(lambda: next((beat for beat in console.beats()[before:] if holds(beat)), None), what)
    except AssertionError as error:
        raise AssertionError(f"{error}; the last one: {console.beats()[-1:]}") from None
