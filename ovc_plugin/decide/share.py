# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Who gets how much: weighted water-filling with an idle memory tax, exact, O(n log n).

Waldspurger (OSDI'02) takes memory from whoever pays least for a page: shares / (pages * (f + k * (1 - f))), with f the
share of its memory that a guest uses and k = 1 / (1 - tax): at 75 % an idle page costs as much as four used ones. To
make the least of these prices as large as it can be, all of them must be equal but for guests held by their bounds:
target = clip(level * weight / (f + k * (1 - f)), reservation, maximum), with the one level at which the targets sum up
to what there is.
"""
from __future__ import annotations

import typing

import numpy

Floats = numpy.ndarray[typing.Any, numpy.dtype[numpy.float64]]


class Claim(typing.NamedTuple):
    """What one guest may have: ``weight`` > 0 its shares, ``least`` and ``most`` its bounds in bytes, ``idle`` (0..1)
    the share of its memory that it does not use."""

    weight: float
    least: int
    most: int
    idle: float = 0.0


def priced(claim: Claim, tax: float) -> float:
    """Bytes per unit of level: the weight, after tax on idle memory."""
    return claim.weight / (1.0 + claim.idle * tax / (1.0 - tax))


def share_out(claims: typing.Sequence[Claim], amount: int, tax: float = 0.75) -> list[int]:
    """The targets, in the order of the claims; they sum up to ``amount`` exactly where the bounds allow it.

    Less than all reservations: everybody gets its reservation. More than all maximums: everybody its maximum.

    :raises ValueError: a tax outside [0, 1), a weight that is not positive, an idle share outside [0, 1], or bounds
        that cross.
    """
    if not 0 <= tax < 1:
        raise ValueError(f'tax {tax} is not in [0, 1): at 1 an idle page would cost infinitely much')
    if amount <= sum(c.least for c in claims):
        _check(claims)
        return [c.least for c in claims]
    if amount >= sum(c.most for c in claims):
        _check(claims)
        return [c.most for c in claims]
    weight, least, most, idle = numpy.array(claims, dtype=float).T
    if not ((weight > 0) & (idle >= 0) & (idle <= 1) & (least >= 0) & (least <= most)).all():
        _check(claims)
    slope = weight / (1.0 + idle * tax / (1.0 - tax))
    return _whole(numpy.clip(_level(slope, least, most, amount) * slope, least, most), least, most, amount)


def _check(claims: typing.Sequence[Claim]) -> None:
    for claim in claims:
        if not (claim.weight > 0 and 0 <= claim.idle <= 1 and 0 <= claim.least <= claim.most):
            raise ValueError(f'{claim}: weight must be positive, idle within [0, 1], and 0 <= least <= most')


def _level(slope: Floats, least: Floats, most: Floats, amount: int) -> float:
    """The level at which the clipped targets sum up to ``amount``: a walk along the levels at which a guest leaves its
    lower bound or reaches its upper one. Between two of these the sum is a straight line."""
    levels = numpy.concatenate((least / slope, most / slope))
    order = numpy.argsort(levels, kind='stable')
    levels = levels[order]
    slopes = numpy.cumsum(numpy.concatenate((slope, -slope))[order])
    fixed = least.sum() + numpy.cumsum(numpy.concatenate((-least, most))[order])
    # After turn i the sum is fixed[i] + slopes[i] * level, until turn i + 1: the first stretch that reaches the amount.
    reached = numpy.maximum.accumulate(fixed[:-1] + slopes[:-1] * levels[1:])
    place = int(numpy.searchsorted(reached, amount))
    if place == len(reached) or slopes[place] <= 0:
        return float(levels[-1])
    return float((amount - fixed[place]) / slopes[place])


def _whole(exact: Floats, least: Floats, most: Floats, amount: int) -> list[int]:
    """Whole bytes that sum up exactly: what rounding leaves goes to the largest remainders with room for it. Where the
    sum of floats came out too large, the largest claims give the byte: to a small one it is another price."""
    targets = numpy.floor(exact)
    left = amount - int(targets.sum())
    step = 1 if left > 0 else -1
    order = numpy.argsort(targets - exact if left > 0 else -targets, kind='stable')
    while left:
        room = (most - targets if step > 0 else targets - least)[order]
        movable = order[room > 0]
        moved = numpy.minimum(room[room > 0], max(1, abs(left) // len(movable)))[:abs(left)]
        targets[movable[:len(moved)]] += step * moved
        left -= step * int(moved.sum())
    return [int(t) for t in targets.tolist()]
