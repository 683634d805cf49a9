# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What others ask of a host's controller: nova before it starts a guest, and operators."""
from __future__ import annotations

import dataclasses
import functools
import threading
import time
import typing

from ovc_plugin import describe, keeping, report, watch
from ovc_plugin.arrivals import Arrivals
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide import placement, why
from ovc_plugin.decide.rule import Rule
from ovc_plugin.decide.state import LadderState
from ovc_plugin.foresight import Foresight
from ovc_plugin.model import GuestSnapshot, HostSnapshot, InFlight, Request, Verdict
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.settings import Settings

_FRESH = 1.0  # seconds after a look in which another one would hardly show anything else


def _nobody(told: report.HostReport) -> None:
    """Wants to hear of it."""


class Sensed(typing.NamedTuple):
    """What one pass has seen, put out at once: by its parts a guest could be in the guests of one pass and missing in
    the report of another, and so count nowhere.

    ``counted`` is what each guest in the report is guaranteed there, without overhead, ``sizes`` what it may have at
    most, in bytes by uuid; ``listed_at`` is when the hypervisor named them.
    """

    report: report.HostReport
    counted: dict[str, int]
    sizes: dict[str, int]
    listed_at: float


def sensed(told: report.HostReport, guests: typing.Iterable[GuestSnapshot], listed_at: float) -> Sensed:
    found = tuple(guests)
    return Sensed(told, {g.uuid: g.maximum if g.untouchable else g.reservation for g in found},
                  {g.uuid: g.maximum for g in found}, listed_at)


class Answers:
    """The part of a controller that answers, in any thread, by what the last pass has found."""

    settings: Settings
    report: report.HostReport | None
    #: Told each new report, before anything is done by it; must neither wait nor raise.
    on_report: typing.Callable[[report.HostReport], None] = staticmethod(_nobody)
    dry_run: bool
    sensed: Sensed | None
    _arrivals: Arrivals
    _clock: typing.Callable[[], float]
    _foresight: Foresight | None
    _kept: keeping.Keeper
    _rules: tuple[Rule, ...]
    _sensor: Sensor
    _snapshot: HostSnapshot | None
    _state: LadderState
    _thread: threading.Thread | None
    _tick: dict[str, typing.Any]
    _told: Chronicle
    _watch: watch.Watch

    @property
    def listed_at(self) -> float:
        """When the hypervisor last named the guests that the report counts; 0 before the first one."""
        return self.sensed.listed_at if self.sensed is not None else 0.0

    def admits(self, request: Request, in_flight: InFlight, now: float,
               by: report.HostReport | None = None) -> Verdict:
        """The last word before a guest is started here, by the last report, or by this one."""
        told = by or self.report
        if told is None:
            return Verdict(ok=False, reason='the host controller has not finished its first pass')
        # The host's own word on swap backing counts here, not what its file says to schedulers.
        scheduler = dataclasses.replace(
            self.settings.scheduler, require_swap_backing=self.settings.host.require_swap_backing)
        return placement.fits(told, request, in_flight, scheduler, self.settings.shared, now)

    def look_anew(self, why: str, patience: float = 3.0) -> bool:
        """Have a pass made at once, and wait for what it sees, for who would else refuse by what is some seconds old.

        ``why`` is shown as the reason of the pass. Whether it has come within ``patience``, in seconds; none is made
        where the last look is of just now, or where no loop runs.
        """
        asked, seen, heard = self._clock(), self.listed_at, None
        if self._thread is None or abs(asked - seen) < _FRESH:
            return False
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if seen != heard:  # first, and again after a pass that was under way: it may have taken our word for old
                heard = seen
                self._arrivals.ask(why)
                self._watch.stir()
            time.sleep(0.02)
            seen = self.listed_at
            if seen != heard and seen >= asked:
                return True
        return False

    def explain(self, guest: str) -> dict[str, typing.Any]:
        """The guests of that name or uuid: what they may have, what they have, what is next, and why no more."""
        settings = dataclasses.replace(self.settings.host, dry_run=self.dry_run)  # also beside one that acts
        decide = functools.partial(ladder.decide_host, rules=self._rules)
        return why.explain(self._snapshot, self._state, settings, self._clock(), guest, decide,
                           self._told.guest_actions)

    def status(self) -> dict[str, typing.Any]:
        """Everything an operator may ask, as JSON-able data in bytes and seconds."""
        snapshot, tick, now = self._snapshot, dict(self._tick), self._clock()
        tick['age'] = now - tick['at'] if tick['at'] is not None else None
        return {
            'report': report.to_dict(self.report) if self.report else None, 'tick': tick,
            'dry_run': self.dry_run, 'sharing_is_ours': self._kept.ksm_before is not None,
            'next_guest': describe.next_guest(snapshot, lambda request: self.admits(request, InFlight(), now)),
            'guests': [why.fields(g, self._state, now, self._told.guest_actions) for g in snapshot.guests]
            if snapshot else [],
            'watch': self._watch.fields(), 'sources': self._sensor.sources.fields(),
            'ksm': describe.ksm_fields(snapshot) if snapshot else None,
            'prediction': self._foresight.fields() if self._foresight else None, **self._told.fields()}
