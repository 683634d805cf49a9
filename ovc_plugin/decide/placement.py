# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whether a host can take a guest (:func:`fits`), how well (:func:`score`), and what ratio placement may use.

All sums are of what guests may cost at most, so that they hold with no page sharing and no willing guest.
"""
from __future__ import annotations

import dataclasses
import math
import operator
import typing

from ovc_plugin.decide import guarantee
from ovc_plugin.decide import score as votes
from ovc_plugin.model import MIB, InFlight, Level, Request, Verdict
from ovc_plugin.report import HostReport
from ovc_plugin.settings import HostSettings, SchedulerSettings, SharedSettings


def mb(amount: float) -> str:
    return f'{amount / MIB:.0f} MB'


def backing(total: int, reserve: int, swap_usable: int) -> int:
    """Bytes that guests may touch in all: memory outside the reserve, and swap (promise 2)."""
    return total - reserve + swap_usable


class Standing(typing.NamedTuple):
    """What a report leaves to hand out, in bytes; the same for every request, so that it is reckoned once a report.

    ``unguaranteed``: of the memory outside the reserve, what is owed to no guest (promise 1). ``unbacked``: of memory
    and swap, what no guest may touch (promise 2). ``spare``: of what is there or can be reclaimed, what the predicted
    peak leaves (without a prediction, what is used now), after the reserve kept against evaporation. ``growing``: how
    much of the growth up to that peak can itself be swapped, like what arrives, as far as ``swap_free`` goes.
    """

    memory: int
    supply: int
    unguaranteed: int
    unbacked: int
    spare: int
    growing: int
    swap_free: int


def standing(report: HostReport) -> Standing:
    return standing_of(*_SUMS(report))


#: What :func:`standing_of` goes by, in its order.
STANDING_OF = ('total', 'reserve', 'available', 'committed', 'reserved', 'reclaimable', 'evaporation', 'predicted_peak',
               'swap_usable', 'swap_used')
_SUMS = operator.attrgetter(*STANDING_OF)


def standing_of(total: int, reserve: int, available: int, committed: int, reserved: int, reclaimable: int,
                evaporation: int, predicted_peak: int | None, swap_usable: int, swap_used: int) -> Standing:
    """:func:`standing` by what a report says under these names."""
    memory, used = total - reserve, total - available
    peak = predicted_peak if predicted_peak is not None and predicted_peak > used else used
    supply = memory + reclaimable - evaporation
    # What guests are owed and do not use yet cannot be swapped once they do.
    growing, swap_free = peak - max(used, reserved), swap_usable - swap_used - reclaimable
    return Standing(memory, supply, memory - reserved, backing(total, reserve, swap_usable) - committed, supply - peak,
                    growing if growing > 0 else 0, swap_free if swap_free > 0 else 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one request asks of any host, in bytes. ``share`` is what is taken to be guaranteed, 0..1, of memory in
    flight of which nothing else is known; ``moves`` that the host does not judge the request again; ``kept`` whether it
    would keep what is promised, ``unbacked`` whether the operator does without swap backing where the host does, too.
    Requests of one ``key`` ask for the same.
    """

    memory: int
    guaranteed: int
    share: float
    overhead: int
    key: tuple[int, ...]
    moves: bool = False
    kept: bool = True
    unbacked: bool = False


def terms(request: Request, shared: SharedSettings) -> Terms:
    guaranteed = request.reservation if request.overcommit else request.memory
    return Terms(memory=request.memory, guaranteed=guaranteed, overhead=shared.default_overhead,
                 share=guaranteed / request.memory if request.memory else 1.0, key=(request.memory, guaranteed))


def margins(host: Standing, asked: Terms, guests: int, memory: int, reserved: int | None) -> tuple[int, int, int]:
    """What the guarantee, the backing and the demand leave with the request and all in flight; negative: not enough.

    In flight are ``guests`` of ``memory``, of which ``reserved`` is guaranteed; where that is not known,
    ``asked.share`` of it. What arrives counts in full as demand, but can itself be reclaimed down to its reservation.
    """
    arriving = memory + asked.memory
    overhead = (guests + 1) * asked.overhead
    owed = asked.guaranteed
    if reserved is not None:  # also of guests that are here already and have grown
        owed += reserved
    elif memory:
        owed += round(memory * asked.share)
    swappable = arriving - owed + host.growing
    return (host.unguaranteed - owed - overhead, host.unbacked - arriving - overhead,
            host.spare - arriving - overhead + (swappable if swappable < host.swap_free else host.swap_free))


def fits(report: HostReport, request: Request, in_flight: InFlight, scheduler: SchedulerSettings,
         shared: SharedSettings, now: float) -> Verdict:
    """Can the host take the request and keep every promise?

    Checked in this order, each with both numbers in the reason: the report is fresh; the level is below HARD; the
    guarantee (sum of reservation + overhead within total - reserve); the backing (sum of maximum + overhead within
    total - reserve + swap); and that the predicted peak, with everything in flight at its full size, can be met by
    what is available or can be reclaimed. A guest that may not be overcommitted counts at its maximum throughout.
    """
    age = report.age(now)
    if abs(age) > shared.report_max_age:
        return Verdict(ok=False, reason=stale(age, shared.report_max_age))
    if report.level >= Level.HARD:
        return Verdict(ok=False, reason=f'level is {report.level.name}: {mb(report.available)} available of '
                                        f'{mb(report.total)}')
    left = margins(standing(report), terms(request, shared), in_flight.guests, in_flight.memory, in_flight.reserved)
    unbacked = waived(report, scheduler)
    refusal = _short(left, report, waived=unbacked)
    if refusal:
        return Verdict(ok=False, reason=f'{refusal} (report {age:.0f} s old)')
    return Verdict(ok=True, reason=f'{mb(request.memory)} fits, {mb(left[2] if unbacked else min(left[1:]))} left '
                                    f'(report {age:.0f} s old)')


def grows(report: HostReport, more: int, in_flight: InFlight, shared: SharedSettings, now: float) -> Verdict:
    """Can the host guarantee ``more`` bytes than now to a guest that it has (promise 1)? What that may touch is backed
    as it is, and is in the predicted peak."""
    if abs(age := report.age(now)) > shared.report_max_age:
        return Verdict(ok=False, reason=stale(age, shared.report_max_age))
    others = in_flight.memory if in_flight.reserved is None else in_flight.reserved
    left = standing(report).unguaranteed - more - others - in_flight.guests * shared.default_overhead
    if left < 0:
        return Verdict(ok=False, reason=f'{_unguaranteed(left, report)} (report {age:.0f} s old)')
    return Verdict(ok=True, reason=f'{mb(more)} more can be guaranteed, {mb(left)} left (report {age:.0f} s old)')


def guarantees_all_but(report: HostReport, amount: int, shared: SharedSettings, now: float) -> bool:
    """Whether the host surely guarantees a guest that it has counted all its memory, which would otherwise be
    ``amount`` bytes more than it is guaranteed: less than that is not guaranteed of what all guests there may touch."""
    open_ = report.committed - report.reserved
    return 0 <= open_ < amount and abs(report.age(now)) <= shared.report_max_age


def waived(report: HostReport, scheduler: SchedulerSettings) -> bool:
    """Whether operator and host both do without swap backing."""
    return not report.backed and not scheduler.require_swap_backing


def stale(age: float, limit: float) -> str:
    """What is wrong with a report of that age (seconds) that is beyond the limit, and the remedy."""
    if age < 0:
        return f'report is {-age:.0f} s ahead of this clock: set both clocks by the same time source'
    return (f'report is {age:.0f} s old > {limit:.0f} s (report_max_age): the host controller has stopped, nova\'s '
            'update_resources_interval or the host\'s tick is too long, or its clock is behind')


def _short(left: tuple[int, int, int], report: HostReport, *, waived: bool) -> str | None:
    """The first sum that exceeds its limit, in words."""
    guarantee, backed, demand = left
    host, limit = standing(report), backing(report.total, report.reserve, report.swap_usable)
    if guarantee < 0:
        return _unguaranteed(guarantee, report)
    if backed < 0 and not waived:
        return (f'guests could touch {mb(limit - backed)} > {mb(limit)} of memory and swap ({mb(host.memory)} '
                f'+ {mb(report.swap_usable)})')
    if demand < 0:
        peak = '' if report.predicted_peak is None else f' (predicted peak {mb(report.predicted_peak)})'
        kept = f', {mb(report.evaporation)} kept against evaporation' if report.evaporation else ''
        return (f'demand would be {mb(host.supply - demand)} > {mb(host.supply)} that is there or can be '
                f'reclaimed{kept}{peak}')
    return None


def _unguaranteed(left: int, report: HostReport) -> str:
    memory = report.total - report.reserve
    return f'guarantees would need {mb(memory - left)} > {mb(memory)} of memory outside the reserve'


def score(report: HostReport, request: Request, in_flight: InFlight, shared: SharedSettings, *,
          waived: bool = False) -> float:
    """0..1 by the room left after the request; with ``waived`` no backing is asked for. See
    :mod:`ovc_plugin.decide.score`."""
    left = margins(standing(report), terms(request, shared), in_flight.guests, in_flight.memory, in_flight.reserved)
    return votes.headroom(left[2] if waived else min(left[1:]), request.memory)


def permitted_ratio(report: HostReport, capacity: int, settings: HostSettings, shared: SharedSettings) -> float:
    """The allocation ratio that lets placement hand out what the host can promise, and no more.

    ``capacity`` is what nova tells placement (total - reserved), in bytes. The sum of flavors may reach what is
    claimed now plus what could still be backed (promise 2; without backing required, max_ratio alone) and, were it
    guaranteed the same share as the guests here, what memory could still be guaranteed (promise 1). Rounded down to
    ``ratio_step`` and kept within [min_ratio, max_ratio], but never below what is claimed: guests could then be trapped
    here (:func:`claimed_ratio`).
    """
    if capacity <= 0:
        return settings.min_ratio
    permitted, left = settings.max_ratio, room(report, shared)
    if left < math.inf:
        steps = int((report.claimed + max(0, left)) / capacity / settings.ratio_step + 1e-9)
        permitted = min(max(steps * settings.ratio_step, settings.min_ratio), settings.max_ratio)
    return round(max(permitted, claimed_ratio(report, capacity)), 4)


def room(report: HostReport, shared: SharedSettings) -> float:
    """Memory of guests to come that could be backed and guaranteed, in bytes; infinite where nothing bounds it."""
    host, overhead = standing(report), shared.default_overhead
    left = host.unbacked - overhead if report.backed else math.inf
    share = _guaranteed_share(report, shared)
    return min(left, (host.unguaranteed - overhead) / share) if share else left


def claimed_ratio(report: HostReport, capacity: int) -> float:
    """The least ratio at which all that nova has claimed on the host still fits: below it, a placement before 14 keeps
    guests from being moved away."""
    return math.ceil(report.claimed / capacity * 1e4) / 1e4 if capacity > 0 else 0.0


def _guaranteed_share(report: HostReport, shared: SharedSettings) -> float:
    """What part of its memory a guest to come is taken to be guaranteed, 0..1: as the guests here on average, on an
    empty host as by default. A default in MB tells no share; 0 then bounds nothing, and filter and host still do."""
    if report.committed:
        return report.reserved / report.committed
    text = shared.default_reservation
    return guarantee.reservation(text, 1 << 40) / (1 << 40) if text.strip().endswith('%') else 0.0
