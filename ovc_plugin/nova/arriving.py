# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Our hook over resize and cold migration: a guest that arrives so is counted at once, like one that is built here."""
from __future__ import annotations

import time
import typing

if typing.TYPE_CHECKING:
    from ovc_plugin.model import Verdict
    from ovc_plugin.nova.admission import Ledger


class Arriving:
    """Its disks have come and its old host has let it go: refused now it would be left in error, so it is let in."""

    _ovc_ledger: Ledger
    _ovc_guarded: typing.Callable[..., typing.Any]
    _ovc_admit: typing.Callable[..., Verdict | None]

    def finish_migration(self, context: typing.Any, migration: typing.Any, instance: typing.Any, *args: typing.Any,
                         **kwargs: typing.Any) -> None:
        self._ovc_guarded('late check', 'Guests arrive uncounted until the next report.', self._ovc_admit, instance,
                          force=True)
        try:
            super().finish_migration(context, migration, instance, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._ovc_ledger.landed(instance.uuid, time.time())
