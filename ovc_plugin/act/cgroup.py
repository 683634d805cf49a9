# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Moves memory of one guest to swap through its control group."""
from __future__ import annotations

import pathlib

from ovc_plugin import privileged
from ovc_plugin.model import ReclaimGuest


def apply(action: ReclaimGuest, group: pathlib.Path | None, seconds: float) -> int:
    """:returns: bytes moved.
    :raises LookupError: the guest has no group of its own.
    :raises OSError: the group vanished or the kernel refuses.
    """
    if group is None:
        raise LookupError('the guest has no memory control group of its own')
    return int(privileged.reclaim(str(group), action.amount, action.floor, seconds))
