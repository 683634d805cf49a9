# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The only reader of nova's HostState: what a host reports, and what is in flight there.

Nothing of nova is imported here: its objects are known by their attributes, so that the rules can be tried without it.
"""
from __future__ import annotations

import dataclasses
import sys
import typing

from ovc_plugin import report as reports
from ovc_plugin.decide import placement, score
from ovc_plugin.model import MIB, Level
from ovc_plugin.nova import book, neighbours
from ovc_plugin.nova.asking import Asking
from ovc_plugin.report import HostReport
from ovc_plugin.settings import SharedSettings


class Known:
    """A host's report with what follows from it for any request, and how the last request found it.

    ``domain`` is the one trust domain that shares there, ``None`` when there is none or several; ``open`` tells that
    all domains share there together.
    """

    __slots__ = ('text', 'report', 'standing', 'counted', 'guests', 'domain', 'open', 'default', 'taken_at', 'short',
                 'seen', 'there')

    def __init__(self, text: str, report: HostReport) -> None:
        self.text, self.report = text, report
        self.standing = placement.standing(report)
        self.counted, self.guests = report.nova_reserved + report.claimed, report.guests
        # Interned, as few domains are on many hosts: to compare with them fetches no other string for each host.
        self.domain = sys.intern(report.domains[0]) if len(report.domains) == 1 and report.sharing != 'none' else None
        self.open = report.sharing == 'all'
        self.default = report.default_reservation
        self.there = book.read(report)
        # Read for each host of each request: an attribute here costs less than two.
        self.taken_at, self.short = report.taken_at, report.level >= Level.HARD
        self.seen = _NEVER


# By node. A report comes once a minute and requests far more often, each with HostStates made anew: only the text tells
# whether it is still the same report. Nodes that are gone stay; they are few.
_known: dict[str, Known] = {}


def known(host_state: typing.Any) -> Known | None:
    """What the host's report says as nova last stored it; ``None`` when the host sends none.

    :raises ovc_plugin.report.ReportError: there is one, and it cannot be read or cannot be true.
    """
    # nova leaves stats unset on a host whose first audit has not ended.
    try:
        text = host_state.stats.get(reports.STATS_KEY)
    except AttributeError:
        return None
    if text is None:
        return None
    found = _known.get(host_state.nodename)
    if found is None or found.text != text:
        found = _known[host_state.nodename] = Known(text, reports.decode(text))
    return found


def all_known() -> typing.Mapping[str, Known]:
    return _known


def used(host_state: typing.Any) -> int:
    """Bytes that nova counts as used: its reserve and the flavors of all that is claimed, this request's too."""
    return int(host_state.total_usable_ram_mb - host_state.free_ram_mb) * MIB


def in_flight(host_state: typing.Any, known: Known) -> tuple[int, int]:
    """(guests, bytes) that nova has claimed on the host and its report does not yet know.

    A migration on its way is in nova's memory (a live one from nova's next audit of the host on) and not in its count
    of guests: memory in flight is one guest at least. Where a guest has left since the report, nova tells what is left
    of both together.
    """
    memory = (host_state.total_usable_ram_mb - host_state.free_ram_mb) * MIB - known.counted
    if memory <= 0:
        memory = 0
    guests = host_state.num_instances - known.guests
    if guests <= 0:
        guests = 1 if memory else 0
    return guests, memory


def guaranteed(host_state: typing.Any, known: Known, memory: int, shared: SharedSettings) -> tuple[int, int]:
    """What is guaranteed to guests in flight that this scheduler knows, and the rest of their ``memory``, in bytes.

    Known are those that run since the report, or have changed: their host has told. Of those still on their way nova
    tells the memory alone. Where the known ones have more memory than is in flight (the rest is negative), the report
    has some of them, and which is not known.
    """
    sure = told = 0
    if memory:
        for instance in neighbours.of(host_state).since(known.taken_at):
            request = Asking(instance, shared).of(host_state, known.default)
            sure += request.reservation
            told += request.memory
    return min(sure, memory), memory - told


def owed(memory: int, sure: int, rest: int, asked: placement.Terms) -> int:
    """What of the ``memory`` in flight counts as guaranteed, in bytes, by what :func:`guaranteed` says.

    A guest that was there before and has changed is told again like one that came, and may so stand for one on its
    way. The host judges a boot again; for a move, which it does not, all of the memory counts.
    """
    if asked.moves:
        return memory
    return sure + round(rest * asked.share) if rest >= 0 else max(sure, round(memory * asked.share))


@dataclasses.dataclass(slots=True)
class Left:
    """What a host is to all requests that ask for the same: what each sum leaves (:func:`placement.margins`), whether
    all of them and the level allow it, and how its room and its trend are voted on."""

    guarantee: int
    backed: int
    demand: int
    fits: bool
    headroom: float
    trend: float


@dataclasses.dataclass(slots=True)
class Seen:
    """A host as requests find it until a guest comes or goes: who is in flight (``sure`` is guaranteed to those of whom
    that is known, ``rest`` is the memory of the others: :func:`guaranteed`), and by what is asked what is left."""

    free_mb: int
    instances: int
    listed: int
    guests: int
    memory: int
    sure: int
    rest: int
    left: dict[tuple[int, ...], Left]


_NEVER = Seen(-1, -1, -1, 0, 0, 0, 0, {})
_MOST_FLAVORS = 200


def left(host_state: typing.Any, known: Known, asking: Asking) -> Left:
    """What is left on the host with the request and all in flight.

    Kept while nothing changes there: filter and weigher ask for the same, the next request for a guest of the same size
    too, and few hosts change between two requests.
    """
    asked = asking.plain or asking.terms(host_state, known.default)
    seen, listed = known.seen, len(host_state.instances)
    if (seen.free_mb != host_state.free_ram_mb or seen.instances != host_state.num_instances or seen.listed != listed
            or len(seen.left) > _MOST_FLAVORS):
        guests, memory = in_flight(host_state, known)
        # In one piece: requests are served by several threads.
        known.seen = seen = Seen(host_state.free_ram_mb, host_state.num_instances, listed, guests, memory,
                                 *guaranteed(host_state, known, memory, asking.shared), {})
    found = seen.left.get(asked.key)
    if found is None:
        found = seen.left[asked.key] = _left(known, asked, seen)
    return found


def _left(known: Known, asked: placement.Terms, seen: Seen) -> Left:
    guarantee, backed, demand = placement.margins(
        known.standing, asked, seen.guests, seen.memory,
        owed(seen.memory, seen.sure, seen.rest, asked)) if asked.kept else (-1, -1, -1)
    # Where nothing needs to be backed, demand alone says what room is left.
    waived = asked.unbacked and not known.report.backed
    room = demand if waived or demand < backed else backed
    fits = not known.short and guarantee >= 0 and demand >= 0 and (backed >= 0 or waived)
    return Left(guarantee, backed, demand, fits,
                score.headroom(room, asked.memory), score.trend(room, known.report.growth, known.report.stall))


Found = tuple[Known, Left]


def find(host_state: typing.Any, asking: Asking) -> Found | None:
    """:func:`known` and :func:`left` in one; ``None`` when the host sends no report. This is most of what a request
    costs on a host, so what was found out before is looked up first.

    :raises ovc_plugin.report.ReportError: as :func:`known`.
    """
    try:
        kept = _known[host_state.nodename]
        if kept.text == host_state.stats[reports.STATS_KEY]:
            seen = kept.seen
            if (seen.free_mb == host_state.free_ram_mb and seen.instances == host_state.num_instances
                    and seen.listed == len(host_state.instances)):
                return kept, seen.left[(asking.plain or asking.terms(host_state, kept.default)).key]
    except (AttributeError, KeyError):
        pass
    fresh = known(host_state)
    return None if fresh is None else (fresh, left(host_state, fresh, asking))
