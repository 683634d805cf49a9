# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests that are started by a definition which nova took from a running one: at their full size all the same.

libvirt writes the balloon's size of the moment into the definition of a guest that runs (``currentMemory``). Where nova
makes that the one a guest is started by next, the guest would begin each time with what it had then, whether or not
there is room, and with nobody to give it the rest once we are gone. Nova does so in a live migration (the definition is
kept by the new host), when a volume is swapped, and for the end of a rescue; all others it writes anew.
"""
from __future__ import annotations

import re
import typing

if typing.TYPE_CHECKING:
    from ovc_plugin.controller import Controller

_CURRENT = re.compile(r'\s*<currentMemory(?:\s[^>]*)?>\s*\d+\s*</currentMemory>')
_REMEDY = 'It starts with the memory that it had, until it is rebooted hard.'


def full_size(xml: str) -> str:
    """The definition without the size of the moment: libvirt then takes all of ``memory``."""
    return _CURRENT.sub('', xml, count=1)


class Restarting:
    """The part of a nova driver by which running guests leave a definition. In a dry run nothing is changed."""

    _host: typing.Any
    _ovc: Controller | None
    _ovc_guarded: typing.Callable[..., typing.Any]
    #: libvirt's VIR_DOMAIN_AFFECT_CONFIG: what a guest is started by next, and not what it is now.
    _OVC_NEXT = 2

    def _get_existing_domain_xml(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        """Nova asks for it to write it down: what a rescued guest, or a suspended one, is defined by afterwards."""
        xml = super()._get_existing_domain_xml(*args, **kwargs)  # type: ignore[misc]
        return (self._ovc_guarded('size after rescue', _REMEDY, full_size, xml) or xml) if self._ovc_acts() else xml

    def post_live_migration_at_destination(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                                           **kwargs: typing.Any) -> None:
        super().post_live_migration_at_destination(context, instance, *args, **kwargs)  # type: ignore[misc]
        self._ovc_guarded('size after migration', _REMEDY, self._ovc_whole_next, instance)

    def swap_volume(self, context: typing.Any, old_connection_info: typing.Any, new_connection_info: typing.Any,
                    instance: typing.Any, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().swap_volume(context, old_connection_info, new_connection_info,  # type: ignore[misc]
                            instance, *args, **kwargs)
        self._ovc_guarded('size after swapping a volume', _REMEDY, self._ovc_whole_next, instance)

    def _ovc_acts(self) -> bool:
        controller = self._ovc
        return controller is not None and not controller.dry_run

    def _ovc_whole_next(self, instance: typing.Any) -> None:
        if self._ovc_acts():
            domain = self._host.get_guest(instance)._domain
            domain.setMemoryFlags(domain.maxMemory(), self._OVC_NEXT)
