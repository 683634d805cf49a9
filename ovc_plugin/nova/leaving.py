# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Our hook over live migration: a guest that leaves, whoever wants it to, is held as it is meanwhile."""
from __future__ import annotations

import contextlib
import typing

if typing.TYPE_CHECKING:
    from ovc_plugin.controller import Controller


class Leaving:
    """What the balloon or swap did to a guest on its way would have to be copied again."""

    _ovc: Controller | None
    _ovc_guarded: typing.Callable[..., typing.Any]

    def live_migration(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                       **kwargs: typing.Any) -> None:
        """Nova's own, which returns when the guest has gone or stays."""
        held = self._ovc_held(self._ovc_hold, instance)
        try:
            super().live_migration(context, instance, *args, **kwargs)  # type: ignore[misc]
        finally:
            if held is not None:
                self._ovc_held(held.close)

    def _ovc_held(self, call: typing.Callable[..., typing.Any], *args: typing.Any) -> typing.Any:
        """Neither to take hold of a guest nor to let it go may fail its migration: nova would set it to ERROR."""
        return self._ovc_guarded('hold', 'The size of a guest may change while it moves, or not once it has.', call,
                                 *args)

    def _ovc_hold(self, instance: typing.Any) -> contextlib.ExitStack | None:
        controller = self._ovc
        if controller is None:
            return None
        held = contextlib.ExitStack()
        held.enter_context(controller.leaving(instance.uuid))
        return held
