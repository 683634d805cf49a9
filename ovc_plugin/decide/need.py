# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest needs: what it could not give up without swapping itself; fast up, slow down.

A guest's own word gives actual - usable, or the working set that it publishes, which knows better what of it is in
use. The need follows it up at once, and down with a time constant, so that a guest between two bursts is not taken for
idle (after Waldspurger, OSDI'02: respond rapidly to increases in usage, and more gradually to decreases). Where a guest
that was shrunk suffers (``harm``), its need is raised: what it calls usable is in use.
"""
from __future__ import annotations

import dataclasses
import math
import typing

from ovc_plugin.decide import progress
from ovc_plugin.decide.state import Asked, Need
from ovc_plugin.model import MIB, GuestSnapshot
from ovc_plugin.settings import HostSettings

_STALLS = 10.0        # times a second that its tasks had to look for memory themselves
_LATER = 0.5          # seconds by which a word must differ to be another one
_SHRUNK = 4 * MIB
_PAGE = 4096
_FORGETS = 0.2        # how much slower it is forgotten that a guest had too little
_FORGOTTEN = 0.05     # of its maximum: less counts for nothing, else the last of it was taken bit by bit, for an hour
_AGAIN = 0.25         # of its maximum: what a guest that grew by itself will want next


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A guest's need in bytes, and how far it can be trusted (0..1)."""

    amount: int
    confidence: float


class Word(typing.NamedTuple):
    """What a guest ``said`` that it cannot do without (bytes), and how many seconds ago."""

    said: int
    age: float


def word(guest: GuestSnapshot, settings: HostSettings) -> Word | None:
    """The guest's last word; ``None`` where it says nothing, or its size is unknown.

    A working set that it publishes counts instead of its statistics, and where it has none, but no longer than those
    would (promise 6). It is within [reservation, maximum].
    """
    if guest.actual is None:
        return None
    if guest.published is not None and _publishes(guest, settings):
        return Word(guest.published or 0, guest.published_age or 0.0)
    if guest.usable is None or guest.stats_age is None:
        return None
    said = guest.actual - guest.usable
    return Word(said if said > 0 else 0, guest.stats_age)


def fresh(guest: GuestSnapshot, settings: HostSettings) -> bool:
    """Whether :func:`word` tells something that may be acted on (promise 6)."""
    if guest.actual is None:
        return False
    if guest.published is not None and _publishes(guest, settings):
        return True
    return guest.usable is not None and guest.stats_age is not None and guest.stats_age <= settings.stats_max_age


def _publishes(guest: GuestSnapshot, settings: HostSettings) -> bool:
    return (guest.published is not None and guest.published_age is not None
            and guest.published_age <= settings.stats_max_age)


def spoken(guest: GuestSnapshot, settings: HostSettings) -> str:
    """The same as a reason says it."""
    actual = (guest.actual or 0) // MIB
    if _publishes(guest, settings):
        return f'{guest.name} publishes a working set of {(guest.published or 0) // MIB} MB of {actual} MB'
    return f'{guest.name} can use {(guest.usable or 0) // MIB} MB of {actual} MB without swapping'


def estimate(guest: GuestSnapshot, known: Need | None, now: float) -> Estimate:
    """For reports. Trust in a word halves each minute. A guest that says nothing is taken to need what its host backs,
    which it has touched at some time: that deserves a quarter of trust, and nobody is shrunk by it (promise 6)."""
    if heard(known):
        return Estimate(amount=amount(guest, known), confidence=0.5 ** (max(0.0, now - known.heard_at) / 60))
    if (backed := progress.backed(guest)) is None:
        return Estimate(amount=guest.maximum, confidence=0.0)
    return Estimate(amount=min(backed, guest.maximum), confidence=0.25)


def amount(guest: GuestSnapshot, known: Need | None) -> int:
    """Bytes; all that the guest may have, where its need is unknown."""
    if known is None:
        return guest.maximum
    found = int(known.slow + known.raised)
    return found if found < guest.maximum else guest.maximum


def heard(known: Need | None) -> typing.TypeGuard[Need]:
    """Whether it has said anything at a size that it had then for sure."""
    return known is not None and known.heard_at > 0


def understood(guest: GuestSnapshot, known: Need | None, settings: HostSettings, now: float) -> float | None:
    """When the guest said what is known of it; ``None`` where it says nothing, or its last word is not in that, as it
    tells of another size. Nobody is shrunk then: what it needs at the size that it has is not known."""
    if guest.published is None and guest.stats_age is not None:  # as nearly always: what word() says, without the call
        spoke_at = now - guest.stats_age
    elif (last := word(guest, settings)) is not None:
        spoke_at = now - last.age
    else:
        return None
    return spoke_at if known is not None and spoke_at < known.heard_at + _LATER else None


def harm(guest: GuestSnapshot, settings: HostSettings) -> str | None:
    """What a guest suffers that shows its size to be too small, if it was shrunk; the first of it that is found.

    Pages that it reads back from its host's swap (``refaults``) are no such sign. They were within its size, and the
    host took them: were its need raised by them, the balloon, with which the guest chooses what it gives, would be
    taken away from it just when swap, where the host guesses, hurts it, and more would be swapped instead. Swap itself
    backs off from such a guest (``swap.follow``). So the time that it waits on its host counts only where it is not for
    these.
    """
    limit, told = settings.refault_limit, guest.pressures
    if not (told or (guest.major_faults or 0.0) > limit or (guest.guest_swap_in or 0.0) > limit * _PAGE
            or (guest.pressure or 0.0) > settings.stall_hard):
        return None  # as nearly always: the words below cost more than the sums
    waits = guest.pressure if (guest.refaults or 0.0) <= limit else None
    for what, much, most in (
            ('major faults a second', guest.major_faults, limit),
            ('pages a second read back from its own swap', (guest.guest_swap_in or 0.0) / _PAGE, limit),
            ('pages a second that its tasks reclaimed themselves', told.get('direct_reclaims'), limit),
            ('times a second that its tasks had to look for memory', told.get('alloc_stalls'), _STALLS),
            ('tasks a second killed for want of memory', told.get('oom_kills'), 0.0),
            ('% of the time waiting for memory of its host', None if waits is None else 100 * waits,
             100 * settings.stall_hard)):
        if much is not None and much > most:
            return f'{much:.3g} {what} > {most:g}'
    return None


def follow(guests: typing.Iterable[GuestSnapshot], before: typing.Mapping[str, Need], asked: typing.Mapping[str, Asked],
           settings: HostSettings, now: float, watching: bool = False) -> dict[str, Need]:
    """The needs of these guests after what they said since; those that never spoke are missing. Those that are found
    smaller than they can be need all that they can have until they speak again at the size that they were found with,
    where that can be waited for (``watching``): they may be on their way, and have spoken of another size.

    A word that is older than the guest's last change of size tells of another size, and is not used: a word comes
    rarely, actual is known at once. Others may change it, too.
    """
    found = {}
    for guest in guests:
        uuid = guest.uuid
        known, mine = before.get(uuid), asked.get(uuid)
        if known is not None and guest.published is None and guest.actual is not None and known.size != guest.actual:
            known = _sized(known, guest.actual, now)
        if guest.published is None and guest.actual is not None and guest.usable is not None and (
                guest.stats_age is not None):  # as nearly always: what word() says, without the call
            said, heard_at = max(0, guest.actual - guest.usable), now - guest.stats_age
        elif (last := word(guest, settings)) is not None:
            said, heard_at = last.said, now - last.age
        else:
            if known is not None:
                found[uuid] = known
            continue
        if known is not None and mine is not None and mine.gave_way_at == now:
            found[uuid] = dataclasses.replace(
                known, slow=max(known.slow, (guest.actual or 0) + _AGAIN * guest.maximum))
            continue
        if known is None or max(known.heard_at, known.sized_at) > now:  # the first word, or a clock that was set back
            found[uuid] = _first(guest, said, heard_at, now if watching and known is None else None)
        elif (heard_at < known.heard_at + _LATER or heard_at <= known.sized_at
              or (mine is not None and heard_at <= mine.moved_at)):
            found[uuid] = known
        else:
            found[uuid] = _heard(guest, known, said, heard_at, settings)
    return found


def _first(guest: GuestSnapshot, said: int, heard_at: float, found_at: float | None) -> Need:
    size = guest.actual or 0
    if found_at is not None and guest.published is None and size < guest.maximum - _SHRUNK:
        return Need(slow=float(guest.maximum), raised=0.0, heard_at=0.0, size=size, sized_at=found_at)
    return Need(slow=float(said), raised=0.0, heard_at=heard_at, size=size)


def _sized(known: Need, actual: int, now: float) -> Need:
    if known.size and abs(actual - known.size) <= _SHRUNK:
        return known
    # Spelled out, as dataclasses.replace() takes five times as long: on a busy host many guests change each pass.
    return Need(slow=known.slow, raised=known.raised, heard_at=known.heard_at, size=actual,
                sized_at=now if known.size else known.sized_at)


def _heard(guest: GuestSnapshot, known: Need, said: int, heard_at: float, settings: HostSettings) -> Need:
    actual = guest.actual or 0
    if not known.heard_at:
        return Need(slow=float(said), raised=0.0, heard_at=heard_at, size=known.size, sized_at=known.sized_at)
    kept = math.exp((known.heard_at - heard_at) / settings.need_slow) if settings.need_slow else 0.0
    slow = said + (known.slow - said) * kept if known.slow > said else float(said)
    raised = known.raised * kept ** _FORGETS if known.raised > _FORGOTTEN * guest.maximum else 0.0
    if actual < guest.maximum - _SHRUNK and harm(guest, settings) is not None:
        raised = max(raised, actual - slow)  # what it calls usable is in use: its need is all that it has
    return Need(slow=slow, raised=raised, heard_at=heard_at, size=known.size, sized_at=known.sized_at)
