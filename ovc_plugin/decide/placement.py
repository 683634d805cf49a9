# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whether a host can take a guest (:func:`fits`), how well (:func:`score`), and what ratio placement may use.

All sums are of what guests may cost at most, so that they hold with no page sharing and no willing guest.
"""
from __future__ import annotations

import dataclasses
import math

from ovc_plugin.model import MIB, InFlight, Level, Request, Verdict
from ovc_plugin.report import HostReport
from ovc_plugin.settings import HostSettings, SchedulerSettings, SharedSettings


def mb(amount: float) -> str:
    return f'{amount / MIB:.0f} MB'


def backing(total: int, reserve: int, swap_usable: int) -> int:
    """Bytes that guests may touch in all: memory outside the reserve, and swap (promise 2)."""
    return total - reserve + swap_usable


@dataclasses.dataclass(slots=True)
class Sums:
    """What a host would hold with the request and everything in flight added, each with its limit. Bytes.

    ``guaranteed`` of memory outside the reserve (promise 1); ``touched`` of memory and swap (promise 2); ``demanded``
    if all that is in flight fills up, of what is there or can be freed for it. What arrives can itself be reclaimed
    down to its reservation, as far as swap goes.
    """

    guaranteed: int
    memory: int
    touched: int
    backing: int
    demanded: int
    supply: int

    @property
    def room(self) -> int:
        """Left by the tighter of the latter two; negative when the request does not fit."""
        return min(self.supply - self.demanded, self.backing - self.touched)


def sums(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> Sums:
    """Where the guarantees in flight are not known (in a scheduler), their share is taken as large as this request's.

    The host knows them, and checks again before it starts a guest.
    """
    guaranteed = request.reservation if request.overcommit else request.memory
    flying = in_flight.reserved
    if flying is None:
        flying = round(in_flight.memory * guaranteed / request.memory) if request.memory else in_flight.memory
    arriving = in_flight.memory + request.memory
    overhead = (in_flight.guests + 1) * shared.default_overhead
    memory = report.total - report.reserve
    swap_free = max(0, report.swap_usable - report.swap_used - report.reclaimable)
    return Sums(
        guaranteed=report.reserved + flying + guaranteed + overhead, memory=memory,
        touched=report.committed + arriving + overhead, backing=memory + report.swap_usable,
        demanded=report.total - report.available + arriving + overhead,
        supply=memory + report.reclaimable + min(arriving - flying - guaranteed, swap_free))


def fits(report: HostReport, request: Request, in_flight: InFlight, scheduler: SchedulerSettings,
         shared: SharedSettings, now: float) -> Verdict:
    """Can the host take the request and keep every promise?

    Checked in this order, each with both numbers in the reason: the report is fresh; the level is below HARD; the
    guarantee (sum of reservation + overhead within total - reserve); the backing (sum of maximum + overhead within
    total - reserve + swap); and that demand at the full size of everything in flight can be met by what is
    available or can be reclaimed. A guest that may not be overcommitted counts at its maximum throughout.
    """
    age = report.age(now)
    if abs(age) > shared.report_max_age:
        return Verdict(ok=False, reason=_stale(age, shared.report_max_age))
    if report.level >= Level.HARD:
        return Verdict(ok=False, reason=f'level is {report.level.name}: {mb(report.available)} available of '
                                        f'{mb(report.total)}')
    found = sums(report, request, in_flight, shared)
    refusal = _short(found, report, waived=not report.backed and not scheduler.require_swap_backing)
    if refusal:
        return Verdict(ok=False, reason=f'{refusal} (report {age:.0f} s old)')
    return Verdict(ok=True, reason=f'{mb(request.memory)} fits, {mb(found.room)} left (report {age:.0f} s old)')


def _stale(age: float, limit: float) -> str:
    if age < 0:
        return f'report is {-age:.0f} s ahead of this clock: set both clocks by the same time source'
    return (f'report is {age:.0f} s old > {limit:.0f} s (report_max_age): the host controller has stopped, or nova\'s '
            'update_resources_interval is too long')


def _short(found: Sums, report: HostReport, *, waived: bool) -> str | None:
    """The first sum that exceeds its limit, in words; ``waived`` when operator and host do without swap backing."""
    if found.guaranteed > found.memory:
        return f'guarantees would need {mb(found.guaranteed)} > {mb(found.memory)} of memory outside the reserve'
    if found.touched > found.backing and not waived:
        return (f'guests could touch {mb(found.touched)} > {mb(found.backing)} of memory and swap ({mb(found.memory)} '
                f'+ {mb(report.swap_usable)})')
    if found.demanded > found.supply:
        return f'demand would be {mb(found.demanded)} > {mb(found.supply)} that is there or can be reclaimed'
    return None


def score(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings) -> float:
    """0..1 by the room left after the request, on a scale set by the request alone: room / (room + memory).

    Absolute: two hosts that differ little score alike, whatever the other hosts look like.
    """
    left = sums(report, request, in_flight, shared).room
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
