# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whether a guest's guarantee is backed with memory: of one whose size nobody changes, swap takes."""
from __future__ import annotations

import dataclasses
from pathlib import Path

PAGE = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the host has given one guest, in bytes: in memory without file pages, merged away, and in swap."""

    resident: int
    merged: int
    swapped: int

    def below(self, owed: int) -> bool:
        """Whether more of it is in swap than beyond its guarantee may be.

        What a guest never touched is in neither; merged pages are there for it, and counted for one guest alone.
        """
        return self.swapped > 0 and self.resident + self.merged < owed <= self.resident + self.swapped


def held(group: Path, pid: int) -> Held:
    """Of the guest with this memory group (v1) and QEMU.

    :raises OSError: it has ended.
    """
    stat = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
    files = int(stat['total_inactive_file']) + int(stat['total_active_file'])
    return Held(resident=int((group / 'memory.usage_in_bytes').read_text()) - files, swapped=int(stat['total_swap']),
                merged=int(Path(f'/proc/{pid}/ksm_merging_pages').read_text()) * PAGE)
