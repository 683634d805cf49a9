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

import dataclasses
import typing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
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
    _check(claims, tax)
    if amount <= sum(c.least for c in claims):
        return [c.least for c in claims]
    if amount >= sum(c.most for c in claims):
        return [c.most for c in claims]
    level = _level([(priced(c, tax), c.least, c.most) for c in claims], amount)
    exact = [min(float(c.most), max(float(c.least), level * priced(c, tax))) for c in claims]
    return _whole(claims, exact, amount)


def _check(claims: typing.Sequence[Claim], tax: float) -> None:
    if not 0 <= tax < 1:
        raise ValueError(f'tax {tax} is not in [0, 1): at 1 an idle page would cost infinitely much')
    for claim in claims:
        if not (claim.weight > 0 and 0 <= claim.idle <= 1 and 0 <= claim.least <= claim.most):
            raise ValueError(f'{claim}: weight must be positive, idle within [0, 1], and 0 <= least <= most')


def _level(bounded: list[tuple[float, int, int]], amount: int) -> float:
    """The level at which the clipped targets sum up to ``amount``: a walk along the levels at which a guest leaves its
    lower bound or reaches its upper one. Between two of these the sum is a straight line."""
    turns: list[tuple[float, float, int]] = []
    for slope, least, most in bounded:
        turns.append((least / slope, slope, -least))
        turns.append((most / slope, -slope, most))
    turns.sort()
    fixed, slope = sum(least for _, least, _ in bounded), 0.0
    for level, change, held in turns:
        if slope > 0 and fixed + slope * level >= amount:
            break
        fixed, slope = fixed + held, slope + change
    return (amount - fixed) / slope if slope > 0 else turns[-1][0]


def _whole(claims: typing.Sequence[Claim], exact: list[float], amount: int) -> list[int]:
    """Whole bytes that sum up exactly: what rounding leaves goes to the largest remainders with room for it."""
    targets = [min(c.most, max(c.least, int(e))) for c, e in zip(claims, exact, strict=True)]
    left = amount - sum(targets)
    step = 1 if left > 0 else -1
    order = sorted(range(len(claims)), key=lambda i: (exact[i] - targets[i]) * -step)
    while left:
        movable = [i for i in order if (targets[i] < claims[i].most if step > 0 else targets[i] > claims[i].least)]
        each = max(1, abs(left) // len(movable))
        for i in movable:
            room = claims[i].most - targets[i] if step > 0 else targets[i] - claims[i].least
            moved = step * min(each, abs(left), room)
            targets[i] += moved
            left -= moved
            if not left:
                break
    return targets
