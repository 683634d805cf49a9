# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Leaving a host to itself: guests are given what is free, as far as it can be told in seconds."""
from __future__ import annotations

import dataclasses
import logging
import time
import typing

from ovc_plugin.act.actuator import Actuator
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.decide import leave
from ovc_plugin.model import MIB, HostSnapshot, Outcome, Plan, SetBalloon
from ovc_plugin.samples import MemorySample
from ovc_plugin.settings import HostSettings

LOG = logging.getLogger(__name__)
SECONDS = 3.0
_LOOK = 0.05

Apply = typing.Callable[[Plan], list[Outcome]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """What was given and what became of it; ``missing`` bytes guests lack still."""

    back: leave.GivingBack
    plan: Plan
    outcomes: list[Outcome]

    @property
    def given(self) -> int:
        return sum(o.action.target - o.action.previous for o in self.outcomes
                   if o.done and isinstance(o.action, SetBalloon) and o.action in self.back.actions)

    @property
    def missing(self) -> int:
        return self.back.lacking - self.given


def give_back(snapshot: HostSnapshot, settings: HostSettings, plan: Plan, apply: Apply, *, handed: int = 0,
              into_swap: bool = False, seconds: float = SECONDS, later: typing.Collection[str] = ()) -> Parting:
    """Ask one guest after the other, for at most ``seconds``, but for those that are asked ``later``. ``plan`` is the
    last one made; its level is kept."""
    back, deadline = leave.give_back(snapshot, settings, handed, into_swap=into_swap), time.monotonic() + seconds
    outcomes: list[Outcome] = []
    for action in back.actions:
        if action.guest in later:
            continue
        if time.monotonic() >= deadline:
            break
        outcomes += apply(dataclasses.replace(plan, actions=(action,)))
    return Parting(back=back, plan=dataclasses.replace(plan, actions=back.actions), outcomes=outcomes)


def hand_over(host: str, snapshot: HostSnapshot | None, memory: typing.Callable[[], MemorySample],
              settings: HostSettings, plan: Plan, actuator: Actuator, told: Chronicle, now: float) -> set[str]:
    """Give guests what is free at this moment, by the last ``snapshot`` of them, and tell it; returns who was asked.

    A guest that was asked to shrink by a call that has not come back (libvirt waits for a QEMU that hangs) is asked for
    the size that it shall have once that call has, last of all. Where it has not within seconds, the guest may shrink
    when nobody looks after it any more: that is told.
    """
    deadline, late = time.monotonic() + SECONDS, actuator.late()
    if snapshot is None:
        _warn(host, late, {})
        return set()

    def apply(plan: Plan) -> list[Outcome]:
        return actuator.apply(plan, dry_run=False)
    sizes = {guest.uuid: guest.maximum - leave.lack(guest) for guest in snapshot.running if guest.actual is not None}
    late = {guest: size for guest, size in late.items() if size < sizes.get(guest, size + 1)}
    try:
        available = memory().available
    except (OSError, KeyError, ValueError):
        available = 0  # nothing is given blindly
    snapshot = dataclasses.replace(snapshot, available=available)
    done = give_back(snapshot, settings, plan, apply, later=late)
    wanted = {action.guest: action for action in done.back.actions}
    for guest in list(late):
        while (waits := guest in actuator.late()) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        if not waits and guest in sizes:
            actuator.readmit(guest)
            last = wanted.get(guest) or _as_it_is(guest, late[guest], sizes[guest])
            done.outcomes.extend(apply(dataclasses.replace(plan, actions=(last,))))
            if done.outcomes[-1].done:
                del late[guest]
    told.tell(done.plan, plan.level, done.outcomes, snapshot, now)
    if done.missing > 0:
        LOG.warning('%s: guests lack %d MB of their full size, for which there is no room now: see "ovc release"', host,
                    done.missing // MIB)
    _warn(host, late, {guest.uuid: guest.name for guest in snapshot.guests})
    return {o.action.guest for o in done.outcomes if isinstance(o.action, SetBalloon)}


def _as_it_is(guest: str, target: int, size: int) -> SetBalloon:
    return SetBalloon(guest=guest, target=size, previous=target, reason=(
        f'a call for {target // MIB} MB came back late, and nobody looks after the guest any more: it keeps its size'))


def _warn(host: str, late: typing.Mapping[str, int], names: typing.Mapping[str, str]) -> None:
    for guest, target in late.items():
        LOG.warning('%s: guest %s was asked for %d MB by a call that hangs, and may yet shrink to that, with nobody '
                    'looking after it: once it answers, start this controller again, or "ovc release" gives it back '
                    'its size', host, names.get(guest, guest), target // MIB)
