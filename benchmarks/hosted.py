# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A modelled host under the real controller: real files below a directory, and a libvirt whose guests are the model's.

Everything between the files and the actions is the product: sensor, watch, derivation, rules, actuator, prediction,
decision log and state file. Only three calls lead into the model: libvirt's, and the root helper's two.
"""
from __future__ import annotations

import dataclasses
import time
import typing
from pathlib import Path

from ovc_plugin import predictors, privileged, publish, record, watch
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.controller import Controller
from ovc_plugin.decide import pressure
from ovc_plugin.foresight import Foresight
from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor
from ovc_plugin.model import MIB, Level, Outcome, Plan, ReclaimGuest
from ovc_plugin.samples import Recent
from ovc_plugin.sense.glance import Glance
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.settings import HostSettings, Settings
from ovc_plugin.simulate.guest import PAGE, Guest
from ovc_plugin.simulate.habit import Habit
from ovc_plugin.simulate.kernel import Machine, Order
from ovc_plugin.simulate.policy import Reading
from ovc_plugin.simulate.world import START, World

# What a control group of version 2 tells in memory.stat on Linux 6.1, so that a reading costs what it costs there.
STAT = '''
    anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem zswap zswapped file_mapped
    file_dirty file_writeback swapcached anon_thp file_thp shmem_thp inactive_anon active_anon inactive_file
    active_file unevictable slab_reclaimable slab_unreclaimable slab workingset_refault_anon workingset_refault_file
    workingset_activate_anon workingset_activate_file workingset_restore_anon workingset_restore_file
    workingset_nodereclaim pgscan pgsteal pgscan_kswapd pgscan_direct pgsteal_kswapd pgsteal_direct pgfault
    pgmajfault pgrefill pgactivate pgdeactivate pglazyfree pglazyfreed zswpin zswpout thp_fault_alloc
    thp_collapse_alloc'''
PSI = 'some avg10={0:.2f} avg60=0.00 avg300=0.00 total={1}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n'
XML = '''<domain type="kvm"><name>{name}</name><uuid>{uuid}</uuid>
<metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>{name}</nova:name>
<nova:flavor name="m"><nova:memory>{mb}</nova:memory><nova:extraSpecs>{specs}</nova:extraSpecs></nova:flavor>
<nova:owner><nova:user uuid="u">u</nova:user><nova:project uuid="{project}">p</nova:project></nova:owner>
</nova:instance></metadata><memory unit="KiB">{kib}</memory>{backing}
<devices><disk type="file"/><interface type="bridge"/><memballoon model="{balloon}"><stats period="10"/></memballoon>
</devices></domain>'''


class Domain:
    """One guest as libvirt's Python binding shows it."""

    def __init__(self, guest: Guest, number: int) -> None:
        self.guest, self.number = guest, number
        self._faults, self._told = 0, -1e9

    def UUIDString(self) -> str:  # noqa: N802
        return self.guest.uuid

    def ID(self) -> int:  # noqa: N802
        return self.number

    def name(self) -> str:
        return self.guest.habit.name

    def jobInfo(self) -> list[int]:  # noqa: N802
        return [0]

    def XMLDesc(self, flags: int) -> str:  # noqa: N802
        habit = self.guest.habit
        specs = {'reservation': str(habit.reservation // MIB), 'weight': str(habit.weight)}
        if habit.untouchable and not habit.locked:
            specs['overcommit'] = 'no'
        told = habit.locked and habit.untouchable  # nothing tells of others that they cannot be swapped
        backing = ('<locked/>' if told else '') + ('' if habit.alike else '<nosharepages/>')
        return XML.format(
            name=habit.name, uuid=self.guest.uuid, mb=habit.maximum // MIB, kib=habit.maximum // 1024,
            project=habit.trust_domain, balloon='virtio' if habit.has_balloon else 'none',
            backing=f'<memoryBacking>{backing}</memoryBacking>' if backing else '',
            specs=''.join(f'<nova:extraSpec name="ovc:{n}">{v}</nova:extraSpec>' for n, v in specs.items()))

    def setMemoryFlags(self, kib: int, flags: int) -> None:  # noqa: N802
        if not self.guest.habit.reachable:
            raise ConnectionError('the guest does not answer')
        self.guest.target = kib * 1024

    def stats(self, when: float) -> dict[str, int]:
        guest = self.guest
        told = {'state.state': 1, 'state.reason': 1, 'balloon.current': guest.size // 1024,
                'balloon.maximum': guest.habit.maximum // 1024, 'balloon.rss': guest.resident // 1024}
        if guest.babbles(when):
            return told | {'balloon.current': 3 * guest.habit.maximum // 1024, 'balloon.usable': 1 << 50}
        if guest.told_usable is None or guest.told_unused is None:
            return told
        if guest.told_at > self._told:
            self._faults += int((guest.told_faults or 0) * guest.habit.stats_period)
            self._told = guest.told_at
        return told | {
            'balloon.usable': guest.told_usable // 1024, 'balloon.unused': guest.told_unused // 1024,
            'balloon.available': guest.size // 1024, 'balloon.last-update': int(START + guest.told_at),
            'balloon.swap_in': 0, 'balloon.swap_out': 0, 'balloon.major_fault': self._faults,
            'balloon.minor_fault': 1000, 'balloon.disk_caches': guest.cache // 1024,
            'balloon.hugetlb_pgalloc': 0, 'balloon.hugetlb_pgfail': 0}


class Connection:
    """A live connection to the model's guests; ``down``: it fails."""

    def __init__(self, host: Hosted) -> None:
        self.host, self.down = host, False

    def getAllDomainStats(self, kinds: int, flags: int) -> list[tuple[Domain, dict[str, int]]]:  # noqa: N802
        if self.down:
            raise ConnectionError('libvirt is restarting')
        return [(domain, domain.stats(self.host.time)) for domain in self.host.domains()]

    def lookupByUUIDString(self, uuid: str) -> Domain:  # noqa: N802
        return next(domain for domain in self.host.domains() if domain.UUIDString() == uuid)


class Watched(Actuator):
    """The product's actuator; ``seen`` is told of each plan before it is carried out."""

    seen: typing.Callable[[Plan], None] | None = None

    def apply(self, plan: Plan, *, dry_run: bool) -> typing.Any:
        if self.seen:
            self.seen(plan)
        return super().apply(plan, dry_run=dry_run)


class Hosted(World):
    """A world whose passes are those of a real controller; ``cpu`` holds what each cost, in seconds.

    The files are written before a pass, and that is not counted. ``root`` is a directory of its own.
    """

    name, samples = 'ovc', False

    def __init__(self, machine: Machine, habits: typing.Iterable[Habit], options: HostSettings, root: Path,
                 **hooks: typing.Any) -> None:
        super().__init__(machine, habits, self, **hooks)
        self.options = dataclasses.replace(options, dry_run=False, reserve=machine.reserve,
                                           state_path=str(root / 'lib'), run_path=str(root / 'run'))
        self.tick, self.cpu = options.tick, []
        self.files = Files(root, self)
        self._domains: dict[str, Domain] = {}
        self.connection = Connection(self)
        privileged.reclaim, privileged.set_ksm = self._swap, self._tune
        self.controller = self._controller(root)

    def _controller(self, root: Path) -> Controller:
        def clock() -> float:
            return self.now

        hypervisor = LibvirtHypervisor(lambda: self.connection, clock)
        sensor = Sensor('modelled', hypervisor, run_path=self.options.run_path, proc_root=str(root / 'proc'),
                        ksm_root=str(root / 'ksm'), steady=clock)
        self.glance = Glance(None, sensor.memory, sensor.proc, sensor.pressure, clock)
        self.watching = watch.Watch(self.glance.look, means='files', clock=clock)
        self.actuator = Watched(hypervisor, sensor.group_of, patience=100.0, clock=clock)
        self.actuator.seen = self._before_acting
        foresight = Foresight(self.options.predictor, predictors.load(self.options.predictor),
                              publish.Store(self.options.state_path, 'modelled.peaks'))
        return Controller(
            host='modelled', settings=Settings(host=self.options), sensor=sensor, actuator=self.actuator,
            store=publish.Store(self.options.state_path, 'modelled'), reserve=self.machine.reserve,
            tune_ksm=self._tune, clock=clock, foresight=foresight, watch=self.watching,
            recorder=record.of(self.options.state_path, self.options.record_path, 'modelled',
                               self.options.record_size))

    def domains(self) -> list[Domain]:
        for guest in self.guests:
            if guest.alive and guest.uuid not in self._domains:
                self._domains[guest.uuid] = Domain(guest, len(self._domains) + 1)
        return [self._domains[g.uuid] for g in self.guests if g.alive]

    def run_pass(self) -> None:
        self.files.write()
        began = time.process_time()
        _, outcomes = self.controller.run_pass()
        self.cpu.append(time.process_time() - began)
        self.outcomes = [(self.time, o) for o in outcomes if isinstance(o.action, ReclaimGuest)]
        self.measures.passes += 1
        self._passed, self._due = self.time, self.time + self.tick

    def _before_acting(self, plan: Plan) -> None:
        self.kernel.orders.clear()
        if self.watch:
            self.watch(self, self.read(), plan)

    def wakes(self, recent: Recent, total: int, since: float) -> bool:
        snapshot, level = self.controller._snapshot, self.controller._state.level
        return pressure.urgent(recent, snapshot, level, since, self.options) is not None

    def decide(self, reading: Reading, now: float) -> Plan:
        return Plan(level=Level.CLEAR, actions=(), reason='the controller decides')

    def failed(self, guests: typing.Collection[str]) -> None:
        """The controller knows."""

    def settled(self, outcomes: typing.Sequence[Outcome], now: float) -> None:
        """The controller knows this, too."""

    def _swap(self, wanted: list[tuple[str, int, int]], seconds: float, brake: bool) -> list[tuple[int, str | None]]:
        """The root helper's part: the modelled kernel is told, and moves as fast as its device is."""
        by_group, moved = {self.files.group(d): d.guest for d in self.domains()}, []
        for group, amount, floor in wanted:
            guest = by_group[Path(group)]
            self.kernel.orders.append(Order(guest, amount, floor))
            moved.append((max(0, min(amount, guest.resident - floor, self.kernel.movable(guest))), None))
        return moved

    def _tune(self, name: str, value: int) -> None:
        self.files.ksm[name] = value
        self.kernel.ksm_run, self.kernel.ksm_pages = self.files.ksm['run'], self.files.ksm['pages_to_scan']


class Files:
    """What the kernel shows of the model: ``/proc``, ``/sys/kernel/mm/ksm``, a control group of version 2 for each
    guest, and libvirt's process id files. The machine's own files are the form: reading them costs what it costs."""

    def __init__(self, root: Path, host: Hosted) -> None:
        self.root, self.host = root, host
        self.ksm = {'run': 0, 'pages_to_scan': 100, 'pages_sharing': 0, 'pages_shared': 0, 'pages_unshared': 0,
                    'sleep_millisecs': 20, 'full_scans': 1, 'merge_across_nodes': 1, 'use_zero_pages': 0}
        for name in ('proc/self', 'proc/pressure', 'ksm', 'run', 'lib', 'cgroup/machine.slice'):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._forms = {name: Path('/proc', name).read_text().splitlines() for name in ('meminfo', 'vmstat')}
        self._put('proc/self/mountinfo', f'30 23 0:26 / {root}/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n')
        self._put('proc/swaps', 'Filename\tType\tSize\tUsed\tPriority\n')
        self._put('proc/uptime', '1000000.00 1000000.00\n')
        self._known: set[str] = set()
        self._stat = STAT.split()
        self._stalled = 0.0
        self.write()

    def _put(self, name: str | Path, text: str) -> None:
        (self.root / name).write_text(text)

    def group(self, domain: Domain) -> Path:
        return self.root / 'cgroup/machine.slice' / f'machine-qemu\\x2d{domain.number}\\x2d{domain.name()}.scope'

    def write(self) -> None:
        kernel, machine = self.host.kernel, self.host.machine
        self._table('meminfo', ': {} kB', {
            'MemTotal': machine.total // 1024, 'MemAvailable': max(0, kernel.available) // 1024,
            'SwapTotal': machine.swap // 1024, 'SwapFree': kernel.swap_free // 1024})
        self._table('vmstat', ' {}', {'pswpin': kernel.swap_ins // PAGE, 'pswpout': kernel.swap_outs // PAGE})
        self._stalled += kernel.waiting * 1e6
        self._put('proc/pressure/memory', PSI.format(100 * kernel.stall, int(self._stalled)))
        saved = sum(g.merged for g in self.host.guests)
        for name, value in (self.ksm | {'pages_sharing': saved // PAGE, 'pages_shared': saved // PAGE // 4}).items():
            self._put(f'ksm/{name}', f'{value}\n')
        for domain in self.host.domains() if hasattr(self.host, '_domains') else ():
            self._guest(domain)

    def _table(self, name: str, form: str, values: dict[str, int]) -> None:
        """The machine's own file with these values in it, and what it lacks at the end."""
        lines = [line for line in self._forms[name] if line.replace(':', ' ').split()[0] not in values]
        self._put(f'proc/{name}', '\n'.join(lines + [key + form.format(value) for key, value in values.items()]) + '\n')

    def _guest(self, domain: Domain) -> None:
        guest, group = domain.guest, self.group(domain)
        if guest.uuid not in self._known:
            self._known.add(guest.uuid)
            group.mkdir(parents=True)
            pid = 1000 + domain.number
            self._put(f'run/{domain.name()}.pid', f'{pid}\n')
            (self.root / 'proc' / str(pid)).mkdir()
            self._put(f'proc/{pid}/cgroup', f'0::/machine.slice/{group.name}/libvirt/emulator\n')
            self._put(f'proc/{pid}/stat', f'{pid} (qemu) S ' + ' '.join(['1'] * 49) + '\n')
            for name in ('memory.max', 'memory.high', 'memory.swap.max', 'memory.reclaim'):
                self._put(group / name, 'max\n')
            if guest.habit.limited:
                self._put(group / 'memory.swap.max', f'{guest.habit.swap_limit}\n')
        pid = 1000 + domain.number
        self._put(f'proc/{pid}/ksm_stat', f'ksm_rmap_items 1000\nksm_zero_pages 0\nksm_merging_pages '
                                          f'{guest.merged // PAGE}\nksm_process_profit 0\n')
        used = {'anon': guest.resident, 'inactive_anon': guest.resident // 2, 'active_anon': guest.resident // 2,
                'workingset_refault_anon': guest.refaulted // PAGE}
        self._put(group / 'memory.current', f'{guest.resident}\n')
        self._put(group / 'memory.swap.current', f'{guest.swapped}\n')
        self._put(group / 'memory.stat', ''.join(f'{name} {used.get(name, 0)}\n' for name in self._stat))
        self._put(group / 'memory.pressure', PSI.format(100 * guest.waited, int(guest.stalled * 1e6)))
