# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Water-filling against a slow reference, and against what an optimum must satisfy."""
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovc_plugin.decide.share import Claim, priced, share_out
from ovc_plugin.model import MIB


@st.composite
def problems(draw):
    claims = []
    for _ in range(draw(st.integers(1, 12))):
        most = draw(st.integers(0, 1 << 40))
        claims.append(Claim(weight=draw(st.floats(0.01, 100)), most=most, least=draw(st.integers(0, most)),
                            idle=draw(st.floats(0, 1))))
    low, high = sum(c.least for c in claims), sum(c.most for c in claims)
    return claims, draw(st.integers(low, high)), draw(st.sampled_from([0.0, 0.5, 0.75, 0.99]))


def by_bisection(claims, amount, tax):
    """The level found by halving, 120 times: slow and plain."""
    def targets(level):
        return [min(c.most, max(c.least, level * priced(c, tax))) for c in claims]
    low, high = 0.0, max(c.most / priced(c, tax) for c in claims) + 1
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(targets(middle)) < amount else (low, middle)
    return targets(high)


@given(problems())
def test_targets_sum_up_exactly_and_keep_their_bounds(problem):
    claims, amount, tax = problem
    targets = share_out(claims, amount, tax)
    assert sum(targets) == amount
    assert all(c.least <= t <= c.most for c, t in zip(claims, targets, strict=True))


@given(problems())
def test_targets_are_those_of_the_slow_reference(problem):
    claims, amount, tax = problem
    for fast, slow in zip(share_out(claims, amount, tax), by_bisection(claims, amount, tax), strict=True):
        assert abs(fast - slow) <= 2 + 1e-9 * amount


FLOATS_TOO_MANY = [Claim(weight=weight, least=0, most=most, idle=0.0) for weight, most in (
    (1.0, 0), (81.86435363011428, 0), (99.37773989599762, 0), (0.010000000000000002, 86447666562), (1.0, 0),
    (73.62490510496261, 0), (1.7257630127903312, 0), (1.8781505419002258, 0), (1.0, 0), (1.0, 0), (1.0, 1))]


@example((FLOATS_TOO_MANY, 86447666561, 0.0))
@given(problems())
def test_nobody_could_be_given_more_at_the_cost_of_one_who_has_it_cheaper(problem):
    """The conditions of the optimum: a guest that could give has no lower price than one that could take."""
    claims, amount, tax = problem
    targets = share_out(claims, amount, tax)
    slack = [(2 + 1e-9 * amount) / priced(c, tax) for c in claims]
    levels = [t / priced(c, tax) for c, t in zip(claims, targets, strict=True)]
    for i, giver in enumerate(claims):
        for j, taker in enumerate(claims):
            if targets[i] > giver.least and targets[j] < taker.most:
                assert levels[i] <= levels[j] + slack[i] + slack[j]


@given(problems(), st.integers(0, 1 << 40))
def test_with_more_to_hand_out_nobody_gets_less(problem, more):
    claims, amount, tax = problem
    more = min(amount + more, sum(c.most for c in claims))
    for before, after in zip(share_out(claims, amount, tax), share_out(claims, more, tax), strict=True):
        assert after >= before - 2 - 1e-9 * more


def test_beyond_the_bounds_everybody_has_its_bound():
    claims = [Claim(weight=1, least=10, most=20), Claim(weight=9, least=5, most=6)]
    assert share_out(claims, 3) == [10, 5]
    assert share_out(claims, 99) == [20, 6]
    assert share_out([], 5) == []


def test_the_idle_tax_as_waldspurger_shows_it():
    """Two guests of 256 MB and equal shares have 360 MB between them, one idle and one busy: without tax they have the
    same; at 75 % an idle page costs four times as much, and the busy guest gets all that it may have."""
    idle, busy = (Claim(weight=1, least=0, most=256 * MIB, idle=share) for share in (1.0, 0.0))
    assert share_out([idle, busy], 360 * MIB, tax=0.0) == [180 * MIB, 180 * MIB]
    assert share_out([idle, busy], 360 * MIB, tax=0.75) == [104 * MIB, 256 * MIB]
    roomy = [Claim(weight=1, least=0, most=1024 * MIB, idle=share) for share in (1.0, 0.0)]
    assert share_out(roomy, 1000 * MIB, tax=0.75) == [200 * MIB, 800 * MIB]


@pytest.mark.parametrize('bad', [dict(weight=0), dict(idle=1.1), dict(least=9, most=8), dict(least=-1)])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match='weight must be positive'):
        share_out([Claim(**dict(weight=1.0, least=0, most=10, idle=0.5) | bad)], 5)
    with pytest.raises(ValueError, match='tax 1.0'):
        share_out([], 5, tax=1.0)


def test_a_thousand_guests_take_less_than_ten_milliseconds():
    chance = random.Random(1)
    claims = [Claim(weight=chance.choice((0.5, 1, 2)), least=chance.randrange(1, 4) << 30,
                    most=chance.randrange(4, 16) << 30, idle=chance.random()) for _ in range(1000)]
    taken = []
    for _ in range(5):
        began = time.thread_time()
        share_out(claims, 6000 << 30)
        taken.append(time.thread_time() - began)
    assert min(taken) < 0.010
