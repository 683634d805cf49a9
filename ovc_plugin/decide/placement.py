# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whether a host can take a guest (:func:`fits`), how well (:func:`score`), and what ratio placement may use.

All sums are of what guests may cost at most, so that they hold with no page sharing and no willing guest.
"""
from __future__ import annotations

import math

from ovc_plugin.model import MIB, InFlight, Level, Request, Verdict
from ovc_plugin.report import HostReport
from ovc_plugin.settings import HostSettings, SchedulerSettings, SharedSettings


def mb(amount: float) -> str:
    return f'{amount / MIB:.0f} MB'


def backing(total: int, reserve: int, swap_usable: int) -> int:
    """Bytes that guests may touch in all: memory outside the reserve, and swap (promise 2)."""
    return total - reserve + swap_usable


def fits(report: HostReport, request: Request, in_flight: InFlight, scheduler: SchedulerSettings,
         shared: SharedSettings, now: float) -> Verdict:
    """Can the host take the request and keep every promise?

    Checked in this order, each with both numbers in the reason: the report is fresh; the level is below HARD; the
    guarantee (sum of reservation + overhead within total - reserve); the backing (sum of maximum + overhead within
    total - reserve + swap); and that demand at the full size of everything in flight can be met by what is
    available or can be reclaimed. A guest that may not be overcommitted counts at its maximum throughout.
    """
    for check in (_fresh, _calm):
        if refusal := check(report, shared, now):
            return Verdict(ok=False, reason=refusal)
    for refusal in (_guarantee(report, request, in_flight, shared),
                    _backed(report, request, in_flight, scheduler, shared),
                    _in_time(report, request, in_flight, shared)):
        if refusal:
            return Verdict(ok=False, reason=f'{refusal} (report {report.age(now):.0f} s old)')
    return Verdict(ok=True, reason=f'{mb(request.memory)} fits: {mb(room(report, request, in_flight, shared))} '
                                   f'left after it (report {report.age(now):.0f} s old)')


def _fresh(report: HostReport, shared: SharedSettings, now: float) -> str | None:
    age = report.age(now)
    if age > shared.report_max_age:
        return (f'report is {age:.0f} s old > {shared.report_max_age:.0f} s (report_max_age): the host controller has '
                'stopped, or nova\'s update_resources_interval is too long')
    if age < -shared.report_max_age:
        return f'report is {-age:.0f} s ahead of this clock: set both clocks by the same time source'
    return None


def _calm(report: HostReport, shared: SharedSettings, now: float) -> str | None:
    if report.level >= Level.HARD:
        return f'level is {report.level.name}: {mb(report.available)} available of {mb(report.total)}'
    return None


def _guaranteed(request: Request) -> int:
    return request.reservation if request.overcommit else request.memory


def _in_flight_reserved(request: Request, in_flight: InFlight) -> int:
    """Guarantees in flight are not known one by one: their share is taken as large as this request's.

    The host checks again with the exact figures before it starts a guest.
    """
    return round(in_flight.memory * _guaranteed(request) / request.memory) if request.memory else in_flight.memory


def _guarantee(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> str | None:
    limit = report.total - report.reserve
    wanted = (report.reserved + _in_flight_reserved(request, in_flight) + _guaranteed(request)
              + (in_flight.guests + 1) * shared.default_overhead)
    if wanted > limit:
        return f'guarantees would need {mb(wanted)} > {mb(limit)} of memory outside the reserve'
    return None


def _committed(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> int:
    return (report.committed + in_flight.memory + request.memory
            + (in_flight.guests + 1) * shared.default_overhead)


def _backed(report: HostReport, request: Request, in_flight: InFlight, scheduler: SchedulerSettings,
            shared: SharedSettings) -> str | None:
    if not scheduler.require_swap_backing and not report.backed:
        return None
    limit = backing(report.total, report.reserve, report.swap_usable)
    wanted = _committed(report, request, in_flight, shared)
    if wanted > limit:
        return (f'guests could touch {mb(wanted)} > {mb(limit)} of memory and swap '
                f'({mb(report.total - report.reserve)} + {mb(report.swap_usable)})')
    return None


def _demand(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> tuple[int, int]:
    """(bytes demanded if all that is in flight fills up, bytes there are or can be freed for it).

    What arrives can itself be reclaimed down to its reservation, as far as swap goes.
    """
    demanded = (report.total - report.available + in_flight.memory + request.memory
                + (in_flight.guests + 1) * shared.default_overhead)
    arriving = (in_flight.memory - _in_flight_reserved(request, in_flight)) + (request.memory - _guaranteed(request))
    swap_free = max(0, report.swap_usable - report.swap_used)
    return demanded, report.total - report.reserve + report.reclaimable + min(
        arriving, max(0, swap_free - report.reclaimable))


def _in_time(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> str | None:
    demanded, limit = _demand(report, request, in_flight, shared)
    if demanded > limit:
        return f'demand would be {mb(demanded)} > {mb(limit)} that is there or can be reclaimed'
    return None


def room(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> int:
    """Bytes left after the request by the tightest of the sums; negative when it does not fit."""
    demanded, limit = _demand(report, request, in_flight, shared)
    backed = backing(report.total, report.reserve, report.swap_usable)
    return min(limit - demanded, backed - _committed(report, request, in_flight, shared))


def score(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> float:
    """0..1 by the room left after the request, on a scale set by the request alone: room / (room + memory).

    Absolute: two hosts that differ little score alike, whatever the other hosts look like.
    """
    left = room(report, request, in_flight, shared)
    if left <= 0 or request.memory <= 0:
        return 0.0
    return left / (left + request.memory)


def permitted_ratio(report: HostReport, capacity: int, settings: HostSettings, shared: SharedSettings) -> float:
    """The allocation ratio that lets placement hand out what the host can promise, and no more.

    ``capacity`` is what nova tells placement (total - reserved), in bytes. The sum of flavors may reach what is
    claimed now plus what one more guest could still be given. Rounded down to ``ratio_step``, though not below what
    is claimed (guests could then not be moved away with an old placement), and kept within [min_ratio, max_ratio];
    without backing required, max_ratio alone.
    """
    if capacity <= 0:
        return settings.min_ratio
    if not report.backed:
        return settings.max_ratio
    left = backing(report.total, report.reserve, report.swap_usable) - report.committed - shared.default_overhead
    steps = int((report.claimed + max(0, left)) / capacity / settings.ratio_step + 1e-9)
    claimed = math.ceil(report.claimed / capacity * 1e4) / 1e4
    return round(min(max(steps * settings.ratio_step, claimed, settings.min_ratio), settings.max_ratio), 4)
