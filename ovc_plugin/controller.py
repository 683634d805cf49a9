# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The host loop: sense, derive, decide, act, report; every few seconds, and at once when memory falls short."""
from __future__ import annotations

import dataclasses
import logging
import threading
import time
import typing

from oslo_config import cfg

from ovc_plugin import describe, privileged, publish, record, report
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide import placement, pressure, replay, state
from ovc_plugin.model import MIB, HostSnapshot, InFlight, KsmState, Outcome, Plan, Request, SetBalloon, TuneKsm, Verdict
from ovc_plugin.samples import HostSample
from ovc_plugin.sense.derive import derive
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)
_LEAST_PAUSE = 1.0  # between two passes brought forward by the fast look
_FALL = 8 * MIB


class Controller:
    """Runs one host. Every pass stands alone: whatever fails is logged, shown in :meth:`status`, and tried again.

    ``reserve`` is in bytes. ``clock`` gives seconds since the epoch.
    """

    def __init__(self, *, host: str, settings: Settings, sensor: Sensor, actuator: Actuator, store: publish.Store,
                 reserve: int, tune_ksm: typing.Callable[[str, int], None],
                 clock: typing.Callable[[], float] = time.time, recorder: record.Recorder | None = None) -> None:
        self.host = host
        self.settings = settings
        self.report: report.HostReport | None = None
        self._sensor, self._actuator, self._store = sensor, actuator, store
        self._reserve, self._tune_ksm, self._clock = reserve, tune_ksm, clock
        self._recorder = recorder
        self._state = state.LadderState()
        self._earlier: HostSample | None = None
        self._snapshot: HostSnapshot | None = None
        self._ksm_before: KsmState | None = None
        self._told = Chronicle(host)
        self._tick: dict[str, typing.Any] = {'passes': 0, 'seconds': None, 'error': None, 'at': None}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Remember what was asked before a restart, then run in a thread of its own."""
        self.recall()
        self._thread = threading.Thread(target=self._run, name='ovc-controller', daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the loop and put page sharing back as it was found; guests keep their sizes."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)
        if self._recorder is not None:
            self._recorder.close()
        self._restore_ksm()

    def _restore_ksm(self) -> None:
        """Page sharing as it was found before the first change, in this run or one before it."""
        before = self._ksm_before
        if before is None:
            return
        try:
            self._tune_ksm('run', int(before.run == 1))  # 2 would unmerge at once, which may need memory there is not
            if before.smart_scan is not None:
                self._tune_ksm('smart_scan', before.smart_scan)
            if not before.advisor:
                self._tune_ksm('pages_to_scan', before.pages_to_scan)
        except Exception as error:
            LOG.warning('%s: page sharing could not be put back to run=%s: %s', self.host, before.run, error)
            return
        self._ksm_before = None
        self._save()

    def recall(self) -> None:
        """Read back the targets and the level of the run before, so that nothing is asked twice."""
        try:
            saved = self._store.load()
            if saved:
                self._state = state.from_dict(saved['ladder'])
                before = saved.get('ksm_before')
                self._ksm_before = KsmState(**before) if before else None
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            LOG.warning('%s: %s could not be read (%s); the host is sensed afresh', self.host, self._store.path, error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.run_pass()
            except Exception as error:  # the loop must outlive anything
                text = f'{type(error).__name__}: {error}'
                (LOG.debug if text == self._tick['error'] else LOG.exception)(
                    '%s: this pass failed and is tried again every %s s', self.host, self.settings.host.tick)
                self._tick['error'] = text
            self._wait()

    def run_pass(self) -> tuple[Plan, list[Outcome]]:
        """One pass.

        :raises OSError: the host's memory cannot be read.
        """
        now, began = self._clock(), time.monotonic()
        sample = self._sensor.sample(now)
        if sample.guests is None and (self._earlier is None or self._earlier.guests is None):
            # Nothing is known of the guests: a report would promise away what they hold.
            return self._not_yet(sample.notes)
        snapshot = derive(self._earlier, sample, self._state.targets(), self._reserve, self.settings)
        plan, after = ladder.decide_host(snapshot, self._state, self.settings.host, now)
        # Before acting, which may take seconds: schedulers shall know of a shortage at once.
        self.report = report.of(
            snapshot, plan, reclaimable=ladder.reclaimable(snapshot, self.settings.host),
            swap_usable=snapshot.swap_total, backed=self.settings.host.require_swap_backing,
            dry_run=self.settings.host.dry_run, earlier=self.report)
        outcomes = self._actuator.apply(plan, dry_run=self.settings.host.dry_run)
        untold = {o.action.guest for o in outcomes if isinstance(o.action, SetBalloon) and not o.done}
        before = self._state
        self._state = state.without(after, untold)
        self._earlier = sample if sample.guests is not None else dataclasses.replace(
            sample, guests=self._earlier.guests if self._earlier else None)
        self._snapshot = snapshot
        self._told.tell(plan, before.level, outcomes, snapshot, now)
        if self._ksm_before is None and any(o.done and isinstance(o.action, TuneKsm) for o in outcomes):
            self._ksm_before = snapshot.ksm
        self._save()
        if self._recorder is not None:
            done = replay.Pass(at=now, state=before, snapshot=snapshot, plan=plan, outcomes=tuple(outcomes))
            self._told.unwritten('record', self._recorder.add(done, self.settings))
        self._tick = {'passes': self._tick['passes'] + 1, 'seconds': time.monotonic() - began, 'error': None, 'at': now}
        return plan, outcomes

    def _not_yet(self, notes: tuple[str, ...]) -> tuple[Plan, list[Outcome]]:
        self._told.note(notes)
        self._tick['error'] = why = 'the hypervisor has not answered yet; the host sends no report until it does'
        return Plan(level=self._state.level, actions=(), reason=why), []

    def _save(self) -> None:
        before = dataclasses.asdict(self._ksm_before) if self._ksm_before else None
        try:
            self._store.save({'ladder': state.to_dict(self._state), 'ksm_before': before})
            self._told.unwritten('state', None)
        except OSError as error:
            self._told.unwritten('state', f'{self._store.path} cannot be written ({error}): after a restart targets '
                                 'are asked anew; make [ovc_host] state_path a directory that this service may write')

    def _wait(self) -> None:
        """Until the next tick, or until a fast look sees memory fall below where SOFT begins."""
        options, began = self.settings.host, time.monotonic()
        deadline = began + options.tick
        while (left := deadline - time.monotonic()) > 0:
            if self._stopping.wait(min(left, options.fast_look or left)):
                return
            if options.fast_look and time.monotonic() - began >= _LEAST_PAUSE and self._falling():
                return

    def _falling(self) -> bool:
        snapshot = self._snapshot
        if snapshot is None:
            return False
        try:
            available = self._sensor.memory().available
        except (OSError, KeyError, ValueError):
            return False  # the next pass will say what is wrong
        return (available < pressure.enter_soft(snapshot.total, self.settings.host)
                and available < snapshot.available - _FALL)

    def admits(self, request: Request, in_flight: InFlight, now: float) -> Verdict:
        """The last word before a guest is started here, by the last report."""
        if self.report is None:
            return Verdict(ok=False, reason='the host controller has not finished its first pass')
        # The host's own word on swap backing counts here, not what its file says to schedulers.
        scheduler = dataclasses.replace(
            self.settings.scheduler, require_swap_backing=self.settings.host.require_swap_backing)
        return placement.fits(self.report, request, in_flight, scheduler, self.settings.shared, now)

    def _next_guest(self, now: float) -> dict[str, typing.Any] | None:
        """What a scheduler would be told of one more guest like the largest that is here."""
        if self.report is None or self._snapshot is None or not self._snapshot.guests:
            return None
        like = max(self._snapshot.guests, key=lambda g: g.maximum)
        verdict = self.admits(Request(memory=like.maximum, reservation=like.reservation), InFlight(), now)
        return {'memory': like.maximum, 'reservation': like.reservation, 'ok': verdict.ok, 'reason': verdict.reason}

    def status(self) -> dict[str, typing.Any]:
        """Everything an operator may ask, as JSON-able data in bytes and seconds."""
        snapshot, tick, now = self._snapshot, dict(self._tick), self._clock()
        tick['age'] = now - tick['at'] if tick['at'] is not None else None
        return {
            'report': report.to_dict(self.report) if self.report else None, 'tick': tick,
            'dry_run': self.settings.host.dry_run, 'next_guest': self._next_guest(now),
            'guests': [describe.guest_fields(g, self._told.guest_actions.get(g.uuid)) for g in snapshot.guests]
            if snapshot else [],
            'ksm': describe.ksm_fields(snapshot) if snapshot else None, **self._told.fields()}


def build(host: str, settings: Settings, connect: typing.Callable[[], typing.Any], reserve: int) -> Controller:
    """A controller over libvirt. ``connect`` returns a live connection, ``reserve`` is in bytes.

    :raises ImportError: libvirt-python is not installed.
    """
    from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor
    options = settings.host
    hypervisor = LibvirtHypervisor(connect)
    sensor = Sensor(host, hypervisor, options.boundary, run_path=options.run_path,
                    ksm_helper=privileged.merged_pages)
    if not options.require_swap_backing:
        LOG.warning('%s: require_swap_backing is off: guests may be promised more than memory and swap can hold, and '
                    'the kernel may then kill them', host)
    # In a dry run too, if there can be any: they are an earlier run's, and would outlive it.
    if not options.dry_run or privileged.LEASES.exists():
        _lift_leftovers(host)
    return Controller(
        host=host, settings=settings, sensor=sensor, actuator=Actuator(hypervisor, sensor.group_of),
        store=publish.Store(options.state_path, host), reserve=reserve, tune_ksm=privileged.set_ksm,
        recorder=record.of(options.state_path, options.record_path, host, options.record_size))


def _lift_leftovers(host: str) -> None:
    """Undo what a killed process left; where root actions do not work, say so once, before the first shortage."""
    privileged.prepare(cfg.CONF)
    try:
        for group in privileged.lift_leftovers():
            LOG.warning('%s: a limit left behind by an earlier run was lifted from %s', host, group)
    except Exception as error:
        LOG.error('%s: actions that need root will fail, because the helper does not start (%s): set '
                  '[ovc_privileged] helper_command, for example "sudo privsep-helper", and allow it in sudoers',
                  host, error)
