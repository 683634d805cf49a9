# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc check`` on a compute host: memory, swap, guests, page sharing, and the root helper."""
from __future__ import annotations

import dataclasses
import pathlib
import queue
import shlex
import socket
import threading
import time
import typing

from oslo_config import cfg

from ovc_plugin import predictors, privileged, rules
from ovc_plugin.cli import check_state, findings
from ovc_plugin.cli.findings import ASK_LIBVIRT, Findings, error, ok, unknown, warning
from ovc_plugin.hypervisor.connection import Connection
from ovc_plugin.model import MIB, HostSnapshot
from ovc_plugin.sense.derive import derive
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.settings import ALL_TENANTS, Settings

PATIENCE = 20.0
T = typing.TypeVar('T')


def look(conf: cfg.ConfigOpts, settings: Settings, uri: str, service_user: str) -> Findings:
    """Everything that can be seen from this host; what cannot is said."""
    ours = conf.compute_driver == findings.DRIVER
    if ours:
        yield from doors(settings)
    boundary = settings.host.boundary
    if boundary != 'machine' and not (pathlib.Path(boundary) / 'memory.stat').exists():
        yield (error if ours else warning)(
            'boundary', f'{boundary} is no memory control group: each pass of the host controller fails',
            '[ovc_host] boundary = machine, or the directory of the group that holds the guests')
        settings = dataclasses.replace(settings, host=dataclasses.replace(settings.host, boundary='machine'))
    try:
        snapshot = patiently(lambda: sense(conf, settings, uri))
    except Exception as problem:
        yield unknown('this host', f'could not be looked at ({_line(problem)})',
                      'run it on a compute host, as a user that may ask libvirt; [libvirt] connection_uri')
        return
    if silence(snapshot):
        yield error('hypervisor', f'{uri} does not answer', ASK_LIBVIRT)
        yield unknown('guests', 'not known: neither whether swap is enough for them nor whose pages are merged')
    else:
        yield ok('hypervisor', f'{uri} answers: {len(snapshot.running)} guests run')
        yield from sharing(snapshot, settings)
    if not silence(snapshot) or not snapshot.swap_total:
        yield from swap(snapshot)
    for note in snapshot.notes:
        if note != silence(snapshot):
            yield warning('sensors', note, '')
    if ours:
        yield from helper(conf)
        yield from check_state.writable(pathlib.Path(settings.host.state_path), service_user)
    yield from check_state.left_behind(conf, settings, snapshot, ours, silence(snapshot))


def doors(settings: Settings) -> Findings:
    """What a package brings and the settings name."""
    try:
        rules.load(settings.host.rules)
    except rules.UnknownRule as problem:
        yield error('rules', f'{problem}: the host controller does not start', 'correct [ovc_host] rules')
    if settings.host.predictor != 'none':
        try:
            predictors.load(settings.host.predictor)
        except predictors.UnknownPredictor as problem:
            yield error('predictor', f'{problem}: no peak is predicted', 'correct [ovc_host] predictor')


def silence(snapshot: HostSnapshot) -> str | None:
    """In the sensor's words, that the hypervisor did not answer: which guests there are is then not known."""
    return next((note for note in snapshot.notes if 'hypervisor did not answer' in note), None)


def sense(conf: cfg.ConfigOpts, settings: Settings, uri: str, connect: Connection | None = None) -> HostSnapshot:
    from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor
    sensor = Sensor(socket.gethostname(), LibvirtHypervisor(connect or Connection(uri)), settings.host.boundary,
                    run_path=settings.host.run_path)
    reserve = settings.host.reserve if settings.host.reserve >= 0 else conf.reserved_host_memory_mb * MIB
    return derive(None, sensor.sample(time.time()), {}, reserve, settings)


def patiently(call: typing.Callable[[], T], seconds: float = PATIENCE) -> T:
    """``call``'s result. What hangs is left to itself.

    :raises TimeoutError: it took longer.
    :raises Exception: whatever it raises.
    """
    done: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((call(), None))
        except Exception as problem:  # handed over to the thread that asked
            done.put((None, problem))
    threading.Thread(target=work, daemon=True).start()
    try:
        result, problem = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f'no answer within {seconds:g} s') from None
    if problem is not None:
        raise problem
    return typing.cast(T, result)


def swap(snapshot: HostSnapshot) -> Findings:
    """Promises 1 and 2: what guests are guaranteed is memory, and whatever they may touch exists somewhere."""
    touched, owed = sum(g.committed for g in snapshot.guests), sum(g.guaranteed for g in snapshot.guests)
    others = 0 if silence(snapshot) else snapshot.others  # else guests are among them
    memory = snapshot.total - max(snapshot.reserve, others)
    if memory <= 0:
        yield error('memory', f'{_mb(snapshot.total)}, of which the host keeps {_mb(snapshot.reserve)} for itself and '
                    f'{_mb(others)} is used by others than guests: nothing is left for guests',
                    'lower [DEFAULT] reserved_host_memory_mb (or [ovc_host] reserve_mb), or free that memory')
        return
    if owed > memory:
        yield error('guarantees', f'guests here are guaranteed {_mb(owed)} > {_mb(memory)} of memory; swap cannot make '
                    'up for that', f'move guests of {_mb(owed - memory)} away, or lower ovc:reservation of their '
                    'flavors ([ovc] default_reservation) and start them anew')
    backing = memory + snapshot.swap_usable
    of_others = f'; {_mb(snapshot.swap_others)} of swap is used by others than guests' if snapshot.swap_others else ''
    if others > snapshot.reserve:
        of_others += f'; {_mb(others - snapshot.reserve)} of memory beyond the reserve is used by others'
    if touched > backing:
        yield error('swap', f'guests here could touch {_mb(touched)} > {_mb(backing)} of memory and swap '
                    f'({_mb(memory)} + {_mb(snapshot.swap_usable)}{of_others})',
                    f'add {_mb(touched - backing)} of swap (mkswap, swapon, /etc/fstab), or move guests away')
    elif not snapshot.swap_total:
        yield warning('swap', 'none (zram counts as none): the host is not overcommitted at all',
                      f'add swap, for a ratio of 1.5 about {_mb(memory // 2)} (mkswap, swapon, /etc/fstab)')
    else:
        yield ok('swap', f'guests here could touch {_mb(touched)} <= {_mb(backing)} of memory and swap; swap carries a '
                 f'ratio of up to {backing / memory:.2f}{of_others}')


def sharing(snapshot: HostSnapshot, settings: Settings) -> Findings:
    if snapshot.ksm is None:
        return
    sharers = [guest for guest in snapshot.running if guest.can_share]
    domains = {guest.trust_domain for guest in sharers}
    if snapshot.ksm.run == 1 and len(domains) > 1 and settings.host.ksm != ALL_TENANTS:
        yield error('page sharing', f'pages of {len(sharers)} guests of {len(domains)} projects are being merged: that '
                    'leaks their presence across tenants',
                    'stop ksmtuned, echo 0 > /sys/kernel/mm/ksm/run, and set [ovc_host] ksm = auto; what is merged '
                    'stays so until it is written or the guests end: echo 2 parts it at once, and takes up to '
                    f'{_mb(snapshot.ksm.saved)} of free memory')
    elif snapshot.ksm.run == 1:
        yield ok('page sharing', f'runs; {_mb(snapshot.ksm.saved)} saved, {len(domains)} projects share')
    else:
        yield ok('page sharing', f'does not run ([ovc_host] ksm = {settings.host.ksm})')


def root_helper(conf: cfg.ConfigOpts) -> list[str]:
    """What nova-compute puts before a command to run it as root (nova/utils.py, get_root_helper)."""
    return shlex.split('sudo' if conf.workarounds.disable_rootwrap else f'sudo nova-rootwrap {conf.rootwrap_config}')


def helper(conf: cfg.ConfigOpts) -> Findings:
    """Root actions: the helper is started as nova-compute starts it, and asked for nothing."""
    try:
        privileged.prepare(cfg.CONF, root_helper(conf))
        patiently(lambda: privileged.merged_pages([]))
    except Exception as problem:
        yield error('root helper', f'does not start ({_line(problem)}): nothing can be swapped or merged',
                    f'run this check as the user of nova-compute; let that user run "{shlex.join(root_helper(conf))} '
                    'privsep-helper", or set [ovc_privileged] helper_command')
        return
    yield ok('root helper', 'starts and answers')


def _line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def _mb(amount: int) -> str:
    return f'{amount // MIB} MB'
