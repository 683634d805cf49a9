# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Switches page sharing and sets its speed."""
from __future__ import annotations

from ovc_plugin import privileged
from ovc_plugin.model import TuneKsm


def apply(action: TuneKsm) -> None:
    """Speed first, so that sharing never runs at somebody else's speed.

    :raises OSError: the kernel refuses; for example pages_to_scan while its advisor is on.
    """
    if action.pages_to_scan is not None:
        privileged.set_ksm('pages_to_scan', action.pages_to_scan)
    if action.smart_scan is not None:
        privileged.set_ksm('smart_scan', action.smart_scan)
    privileged.set_ksm('run', action.run)
