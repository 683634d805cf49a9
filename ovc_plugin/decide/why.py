# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Why a guest is treated as it is: what it may have, what it has, what is next, and what keeps each mechanism away.

Every sentence is made of the same functions that decide, so that it cannot say anything else than what is done.
"""
from __future__ import annotations

import typing

from ovc_plugin import describe
from ovc_plugin.decide import balloon, need, progress, swap
from ovc_plugin.decide import host as ladder
from ovc_plugin.decide.rule import Situation
from ovc_plugin.decide.state import Asked, LadderState, Need, Probe
from ovc_plugin.model import MIB, AskMigration, GuestSnapshot, HostSnapshot, Level, Plan, ReclaimGuest, SetBalloon
from ovc_plugin.settings import HostSettings

Decide = typing.Callable[[HostSnapshot, LadderState, HostSettings, float], tuple[Plan, LadderState]]
Fields = dict[str, typing.Any]


def may(guest: GuestSnapshot) -> list[str]:
    """What the guest may have and is owed."""
    source = f' (by {guest.reservation_from})' if guest.reservation_from else ''
    lines = [f'maximum {_mb(guest.maximum)}, and {_mb(guest.overhead)} that it costs its host beyond that',
             f'guaranteed {_mb(guest.reservation)}{source}, weight {guest.weight:g}']
    if guest.can_balloon and not guest.gives_way:
        lines.append('its balloon does not give way when it runs out of memory (autodeflate=\'on\' in <memballoon> '
                     'would make it): it keeps its whole cushion, and is given what is free of what it lacks at HARD')
    if guest.untouchable:
        lines.append(f'untouchable ({guest.untouchable}): it counts at its full size')
    return lines


def has(guest: GuestSnapshot, state: LadderState, settings: HostSettings, now: float) -> list[str]:
    """What the guest holds now, as far as it is known, and how much of that it is thought to need."""
    if not guest.running:
        return ['it is stopped, and holds no memory']
    asked = f', asked to be {_mb(guest.target)}' if guest.target not in (None, guest.actual) else ''
    spoke = (f'; {guest.stats_age:.0f} s ago it could use {_mb(guest.usable)} of that without swapping'
             if guest.usable is not None and guest.stats_age is not None else '; it says nothing of its memory')
    read_back = f', {guest.refaults:.0f} pages/s read back' if guest.refaults else ''
    merged = f'; {_mb(guest.saved)} of it merged away' if guest.saved is not None else ''
    published = ([] if guest.published is None else [
        f'it publishes a working set of {_mb(guest.published)} (within what it is guaranteed and its maximum), '
        + ('not yet known to be alive' if guest.published_age is None else f'{guest.published_age:.0f} s old')])
    return [f'balloon: {_mb(guest.actual)}{asked}{spoke}', *published,
            f'the host backs {_mb(guest.resident)} with memory and {_mb(guest.swapped)} with swap{read_back}{merged}',
            _needs(guest, state.needs.get(guest.uuid), settings, now)]


def _needs(guest: GuestSnapshot, known: Need | None, settings: HostSettings, now: float) -> str:
    found = need.estimate(guest, known, now)
    how = (f'by what it said {max(0.0, now - known.heard_at):.0f} s ago' if need.heard(known) else
           'its size is not known at all' if guest.resident is None else 'by what its host backs, as it says nothing'
           if known is None else 'by what its host backs, as it has yet to speak of the size that it was found with')
    suffers, more = need.harm(guest, settings), int(known.raised) if known is not None else 0
    raised = f', raised by {_mb(more)} since it suffered' if more >= MIB else ''
    return (f'it needs {_mb(found.amount)} ({how}{raised}; confidence {found.confidence:.2f})'
            + (f'; it suffers: {suffers}' if suffers else ''))


def fields(guest: GuestSnapshot, state: LadderState, now: float, last_actions: typing.Mapping[str, Fields]) -> Fields:
    """The guest for the status, with what it is thought to need."""
    found = need.estimate(guest, state.needs.get(guest.uuid), now)
    return describe.guest_fields(guest, last_actions.get(guest.uuid), need=found.amount, confidence=found.confidence)


def why(snapshot: HostSnapshot, guest: GuestSnapshot, plan: Plan, state: LadderState, settings: HostSettings,
        now: float) -> list[str]:
    """What ``plan`` does with the guest, and why it does no more. ``state`` is that before the plan."""
    if not guest.running:
        return ['it is stopped: nothing is asked of it']
    if guest.untouchable:
        return [f'untouchable ({guest.untouchable}): it is never ballooned, merged or swapped']
    mine = [a for a in plan.actions
            if isinstance(a, SetBalloon | ReclaimGuest | AskMigration) and a.guest == guest.uuid]
    names = {guest.uuid: guest.name}
    how = 'dry run: would ' if settings.dry_run else ''
    lines = [f'{how}{describe.verb(action, names)}: {action.reason}' for action in mine]
    situation, _ = ladder.look(snapshot, state, settings, now)
    if (awaited := situation.state.departing.awaited) is not None and awaited.guest == guest.uuid:
        return [*lines, f'on its way to another host, as it was asked {now - awaited.at:.0f} s ago: what changes of it '
                'is copied again, so it keeps its size, and is swapped at CRITICAL alone', _shared(snapshot, guest)]
    if not any(isinstance(a, SetBalloon) for a in mine):
        lines += [f'not ballooned: {reason}' for reason in _ballooned(guest, plan, situation)]
    if not any(isinstance(a, ReclaimGuest) for a in mine):
        lines += [f'not swapped: {reason}' for reason in _swapped(snapshot, guest, plan, settings,
                                                                 state.probes.get(guest.uuid), now)]
    lines.append(_shared(snapshot, guest))
    return lines


def _ballooned(guest: GuestSnapshot, plan: Plan, situation: Situation) -> list[str]:
    """Why its size stays; the first thing in its way where there are several."""
    state, settings, now = situation.state, situation.settings, situation.now
    asked, known, stern = state.asked.get(guest.uuid), state.needs.get(guest.uuid), balloon.is_stern(situation)
    if not settings.balloon:
        return ['balloon = false in [ovc_host]']
    if not guest.can_balloon:
        return ['it has no balloon device, or is starting, paused or migrating']
    if stuck := _stuck(guest, asked, settings, now):
        return [stuck]
    if asked is not None and (owed := progress.shrinking(guest.actual, asked)):
        return [f'asked {now - asked.at:.0f} s ago to be {_mb(asked.target)}, and {_mb(owed)} from there; it moved '
                f'{now - asked.moved_at:.0f} s ago']
    if guest.actual is not None and (asked.target if asked else guest.actual) < guest.reservation:
        return [f'it has {_mb(guest.actual)} < {_mb(guest.reservation)}, its reservation, and gets that below CRITICAL '
                'once all it lacks of it is free']
    full = guest.actual is not None and guest.actual >= guest.maximum
    if plan.level is Level.CLEAR:
        return [f'level CLEAR ({plan.reason})' + ('; it has its maximum' if full else
                                                 f'; it lacks {_mb(guest.maximum - (guest.actual or 0))} of its '
                                                 'maximum, and gets it once the host has had more over for a while')]
    if silence := _silence(guest, settings):
        return [silence]
    level = Level.CRITICAL if stern else Level.SOFT  # half of the cushion goes in the one case alone
    lowest, spare = (f(guest, level, settings, known) for f in (balloon.floor, balloon.givable))
    if not spare:
        return [f'it can give nothing: {_mb(guest.actual)} <= {_mb(lowest)}, the larger of its reservation '
                f'({_mb(guest.reservation)}) and its need with a cushion']
    if waits := _waits(guest, asked, spare, situation, stern) or _misunderstood(guest, known, settings, now):
        return [waits]
    return [f'it could give {_mb(spare)} (down to {_mb(lowest)}); at level {plan.level.name} others give what is '
            'missing, or too little is missing']


def _waits(guest: GuestSnapshot, asked: Asked | None, spare: int, situation: Situation, stern: bool) -> str | None:
    """What a guest that could give is still waited for."""
    settings, now = situation.settings, situation.now
    least = max(balloon.LEAST, int(settings.dead_band * guest.maximum))
    if asked is not None and asked.change < 0:
        least = max(least, int(settings.balloon_step * guest.maximum / 4))
    if spare < least:
        return f'it could give {_mb(spare)} < {_mb(least)}, the smallest change worth asking for'
    if asked is None or (word := need.word(guest, settings)) is None or balloon.may_turn(
            asked, now - word.age, situation, stern):
        return None
    if balloon.keeps(asked, situation):
        return (f'it was given memory {now - asked.at:.0f} s ago < {settings.turn_after:.0f} s (turn_after), and is '
                'asked before that only where another guest lacks what it is guaranteed')
    return (f'settling: it moved {now - asked.moved_at:.0f} s ago, and has said nothing of its memory since '
            f'(for {word.age:.0f} s)')


def _misunderstood(guest: GuestSnapshot, known: Need | None, settings: HostSettings, now: float) -> str | None:
    if need.understood(guest, known, settings, now) is not None:
        return None
    return 'what it said last tells of another size than it has: it is not shrunk before it speaks again'


def _stuck(guest: GuestSnapshot, asked: Asked | None, settings: HostSettings, now: float) -> str | None:
    if asked is None or not progress.stuck(guest.actual, asked, settings, now):
        return None
    return (f'stuck: asked to be {_mb(asked.target)}, is at {_mb(guest.actual)} and no nearer for '
            f'{now - asked.moved_at:.0f} s >= {settings.stuck_after:.0f} s (stuck_after); others carry its part')


def _silence(guest: GuestSnapshot, settings: HostSettings) -> str | None:
    if need.fresh(guest, settings):
        return None
    if (guest.usable is None or guest.stats_age is None) and guest.published_age is not None:
        return (f'the working set that it publishes is {guest.published_age:.0f} s old > '
                f'{settings.stats_max_age:.0f} s (stats_max_age)')
    if guest.usable is None or guest.stats_age is None:
        return ('it says nothing of its memory: give it a statistics period (nova: [libvirt] mem_stats_period_seconds) '
                'and a balloon driver')
    return f'its statistics are {guest.stats_age:.0f} s old > {settings.stats_max_age:.0f} s (stats_max_age)'


def _swapped(snapshot: HostSnapshot, guest: GuestSnapshot, plan: Plan, settings: HostSettings, probe: Probe | None,
             now: float) -> list[str]:
    if not settings.swap:
        return ['swap = false in [ovc_host]']
    if not guest.can_swap:
        return ['it has no memory control group of its own, or the kernel cannot reclaim from it']
    if plan.level is Level.CLEAR:
        return ['level CLEAR']
    if not snapshot.swap_free:
        return [f'no swap is free: 0 MB of {_mb(snapshot.swap_total)}']
    if guest.swap_room is not None and guest.swap_room < MIB:
        return [f'its control group has {_mb(guest.swapped)} in swap, all that its limit of swap lets it have']
    if not swap.swappable(guest):
        return [f'{_mb(guest.resident)} resident <= {_mb(swap.floor(guest))} guaranteed']
    if probe is not None and swap.resting(probe, now):
        return [f'nothing of it could be moved {probe.misses} times in a row: it is not counted on for '
                f'{probe.until - now:.0f} s']
    if plan.level < Level.CRITICAL and swap.harmed(guest, settings):
        return [f'it reads back {guest.refaults:.0f} pages/s > {settings.refault_limit:.0f} (refault_limit)']
    return [f'{_mb(swap.swappable(guest))} could be; at level {plan.level.name} balloons or others cover what is '
            'missing']


def _shared(snapshot: HostSnapshot, guest: GuestSnapshot) -> str:
    if not guest.can_share:
        return 'not merged: its pages are marked as not to be shared'
    if snapshot.ksm is None or snapshot.ksm.run != 1:
        return 'not merged now: page sharing is not running on this host'
    return f'merged with guests of its trust domain ({guest.trust_domain or "none"})'


def explain(snapshot: HostSnapshot | None, state: LadderState, settings: HostSettings, now: float, wanted: str,
            decide: Decide, last_actions: typing.Mapping[str, Fields]) -> Fields:
    """All of it, as JSON-able data, for each guest that ``wanted`` names; none where it is unknown here."""
    guests = find(snapshot, wanted) if snapshot is not None else ()
    if snapshot is None or not guests:
        return {'guests': []}
    # As of when it was looked at: what guests had said then would else be taken for said just now.
    age, now = now - snapshot.taken_at, snapshot.taken_at
    plan, _ = decide(snapshot, state, settings, now)
    return {'host': snapshot.host, 'age': age, 'level': plan.level.name, 'reason': plan.reason,
            'available': snapshot.available, 'total': snapshot.total, 'dry_run': settings.dry_run,
            'guests': [{'uuid': g.uuid, 'name': g.name, 'title': g.title, 'may': may(g),
                        'has': has(g, state, settings, now), 'next': why(snapshot, g, plan, state, settings, now),
                        'last_action': last_actions.get(g.uuid)} for g in guests]}


def find(snapshot: HostSnapshot, wanted: str) -> tuple[GuestSnapshot, ...]:
    """The guests of that uuid, name, or name with the cloud's users; else those whose uuid begins so."""
    exact = tuple(g for g in snapshot.guests if wanted and wanted in (g.uuid, g.name, g.title))
    return exact or tuple(g for g in snapshot.guests if len(wanted) >= 4 and g.uuid.startswith(wanted))


def _mb(amount: typing.Any) -> str:
    return '- MB' if amount is None else f'{amount // MIB} MB'
