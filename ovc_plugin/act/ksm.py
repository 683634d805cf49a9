# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Switches page sharing, sets its speed, and puts it back."""
from __future__ import annotations

import logging
import typing

from ovc_plugin import privileged
from ovc_plugin.model import KsmState, TuneKsm

LOG = logging.getLogger(__name__)
Write = typing.Callable[[str, int], None]


def apply(action: TuneKsm, write: Write | None = None) -> None:
    """Speed first, so that sharing never runs at somebody else's speed.

    What only makes it better may be refused: ``merge_across_nodes`` while pages are merged, for example. It is then
    logged and left, and tried again when something else is to be changed.

    :raises OSError: the kernel refuses; for example pages_to_scan while its advisor is on.
    """
    write = write or privileged.set_ksm
    if action.pages_to_scan is not None:
        write('pages_to_scan', action.pages_to_scan)
    if action.smart_scan is not None:
        write('smart_scan', action.smart_scan)
    _optional(write, use_zero_pages=action.use_zero_pages, merge_across_nodes=action.merge_across_nodes)
    write('run', action.run)


def restore(before: KsmState, write: Write) -> None:
    """Page sharing as it was found; ``run`` = 2 counts as 0: it would unmerge at once, which may need memory there is
    not.

    :raises OSError: it cannot even be switched back.
    """
    write('run', int(before.run == 1))
    _optional(write, smart_scan=before.smart_scan, use_zero_pages=before.use_zero_pages,
              merge_across_nodes=before.merge_across_nodes if before.nodes > 1 else None,
              pages_to_scan=None if before.advisor else before.pages_to_scan)


def _optional(write: Write, **knobs: int | None) -> None:
    for name, value in knobs.items():
        try:
            if value is not None:
                write(name, value)
        except TimeoutError:  # the helper hangs, and not the kernel refuses: all of it is tried again
            raise
        except OSError as error:
            LOG.warning('page sharing: the kernel refuses %s = %s (%s); it is left as it is', name, value, error)
