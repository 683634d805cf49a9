# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Asks guests for sizes."""
from __future__ import annotations

from ovc_plugin.hypervisor.protocol import Hypervisor
from ovc_plugin.model import SetBalloon


def apply(action: SetBalloon, hypervisor: Hypervisor) -> None:
    """:raises Exception: whatever the hypervisor says; the guest keeps its size."""
    hypervisor.set_balloon(action.guest, action.target)
