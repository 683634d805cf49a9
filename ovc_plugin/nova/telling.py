# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A host that falls short, or is short no longer, has nova store its report at once.

Schedulers read what nova stores, by its own clock once a minute: until then each guest that they send here would be
refused by the host itself, and three such refusals end in an error.
"""
from __future__ import annotations

import threading
import time
import typing

from nova import context

from ovc_plugin.model import Level

if typing.TYPE_CHECKING:
    from ovc_plugin.report import HostReport

APART = 30.0  # seconds between two audits that we ask for: each reads libvirt, nova's database and placement


class Telling:
    """The part of a nova driver that knows what schedulers were told."""

    virtapi: typing.Any
    _ovc_guarded: typing.Callable[..., typing.Any]
    _ovc_stored: tuple[str, bool] | None = None  # of which node, and whether its report said that memory is short
    _ovc_audit: threading.Thread | None = None
    _ovc_next_audit = 0.0

    def _ovc_stores(self, nodename: str, report: HostReport) -> None:
        """Nova stores this report."""
        self._ovc_stored = nodename, report.level >= Level.HARD

    def _ovc_look(self, report: HostReport) -> None:
        """Called at each pass, in the controller's thread, which must not wait for nova's database."""
        self._ovc_guarded('early report', 'Schedulers hear of it by nova\'s next audit (update_resources_interval).',
                          self._ovc_tell, report)

    def _ovc_tell(self, report: HostReport) -> None:
        stored, now = self._ovc_stored, time.monotonic()
        if stored is None or stored[1] == (report.level >= Level.HARD) or now < self._ovc_next_audit:
            return
        if self._ovc_audit is None or not self._ovc_audit.is_alive():
            self._ovc_next_audit = now + APART
            self._ovc_audit = threading.Thread(
                name='ovc-report', daemon=True, target=self._ovc_guarded,
                args=('early audit', 'Nova\'s next one follows by its own clock.', self._ovc_have_stored, stored[0]))
            self._ovc_audit.start()

    def _ovc_have_stored(self, nodename: str) -> None:
        """Nova's own audit of this node alone, which its tracker guards against others at the same time."""
        before = self._ovc_stored
        try:
            self.virtapi._compute.rt.update_available_resource(context.get_admin_context(), nodename)
        except Exception:
            self._ovc_stored = before  # and so it is to be tried again
            raise
