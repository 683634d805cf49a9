# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The nouns of placing a guest: what is asked, what was promised meanwhile, and the answer. Imported from ``model``."""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A guest that wants a place: ``memory`` its maximum, ``reservation`` its guarantee."""

    memory: int
    reservation: int
    guest: str = ''
    overcommit: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """What was promised on a host after its report was taken, by count and memory.

    ``reserved`` is what of the memory is guaranteed, without overhead; ``None`` where only the sum of memory is known.
    """

    guests: int = 0
    memory: int = 0
    reserved: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a host can take a request, with both numbers in the reason."""

    ok: bool
    reason: str
