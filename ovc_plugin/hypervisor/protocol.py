# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What the host controller needs of a hypervisor."""
from __future__ import annotations

import typing

from ovc_plugin.samples import GuestFacts


class Hypervisor(typing.Protocol):
    """A source of guests that can ask them to change size. Any exception means: not this time."""

    def guests(self) -> list[GuestFacts]:
        """All guests that run here or may be started here, in one call."""

    def set_balloon(self, uuid: str, target: int) -> None:
        """Ask a running guest to be ``target`` bytes large; returns without waiting for it."""
