# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One pass over all sources. Each source fails alone, and its failure becomes a note instead of an exception."""
from __future__ import annotations

import dataclasses
import pathlib
import time
import typing

from ovc_plugin.hypervisor.protocol import Hypervisor
from ovc_plugin.samples import GroupSample, GuestFacts, GuestSample, HostSample, MemorySample
from ovc_plugin.sense import cgroup, ksm, pressed, proc, psi, published, sources, spoken, vmstat, zswap

_LATELY = 0.1  # seconds for which a reading of the boundary's memory serves a look too
_BOOTS = 120.0  # seconds in which a guest that has not spoken yet is taken to boot


def since_boot() -> float:
    """Seconds, those too in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sensor:
    """Reads a host. ``boundary`` is "machine" or the directory of the group that holds the guests."""

    def __init__(self, host: str, hypervisor: Hypervisor, boundary: str = 'machine', *,
                 run_path: str = '/run/libvirt/qemu', proc_root: str = '/proc',
                 ksm_root: str = '/sys/kernel/mm/ksm', ksm_helper: ksm.Helper | None = None,
                 publications: published.Published | None = None, pressures: pressed.Pressed | None = None,
                 steady: typing.Callable[[], float] = since_boot) -> None:
        self._host, self._steady = host, steady
        self._hypervisor = hypervisor
        self.boundary = None if boundary == 'machine' else pathlib.Path(boundary)
        self._run_path = pathlib.Path(run_path)
        self.proc = pathlib.Path(proc_root)
        self._ksm = ksm.Source(pathlib.Path(ksm_root), self.proc, ksm_helper)
        self._spoken, self._publications, self._pressures = spoken.Spoken(), publications, pressures
        self.sources = sources.Sources()
        self._groups: dict[str, tuple[int, pathlib.Path | None]] = {}
        self.last_memory: MemorySample | None = None
        self._memory_at = 0.0

    def sample(self, now: float) -> HostSample:
        """Read everything once.

        :raises OSError: not even the host's memory can be read; nothing can be decided then.
        """
        notes: list[str] = []
        files, steady = (OSError, ValueError), self._steady()
        told = self.sources.attempt(
            'guests', self._hypervisor.guests, Exception,
            'hypervisor did not answer; its guests are held as they are until it does', notes)
        broken: list[Exception] = []
        grouped = self.sources.read('groups', lambda: self._grouped(told, notes, broken))
        self.sources.failed('groups', broken)
        sharing = self.sources.attempt('sharing', self._ksm.read, files,
                                       'page sharing cannot be read: this kernel has no KSM', notes)
        guests = self.sources.read('merged', lambda: self._ksm.divide(sharing, grouped, self._pid, now, notes))
        memory = self.sources.read('memory', self.memory)
        stall = self.sources.attempt('stall', lambda: psi.stall(self.pressure.read_text()), files,
                                     'no pressure stall information: boot with psi=1, or use a cgroup v2 boundary',
                                     notes)
        refaults = self.sources.attempt('refaults', self._refaults, files, 'refaults cannot be read', notes)
        held = self.sources.attempt('zswap', lambda: zswap.held(self.proc), files,
                                    'compressed swap cannot be read', notes)
        return HostSample(
            host=self._host, taken_at=now, steady=steady, memory=memory, stall=stall, ksm=sharing,
            guests=self._spoken.tell(self._asked(guests)), refault_pages=refaults, zswap=held,
            durations=self.sources.durations(), notes=tuple(notes))

    def memory(self) -> MemorySample:
        """The boundary's memory alone: the cheap look between two passes.

        :raises OSError: it cannot be read.
        """
        machine = proc.memory(self.proc)
        self.last_memory = machine if self.boundary is None else cgroup.boundary(self.boundary, machine)
        self._memory_at = time.monotonic()
        return self.last_memory

    def just_read(self) -> MemorySample | None:
        """The last reading of :meth:`memory`, if it was made just now."""
        return self.last_memory if time.monotonic() - self._memory_at < _LATELY else None

    def group_of(self, uuid: str) -> pathlib.Path | None:
        """The directory of a guest's memory group, once it has been seen."""
        found = self._groups.get(uuid)
        return found[1] if found else None

    @property
    def pressure(self) -> pathlib.Path:
        """The file in which the kernel tells how long tasks waited for the boundary's memory."""
        return self.boundary / 'memory.pressure' if self.boundary else self.proc / 'pressure' / 'memory'

    def _refaults(self) -> int | None:
        return cgroup.refaults(self.boundary) if self.boundary else vmstat.refaults(self.proc)

    def _grouped(self, guests: list[GuestFacts] | None, notes: list[str],
                 broken: list[Exception]) -> tuple[GuestSample, ...] | None:
        if guests is None:
            return None
        for uuid in self._groups.keys() - {g.uuid for g in guests if g.running}:
            del self._groups[uuid]
        found = tuple(GuestSample(facts=self._booting(g), group=self._group(g, notes, broken) if g.running else None)
                      for g in guests)
        groups = [g.group for g in found if g.group is not None]
        if any(group.refaults_guessed for group in groups):
            notes.append('this kernel does not count what single guests read back from swap '
                         '(workingset_refault_anon); major faults of their processes are taken for it')
        elif any(group.refault_pages is None for group in groups):
            notes.append('this kernel counts neither what single guests read back from swap nor their major faults; '
                         'swapping does not back off from a guest that reads back')
        return found

    def _asked(self, guests: tuple[GuestSample, ...] | None) -> tuple[GuestSample, ...] | None:
        """With what guests have answered that were asked aside."""
        if guests is None:
            return None
        running = [g.facts.uuid for g in guests if g.facts.running]
        if self._publications is not None:
            told = self._publications.follow(running)
            guests = tuple(dataclasses.replace(g, published=word.amount, published_age=word.age)
                           if (word := told.get(g.facts.uuid)) is not None else g for g in guests)
        if self._pressures is not None:
            counted = self._pressures.follow(running)
            guests = tuple(dataclasses.replace(g, counted=counted.get(g.facts.uuid)) for g in guests)
        return guests

    def _booting(self, guest: GuestFacts) -> GuestFacts:
        """Busy, where the guest has not said a word and its process is young: its driver may load any moment."""
        if not guest.running or guest.busy or guest.usable is not None or not guest.has_balloon:
            return guest
        try:
            young = proc.age(self.proc, self._pid(guest)) < _BOOTS
        except (OSError, ValueError):
            return guest
        return dataclasses.replace(guest, busy=young)

    def _group(self, guest: GuestFacts, notes: list[str], broken: list[Exception]) -> GroupSample | None:
        try:
            path = self._find_group(guest)
            if path is None:
                notes.append(f'guest {guest.name}: has no memory control group of its own and cannot be swapped alone; '
                             'let libvirt manage the memory controller (cgroup_controllers in qemu.conf)')
                return None
            return cgroup.group(path)
        except (OSError, ValueError) as error:
            self._groups.pop(guest.uuid, None)
            broken.append(error)
            notes.append(f'guest {guest.name}: its control group cannot be read this time ({error})')
            return None

    def _find_group(self, guest: GuestFacts) -> pathlib.Path | None:
        pid = self._pid(guest)
        cached = self._groups.get(guest.uuid)
        if cached and cached[0] == pid and cached[1] is not None:
            return cached[1]
        path = cgroup.of_process(self.proc, pid)
        self._groups[guest.uuid] = (pid, path)
        return path

    def _pid(self, guest: GuestFacts) -> int:
        return int((self._run_path / f'{guest.name}.pid').read_text())
