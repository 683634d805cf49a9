# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What this scheduler has learned of page contents from the reports of hosts that sample them."""
from __future__ import annotations

import logging

from ovc_plugin.decide import sketch
from ovc_plugin.report import HostReport

LOG = logging.getLogger(__name__)
BOOK = sketch.Book()


def read(report: HostReport) -> sketch.There | None:
    """Learn what a new report tells; ``None`` when its host tells nothing, or says what cannot be read."""
    if not report.sketch:
        return None
    try:
        contents = sketch.decode(report.sketch, BOOK.wants)
    except ValueError as error:
        LOG.warning('%s: what its report says of page contents is left out (%s): install the same ovc-plugin release '
                    'on the host and the scheduler', report.host, error)
        return None
    BOOK.learn(contents, report.host)
    return BOOK.there(contents.images, contents.saved)
