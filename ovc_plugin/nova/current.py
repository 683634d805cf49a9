# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The settings in force inside nova, read from ``nova.conf.CONF`` at most every few seconds."""
from __future__ import annotations

import time

import nova.conf
from oslo_log import log as logging

from ovc_plugin import conf, settings, unread
from ovc_plugin.nova import api

LOG = logging.getLogger(__name__)

# One option costs oslo.config about 10 µs, as much as judging a host: too dear to be read for each.
KEPT_FOR = 5.0

conf.register(nova.conf.CONF)
_kept: tuple[float, settings.Settings] | None = None


def load() -> settings.Settings:
    """Read all options now; names that nothing reads are told the first time.

    :raises ovc_plugin.conf.ConfigError: one of them cannot be used; the message names it and the remedy.
    """
    global _kept
    loaded = conf.load(nova.conf.CONF)
    if _kept is None:
        unread.warn(nova.conf.CONF, lambda: api.options_of(nova.conf.CONF))
    _kept = (time.monotonic(), loaded)
    return loaded


def get() -> settings.Settings:
    """The settings, a few seconds old at most; a change that cannot be used is logged and leaves the old ones.

    :raises ovc_plugin.conf.ConfigError: they could never be read.
    """
    global _kept
    if _kept is not None and time.monotonic() - _kept[0] < KEPT_FOR:
        return _kept[1]
    try:
        return load()
    except conf.ConfigError as error:
        if _kept is None:
            raise
        LOG.error('the changed configuration cannot be used, the one before stays in force: %s', error)
        _kept = (time.monotonic(), _kept[1])
        return _kept[1]


def forget() -> None:
    """The next :func:`get` reads anew (for tests)."""
    global _kept
    _kept = None
