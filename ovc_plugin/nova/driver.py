# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The class that nova loads by ``[DEFAULT] compute_driver = ovc.OvcLibvirtDriver``: nova's LibvirtDriver, and ours."""
from __future__ import annotations

import dataclasses
import inspect
import select
import time
import typing

from nova.virt.libvirt import config as libvirt_config
from nova.virt.libvirt import driver as libvirt_driver
from oslo_log import log as logging

from ovc_plugin.nova import sharing
from ovc_plugin.nova.growing import Growing
from ovc_plugin.nova.mixin import OvcMixin
from ovc_plugin.nova.restarting import Restarting

LOG = logging.getLogger(__name__)


class OvcLibvirtDriver(Restarting, Growing, OvcMixin, libvirt_driver.LibvirtDriver):  # type: ignore[misc]
    """What nova's driver answers, always; and while all is well, our report, ratio, late check and who may share."""

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        self._ovc_sharers = sharing.Sharers()
        self._ovc_aside: _Connection | None = None

    def _ovc_connection(self) -> typing.Any:
        connection = self._host.get_connection()
        if hasattr(select, 'poll'):
            return connection
        # On eventlet. The same one for the same connection: whoever listens to its events goes by that.
        if self._ovc_aside is None or self._ovc_aside.inner is not connection:
            self._ovc_aside = _Connection(connection, self._host._wrap_libvirt_proxy)
        return self._ovc_aside

    def _get_guest_config(self, instance: typing.Any, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        config = super()._get_guest_config(instance, *args, **kwargs)
        self._ovc_guarded('word of the image', 'The host controller goes by the flavor alone.', self._ovc_word, config,
                          instance, libvirt_config.LibvirtConfigObject)
        self._ovc_guarded('page sharing', 'The guest starts mergeable, as nova has it.', self._ovc_share, instance,
                          config)
        return config

    def check_can_live_migrate_destination(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                                           **kwargs: typing.Any) -> typing.Any:
        answer = super().check_can_live_migrate_destination(context, instance, *args, **kwargs)
        self._ovc_announce(instance)
        return answer

    def pre_live_migration(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                           **kwargs: typing.Any) -> typing.Any:
        answer = super().pre_live_migration(context, instance, *args, **kwargs)
        self._ovc_announce(instance)
        return answer

    def _ovc_announce(self, instance: typing.Any) -> None:
        self._ovc_guarded('arrival', 'Sharing pauses for a guest of another project only once it is seen.',
                          self._ovc_expect, instance)

    def _ovc_expect(self, instance: typing.Any) -> None:
        controller = self._ovc  # a stop may come between two looks
        if controller is not None and sharing.declined(instance) is None:
            controller.expect(instance.uuid, instance.project_id)
            self._ovc_sharers.expect(instance.uuid, instance.project_id, time.time())

    def _ovc_share(self, instance: typing.Any, config: typing.Any) -> None:
        why, controller = sharing.declined(instance), self._ovc
        if why is None and controller is not None:
            status, settings = controller.status(), self._ovc_settings.host
            if status.get('sharing_is_ours'):  # in a dry run too, until it has been put back
                settings = dataclasses.replace(settings, dry_run=False)
            why = self._ovc_sharers.why_not(instance, config.to_xml(), status['guests'], settings, time.time())
        if why is not None:
            LOG.info('guest %s starts with pages that are never merged: %s', instance.uuid, why)
            sharing.unshare(config, libvirt_config.LibvirtConfigGuestMemoryBacking)


class _Connection:
    """nova's connection on eventlet, where calls that ask libvirtd must be made in another thread. nova wraps what a
    call returns, but not what is in a list; of domains in one, those calls are wrapped that take time."""

    def __init__(self, inner: typing.Any, wrap: typing.Callable[[typing.Any], typing.Any]) -> None:
        self.inner, self._wrap = inner, wrap

    def getAllDomainStats(self, *args: typing.Any) -> list[tuple[typing.Any, typing.Any]]:
        return [(_Domain(domain, self._wrap), stats) for domain, stats in self.inner.getAllDomainStats(*args)]

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self.inner, name)


class _Domain:
    """Its name and ids are known without asking; a thread for each of those would cost more than they do."""

    def __init__(self, inner: typing.Any, wrap: typing.Callable[[typing.Any], typing.Any]) -> None:
        self._inner, self._wrap = inner, wrap

    def XMLDesc(self, *args: typing.Any) -> typing.Any:
        return self._wrap(self._inner).XMLDesc(*args)

    def jobInfo(self, *args: typing.Any) -> typing.Any:
        return self._wrap(self._inner).jobInfo(*args)

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._inner, name)


def _as_declared(ours: type, theirs: type) -> None:
    """Our methods pass on what they are given, whatever this nova's take; who asks what they take is told what its own
    do, as nova's test of its drivers' signatures asks."""
    for part in ours.__mro__[:ours.__mro__.index(theirs)]:
        for name, method in vars(part).items():
            declared = getattr(theirs, name, None)
            if inspect.isfunction(method) and inspect.isfunction(declared):
                method.__signature__ = inspect.signature(declared)  # type: ignore[attr-defined]


_as_declared(OvcLibvirtDriver, libvirt_driver.LibvirtDriver)
