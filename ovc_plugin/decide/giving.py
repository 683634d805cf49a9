# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Who is given memory, of what is free already (promise 5): guests below their reservation and guests in need at once,
the others after a calm."""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide import balloon, filling, need, progress
from ovc_plugin.decide.rule import NOTHING, Part, Situation
from ovc_plugin.decide.share import Claim, share_out
from ovc_plugin.decide.state import Asked, LadderState, Need
from ovc_plugin.model import MIB, GuestSnapshot, HostSnapshot, Level, SetBalloon
from ovc_plugin.settings import HostSettings

_WORN = 0.75   # a guest is in need once that share of its cushion is used up; it is then given all of it, if it is free
_TIGHT = 0.05  # a guest that leaves less than this share of its memory unused would put more to use; and the
# least part of its maximum that it is then given


def relieve(situation: Situation) -> Part:
    """Guests below their reservation are given it; below HARD, guests that need more than they have are given what they
    lack of it; at HARD those alone whose balloon does not give way: they cannot help themselves, and their kernel would
    kill.

    Without this a guest that was shrunk while idle would starve on a host that never has much over.
    """
    if situation.level >= Level.CRITICAL or situation.spare < balloon.PAGE:
        return NOTHING
    lacking = situation.lacking
    if lacking is None:
        lacking = tuple(wants(situation.snapshot, situation.state, situation.settings, situation.now))
    actions, kept, spare, waits = [], *_guarantees(lacking, situation)
    for guest, size, lack in lacking:
        amount = kept.get(guest.uuid, 0)
        if guest.uuid in situation.turned or (not amount and size < guest.reservation):
            continue
        if not (guest.gives_way and (waits or situation.level is Level.HARD)):
            # What it has above its target, stuck or on its way, it keeps: that takes nothing of what is free.
            has = max(0, (guest.actual or 0) - size - amount)
            more = min(-(-(lack - amount) // balloon.PAGE), (spare + has) // balloon.PAGE) * balloon.PAGE
            if more >= _piece(guest, lack - amount, situation.state.needs.get(guest.uuid), situation.settings):
                spare -= max(0, more - has)
                amount += more
        if amount:
            actions.append(SetBalloon(
                guest=guest.uuid, target=min(guest.maximum, size + amount), previous=size,
                reason=_why(guest, size, lack, situation.settings)))
    # Memory that the shortage was counted to need for this is no new shortage. On a clear host nothing is.
    taken = 0 if situation.level is Level.CLEAR else sum(a.target - a.previous for a in actions)
    return Part(actions=tuple(actions), credit=-taken)


def _guarantees(lacking: tuple[tuple[GuestSnapshot, int, int], ...],
                situation: Situation) -> tuple[dict[str, int], int, bool]:
    """What guests below their reservation are given of it, in bytes by uuid; what is then left to spare; and whether
    some of them wait."""
    short = [(guest, size) for guest, size, _ in lacking if guest.uuid not in situation.turned]
    kept, owed = reservations(short, situation.spare)
    return kept, situation.spare - sum(kept.values()), owed > 0


def reservations(sizes: typing.Iterable[tuple[GuestSnapshot, int]], spare: int) -> tuple[dict[str, int], int]:
    """What guests of these sizes that are below their reservation are given of it, in their order, of ``spare`` bytes;
    and what the others of them lack of theirs, all in bytes. Each is given the whole of it: no target is below a
    reservation (promise 3), as one that was a raise when it was thought of would shrink a guest that has grown by
    itself since."""
    kept, owed = {}, 0
    for guest, size in sizes:
        missing = -(-(guest.reservation - size) // balloon.PAGE) * balloon.PAGE
        if missing <= 0:
            continue
        if missing <= spare:
            kept[guest.uuid] = missing
            spare -= missing
        else:
            owed += missing
    return kept, owed


def _why(guest: GuestSnapshot, size: int, lack: int, settings: HostSettings) -> str:
    if size < guest.reservation:
        return below(guest, size)
    return f'{need.spoken(guest, settings)}, and needs {lack // MIB} MB more than {size // MIB} MB'


def below(guest: GuestSnapshot, size: int) -> str:
    """How a reason says that a guest of this size (bytes) is owed some of its reservation."""
    return f'{guest.name} has {size // MIB} MB < {guest.reservation // MIB} MB, its reservation'


def _piece(guest: GuestSnapshot, lack: int, known: Need | None, settings: HostSettings) -> int:
    """The least that a guest in need is given, in bytes: what ends its need, and a dead band more. What comes free in
    drops would be given in drops otherwise, and the guest be asked again and again.

    One that suffers is given a whole cushion: that much it lacks at any size until it suffers no more, and nobody knows
    where that is. Where the guest's own kernel would kill, any part may prevent it.
    """
    cushion = settings.cushion * guest.maximum
    band = max(balloon.LEAST, int(settings.dead_band * guest.maximum))
    raised = 0.0 if known is None else known.raised
    if not guest.gives_way and lack - raised >= _WORN * cushion:
        return band
    suffers = raised >= balloon.LEAST or need.harm(guest, settings) is not None
    return max(band, min(lack, int(cushion if suffers else (1 - _WORN) * cushion + band)))


def wants(snapshot: HostSnapshot, state: LadderState, settings: HostSettings,
          now: float) -> typing.Iterator[tuple[GuestSnapshot, int, int]]:
    """Guests in need, with what they have been asked to have and what they lack of need and cushion, in bytes. Where
    less is free than all of them lack, others have to give it first (promise 5).

    Those below their reservation come first, whatever they said or did with what they were given last: a guarantee
    takes neither consent nor statistics, and a larger balloon target takes nothing from a guest. Of these the one that
    lacks least is the first, so that as many as can be have theirs.
    """
    owed, needy = [], []
    for guest in snapshot.running:
        size = _size(guest, state.asked)
        if size is None or size >= guest.maximum:
            continue
        missing = guest.reservation - size
        known = state.needs.get(guest.uuid)
        lack = balloon.floor(guest, Level.SOFT, settings, known) - size if need.heard(known) else 0
        if missing > 0:
            if guest.can_balloon and not guest.busy:
                owed.append((guest, size, max(lack, missing) if need.fresh(guest, settings) else missing))
        elif (lack >= balloon.LEAST and lack >= _WORN * settings.cushion * guest.maximum
              and need.fresh(guest, settings) and _open(guest, state.asked.get(guest.uuid), settings, now)):
            needy.append((guest, size, lack))
    yield from sorted(owed, key=lambda one: one[0].reservation - one[1])
    yield from needy


def unkept(lacking: typing.Iterable[tuple[GuestSnapshot, int, int]]) -> int:
    """Bytes that guests in need (:func:`wants`) lack of their reservations."""
    return sum(max(0, guest.reservation - size) for guest, size, _ in lacking)


def hand_back(situation: Situation) -> Part:
    """What is over goes to guests below their maximum: first to those that would put it to use, in parts by the idle
    tax; after a calm to the others too, but only as much as makes a guest whole, so that each is asked once. What
    guests below their reservation lack is not over, whether they can be given it or not: what comes free is kept."""
    owed = {guest.uuid: lack for guest, size, lack in situation.lacking or () if size < guest.reservation}
    surplus = situation.surplus - sum(owed.values())
    if situation.level is not Level.CLEAR or surplus <= 0 or situation.turned - owed.keys():
        return NOTHING
    situation = dataclasses.replace(situation, surplus=surplus)
    using: list[tuple[GuestSnapshot, int]] = []
    idle: list[tuple[GuestSnapshot, int]] = []
    for guest in situation.snapshot.running:
        mine, size = situation.state.asked.get(guest.uuid), _size(guest, situation.state.asked)
        if size is None or guest.maximum - size < balloon.PAGE or guest.uuid in owed or not _open(
                guest, mine, situation.settings, situation.now):
            continue
        unused = _unused(guest) >= _TIGHT * size or guest.unused is None and filling.left(
                situation.state.filling.gifts.get(guest.uuid))
        if unused or guest.unused is None:
            if _calm(mine, situation, situation.settings.return_after):
                (idle if unused else using).append((guest, size))
        elif _calm(mine, situation, situation.settings.dwell):
            using.append((guest, size))
    actions = [_gift(guest, size, target, situation)
               for (guest, size), target in zip(using, _targets(using, situation), strict=True)
               if target - size >= min(guest.maximum - size, max(balloon.PAGE, _TIGHT * guest.maximum))]
    left = situation.surplus - sum(a.target - a.previous for a in actions)
    for guest, size in sorted(idle, key=lambda one: one[0].maximum - one[1]):
        if (left := left - (guest.maximum - size)) < 0:
            break
        actions.append(_gift(guest, size, guest.maximum, situation))
    return Part(actions=tuple(actions))


def _gift(guest: GuestSnapshot, size: int, target: int, situation: Situation) -> SetBalloon:
    return SetBalloon(guest=guest.uuid, target=target, previous=size,
                      reason=f'level CLEAR, {situation.surplus // MIB} MB over: {guest.name} lacks '
                             f'{(guest.maximum - size) // MIB} MB of its maximum')


def _targets(lacking: list[tuple[GuestSnapshot, int]], situation: Situation) -> list[int]:
    """Nobody shrinks; whole MiB, or the maximum."""
    claims = [Claim(weight=guest.weight * guest.maximum, least=size, most=guest.maximum, idle=_idle(guest))
              for guest, size in lacking]
    shares = share_out(claims, sum(c.least for c in claims) + situation.surplus, situation.settings.idle_tax)
    return [share if share == c.most else max(c.least, share // balloon.PAGE * balloon.PAGE)
            for c, share in zip(claims, shares, strict=True)]


def _calm(mine: Asked | None, situation: Situation, seconds: float) -> bool:
    """Whether neither the host was short nor the guest asked for so long: what nobody needs is taken again at the next
    shortage, and brings nothing until then."""
    since = max(situation.state.unclear_at or 0.0, 0.0 if mine is None else mine.at)
    return situation.now - since >= seconds


def _unused(guest: GuestSnapshot) -> int:
    """Bytes that a guest has and leaves unused; of one that does not say so, those that its host never had to back: a
    part more it would not put to use either. 0 where neither is known."""
    if guest.unused is not None:
        return guest.unused
    if guest.actual is None or (backed := progress.backed(guest)) is None:
        return 0
    return guest.actual - backed


def _idle(guest: GuestSnapshot) -> float:
    if not guest.actual or guest.usable is None:
        return 0.0
    return min(1.0, max(0.0, guest.usable / guest.actual))


def _open(guest: GuestSnapshot, mine: Asked | None, settings: HostSettings, now: float) -> bool:
    """Whether the guest would take what it is given: one that did not take the last gift is not given more."""
    return guest.can_balloon and not guest.busy and not progress.deaf(guest, mine, settings, now)


def _size(guest: GuestSnapshot, asked: typing.Mapping[str, Asked]) -> int | None:
    """What the guest has been asked to have, or has: an old target must be lifted even where it was never reached."""
    mine = asked.get(guest.uuid)
    if mine is not None and guest.actual is not None:
        return mine.target  # on its way there, or stuck above it: a driver that loads late would still obey
    return guest.actual
