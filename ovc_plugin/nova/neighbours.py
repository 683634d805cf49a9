# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The guests on a host as nova's scheduler knows them: which of them share pages, and what each is made from.

Like ``host_state`` it knows nova's objects by their attributes alone.
"""
from __future__ import annotations

import functools
import math
import typing

from ovc_plugin import report as reports
from ovc_plugin.nova.asking import untouchable
from ovc_plugin.nova.attributes import given, image_or_flavor, shares, specs_of


class Neighbours:
    """The guests of one host. What is known of each is found out once, and kept for those that stay (``before``): to
    look at all 40 of a host because one came costs more than all else there.

    A guest of which nova holds no more than its id (as after a restart of nova-scheduler) is not asked for in the
    database: whether it shares is in the host's report.
    """

    def __init__(self, instances: list[typing.Any], before: Neighbours | None = None) -> None:
        self.instances = instances
        self._found: dict[typing.Callable[[typing.Any], typing.Any], dict[int, typing.Any]] = {}
        for fact, there in list(before._found.items()) if before is not None else ():
            # By the id of nova's object, which ``before`` keeps alive till here.
            self._found[fact] = {id(i): there[id(i)] if id(i) in there else fact(i) for i in instances}

    def _each(self, fact: typing.Callable[[typing.Any], typing.Any]) -> typing.Collection[typing.Any]:
        """This of each guest, in their order."""
        found = self._found.get(fact)
        if found is None:
            found = self._found[fact] = {id(i): fact(i) for i in self.instances}
        return found.values()

    @functools.cached_property
    def kinds(self) -> frozenset[tuple[str, str]]:
        """(project, image) of all, to tell who is alike."""
        return frozenset(kind for kind in self._each(_kind) if kind is not None)

    @functools.cached_property
    def _last(self) -> float:
        """When the latest came that may share."""
        return max((at for at, _ in self._each(_sharer)), default=_NEVER)

    def since(self, at: float) -> list[typing.Any]:
        """The guests that came since then, in seconds of the epoch, of which more is known than their id."""
        return [instance for instance, came in zip(self.instances, self._each(_comer), strict=True) if came > at]

    def domains(self, since: float) -> typing.Collection[str]:
        """The trust domains of guests that may share and came since then, in seconds of the epoch: no report taken
        before can have them. Of those that were here before, the report knows whether they were started so."""
        if self._last <= since:
            return ()
        return {domain for at, domain in self._each(_sharer) if at > since}


_NEVER = -math.inf
_kept: dict[str, Neighbours] = {}


def of(host_state: typing.Any) -> Neighbours:
    """By node, made anew once a guest comes, goes or changes: nova then has another object for it."""
    instances = list(host_state.instances.values())
    found = _kept.get(host_state.nodename)
    if found is None or found.instances != instances:
        found = _kept[host_state.nodename] = Neighbours(instances, found)
    return found


def _kind(instance: typing.Any) -> tuple[str, str] | None:
    project = given(instance, 'project_id')
    if not project:
        return None
    return project, given(instance, 'image_ref') or image_or_flavor(None, given(instance, 'instance_type_id'))


def _sharer(instance: typing.Any) -> tuple[float, str]:
    """When a guest came that may share, and its trust domain."""
    project = given(instance, 'project_id')
    return (_told_at(instance), reports.domain_name(project)) if project and _shares(instance) else (_NEVER, '')


def _comer(instance: typing.Any) -> float:
    return _told_at(instance) if given(instance, 'flavor') is not None else _NEVER


def _shares(instance: typing.Any) -> bool:
    specs = specs_of(instance)
    return shares(specs) and untouchable(instance, specs) is None


def _told_at(instance: typing.Any) -> float:
    """When the guest came: its host tells the schedulers once it runs there, with what was then saved last."""
    times = [given(instance, name) for name in ('launched_at', 'updated_at')]
    return max((time.timestamp() for time in times if time is not None), default=0.0)
