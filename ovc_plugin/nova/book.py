# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What this scheduler has learned of page contents from the reports of hosts that sample them."""
from __future__ import annotations

import logging
import threading

from ovc_plugin.decide import learned, sketch

LOG = logging.getLogger(__name__)
BOOK = learned.Book()
_lock = threading.Lock()  # requests are served by several threads, and each may read a report


def read(host: str, told: str, before: sketch.There | None = None) -> sketch.There | None:
    """Learn what the host's new report tells (:attr:`ovc_plugin.report.HostReport.sketch`); ``None`` when that is
    nothing, or cannot be read. ``before``: what the one before it told."""
    if not told:
        return None
    try:
        with _lock:
            contents = sketch.decode(told, BOOK.wants, before)
            BOOK.learn(contents, host)
    except ValueError as error:
        LOG.warning('%s: what its report says of page contents is left out (%s): install the same ovc-plugin release '
                    'on the host and the scheduler', host, error)
        return None
    return BOOK.there(contents.images, contents.saved, told.partition(';')[0])
