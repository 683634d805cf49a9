# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Our hooks over every way in which a guest arrives: it is judged once more where nova can handle a refusal, and it is
counted at once everywhere."""
from __future__ import annotations

import contextlib
import dataclasses
import time
import typing

import nova.conf
from nova import exception
from nova.compute import task_states
from oslo_log import log as logging

from ovc_plugin.model import InFlight, Request, Verdict
from ovc_plugin.nova.asking import Asking
from ovc_plugin.nova.attributes import given

if typing.TYPE_CHECKING:
    from ovc_plugin.controller import Controller
    from ovc_plugin.nova.admission import Ledger
    from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class HostRefuses(exception.GroupAffinityViolation):  # type: ignore[misc]
    """A refusal in the one guise in which nova tries the next host and counts no failed build.

    After any other exception nova's BuildFailureWeigher puts this host behind all others until a guest has been built
    here, though nothing failed. The price is a trace of it in nova-compute's log, as of every guest not spawned.
    """

    msg_fmt = '%(reason)s'


class Arriving:
    """The part of a nova driver by which guests come. See the table in doc/placement.rst."""

    _ovc: Controller | None
    _ovc_settings: Settings
    _ovc_ledger: Ledger
    _ovc_guarded: typing.Callable[..., typing.Any]

    def spawn(self, context: typing.Any, instance: typing.Any, *args: typing.Any, **kwargs: typing.Any) -> None:
        # Only a guest that is being built or unshelved can go elsewhere. A rebuild is there already, an evacuation was
        # judged by instance_on_disk; either would now end in error, so it is counted and let in.
        verdict = self._ovc_guarded('late check', 'Guests start unchecked, as nova has it.', self._ovc_admit, instance,
                                    force=instance.task_state != task_states.SPAWNING)
        if verdict is not None and not verdict.ok:
            self._ovc_guarded('allocation', 'placement counts the refused guest until it is deleted.', self._ovc_free,
                              context, instance)
            raise HostRefuses(reason=verdict.reason)
        try:
            super().spawn(context, instance, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._ovc_ledger.landed(instance.uuid, time.time())

    def _ovc_free(self, context: typing.Any, instance: typing.Any) -> None:
        """Nova frees what it sends on to another host, but not what a policy forbids on the host that was asked for."""
        client = self.virtapi.reportclient  # type: ignore[attr-defined]
        client.delete_allocation_for_instance(context, instance.uuid, force=True)

    def instance_on_disk(self, instance: typing.Any, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        """Nova asks this of an evacuation alone, after its claim and before it binds ports or moves volumes. Refused
        here the guest keeps its state on its old host, its new allocation is freed, and it can be evacuated again."""
        if given(instance, 'task_state') == task_states.REBUILDING:
            verdict = self._ovc_guarded('late check', 'Guests arrive unchecked, as nova has it.', self._ovc_admit,
                                        instance, expires=self._ovc_patience())
            if verdict is not None and not verdict.ok:
                raise exception.ComputeResourcesUnavailable(reason=verdict.reason)
        return super().instance_on_disk(instance, *args, **kwargs)  # type: ignore[misc]

    def _ovc_patience(self) -> float:
        """Until when one that was let in is counted though it never comes: no longer than a report is believed."""
        return time.time() + self._ovc_settings.shared.report_max_age

    def check_can_live_migrate_destination(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                                           **kwargs: typing.Any) -> typing.Any:
        verdict = self._ovc_guarded('late check', 'Guests arrive unchecked, as nova has it.', self._ovc_admit,
                                    instance, expires=self._ovc_patience())
        if verdict is not None and not verdict.ok:
            raise exception.MigrationPreCheckError(reason=verdict.reason)
        try:
            return super().check_can_live_migrate_destination(context, instance, *args, **kwargs)  # type: ignore[misc]
        except BaseException:
            self._ovc_ledger.landed(instance.uuid, 0.0)
            raise

    def pre_live_migration(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                           **kwargs: typing.Any) -> typing.Any:
        """Now it begins. It may have waited for others since its pre-check (``max_concurrent_live_migrations``), and be
        counted no longer. Refused it stays where it is; nova itself refuses here what breaks a group's policy."""
        verdict = self._ovc_guarded('late check', 'Guests arrive unchecked, as nova has it.', self._ovc_admit, instance,
                                    expires=self._ovc_patience() + (CONF.vif_plugging_timeout or 0))
        try:
            if verdict is not None and not verdict.ok:
                raise exception.MigrationPreCheckError(reason=verdict.reason)
            return super().pre_live_migration(context, instance, *args, **kwargs)  # type: ignore[misc]
        except BaseException:
            self._ovc_ledger.landed(instance.uuid, 0.0)
            raise

    def rollback_live_migration_at_destination(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                                               **kwargs: typing.Any) -> None:
        try:
            super().rollback_live_migration_at_destination(context, instance, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._ovc_ledger.landed(instance.uuid, time.time())

    def _ovc_admit(self, instance: typing.Any, *, force: bool = False, expires: float = float('inf')) -> Verdict | None:
        controller = self._ovc
        if controller is None:
            return None
        settings = self._ovc_settings
        force = force or settings.host.dry_run
        request = Asking(instance, settings.shared).of()
        if CONF.libvirt.file_backed_memory > 0:  # no guest of this host can be touched, whatever it is made of
            request = dataclasses.replace(request, reservation=request.memory, overcommit=False)
        if controller.sensed is None:  # let in unjudged; whoever is judged by the first report shall know of it
            self._ovc_ledger.admit(request, lambda flying: Verdict(ok=True, reason=''), counted={}, listed_at=0.0,
                                   now=time.time(), expires=expires)
            return None
        verdict = self._ovc_judged(controller, request, expires, force)
        # By what is seen now, not a pass ago: a guest that was deleted in between has left room.
        if not verdict.ok and not force and controller.look_anew(f'guest {instance.uuid} is about to be refused'):
            verdict = self._ovc_judged(controller, request, expires, force)
        if not verdict.ok:
            LOG.info('guest %s %s by this host: %s', instance.uuid,
                     'would be refused' if force else 'refused', verdict.reason)
        return dataclasses.replace(verdict, ok=verdict.ok or force,
                                   reason=f'this host cannot take the guest: {verdict.reason}')

    def _ovc_judged(self, controller: Controller, request: Request, expires: float, force: bool) -> Verdict:
        now, seen = time.time(), controller.sensed
        assert seen is not None  # it is never taken back

        def judge(in_flight: InFlight) -> Verdict:
            return controller.admits(request, in_flight, now, seen.report)

        return self._ovc_ledger.admit(request, judge, counted=seen.counted, listed_at=seen.listed_at, now=now,
                                      expires=expires, force=force, sizes=seen.sizes)

    def finish_migration(self, context: typing.Any, migration: typing.Any, instance: typing.Any, *args: typing.Any,
                         **kwargs: typing.Any) -> None:
        # Its disks have come and its old host has let it go: refused now it would be left in error, so it is let in.
        with self._ovc_counted(instance):
            super().finish_migration(context, migration, instance, *args, **kwargs)  # type: ignore[misc]

    def finish_revert_migration(self, context: typing.Any, instance: typing.Any, *args: typing.Any,
                                **kwargs: typing.Any) -> None:
        # Nova has kept its place; no report has it, or not at this size, until its definition is back.
        with self._ovc_counted(instance):
            super().finish_revert_migration(context, instance, *args, **kwargs)  # type: ignore[misc]

    @contextlib.contextmanager
    def _ovc_counted(self, instance: typing.Any) -> typing.Iterator[None]:
        """A guest that cannot be refused is on its way, until what is done here ends and the guests were listed."""
        self._ovc_guarded('late check', 'Guests arrive uncounted until the next report.', self._ovc_admit, instance,
                          force=True)
        try:
            yield
        finally:
            self._ovc_ledger.landed(instance.uuid, time.time())
