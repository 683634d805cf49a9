# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What guests count of their own pressure, where they can: asked for aside, since QEMU's monitor may not answer."""
from __future__ import annotations

import dataclasses
import time
import typing

from ovc_plugin.samples import Counted
from ovc_plugin.sense.seldom import LIFE, Seldom


@dataclasses.dataclass
class _Known:
    counted: Counted | None = None
    read_at: float = 0.0


class Pressed:
    """``read`` returns a guest's counters, or raises anything."""

    def __init__(self, read: typing.Callable[[str], Counted],
                 clock: typing.Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self.seldom: Seldom[_Known] = Seldom('ovc-pressed', _Known, self._ask, clock)

    def follow(self, uuids: typing.Iterable[str]) -> dict[str, Counted]:
        """Ask these guests from now on; the counters of those that have told lately."""
        now = self._clock()
        return {uuid: known.counted for uuid, known in self.seldom.asked(uuids).items()
                if known.counted is not None and now - known.read_at <= LIFE}

    def _ask(self, uuid: str, known: _Known, now: float) -> None:
        known.counted, known.read_at = self._read(uuid), now
