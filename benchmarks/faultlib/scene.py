# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One real libvirt host with three real guests, a controller over them, and the question what was lost."""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import tempfile
import time
import typing
from pathlib import Path

from guest import client
from libvirt_host import LibvirtHost
from onebox_cloud.demo.watch import kernel_kills

from benchmarks import backing
from ovc_plugin import assembly
from ovc_plugin.controller import Controller
from ovc_plugin.hypervisor.connection import Connection
from ovc_plugin.settings import HostSettings, Settings, SharedSettings

MB = 1 << 20
UNLIMITED = '9223372036854771712'
OWNED = ('<guest xmlns="https://ovc-plugin/xmlns/domain/1.0" trust-domain="faults" reservation="{}"/>')
# name, MB, MB guaranteed, what it does. The first gives by balloon, the second has no driver, the third owes nothing.
GUESTS = (('willing', 384, 96, 'ovc.touch=120'), ('stuck', 384, 96, 'ovc.balloon=off ovc.touch=250'),
          ('kept', 256, 256, 'ovc.touch=120'))
ENDLESS = 200.0  # a level_scale by which the host is always short, so that there is always something to do


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. ``kind`` says whether the fault was real or injected; ``lost`` is empty or it fails."""

    fault: str
    kind: str
    happened: str
    lost: tuple[str, ...]


class Log(logging.Handler):
    """What the controller said while this was attached."""

    def __init__(self) -> None:
        super().__init__(level=logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


class Scene:
    """Boots the guests and waits until they are filled."""

    def __init__(self, host: LibvirtHost, images: Path, say: typing.Callable[[str], None]) -> None:
        self.host, self.images, self.say = host, images, say
        self.domains: dict[str, typing.Any] = {}
        self.consoles: dict[str, client.Console] = {}
        self.owed = {name: owed * MB for name, _, owed, _ in GUESTS}
        self.most = {name: size * MB for name, size, _, _ in GUESTS}
        self.connect = Connection(host.uri)
        for name, size, owed, start in GUESTS:
            self.boot(name, size, start, f'{owed}')
        for name in self.domains:
            self.consoles[name].wait_event('touched', timeout=600)
        self.kills = kernel_kills()
        self.seen_oom = {name: len(console.events('oom')) for name, console in self.consoles.items()}

    def boot(self, name: str, size: int, start: str, reservation: str = '25%') -> None:
        import libvirt
        domain, console = self.host.boot(name, self.images, memory=size * MB, start=start)
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, OWNED.format(reservation), 'ovc',
                           'https://ovc-plugin/xmlns/domain/1.0',
                           libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        self.domains[name], self.consoles[name] = domain, console

    def domain(self, name: str) -> typing.Any:
        """As a live connection has it: libvirtd may have been restarted."""
        return self.connect().lookupByName(name)

    def settings(self, state: Path, **options: typing.Any) -> Settings:
        return Settings(shared=SharedSettings(default_overhead=64 * MB), host=HostSettings(**{
            'dry_run': False, 'boundary': str(self.host.group), 'tick': 1.0, 'dwell': 3.0, 'level_scale': ENDLESS,
            'run_path': str(self.host.root / 'run' / 'qemu'), 'state_path': str(state), 'ksm': 'leave',
            'stuck_after': 5.0} | options))

    @contextlib.contextmanager
    def controller(self, **options: typing.Any) -> typing.Iterator[tuple[Controller, Log]]:
        """A controller whose passes the caller runs, with a state of its own; stopped and undone afterwards."""
        with tempfile.TemporaryDirectory() as state:
            made = assembly.build(self.host.name, self.settings(Path(options.pop('state', state)), **options),
                                  self.connect, reserve=0)
            log, logger = Log(), logging.getLogger('ovc_plugin')
            logger.addHandler(log)
            logger.setLevel(logging.INFO)
            try:
                yield made, log
            finally:
                made.stop()
                logger.removeHandler(log)

    # -- looking -----------------------------------------------------------------------------------------------------
    def size(self, name: str) -> int:
        return self.domain(name).memoryStats()['actual'] * 1024

    def limits(self) -> dict[str, str]:
        """Limits that stand on guests' groups; {} when there are none."""
        found = {}
        for name, domain in self.domains.items():
            with contextlib.suppress(LookupError, OSError):
                path = self.host.guest_group(self.domain(name) if domain else domain) / 'memory.limit_in_bytes'
                if (text := path.read_text().strip()) != UNLIMITED:
                    found[name] = text
        return found

    def lost(self) -> list[str]:
        """What a fault has cost: guests, bytes in them, their guarantees, limits left lowered."""
        # First of all: whoever checks his data reads it back from swap.
        found = [what for name in self.domains for what in self._paged_out(name)]
        found += [f'limit {text} left on {name}' for name, text in self.limits().items()]
        if killed := kernel_kills() - self.kills:
            found.append(f'{killed} processes killed by the kernel')
        for name in self.domains:
            found += self._lost_of(name)
        return found

    def _paged_out(self, name: str) -> list[str]:
        domain = self.domain(name)
        if not domain.isActive():
            return []  # which is told as its death
        held, owed = backing.held(self.host.guest_group(domain), self.host.pid(domain)), self.owed[name]
        return [f'{name} has {held.resident // MB} MB in memory and {held.swapped // MB} MB in swap, guaranteed '
                f'{owed // MB}'] if held.below(owed) else []

    def _lost_of(self, name: str) -> list[str]:
        domain = self.domain(name)
        if not domain.isActive():
            return [f'{name} died']
        found = []
        if name != 'stuck' and (size := self.size(name)) < self.owed[name]:
            found.append(f'{name} has {size // MB} MB, guaranteed {self.owed[name] // MB}')
        try:
            if client.do(domain, 'verify', 600) != client.DONE:
                found.append(f'{name} lost data')
        except client.GuestError as error:
            found.append(f'{name} does not answer ({error})'[:120])
        if len(self.consoles[name].events('oom')) > self.seen_oom[name]:
            found.append(f'{name} ran out of memory inside')
        return found

    def reset(self) -> None:
        """Every guest at its full size, with its memory read back from swap."""
        for name in self.domains:
            self.domain(name).setMemoryFlags(self.most[name] // 1024, 1)
        until(lambda: all(self.size(n) == self.most[n] for n in self.domains if n != 'stuck'), 300, 'full sizes')
        for name in self.domains:
            client.do(self.domain(name), 'verify', 600)


def until(look: typing.Callable[[], typing.Any], seconds: float, what: str) -> typing.Any:
    """What ``look`` finds, as soon as it is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f'waited {seconds:g} s in vain for {what}')
        time.sleep(0.3)
    return found


class Libvirtd:
    """The host's libvirtd, to be killed and started anew in the namespaces it had."""

    def __init__(self, host: LibvirtHost) -> None:
        self._pidfile, self._group = host.root / 'run' / 'libvirtd.pid', host.group
        # Holds the namespaces while no libvirtd is there.
        self._holder = subprocess.Popen([*self._inside(self.pid), 'sleep', '600'], stdin=subprocess.DEVNULL)
        self._log = host.root / 'log' / 'restart.log'

    @property
    def pid(self) -> int:
        return int(self._pidfile.read_text())

    @staticmethod
    def _inside(pid: int) -> list[str]:
        return ['nsenter', '-t', str(pid), '--mount', '--uts', '--cgroup']

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            until(lambda: not Path(f'/proc/{self.pid}/exe').exists(), 5, 'libvirtd to end')

    def start(self) -> None:
        # In the host's memory group, as the first one was: whoever is in there is ended with the host.
        join = ['sh', '-c', f'echo $$ >{self._group}/cgroup.procs && exec "$@"', 'sh']
        with open(self._log, 'wb') as log:
            subprocess.Popen([*join, *self._inside(self._holder.pid), '/usr/sbin/libvirtd', '--pid-file',
                              '/run/libvirt/libvirtd.pid'], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                             start_new_session=True)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
