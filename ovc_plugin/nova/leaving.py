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
        with self._ovc_held(instance) or contextlib.nullcontext():
            super().live_migration(context, instance, *args, **kwargs)  # type: ignore[misc]

    def _ovc_held(self, instance: typing.Any) -> typing.ContextManager[None] | None:
        controller = self._ovc
        if controller is None:
            return None
        held: typing.ContextManager[None] | None = self._ovc_guarded(
            'hold', 'The size of a guest may change while it moves.', controller.leaving, instance.uuid)
        return held
