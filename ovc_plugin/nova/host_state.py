# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The only reader of nova's HostState: what a host reports, and what is in flight there.

Nothing of nova is imported here: its objects are known by their attributes, so that the rules can be tried without it.
"""
from __future__ import annotations

import typing

from ovc_plugin import report as reports
from ovc_plugin.model import MIB
from ovc_plugin.nova import kept, neighbours
from ovc_plugin.nova.asking import Asking
from ovc_plugin.nova.kept import Known, Left, Seen
from ovc_plugin.settings import SharedSettings


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
    found = kept.HOSTS.get(host_state.nodename)
    if found is None or found.text != text:
        found = kept.renew(host_state.nodename, Known(text, reports.read(text), found))
    return found


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


def left(host_state: typing.Any, known: Known, asking: Asking) -> Left:
    """What is left on the host with the request and all in flight."""
    return kept.what_is_left(known, asking.plain or asking.terms(host_state, known.default),
                        seen(host_state, known, asking.shared))


def seen(host_state: typing.Any, known: Known, shared: SharedSettings) -> Seen:
    """What is in flight there. Kept while nothing changes: few hosts change between two requests."""
    found, listed = known.seen, len(host_state.instances)
    if (found.free_mb != host_state.free_ram_mb or found.instances != host_state.num_instances
            or found.listed != listed or found.last not in (None, next(reversed(host_state.instances), None))):
        guests, memory = in_flight(host_state, known)
        sure, rest = guaranteed(host_state, known, memory, shared) if memory else (0, 0)
        # Where all that is in flight is still on its way, who is listed there says nothing of it.
        last = next(reversed(host_state.instances), None) if rest != memory else None
        found = Seen(host_state.free_ram_mb, host_state.num_instances, listed, guests, memory, sure, rest, last)
        kept.find(known, found)
    return found
