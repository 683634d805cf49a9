# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The nouns of placing a guest: what is asked, what was promised meanwhile, and the answer. Imported from ``model``."""
from __future__ import annotations

import dataclasses
import typing

OURS = 'ovc:'
#: What a flavor can say of a guest.
EXTRA_SPECS = ('ovc:reservation', 'ovc:weight', 'ovc:overcommit', 'ovc:share')


def unread(names: typing.Iterable[str]) -> list[str]:
    """What is wrong with each of our extra specs that nothing reads: a typing error, which nova-api lets through where
    it is asked by a microversion before 2.86."""
    return [f'extra spec {name} is none of ours and does nothing: correct it to one of {", ".join(EXTRA_SPECS)}'
            for name in names if name.startswith(OURS) and name not in EXTRA_SPECS]


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
