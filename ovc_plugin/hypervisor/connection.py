# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A libvirt connection of our own, for where nova does not hold one: opened when needed, again when it died."""
from __future__ import annotations

import threading
import time
import typing

_KEEPALIVE_SECONDS, _KEEPALIVE_MISSES = 5, 3


class Connection:
    """Call it for a live connection. A libvirtd that hangs counts as dead after 20 s: its calls then fail.

    :raises ImportError: libvirt-python is not installed.
    """

    def __init__(self, uri: str) -> None:
        import libvirt
        self._libvirt = libvirt
        self._uri = uri
        self._lock = threading.Lock()
        self._open: typing.Any = None
        # Without this every error is also written to stderr by the library, past any log.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        # Keepalive is answered by libvirt's event loop, which must be there before the first connection.
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=self._events, name='libvirt-events', daemon=True).start()

    def _events(self) -> None:
        while True:
            try:
                self._libvirt.virEventRunDefaultImpl()
            except self._libvirt.libvirtError:
                time.sleep(1)

    def __call__(self) -> typing.Any:
        """:raises libvirt.libvirtError: the hypervisor cannot be reached."""
        with self._lock:
            if self._open is None or not self._open.isAlive():
                self._open = None
                fresh = self._libvirt.open(self._uri)
                try:
                    fresh.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_MISSES)
                except self._libvirt.libvirtError:
                    pass  # a local driver has no line that could hang
                self._open = fresh
            return self._open
