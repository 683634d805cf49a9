# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""May a request go to a host? Once with a reason, and once as fast as it can be told."""
from __future__ import annotations

import typing

from ovc_plugin.decide import placement
from ovc_plugin.model import MIB, InFlight, Verdict
from ovc_plugin.nova import host_state as states
from ovc_plugin.nova.asking import untouchable
from ovc_plugin.nova.attributes import given
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
    reserved = states.owed(memory, sure, rest, asking.terms(host_state, known.default))
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
    """Tells of any host the same as :func:`judge` without its words, which cost more than the sums; and counts the
    votes on those that pass, where ``asking.counts`` does.
    """

    __slots__ = ('_asking', '_settings', '_now', '_oldest', '_known', '_key', '_counts', '_domain', '_room', '_trend')

    def __init__(self, asking: states.Asking, settings: Settings, now: float) -> None:
        self._asking, self._settings, self._now = asking, settings, now
        self._oldest, self._known, self._counts = settings.shared.report_max_age, states.all_known(), asking.counts
        self._key = asking.plain.key if asking.plain is not None else None
        self._room, self._trend, sharing = self._counts.default if self._counts is not None else (0.0, 0.0, 0.0)
        self._domain = asking.domain if sharing else None

    def passes(self, host: typing.Any) -> bool:
        """Long, and without calls for a host that is as it was: this is what a request costs on each of thousands."""
        try:
            kept = self._known[host.nodename]
            seen = kept.seen
            if (kept.text != host.stats[STATS_KEY] or seen.free_mb != host.free_ram_mb
                    or seen.instances != host.num_instances or seen.listed != len(host.instances)):
                return self._anew(host)
            left = seen.left[self._key or self._asking.terms(host, kept.default).key]
        except (AttributeError, KeyError):
            return self._anew(host)
        if not left.fits or abs(self._now - kept.taken_at) > self._oldest:
            return False
        counts = self._counts
        if counts is not None:
            if self._domain is not None and (kept.domain == self._domain or kept.open):
                return self._counted(host, (kept, left))
            silent = counts.silent
            for aggregate in host.aggregates:
                if id(aggregate) not in silent:
                    return self._counted(host, (kept, left))
            self._asking.votes[id(host)] = self._room * left.headroom + self._trend * left.trend
        return True

    def _anew(self, host: typing.Any) -> bool:
        try:
            found = states.find(host, self._asking)
        except ReportError:
            return False
        if found is None:
            return judge(host, self._asking, self._settings, self._now).ok
        if not found[1].fits or abs(self._now - found[0].taken_at) > self._oldest:
            return False
        return self._counted(host, found)

    def _counted(self, host: typing.Any, found: states.Found) -> bool:
        asking = self._asking
        if asking.counts is not None:
            try:
                if (vote := asking.counts.early(host, found)) is None:
                    asking.later.append((host, found))
                else:
                    asking.votes[id(host)] = vote
            except Exception:  # no vote is no refusal: the weigher counts again, and says what is wrong
                asking.counts = None
        return True
