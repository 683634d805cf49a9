# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How guests fill what they were given: available memory shrinks by that, and by our own hand.

A guest may fill what it was given within a second. It was taken of what was over; were it seen as a shortage, others
would be shrunk for it. But no more counts as such than was seen of each guest: else a large gift that is left alone hid
anybody's shock.
"""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.decide import progress
from ovc_plugin.decide.state import Asked, Filled, Filling, Gift
from ovc_plugin.model import GuestSnapshot, HostSnapshot
from ovc_plugin.settings import HostSettings

_RECENT = 1.2  # seconds: growth is told of the last one, as looks 0.2 s apart have seen it


def follow(snapshot: HostSnapshot, before: Filling, asked: typing.Mapping[str, Asked], settings: HostSettings,
           now: float) -> Filling:
    """With what was filled since the last look. ``asked`` as it is followed: when a guest's balloon last moved."""
    if now == before.at or not before.gifts and not before.recent:  # the same look again, or mostly
        return before
    gifts, filled = {}, 0
    for guest in snapshot.running:
        if (gift := before.gifts.get(guest.uuid)) is None:
            continue
        if (backed := progress.backed(guest)) is not None and backed != gift.backed:
            more = 0 if gift.backed is None else min(gift.unfilled, max(0, backed - gift.backed))
            gift = Gift(amount=gift.amount, unfilled=gift.unfilled - more, backed=backed)
            if (mine := asked.get(guest.uuid)) is not None and now - mine.moved_at < 2 * settings.tick:
                filled += more
        gifts[guest.uuid] = gift
    recent = tuple(one for one in before.recent if now - _RECENT < one.at <= now)
    if filled:
        recent += (Filled(at=now, amount=filled, seconds=max(0.0, now - before.at)),)
    return Filling(gifts=gifts, at=now, recent=recent)


def with_gifts(before: Filling, given: typing.Iterable[tuple[GuestSnapshot, int]], now: float) -> Filling:
    """With guests given so many bytes each just now, in place of what they were given before; or shrunk, below 0."""
    gifts = dict(before.gifts)
    for guest, amount in given:
        if amount > 0:
            gifts[guest.uuid] = Gift(amount=amount, unfilled=amount, backed=progress.backed(guest))
        else:
            gifts.pop(guest.uuid, None)
    return dataclasses.replace(before, gifts=gifts, at=now)


def by_itself(snapshot: HostSnapshot, filling: Filling) -> HostSnapshot:
    """The host without the growth that is our own doing."""
    if not filling.recent or not snapshot.growth or snapshot.growth <= 0:
        return snapshot
    ours = sum(_of_late(one, filling.at) for one in filling.recent)
    return dataclasses.replace(snapshot, growth=max(0.0, snapshot.growth - ours))


def _of_late(one: Filled, now: float) -> float:
    """What of it was filled in the time of which growth is told: all that may have been, where looks are further apart,
    else its part."""
    before = now - _RECENT - (one.at - one.seconds)
    return one.amount * (1 - before / one.seconds) if 0 < before < one.seconds < _RECENT else one.amount


def left(gift: Gift | None) -> bool:
    """Whether a guest has filled less than half of what it was given last: its host backs it for more than its memory,
    nobody knows for how much, so that it may seem to use all it has."""
    return gift is not None and gift.backed is not None and 2 * gift.unfilled > gift.amount
