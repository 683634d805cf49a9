# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What our filter and weigher cost nova-scheduler, beside what nova's own cost it: a part of benchmarks/cost.

A world of hosts with 40 guests each, in two host aggregates, a third of them full, all reporting once a minute; what
nova counts on a host is what that reports and what came since. Each tells what the kernel has merged of its guests'
images; one in two samples pages and tells as many sketches as a report holds, others each time; one in eight has guests
of several trust domains. Requests come from eight projects for twelve flavors, of which half say nothing of a
reservation, and between two of them a guest comes to one host in a hundred. Each request gets HostStates made anew from
nova's own database objects, by nova's own code, as nova does. They go through nova's own handlers in the order in which
a scheduler has them go: nova's default filters, ours, nova's default weighers, ours; each of the four is timed by
itself.

What nova's handler of weighers does however many there are, a list of all hosts and a sort, is in nova's cost and not
again in ours. What nova spends on any filter and weigher more is in ours, as far as ours leave nova to spend it: in
other requests a filter and a weigher that do nothing are in our place. In others again that filter compares each host's
report with the one it has read before, and does no more. In a burst requests follow each other before any host has
reported again. The default set is nova's default filters and weighers. Beside it stands all that nova spends on a host,
the making of its HostState included; reading the database, which costs more, is in neither.

The data of this process are put into pages of 2 MB before each request, and nova's figures are taken so, too. In a
virtual machine the first touch of a small page after a rest may cost more than all that is done with it, which is the
machine's doing and not the code's: what it costs here is told. --small-pages leaves them as they are.

A request to which every report is new has no goal: it comes a minute or more after the one before it, reads once what a
minute's requests would have read between them, and nobody queues behind it. What it costs is told.
"""
from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import time
import types
from typing import Any

import rested
from cost_world import World, a_request, prepare, report_text

GOAL_US, GOAL_PERCENT, GOAL_BYTES = 10.0, 5.0, 2048
SETTLED = 30  # requests after which a scheduler is one like any other

Row = tuple[str, str, str, bool | None]


@dataclasses.dataclass(kw_only=True)
class Cost:
    """Microseconds of processor time for each host of the request, medians over requests."""

    states: float
    nova_set: float
    ours: float
    burst: float
    changed: float
    all_new: float
    first: float
    sharing: float
    idle: float
    reading: float

    @property
    def nova(self) -> float:
        return self.states + self.nova_set


class Scheduler:
    """nova's handlers with its default filters and weighers, and with ours."""

    def __init__(self) -> None:
        import nova.conf
        from nova.scheduler import filters, weights

        from ovc_plugin.nova.filters import OvercommitFilter, SharingDomainFilter
        from ovc_plugin.nova.weights import OvercommitWeigher
        options = nova.conf.CONF.filter_scheduler
        nova.conf.CONF.set_override('dry_run', False, group='ovc_scheduler')
        self._filters, self._weights = filters.HostFilterHandler(), weights.HostWeightHandler()
        found = {c.__name__: c for c in self._filters.get_matching_classes(['nova.scheduler.filters.all_filters'])}
        self.theirs = ([found[name]() for name in options.enabled_filters],
                       [c() for c in self._weights.get_matching_classes(options.weight_classes)])
        self.ours = [OvercommitFilter()], [OvercommitWeigher()]
        self.sharing = [SharingDomainFilter()]
        self.idle = {'idle': ([_passing(filters)], [_indifferent(weights)]),
                     'reading': ([_reading(filters)], [_indifferent(weights)])}

    def run(self, states: list[Any], spec: Any, idle: str = '') -> dict[str, float]:
        """One request: processor seconds by who used them. Hosts that we refuse are not weighed by anybody. ``idle``
        names those of :attr:`idle` that are in our place; all else is left out."""
        seconds = {}

        def timed(name: str, call: Any, *arguments: Any) -> Any:
            began = time.thread_time()
            found = call(*arguments)
            seconds[name] = seconds.get(name, 0.0) + time.thread_time() - began
            return found

        sift, weigh = self._filters.get_filtered_objects, self._weights.get_weighed_objects
        if idle:
            chosen, ranked = self.idle[idle]
            kept = timed(idle, sift, chosen, sift(self.theirs[0], states, spec), spec)
            weigh(self.theirs[1], kept, spec)
            timed(idle, weigh, ranked, kept, spec)
            return self._without_frame(seconds, idle, timed, kept, spec)
        passed = timed('nova_set', sift, self.theirs[0], states, spec)
        kept = timed('ours', sift, self.ours[0], passed, spec)
        timed('nova_set', weigh, self.theirs[1], kept, spec)
        timed('ours', weigh, self.ours[1], kept, spec)
        self._without_frame(seconds, 'ours', timed, kept, spec)
        timed('sharing', sift, self.sharing, kept, spec)
        assert 0 < len(kept) < len(states) or len(states) < 10, 'the hosts should be some full, some not'
        return seconds

    def _without_frame(self, seconds: dict[str, float], name: str, timed: Any, *arguments: Any) -> dict[str, float]:
        """A call for one weigher more than none, less what nova's handler spends on none."""
        timed('frame', self._weights.get_weighed_objects, [], *arguments)
        seconds[name] -= seconds.pop('frame')
        return seconds


def _passing(filters: Any) -> Any:
    class Passing(filters.BaseHostFilter):
        """Lets all hosts pass without looking at one."""

        def filter_all(self, filter_obj_list: Any, spec_obj: Any) -> Any:
            return filter_obj_list

    return Passing()


def _reading(filters: Any) -> Any:
    class Reading(filters.BaseHostFilter):
        """Lets all hosts pass, and sees whether each one's report is the one that it has seen last."""

        def __init__(self) -> None:
            self._known: dict[str, str] = {}

        def filter_all(self, filter_obj_list: Any, spec_obj: Any) -> Any:
            known, passed = self._known, []
            for host in filter_obj_list:
                text = host.stats['ovc']
                if known.get(host.nodename) != text:
                    known[host.nodename] = text
                passed.append(host)
            return passed

    return Reading()


def _indifferent(weights: Any) -> Any:
    class Indifferent(weights.BaseHostWeigher):
        """Weighs all hosts alike without looking at one."""

        minval, maxval = 0.0, 1.0

        def weigh_objects(self, weighed_obj_list: Any, weight_properties: Any) -> list[float]:
            return [0.5] * len(weighed_obj_list)

        def _weigh_object(self, host_state: Any, weight_properties: Any) -> float:
            return 0.5

    return Indifferent()


def measure(hosts: int, options: argparse.Namespace) -> Cost:
    world, scheduler = World(hosts, options.seed), Scheduler()
    from ovc_plugin.nova import filters
    filters.time = types.SimpleNamespace(time=lambda: world.now)  # type: ignore[assignment]
    taken: dict[str, list[float]] = {field.name: [] for field in dataclasses.fields(Cost)}

    def request(number: int, after: float, idle: str = '') -> dict[str, float]:
        changed = world.pass_time(after)
        if not options.small_pages:
            rested.use_huge_pages()  # those that states took before are used by the next ones
        states, making = world.states()
        told = {} if idle else {'states': making, 'changed': changed / 1e6}
        return scheduler.run(states, a_request(number), idle) | told

    first = request(0, 0.0)['ours'] / hosts * 1e6  # of a scheduler's life: every report and guest is new to it
    for number in range(SETTLED):
        request(number, max(1.0, options.interval))
    for number in range(options.requests):
        for idle in ('', *scheduler.idle):
            # Requests without us come in the same second: to ours the next one is one interval later.
            for name, seconds in request(number, 0.0 if idle else options.interval, idle).items():
                taken[name].append(seconds / hosts * 1e6)
        taken['burst'].append(request(number, 0.0)['ours'] / hosts * 1e6)
    for number in range(max(3, options.requests // 4)):
        taken['all_new'].append(request(number, 60.0)['ours'] / hosts * 1e6)
    taken['first'] = [first]
    return Cost(**{name: statistics.median(figures) for name, figures in taken.items()})


def rows(options: argparse.Namespace) -> tuple[list[Row], str]:
    prepare()
    found = {hosts: measure(hosts, options) for hosts in options.hosts}
    told: list[Row] = []
    for hosts, cost in found.items():
        percent = cost.ours / cost.nova_set * 100
        told += [
            (f'{hosts} hosts: filter + weigher, per host',
             f'{cost.ours:.1f} us (a request every {options.interval:g} s; {cost.all_new:.1f} us with every report '
             f'new, {cost.first:.0f} in a first request)', f'<= {GOAL_US:.0f} us', cost.ours <= GOAL_US),
            ('  beside nova\'s default set', f'{percent:.1f} % of {cost.nova_set:.0f} us', f'<= {GOAL_PERCENT:.0f} %',
             percent <= GOAL_PERCENT),
            ('  in a burst, while no report is new',
             f'{cost.burst / cost.nova_set * 100:.1f} %: {cost.burst:.1f} us', '', None),
            ('  each host that has changed', f'{(cost.ours - cost.burst) / cost.changed:.0f} us: '
             f'{cost.changed * 100:.1f} % of hosts between two requests to one of nova-scheduler\'s workers', '', None),
            ('  a filter and a weigher that do nothing', f'{cost.idle / cost.nova_set * 100:.1f} %: {cost.idle:.1f} us'
             ', for nova\'s own lists, logs and sums of each', '', None),
            ('  and the filter compares reports', f'{cost.reading / cost.nova_set * 100:.1f} %: {cost.reading:.1f} us, '
             'all of each', '', None),
            ('  beside all nova does for a host', f'{cost.ours / cost.nova * 100:.1f} % of {cost.nova:.0f} us', '',
             None),
            ('  SharingDomainFilter, when enabled', f'{cost.sharing:.1f} us more', '', None)]
    told.append(rested.told(0.0, 0.2, 1.0))
    few, many = min(found), max(found)
    told.append(('how it grows', f'{few} -> {many} hosts: {found[few].ours:.1f} -> {found[many].ours:.1f} us a host: '
                 f'{"linearly" if found[many].ours < 1.5 * found[few].ours else "faster than the hosts"}; nova\'s '
                 f'{found[few].nova:.0f} -> {found[many].nova:.0f}', '', None))
    size = max(len(report_text(number, time.time(), random.Random(number), reason='r' * 1000)) for number in range(200))
    told.append(('report, the longest', f'{size} bytes', f'< {GOAL_BYTES} bytes', size < GOAL_BYTES))
    line = ' '.join(f'us_{hosts}={cost.ours:.1f} all_new_us_{hosts}={cost.all_new:.1f} '
                    f'nova_us_{hosts}={cost.nova:.0f} nova_set_us_{hosts}={cost.nova_set:.0f} '
                    f'burst_us_{hosts}={cost.burst:.1f} idle_us_{hosts}={cost.idle:.1f} '
                    f'reading_us_{hosts}={cost.reading:.1f} '
                    f'percent_of_all_{hosts}={cost.ours / cost.nova * 100:.1f} '
                    f'percent_of_set_{hosts}={cost.ours / cost.nova_set * 100:.1f}' for hosts, cost in found.items())
    return told, f'{line} report_bytes={size}'
