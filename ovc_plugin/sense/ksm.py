# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Readings of ``/sys/kernel/mm/ksm``: what page sharing does, as the kernel counts it for the whole host."""
from __future__ import annotations

import pathlib

from ovc_plugin.model import KsmState
from ovc_plugin.sense.proc import PAGE


def _number(path: pathlib.Path) -> int:
    return int(path.read_text())


def _optional(path: pathlib.Path) -> int | None:
    try:
        return _number(path)
    except OSError:
        return None


def read(root: pathlib.Path) -> KsmState:
    """The state of KSM; zero pages merged away count as saved.

    :raises OSError: this kernel has no KSM, or it may not be read.
    """
    zero_pages = _optional(root / 'ksm_zero_pages') or 0  # before Linux 6.6
    try:
        advisor = '[none]' not in (root / 'advisor_mode').read_text()
    except OSError:
        advisor = False  # before Linux 6.8
    return KsmState(
        run=_number(root / 'run'), saved=(_number(root / 'pages_sharing') + zero_pages) * PAGE,
        shared=_number(root / 'pages_shared') * PAGE, pages_to_scan=_number(root / 'pages_to_scan'), advisor=advisor,
        smart_scan=_optional(root / 'smart_scan'))
