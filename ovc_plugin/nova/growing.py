# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests that ask for more than they had: defined anew (started, rebuilt, rebooted hard) from an image that says so, or
given a port that is a device passed through.

nova takes over what the new image of a rebuild says and asks nobody for room. Guests that were let in by what their
flavor guarantees would so be owed all their memory, and the guarantees of a host could exceed what it has (promise 1).
"""
from __future__ import annotations

import dataclasses
import time
import typing

from nova import exception
from nova.network import model as network
from oslo_log import log as logging

from ovc_plugin.decide import placement
from ovc_plugin.hypervisor import definition
from ovc_plugin.model import InFlight, Verdict
from ovc_plugin.nova import sharing
from ovc_plugin.nova.asking import Asking
from ovc_plugin.nova.attributes import says_no

if typing.TYPE_CHECKING:
    from ovc_plugin.controller import Controller
    from ovc_plugin.nova.admission import Ledger
    from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)


class Growing:
    """The part of a nova driver by which guests get their definition."""

    _ovc: Controller | None
    _ovc_settings: Settings
    _ovc_ledger: Ledger
    _ovc_counted: typing.Callable[[typing.Any], typing.ContextManager[None]]
    _ovc_guarded: typing.Callable[..., typing.Any]

    def _hard_reboot(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                     **kwargs: typing.Any) -> typing.Any:
        """Nova's way to start a guest as well. It takes the definition away and writes another: a report that is made
        meanwhile does not have the guest, and its place is not free."""
        with self._ovc_counted(instance):
            return super()._hard_reboot(context, instance, *args, **kwargs)  # type: ignore[misc]

    def attach_interface(self, context: typing.Any, instance: typing.Any, image_meta: typing.Any, vif: typing.Any,
                         *args: typing.Any, **kwargs: typing.Any) -> None:
        """Nothing may be taken from a guest that has a device passed through, from the moment when it gets it. Refused
        here nova frees device and port, and the guest runs on."""
        if vif.get('vnic_type') in network.VNIC_TYPES_DIRECT_PASSTHROUGH:
            verdict = self._ovc_guarded('late check', 'Its port is attached unchecked, as nova has it.',
                                        self._ovc_whole, instance, force=False)
            if verdict is not None and not verdict.ok:
                dry_run = self._ovc_settings.host.dry_run
                (LOG.info if dry_run else LOG.warning)(
                    'guest %s: a port of type %s %s, as a guest with a passed-through device is guaranteed all its '
                    'memory: %s; move guests away, or attach an ordinary port', instance.uuid, vif.get('vnic_type'),
                    'would not be attached' if dry_run else 'is not attached', verdict.reason)
                if not dry_run:
                    raise exception.InterfaceAttachFailed(instance_uuid=instance.uuid)
        super().attach_interface(context, instance, image_meta, vif, *args, **kwargs)  # type: ignore[misc]

    def _ovc_word(self, config: typing.Any, instance: typing.Any, element: typing.Callable[..., typing.Any]) -> None:
        """Write the word of the guest's image into its definition, but for ``ovc:overcommit=no`` where the host cannot
        guarantee that much: no image breaks what other guests are guaranteed."""
        said, why = sharing.said(instance), definition.read(config.to_xml()).untouchable
        if why is not None or says_no(said.get('overcommit')):
            verdict = self._ovc_whole(instance, force=why is not None)
            if verdict is not None and not verdict.ok:
                self._ovc_tell_of(instance, why, verdict)
                if why is None and not self._ovc_settings.host.dry_run:
                    del said['overcommit']
        sharing.tell(config, said, element)

    def _ovc_whole(self, instance: typing.Any, *, force: bool) -> Verdict | None:
        """Can the host guarantee the guest all its memory, where it does not yet? ``None``: nobody can tell."""
        controller, settings, now = self._ovc, self._ovc_settings, time.time()
        seen = controller.sensed if controller is not None else None
        if seen is None:
            return None
        shared = settings.shared
        by_flavor = Asking(instance, shared, flavor_only=True).of()
        whole = dataclasses.replace(by_flavor, reservation=by_flavor.memory, overcommit=False)

        def judge(more: int, in_flight: InFlight) -> Verdict:
            return placement.grows(seen.report, more, in_flight, shared, now)

        return self._ovc_ledger.grow(whole, judge, otherwise=by_flavor, listed_at=seen.listed_at, now=now,
                                     counted=seen.counted,
                                     expires=now + shared.report_max_age, force=force or settings.host.dry_run)

    def _ovc_tell_of(self, instance: typing.Any, why: str | None, verdict: Verdict) -> None:
        if self._ovc_settings.host.dry_run:
            LOG.info('guest %s counts at its full size (%s), for which there is no room here: %s', instance.uuid,
                     why or 'ovc:overcommit=no of its image, which would be left out', verdict.reason)
        elif why is None:
            LOG.warning('guest %s: ovc:overcommit=no of its image is left out, it counts as its flavor has it: %s; '
                        'move guests away and reboot this one hard if it shall be heard', instance.uuid, verdict.reason)
        else:
            LOG.error('guest %s counts at its full size from now on (%s), and this host cannot guarantee that: %s; '
                      'move guests away', instance.uuid, why, verdict.reason)
