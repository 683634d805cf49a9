# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a scheduler keeps of hosts from one request to the next: :class:`Known` by host, :class:`Table` by request.

A report comes once a minute and requests far more often, and between two of them few hosts change.
"""
from __future__ import annotations

import array
import dataclasses
import datetime
import itertools
import math
import operator
import sys
import threading
import typing

from ovc_plugin import report as reports
from ovc_plugin.decide import placement, score
from ovc_plugin.model import Level
from ovc_plugin.nova import book
from ovc_plugin.report import HostReport


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

    def vote(self, strengths: tuple[float, float]) -> float:
        """Both votes, with the strengths of headroom and trend."""
        return strengths[0] * self.headroom + strengths[1] * self.trend


@dataclasses.dataclass(slots=True)
class Seen:
    """A host as requests find it until a guest comes or goes: who is in flight (``sure`` is guaranteed to those of whom
    that is known, ``rest`` is the memory of the others: :func:`ovc_plugin.nova.host_state.guaranteed`). ``last`` is the
    guest that was listed last, where it matters who they are: one may have taken the place of another."""

    free_mb: int
    instances: int
    listed: int
    guests: int
    memory: int
    sure: int
    rest: int
    last: str | None = None


_NEVER = Seen(-1, -1, -1, 0, 0, 0, 0)


# What nova stores with a second's precision is final once it was seen unchanged so long: longer than it takes to get
# from the database to a filter, and than the clocks of nova's conductors, which put the time on it, may be apart.
_FINAL_AFTER = 15.0
_NO_TIME = datetime.datetime.min


class Known:
    """A host's report with what follows from it for any request, and how the last request found it.

    ``domain`` is the one trust domain that shares there, ``None`` when there is none or several; ``open`` tells that
    all domains share there together. ``slot`` is the host's place in each :class:`Table`, ``stored``
    when nova stored what it has of the host, where that is enough to know that this is its report;
    ``gone`` tells that another has come.
    """

    # Those that are read for each host of each request come first: they are then near each other in memory.
    __slots__ = ('stored', 'text', 'free_mb', 'instances', 'listed', 'last', 'slot', 'taken_at', 'domain', 'open',
                 'seen', 'standing', 'short', 'default', 'counted', 'guests', 'backed', 'growth', 'stall', 'there',
                 'saved', 'claimed', 'domains', 'sharing', 'gone', '_stored', '_since', '_report')

    def __init__(self, text: str, fields: dict[str, typing.Any], before: Known | None = None) -> None:
        """``fields``: what the report says (:func:`ovc_plugin.report.read`); ``before``: the host's last one."""
        self.text, self.slot, self.gone = text, -1, False
        self._report: HostReport | None = None
        self.stored: typing.Any = _NO_TIME
        self._stored, self._since = _NO_TIME, 0.0
        (self.taken_at, level, nova_reserved, self.claimed, self.guests, self.default, self.backed, self.growth,
         self.stall, self.saved, self.domains, self.sharing) = _needed(fields)
        self.standing = placement.standing_of(*_sums(fields))
        self.counted, self.short = nova_reserved + self.claimed, level >= Level.HARD
        # Interned, as few domains are on many hosts: to compare with them fetches no other string for each host.
        alone = len(self.domains) == 1 and self.sharing != 'none'
        self.domain = sys.intern(self.domains[0]) if alone else None
        self.open = self.sharing == 'all'
        self.there = book.read(fields['host'], fields['sketch'], before.there if before is not None else None)
        self.find(_NEVER)

    @property
    def report(self) -> HostReport:
        """Made when first asked for: most requests need no more than is kept beside it."""
        if self._report is None:
            self._report = reports.decode(self.text)
        return self._report

    def same(self, stored: typing.Any, now: float) -> bool:
        """Note that nova's record of the host, last stored then, has this report; always true.

        Once the second of that is surely over, whatever was stored in it has been seen: a record with the same time
        need not be read again. (To compare two texts is cheap, to fetch them from memory is not.)
        """
        if stored is None or self._stored != stored:
            self._since = now  # first: others may look meanwhile
            self._stored = stored
        elif now - self._since >= _FINAL_AFTER:
            self.stored = stored
        return True

    def find(self, seen: Seen) -> None:
        """Keep how a request found the host."""
        self.seen = seen
        self.free_mb, self.instances, self.listed, self.last = seen.free_mb, seen.instances, seen.listed, seen.last


_needed = operator.itemgetter('taken_at', 'level', 'nova_reserved', 'claimed', 'guests', 'default_reservation',
                              'backed', 'growth', 'stall', 'saved', 'domains', 'sharing')
_sums = operator.itemgetter(*placement.STANDING_OF)
#: By node. HostStates are made anew for each request. Nodes that are gone stay; they are few.
HOSTS: dict[str, Known] = {}
UNTOLD, UNFIT = math.nan, -math.inf


class Table:
    """What requests that ask for the same have found, by the slots of hosts: a vote, :data:`UNFIT` or, where none has
    been there since the host changed, :data:`UNTOLD`. In one array, as most of what a look at one of thousands of hosts
    costs is to fetch what is kept of it from memory.

    ``strengths`` are those of headroom and trend, ``terms`` what is asked of hosts by their default reservation;
    ``asked_at`` is when the last such request came.
    """

    __slots__ = ('votes', 'strengths', 'terms', 'asked_at')

    def __init__(self, strengths: tuple[float, float], size: int) -> None:
        self.votes, self.strengths, self.asked_at = array.array('d', [UNTOLD]) * size, strengths, 0.0
        self.terms: dict[str, placement.Terms] = {}

    def vote(self, left: Left) -> float:
        return left.vote(self.strengths) if left.fits else UNFIT


_tables: dict[tuple[typing.Any, ...], Table] = {}
_MOST_TABLES = 100
# Reports come once a minute: before the next one, who has asked within one will ask again.
_ASKED_WITHIN = 60.0
# Requests are served by several threads. Whoever reads a table first sees that the host is as it was and then reads,
# without the lock; whoever finds that it is not clears its place in all tables first. So what is read is of the host as
# it was seen, or, where another thread has looked at it between the two, as that has seen it: once, and no older than
# that thread's request.
_lock = threading.RLock()


def table(key: tuple[typing.Any, ...], strengths: tuple[float, float], now: float) -> Table:
    """That of requests of this kind, of which one comes now."""
    with _lock:
        found = _tables.pop((key, strengths), None) or Table(strengths, len(HOSTS))
        _tables[key, strengths], found.asked_at = found, now
        if len(_tables) > _MOST_TABLES:
            del _tables[next(iter(_tables))]
    return found


def settle(known: Known, seen: Seen, asked: placement.Terms, found: Table, left: Left) -> None:
    """Keep what a request has found on a host none of whose aggregates says anything to us, if it still is as it was
    ``seen``.

    Requests for other guests will come, each to find that the host has changed. They are answered now, while all that
    is needed is at hand: to fetch it again costs several times what the sums cost.
    """
    with _lock:
        if known.gone or known.seen is not seen:
            return
        slot, since = known.slot, found.asked_at - _ASKED_WITHIN
        if slot >= len(found.votes):  # it was put out meanwhile, by many others
            return
        found.terms[known.default] = asked
        found.votes[slot] = found.vote(left)
        for other in itertools.takewhile(lambda one: one.asked_at > since, reversed(_tables.values())):
            terms, votes = other.terms.get(known.default), other.votes
            if terms is not None and votes[slot] != votes[slot]:
                votes[slot] = other.vote(what_is_left(known, terms, seen))


def renew(node: str, fresh: Known) -> Known:
    """Keep this of a host whose report is new."""
    with _lock:
        before = HOSTS.get(node)
        if before is not None:
            fresh.slot, before.gone = before.slot, True
        else:
            fresh.slot = len(HOSTS)
        HOSTS[node] = fresh  # nobody has found it so yet: it is cleared in all tables when somebody does
    return fresh


def find(known: Known, seen: Seen) -> None:
    """Keep how a request found a host that has changed."""
    with _lock:
        _clear(known.slot)
        known.find(seen)


def _clear(slot: int) -> None:
    for found in _tables.values():
        votes = found.votes
        if slot < len(votes):
            votes[slot] = UNTOLD
        else:
            votes.extend([UNTOLD] * (slot + 1 - len(votes)))


def owed(memory: int, sure: int, rest: int, asked: placement.Terms) -> int:
    """What of the ``memory`` in flight counts as guaranteed, in bytes, by what
    :func:`ovc_plugin.nova.host_state.guaranteed` says.

    A guest that was there before and has changed is told again like one that came, and may so stand for one on its
    way. The host judges a boot again; for a move, which it does not, all of the memory counts.
    """
    if asked.moves:
        return memory
    return sure + round(rest * asked.share) if rest >= 0 else max(sure, round(memory * asked.share))


def what_is_left(known: Known, asked: placement.Terms, seen: Seen) -> Left:
    """What is left on the host, as it was ``seen``, with the request and all in flight."""
    owing = owed(seen.memory, seen.sure, seen.rest, asked) if seen.memory else 0
    guarantee, backed, demand = placement.margins(
        known.standing, asked, seen.guests, seen.memory, owing) if asked.kept else (-1, -1, -1)
    # Where nothing needs to be backed, demand alone says what room is left.
    waived = asked.unbacked and not known.backed
    room = demand if waived or demand < backed else backed
    fits = not known.short and guarantee >= 0 and demand >= 0 and (backed >= 0 or waived)
    return Left(guarantee, backed, demand, fits,
                score.headroom(room, asked.memory), score.trend(room, known.growth, known.stall))
