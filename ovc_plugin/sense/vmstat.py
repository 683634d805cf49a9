# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Readings of ``/proc/vmstat``: pages that were dropped or swapped and wanted again, since boot."""
from __future__ import annotations

import pathlib

from ovc_plugin.sense.proc import table

# Since Linux 5.9 anonymous and file pages are told apart; before, all are in one number.
_REFAULTS = ('workingset_refault_anon', 'workingset_refault_file')


def refaults(proc: pathlib.Path) -> int | None:
    """Pages; ``None`` where the kernel does not count them.

    :raises OSError: the file is missing or may not be read.
    """
    counts = table((proc / 'vmstat').read_text())
    found = [counts[name] for name in _REFAULTS if name in counts]
    return sum(found) if found else counts.get('workingset_refault')
