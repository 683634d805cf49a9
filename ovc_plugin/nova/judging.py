# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""May a request go to a host? Once with a reason, and once as fast as it can be told."""
from __future__ import annotations

import typing

from ovc_plugin.decide import placement
from ovc_plugin.model import MIB, InFlight, Verdict
from ovc_plugin.nova import host_state as states
from ovc_plugin.nova import kept
from ovc_plugin.nova.asking import untouchable
from ovc_plugin.nova.attributes import given
from ovc_plugin.nova.ballot import OF_AGGREGATES
from ovc_plugin.report import STATS_KEY, ReportError
from ovc_plugin.settings import Settings, SharedSettings


def judge(host_state: typing.Any, asking: states.Asking, settings: Settings, now: float) -> Verdict:
    """May the request go to this host? The reason has both numbers."""
    try:
        known = states.known(host_state)
    except ReportError as error:
        return Verdict(ok=False, reason=str(error))
    if known is None:
        return _unreported(host_state, asking.memory, settings.scheduler.unreported_ratio)
    if conflict := asking.conflict(host_state, known.default):
        return Verdict(ok=False, reason=conflict)
    guests, memory = states.in_flight(host_state, known)
    sure, rest = states.guaranteed(host_state, known, memory, settings.shared)
    reserved = kept.owed(memory, sure, rest, asking.terms(host_state, known.default))
    return placement.fits(known.report, asking.of(host_state, known.default),
                          InFlight(guests=guests, memory=memory, reserved=reserved), settings.scheduler,
                          settings.shared, now)


class Rebuild(states.Asking):
    """A guest that is built anew where it is, from another image: nova asks nobody whether it then needs more room."""

    def __init__(self, spec: typing.Any, shared: SharedSettings) -> None:
        super().__init__(spec, shared)
        self._before = states.Asking(spec, shared, flavor_only=True)

    def judge(self, host_state: typing.Any, settings: Settings, now: float) -> Verdict:
        """Can the host guarantee what the image asks for beyond what the guest is guaranteed there already? By what a
        scheduler knows of images: memory encryption and locked memory."""
        same = Verdict(ok=True, reason='the guest is guaranteed as much there as before')
        if not self.whole or self._before.whole or (was := self._was_whole(host_state)):
            return same
        try:
            known = states.known(host_state)
        except ReportError as error:
            return Verdict(ok=False, reason=str(error))
        if known is None:
            return Verdict(ok=True, reason='host sends no report and is left to nova')
        # All of what is in flight: the host cannot refuse a rebuild without harm.
        guests, memory = states.in_flight(host_state, known)
        more = self.memory - self._before.of(host_state, known.default).reservation
        if was is None and not guests and placement.guarantees_all_but(known.report, more, self.shared, now):
            return same
        return placement.grows(known.report, more, InFlight(guests=guests, memory=memory), self.shared,
                               now) if more else same

    def _was_whole(self, host_state: typing.Any) -> bool | None:
        """By the guest as its host last told of it, once it ran. By what only its host can know, it was not. ``None``:
        nova holds no more than its id, or what its database lists of all guests. To look there would not help: what the
        new image says is in it before a scheduler is asked."""
        guest = host_state.instances.get(self.guest)
        if given(guest, 'system_metadata') is None:
            return None
        return untouchable(guest, given(given(guest, 'flavor'), 'extra_specs') or {}) is not None


def _unreported(host_state: typing.Any, memory: int, ratio: float) -> Verdict:
    """A host without the plugin has nobody who would balloon or swap there: nova's own sums, and no overcommit.

    One that counts no memory at all (nova's ironic driver reports 0) is placed by a resource class of its own.
    """
    if host_state.total_usable_ram_mb <= 0:
        return Verdict(ok=True, reason='host sends no report and counts no memory: it is left to nova')
    limit = int(host_state.total_usable_ram_mb * ratio) * MIB
    wanted = states.used(host_state) + memory
    if ratio and wanted > limit:
        return Verdict(ok=False, reason=f'host sends no report and would hold {placement.mb(wanted)} > '
                                        f'{placement.mb(limit)} (unreported_ratio {ratio:g}): enable '
                                        'ovc.OvcLibvirtDriver there, or raise that option')
    return Verdict(ok=True, reason='host sends no report and is left to nova')


class Quick:
    """Tells of all hosts of a request the same as :func:`judge` without its words, which cost more than the sums; and
    counts the votes on those that pass, where ``asking.counts`` does.

    ``passed`` and ``votes`` belong together; a vote is ``None`` where it could not be counted. ``refused`` has the rest
    and, by their ids, ``wrong`` what went wrong with a host.
    """

    def __init__(self, asking: states.Asking, settings: Settings, now: float) -> None:
        self._asking, self._settings, self._now = asking, settings, now
        self._oldest, self._counts = settings.shared.report_max_age, asking.counts
        self._strengths = self._counts.default if self._counts is not None else (0.0, 0.0, 0.0)
        self._domain = asking.domain if self._strengths[2] else None
        self._table = kept.table(asking.kindred, self._strengths[:2], now)
        self._silent: set[typing.Any] = set()
        self._later: list[tuple[int, typing.Any, kept.Known, float]] = []
        self.passed: list[typing.Any] = []
        self.votes: list[float | None] = []
        self.refused: list[typing.Any] = []
        self.wrong: dict[int, Exception] = {}

    def sift(self, hosts: typing.Iterable[typing.Any]) -> None:
        """Long, and without calls for a host that is as it was: this is what a request costs on each of thousands."""
        known, table, silent, unfit, mine, now = (
            kept.HOSTS, self._table.votes, self._silent, kept.UNFIT, self._domain, self._now)
        first, last = now - self._oldest, now + self._oldest
        passed, votes, refused, later = (
            self.passed.append, self.votes.append, self.refused.append, self._later.append)
        for host in hosts:
            vote: float | None = kept.UNTOLD
            try:
                one = known[host.nodename]
                # The table last: see there.
                if ((one.stored == host.updated or one.text == host.stats[STATS_KEY] and one.same(host.updated, now))
                        and one.free_mb == host.free_ram_mb and one.instances == host.num_instances
                        and one.listed == len(host.instances) and silent.issuperset(host.aggregates)
                        and (one.last is None or one.last == next(reversed(host.instances), None))):
                    vote = table[one.slot] if first <= one.taken_at <= last else unfit
                    if mine is not None and (one.domain is mine or one.open) and vote > unfit:
                        later((len(self.votes), host, one, self._strengths[2]))
            except (AttributeError, KeyError, IndexError, TypeError):
                pass
            if vote != vote:
                vote = self._anew(host)
            if vote == unfit:
                refused(host)
            else:
                passed(host)
                votes(vote)
        self._count_sharing()

    def _anew(self, host: typing.Any) -> float | None:
        try:
            known = states.known(host)
            if known is None:
                return None if judge(host, self._asking, self._settings, self._now).ok else kept.UNFIT
            return self._told(host, known)
        except ReportError:
            pass
        except Exception as error:
            self.wrong[id(host)] = error
        return kept.UNFIT

    def _told(self, host: typing.Any, known: kept.Known) -> float | None:
        asked = self._asking.plain or self._asking.terms(host, known.default)
        seen, strengths = states.seen(host, known, self._asking.shared), self._strengths
        left = kept.what_is_left(known, asked, seen)
        if self._silent.issuperset(host.aggregates) or self._says_nothing(host.aggregates):
            kept.settle(known, seen, asked, self._table, left)
            vote = self._table.vote(left)
        else:
            try:
                if self._counts is not None:
                    strengths = self._counts.strengths(host)
                vote = left.vote(strengths[:2]) if left.fits else kept.UNFIT
            except Exception:  # no vote is no refusal: the weigher counts again, and says what is wrong
                return None if left.fits and self._is_fresh(known) else kept.UNFIT
        if vote == kept.UNFIT or not self._is_fresh(known):
            return kept.UNFIT
        domain = self._asking.domain
        if strengths[2] and domain is not None and (known.domain == domain or known.open):
            self._later.append((len(self.votes), host, known, strengths[2]))
        return vote

    def _is_fresh(self, known: kept.Known) -> bool:
        return abs(self._now - known.taken_at) <= self._oldest

    def _says_nothing(self, aggregates: typing.Iterable[typing.Any]) -> bool:
        """Whether none of a host's aggregates has metadata that is for us."""
        for aggregate in aggregates:
            if aggregate not in self._silent:
                if not OF_AGGREGATES.isdisjoint(aggregate.metadata):
                    return False
                self._silent.add(aggregate)
        return True

    def _count_sharing(self) -> None:
        """Last, as it depends on what reports tell of page contents: all votes shall know the same."""
        for place, host, known, strength in self._later:
            try:
                self.votes[place] += strength * self._counts.affinity(host, known)  # type: ignore[operator]
            except Exception:  # as above
                self.votes[place] = None
