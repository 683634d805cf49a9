# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The guests on a host as nova's scheduler knows them: which of them share pages, and what each is made from.

Like ``host_state`` it knows nova's objects by their attributes alone.
"""
from __future__ import annotations

import functools
import itertools
import typing

from ovc_plugin import report as reports
from ovc_plugin.nova.asking import untouchable
from ovc_plugin.nova.attributes import given, image_or_flavor, shares, specs_of


class Neighbours:
    """The guests of one host. ``kinds`` are (project, image) of all, to tell who is alike.

    A guest of which nova holds no more than its id (as after a restart of nova-scheduler) is not asked for in the
    database: whether it shares is in the host's report.
    """

    def __init__(self, instances: list[typing.Any]) -> None:
        self.instances = instances

    @functools.cached_property
    def kinds(self) -> frozenset[tuple[str, str]]:
        found = set()
        for instance in self.instances:
            project = given(instance, 'project_id')
            if project:
                image = given(instance, 'image_ref')
                found.add((project, image or image_or_flavor(None, given(instance, 'instance_type_id'))))
        return frozenset(found)

    @functools.cached_property
    def _sharers(self) -> list[tuple[float, str]]:
        """When each came that may share, and its trust domain; the latest first."""
        return sorted(((_told_at(i), reports.domain_name(i.project_id)) for i in self.instances
                       if given(i, 'project_id') and _shares(i)), reverse=True)

    @functools.cached_property
    def _comers(self) -> list[tuple[float, typing.Any]]:
        """When each came of which more is known than its id; the latest first."""
        return sorted(((_told_at(i), i) for i in self.instances if given(i, 'flavor') is not None),
                      key=lambda one: -one[0])

    def since(self, at: float) -> list[typing.Any]:
        """The guests that came since then, in seconds of the epoch."""
        return [instance for _, instance in itertools.takewhile(lambda one: one[0] > at, self._comers)]

    def domains(self, since: float) -> typing.Collection[str]:
        """The trust domains of guests that may share and came since then, in seconds of the epoch: no report taken
        before can have them. Of those that were here before, the report knows whether they were started so."""
        sharers = self._sharers
        if not sharers or sharers[0][0] <= since:
            return ()
        return {domain for at, domain in sharers if at > since}


_kept: dict[str, Neighbours] = {}


def of(host_state: typing.Any) -> Neighbours:
    """By node, made anew once a guest comes, goes or changes: nova then has another object for it."""
    instances = list(host_state.instances.values())
    found = _kept.get(host_state.nodename)
    if found is None or found.instances != instances:
        found = _kept[host_state.nodename] = Neighbours(instances)
    return found


def _shares(instance: typing.Any) -> bool:
    specs = specs_of(instance)
    return shares(specs) and untouchable(instance, specs) is None


def _told_at(instance: typing.Any) -> float:
    """When the guest came: its host tells the schedulers once it runs there, with what was then saved last."""
    times = [given(instance, name) for name in ('launched_at', 'updated_at')]
    return max((time.timestamp() for time in times if time is not None), default=0.0)
