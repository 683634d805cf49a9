# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""libvirt: all guests' facts in one call, and balloon targets. The only importer of libvirt-python."""
from __future__ import annotations

import collections
import importlib
import logging
import time
import typing

from ovc_plugin.hypervisor import definition, guest_file, monitor
from ovc_plugin.model import MIB
from ovc_plugin.samples import Counted, GuestFacts

LOG = logging.getLogger(__name__)
# Seconds for which a definition is believed: while libvirt tells of new devices, and where it does not.
DEFINITION_LIFE, DEAF_LIFE = 300.0, 30.0
# Seconds between two measurements, and for which one is told: longer, so that a guest that is measured anew in the pass
# after its first was asked for is known all the while.
DIRTY_LIFE, DIRTY_TOLD, DIRTY_SECONDS = 60.0, 120.0, 1
_AGENT_SECONDS = 2


class BusyGuest(RuntimeError):
    """A guest that cannot be asked for a size now."""


class LibvirtHypervisor:
    """``connect`` returns a live connection at each call; reconnecting is its business.

    Definitions are read once per start of a guest, when libvirt says that it was given a device, and every few minutes:
    a balloon statistics call for all guests is one round trip, a definition is one for each guest.
    """

    def __init__(self, connect: typing.Callable[[], typing.Any],
                 clock: typing.Callable[[], float] = time.monotonic) -> None:
        import libvirt
        self._libvirt = libvirt
        self._connect = connect
        self._clock = clock
        self._moving: set[str] = set()
        self._definitions: dict[str, tuple[tuple[int, int], float, definition.Definition]] = {}
        self._measured: dict[str, float] = {}
        self._heard: typing.Any = None  # the connection that was asked to tell of new devices
        self._life = DEAF_LIFE
        self._plugged: collections.Counter[str] = collections.Counter()  # how often each guest was given a device

    def guests(self) -> list[GuestFacts]:
        """All defined guests.

        A guest whose definition was never understood is taken by its statistics alone, at its full size and as
        untouchable.

        :raises libvirt.libvirtError: the hypervisor does not answer.
        :raises ValueError: nothing tells the size of such a guest; it must not count as nothing.
        """
        lv, connection = self._libvirt, self._connect()
        self._listen(connection)
        kinds = lv.VIR_DOMAIN_STATS_STATE | lv.VIR_DOMAIN_STATS_BALLOON
        self._measured = self._younger(DIRTY_TOLD)
        if self._measured:
            kinds |= lv.VIR_DOMAIN_STATS_DIRTYRATE
        nowait = getattr(lv, 'VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT', 0)
        found = connection.getAllDomainStats(kinds, nowait)
        facts = [f for domain, stats in found if (f := self._facts(domain, stats)) is not None]
        for uuid in self._definitions.keys() - {f.uuid for f in facts}:
            self._definitions.pop(uuid, None)  # a call that was given up may be at the same
            self._plugged.pop(uuid, None)
            self._moving.discard(uuid)
        return facts

    def _listen(self, connection: typing.Any) -> None:
        """Have libvirt tell of devices that guests are given: one that is passed through pins all memory at once.

        Devices that are taken away are not listened for: what was pinned is left alone a while longer.
        """
        if connection is self._heard:
            return
        self._heard, self._life = connection, DEAF_LIFE
        try:
            connection.domainEventRegisterAny(None, self._libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, self._given, None)
            self._life = DEFINITION_LIFE
        except Exception as error:  # libvirt or its driver has no such event; nobody may be there to deliver it
            LOG.debug('libvirt does not tell of new devices (%s); definitions are read more often', error)
        for uuid in list(self._definitions):  # who was given one meanwhile was not told of
            self._plugged[uuid] += 1

    def _given(self, _connection: typing.Any, domain: typing.Any, _device: str, _opaque: typing.Any) -> None:
        """Called in the thread of libvirt's events, which nova has outside of eventlet: it counts, and no more."""
        self._plugged[domain.UUIDString()] += 1

    def _younger(self, seconds: float) -> dict[str, float]:
        now = self._clock()
        return {uuid: at for uuid, at in self._measured.copy().items() if now - at < seconds}

    def set_balloon(self, uuid: str, target: int) -> None:
        """Ask a running guest for a size.

        :raises libvirt.libvirtError: the guest is gone or does not take it.
        :raises BusyGuest: it is being moved; libvirt would let the call wait for half a minute.
        """
        domain = self._connect().lookupByUUIDString(uuid)
        if domain.jobInfo()[0] != self._libvirt.VIR_DOMAIN_JOB_NONE:
            self._moving.add(uuid)
            raise BusyGuest('the guest is being moved or saved, and is asked for nothing until that has ended')
        domain.setMemoryFlags(target // 1024, self._libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def measure_dirty(self, uuids: typing.Collection[str]) -> None:
        """Have the dirty rates of some guests measured, at most once a minute; later :meth:`guests` tell them.

        A guest whose QEMU cannot (before 5.2) stays unmeasured.

        :raises AttributeError: this libvirt-python cannot ask for it (before 7.2).
        :raises libvirt.libvirtError: the hypervisor does not answer.
        """
        now, connection = self._clock(), self._connect()
        for uuid in set(uuids) - self._younger(DIRTY_LIFE).keys():
            self._measured[uuid] = now
            try:
                connection.lookupByUUIDString(uuid).startDirtyRateCalc(DIRTY_SECONDS)
            except self._libvirt.libvirtError as error:
                LOG.debug('dirty rate of guest %s is not measured: %s', uuid, error)

    def read_guest_file(self, uuid: str, path: str) -> str:
        """The text of a small file of a guest, through its guest agent; waits up to 2 s for it.

        :raises Exception: there is no agent, no such file, or it may not be read.
        """
        qemu = importlib.import_module('libvirt_qemu')
        domain = self._connect().lookupByUUIDString(uuid)
        return guest_file.read(lambda request: qemu.qemuAgentCommand(domain, request, _AGENT_SECONDS, 0), path)

    def read_pressures(self, uuid: str) -> Counted:
        """What a guest counts of its own pressure, through QEMU's monitor; libvirt marks the guest as tainted by that.

        :raises monitor.Untold: it counts nothing of this.
        :raises Exception: it does not answer.
        """
        qemu = importlib.import_module('libvirt_qemu')
        domain = self._connect().lookupByUUIDString(uuid)
        return monitor.counted(lambda request: qemu.qemuMonitorCommand(domain, request, 0))

    def _facts(self, domain: typing.Any, stats: dict[str, typing.Any]) -> GuestFacts | None:
        uuid, number = domain.UUIDString(), domain.ID()
        try:
            known = self._definition(domain, uuid, number)
        except (self._libvirt.libvirtError, ValueError, KeyError) as error:
            if getattr(error, 'get_error_code', lambda: 0)() == self._libvirt.VIR_ERR_NO_DOMAIN:
                return None  # it ended between the two calls
            LOG.debug('definition of guest %s cannot be read this time: %s', uuid, error)
            known = self._definitions[uuid][2] if uuid in self._definitions else definition.unread(
                uuid, _kib(stats, 'balloon.maximum'), error)
        lv, state = self._libvirt, stats.get('state.state')
        specs = known.extra_specs
        running = number >= 0 and state not in (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_CRASHED)
        return GuestFacts(
            uuid=uuid, name=domain.name(), running=running, maximum=known.maximum,
            actual=_kib(stats, 'balloon.current') if running else None, usable=_kib(stats, 'balloon.usable'),
            unused=_kib(stats, 'balloon.unused'),
            rss=_kib(stats, 'balloon.rss'), last_update=stats.get('balloon.last-update') or None,
            has_balloon=known.has_balloon, gives_way=known.gives_way, mergeable=known.mergeable,
            untouchable=known.untouchable, managed=known.managed, project=known.project,
            reservation=specs.get('ovc:reservation'), title=known.title, image=known.image,
            weight=specs.get('ovc:weight'), overcommit=specs.get('ovc:overcommit'),
            busy=running and (state != lv.VIR_DOMAIN_RUNNING or self._moves(domain, uuid)), movable=known.movable,
            seen=_kib(stats, 'balloon.available'), swap_in=_kib(stats, 'balloon.swap_in'),
            major_faults=stats.get('balloon.major_fault'),
            complaint=known.complaint, dirty_rate=_dirty(stats, lv) if uuid in self._measured else None,
            huge=known.huge)

    def _moves(self, domain: typing.Any, uuid: str) -> bool:
        """Whether a guest that was found being moved still is; a call for each of those, and for no other."""
        if uuid not in self._moving:
            return False
        try:
            if domain.jobInfo()[0] != self._libvirt.VIR_DOMAIN_JOB_NONE:
                return True
        except self._libvirt.libvirtError:
            pass  # it is gone, or will be seen to move when it is next asked
        self._moving.discard(uuid)
        return False

    def _definition(self, domain: typing.Any, uuid: str, number: int) -> definition.Definition:
        now, version = self._clock(), (number, self._plugged[uuid])  # before it is read: a device may come meanwhile
        cached = self._definitions.get(uuid)
        if cached and cached[0] == version and now - cached[1] < self._life:
            return cached[2]
        known = definition.read(domain.XMLDesc(0))
        self._definitions[uuid] = (version, now, known)
        return known


def _dirty(stats: dict[str, typing.Any], lv: typing.Any) -> float | None:
    if stats.get('dirtyrate.calc_status') != lv.VIR_DOMAIN_DIRTYRATE_MEASURED:
        return None
    return float(stats['dirtyrate.megabytes_per_second'] * MIB)


def _kib(stats: dict[str, typing.Any], name: str) -> int | None:
    value = stats.get(name)
    return None if value is None else int(value) * 1024
