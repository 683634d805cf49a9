# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Words of others, made fit to be passed on. Pure."""
from __future__ import annotations


def plain(text: str, keep: str = '') -> str:
    """The text with "?" for all that XML cannot hold or that a log or a terminal would obey, but ``keep``."""
    return text if text.isprintable() else ''.join(c if c.isprintable() or c in keep else '?' for c in text)
