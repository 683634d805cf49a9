# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The host loop: sense, derive, decide, act, report; every few seconds, and at once when memory falls short."""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import typing

from ovc_plugin import arrivals, keeping, parting, publish, record, report
from ovc_plugin import watch as watching
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.act.migration import Departures
from ovc_plugin.answers import Answers, Sensed, sensed
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.contents import Sampler
from ovc_plugin.decide import evacuate, evaporation, pressure, replay, state, swap
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.rule import Rule
from ovc_plugin.decide.rules import BUILT_IN
from ovc_plugin.foresight import Foresight, in_memory
from ovc_plugin.model import HostSnapshot, Outcome, Plan, SetBalloon, TuneKsm
from ovc_plugin.samples import HostSample
from ovc_plugin.sense.derive import derive
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)


class Controller(Answers):
    """Runs one host. Every pass stands alone: whatever fails is logged, shown in :meth:`status`, and tried again.

    ``reserve`` is in bytes. ``clock`` gives seconds since the epoch.
    """

    def __init__(self, *, host: str, settings: Settings, sensor: Sensor, actuator: Actuator, store: publish.Store,
                 reserve: int, tune_ksm: typing.Callable[[str, int], None],
                 clock: typing.Callable[[], float] = time.time, recorder: record.Recorder | None = None,
                 rules: typing.Sequence[Rule] = BUILT_IN,
                 foresight: Foresight | None = None, departures: Departures | None = None,
                 watch: watching.Watch | None = None, sampler: Sampler | None = None) -> None:
        self.host = host
        self.settings = settings
        self.report: report.HostReport | None = None
        self.sensed: Sensed | None = None
        self._sensor, self._actuator = sensor, actuator
        self._reserve, self._tune_ksm, self._clock = reserve, tune_ksm, clock
        self._recorder, self._foresight, self._departures = recorder, foresight, departures
        self._rules = tuple(rules)
        self._state = state.LadderState()
        self._earlier: HostSample | None = None
        self._snapshot: HostSnapshot | None = None
        self._watch, self._sampler = watch or watching.plain(sensor), sampler or Sampler()
        self._arrivals, self._told = arrivals.Arrivals(), Chronicle(host)
        self._kept = keeping.Keeper(host, store, self._told)
        self._tick: dict[str, typing.Any] = {'passes': 0, 'seconds': None, 'error': None, 'at': None}
        self._claims = self._acts = False
        self._quiet: int | None = None
        self._stopping, self._turn = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._late: threading.Thread | None = None  # whose pass is not waited for any longer

    def start(self) -> None:
        """Remember what was asked before a restart, then run in a thread of its own."""
        self.claim()
        self.recall()
        self._thread = self._kept.started(threading.Thread(target=self._run, name='ovc-controller', daemon=True))

    @property
    def dry_run(self) -> bool:
        """Whether it acts on nothing: as it is told, or because another process acts on this host."""
        return self.settings.host.dry_run or not self._kept.alone

    def claim(self) -> bool:
        """Be the only one who controls this host; while another process does, it only looks."""
        self._claims = True
        return self._kept.claim(dry_run=self.settings.host.dry_run)

    def _claim_anew(self) -> None:
        """Another process may have come or gone, and a dry run may have ended."""
        before = self._kept.alone
        if self._claims and not self._kept.held and self.claim() and not before:
            self.recall()  # what the other one did until now

    def stop(self, timeout: float = 5.0) -> None:
        """End the loop, give guests what is free, and put page sharing back as it was found.

        A pass that outlasts ``timeout`` (seconds) hangs in one call: it begins no other, and keeps nothing of it.
        """
        self._stopping.set()
        self._watch.stir()
        hangs = self._actuator.bar(self._thread, timeout) if self._thread is not None else None
        with self._turn:
            self._late = self._thread
        if self._acts:
            self._give_back('this controller stops')
        if self._recorder is not None:
            self._recorder.close()
        if self._departures is not None:
            self._departures.stop()
        self._actuator.stop()
        self._kept.save(self._state, whole=True)
        if isinstance(hangs, TuneKsm):  # it may come last
            LOG.warning('%s: a change of page sharing hangs: the next start or "ovc release" puts it back', self.host)
        else:
            self._kept.restore_ksm(self._tune_ksm, self._state)
        self._kept.give_up()

    def _let_go(self) -> None:
        """A dry run has begun, here or after a run that was killed: nobody looks after the host from now on."""
        if acted := self._acts:
            LOG.warning('%s: this is a dry run from now on. As by a stop, guests are given what is free, once, and '
                        'page sharing is put back; then nothing is changed any more. What guests lack after that, '
                        '"ovc release" gives back', self.host)
            self._actuator.stop()
            self._give_back('a dry run begins')
            self._acts = self._stopping.is_set()  # a stop meanwhile gives back the rest
        if (before := self._kept.let_go(self._tune_ksm, self._state)) is not None:
            LOG.warning('%s: page sharing is put back to run=%d, as it was found%s', self.host, before.run, '' if acted
                        else ' by a run that was killed: a dry run does not watch whose pages meet. What guests gave '
                        'up stays as it is: "ovc release" gives it back')

    def _give_back(self, reason: str) -> None:
        """Nobody looks after the guests from now on: what is free is theirs, as far as it can be told in seconds."""
        asked = parting.hand_over(
            self.host, self._snapshot, self._sensor.memory, self.settings.host,
            Plan(level=self._state.level, actions=(), reason=reason), self._actuator, self._told, self._clock())
        self._state = state.without(self._state, asked)
        self._kept.save(self._state)

    def recall(self) -> None:
        """Read back the targets and the level of the run before, so that nothing is asked twice."""
        self._state = dataclasses.replace(self._kept.recall() or self._state, watching=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self.settings.host.dry_run:
                    self._let_go()
                elif self.settings.host.ksm == 'leave':
                    self._kept.leave_ksm(self._tune_ksm, self._state)
                self.run_pass()
                self._wait()
            except Exception as error:  # the loop must outlive anything
                text = f'{type(error).__name__}: {error}'
                (LOG.debug if text == self._tick['error'] else LOG.exception)(
                    '%s: this pass failed and is tried again every %s s', self.host, self.settings.host.tick)
                self._tick['error'] = text
                self._stopping.wait(self.settings.host.tick)

    def run_pass(self) -> tuple[Plan, list[Outcome]]:
        """One pass. :raises OSError: the host's memory cannot be read."""
        now, began = self._clock(), time.monotonic()
        self._claim_anew()
        sample = self._watch.complete(self._sensor.sample(now))
        if sample.guests is None and (self._earlier is None or self._earlier.guests is None):
            # Nothing is known of the guests: a report would promise away what they hold.
            return self._not_yet(sample.notes)
        snapshot = derive(self._earlier, sample, self._state.targets(), self._reserve, self.settings)
        if self._departures is not None:
            snapshot = self._departures.seen(snapshot, self._state.departing.guest, wanted=self.settings.host.migrate)
        snapshot = self._arrivals.seen(snapshot, now)
        plan, after = ladder.decide_host(snapshot, self._state, self.settings.host, now, self._rules)
        # Before acting, which may take seconds: schedulers shall know of a shortage at once.
        self.report = self._reported(snapshot, plan, after)
        self.sensed = sensed(self.report, snapshot.guests,
                             sample.taken_at if sample.guests is not None else self.listed_at)
        self.on_report(self.report)
        before, dry_run = self._state, self.dry_run
        self._acts = self._kept.alone and (self._acts or not dry_run)
        with self._turn:
            if not dry_run and threading.current_thread() is not self._late:
                self._kept.remember(plan, snapshot.ksm, before, after)
        outcomes = self._actuator.apply(plan, dry_run=dry_run)
        with self._turn:
            if threading.current_thread() is self._late:  # the host has been given up meanwhile, and may be another's
                return plan, outcomes
            self._settle(sample, snapshot, plan, after, outcomes, now)
        self._afterwards(replay.Pass(at=now, state=before, snapshot=snapshot, plan=plan, outcomes=tuple(outcomes)))
        self._tick = {'passes': self._tick['passes'] + 1, 'seconds': time.monotonic() - began, 'error': None, 'at': now}
        return plan, outcomes

    def _settle(self, sample: HostSample, snapshot: HostSnapshot, plan: Plan, after: state.LadderState,
                outcomes: list[Outcome], now: float) -> None:
        """Remember and tell what a pass has come to."""
        before = self._state.level
        untold = {o.action.guest for o in outcomes if isinstance(o.action, SetBalloon) and not o.done}
        after = swap.settle(state.without(after, untold), outcomes, self.settings.host, now)
        self._state = evacuate.settle(after, outcomes, self.settings.host, now)
        known = sample.guests is not None  # else it is judged by guests of a while ago
        self._earlier = sample if known else dataclasses.replace(
            sample, guests=self._earlier.guests if self._earlier else None)
        self._snapshot = snapshot
        self._quiet = pressure.quiet(snapshot, plan, self._state, self.settings.host) if known else None
        self._told.tell(plan, before, outcomes, snapshot, now)
        if self._thread is not None or not self.dry_run:  # a single look that changes nothing leaves nothing behind
            self._kept.save(self._state)

    def _afterwards(self, done: replay.Pass) -> None:
        """What can wait until everything has been done."""
        if self._departures is not None:
            self._departures.measure(self._state.departing.measure)
        if self._recorder is not None:
            self._told.unwritten('record', self._recorder.add(done, self.settings))
        self._sampler.look(done.snapshot, done.at)

    def _reported(self, snapshot: HostSnapshot, plan: Plan, after: state.LadderState) -> report.HostReport:
        expected = self._foresight.see(snapshot) if self._foresight else None
        host, idle = self.settings.host, self.settings.host.dry_run and self._kept.alone  # else another reclaims here
        return report.of(
            snapshot, plan, reclaimable=0 if idle else ladder.reclaimable(snapshot, host, probes=after.probes),
            swap_usable=snapshot.swap_usable, backed=host.require_swap_backing,
            dry_run=self.dry_run, earlier=self.report,
            predicted_peak=in_memory(expected, snapshot) if expected else None,
            evaporation=evaporation.reserve_against(snapshot, after.evaporation, self.settings.host),
            sketch=self._sampler.told(snapshot, report.LONGEST_SKETCH))

    def leaving(self, guest: str) -> typing.ContextManager[None]:
        """While this lasts the guest is on its way to another host, whoever wanted it, and is held as it is."""
        return self._departures.leaving(guest) if self._departures is not None else contextlib.nullcontext()

    def finish(self, seconds: float = 30.0) -> list[Outcome]:
        """What became of the swapping that the passes so far have begun; for who makes one pass and no more."""
        return self._actuator.finish(seconds)

    def _not_yet(self, notes: tuple[str, ...]) -> tuple[Plan, list[Outcome]]:
        self._told.note(notes)
        self._arrivals.told()
        self._tick['error'] = why = 'the hypervisor has not answered yet; the host sends no report until it does'
        return Plan(level=self._state.level, actions=(), reason=why), []

    def _wait(self) -> None:
        """Until the next pass is due by the clock, or until the watch sees that one is due at once."""
        options = self.settings.host
        looks = 0 < options.fast_look <= options.tick and not (self._watch.blind or self._actuator.swapping)
        rest = self._quiet if looks else None
        self._watch.wait(pressure.apart(options.tick, quiet=rest is not None), options.fast_look, self._stopping,
                         lambda recent, since: self._arrivals.news or pressure.urgent(
                             recent, self._snapshot, self._state.level, since, options, self._actuator.swapping),
                         resting=rest)

    def expect(self, guest: str, domain: str) -> None:
        """A mergeable guest is about to migrate to here: sharing shall know of its trust domain before its pages do."""
        self._arrivals.expect(guest, domain, self._clock())
        self._watch.stir()
