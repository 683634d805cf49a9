# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Others' policies do on a modelled host what their formulas say, and all run on the same worlds."""
from __future__ import annotations

import dataclasses

import pytest

from benchmarks import worlds, worlds_told
from benchmarks.policies import POLICIES
from benchmarks.policies.esx import Esx, minimum
from benchmarks.policies.mom import Mom
from benchmarks.policies.proxmox import Proxmox
from benchmarks.policies.squeezed import Squeezed
from ovc_plugin.model import MIB, KsmState, SetBalloon, TuneKsm
from ovc_plugin.simulate.policy import Reading
from tests.builders import GIB, NOW, a_guest, a_host


def targets(policy, host, unused=None, now=NOW):
    unused = unused or {g.uuid: g.usable for g in host.guests}
    plan = policy.decide(Reading(snapshot=host, unused=unused), now)
    return {a.guest: a.target for a in plan.actions if isinstance(a, SetBalloon)}


def test_mom_cycles_on_an_ideal_host_as_published():
    free, reversals = worlds.mom_cycle()
    settled = free[300:]
    assert min(settled) < 0.01 and 0.38 < max(settled) < 0.42 and 21 <= reversals <= 25


@pytest.mark.parametrize('maximum, unused, free, expected_kib', [
    (4, 2 * GIB, 0.10, 3984588.8), (8, 2 * GIB, 0.30, 4404019.2), (4, 64 * MIB, 0.04, 4086824.925),
    (4, GIB, 0.3, None)])
def test_mom_gives_the_targets_that_its_own_evaluator_gave(maximum, unused, free, expected_kib):
    guest = a_guest(maximum=maximum * GIB, actual=4 * GIB, reservation=0)
    found = targets(Mom(), a_host(guest, total=64 * GIB, available=int(free * 64 * GIB)), {guest.uuid: unused})
    assert found == ({} if expected_kib is None else {guest.uuid: pytest.approx(expected_kib * 1024, rel=1e-6)})


def proxmox_like(sizes, unused, least, weights):
    guests = [a_guest(str(number), maximum=2000 * MIB, reservation=least[number] * MIB, weight=weights[number],
                      actual=size * MIB) for number, size in enumerate(sizes)]
    return guests, {g.uuid: amount * MIB for g, amount in zip(guests, unused, strict=True)}


def steered(guests, unused, goal):
    """Sizes after one pass of Proxmox, in MiB, where so many MiB are to be handed out."""
    total = 1 << 40
    host = a_host(*guests, total=total, available=total - int(total * 0.8) + goal * MIB)
    found = targets(Proxmox(), host, unused)
    return [found.get(g.uuid, g.actual) / MIB for g in guests]


PLENTY = ([1000, 1000], [0, 0], [1000, 1000], [2.0, 1.0])
FIXED = ([2000, 1000], [0, 0], [2000, 1000], [2.0, 1.0])
MIXED = ([2000, 1007, 1000], [0, 0, 512], [2000, 1000, 1000], [2.0, 1.0, 1.0])
GROWN = ([2000, 1300, 1300], [0, 293, 812], [2000, 1000, 1000], [2.0, 1.0, 1.0])


@pytest.mark.parametrize('guests, goal, expected', [
    (PLENTY, 0, [1000, 1000]), (PLENTY, 90, [1060, 1030]), (PLENTY, 150, [1100, 1050]), (PLENTY, 270, [1100, 1090]),
    (FIXED, 18, [2000, 1018]), (FIXED, 500, [2000, 1100]), (MIXED, 11, [2000, 1018, 1000]),
    (MIXED, 80, [2000, 1087, 1000]), (MIXED, 200, [2000, 1107, 1000])])
def test_proxmox_gives_the_sizes_that_its_own_test_expects(guests, goal, expected):
    """What test/balloontest.pl of pve-manager expects of a single pass, with its GB as 1000 MiB."""
    assert steered(*proxmox_like(*guests), goal) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize('guests, goal, expected', [
    (PLENTY, 180, [1120, 1060]), (PLENTY, 270, [1180, 1090]), (PLENTY, 600, [1300, 1300]), (PLENTY, 900, [1600, 1300]),
    (MIXED, 593, [2000, 1300, 1300]), (GROWN, -200, [2000, 1200, 1200]), (GROWN, -400, [2000, 1200, 1000]),
    (GROWN, -593, [2000, 1007, 1000])])
def test_proxmox_comes_to_rest_where_its_own_test_expects_it(guests, goal, expected):
    sizes, unused, least, weights = guests
    for _ in range(50):
        found = [round(size) for size in steered(*proxmox_like(sizes, unused, least, weights), goal)]
        goal -= sum(found) - sum(sizes)
        unused = [max(0, free + after - before) for free, before, after in zip(unused, sizes, found, strict=True)]
        if found == sizes:
            break
        sizes = found
    assert sizes == pytest.approx(expected, abs=11)  # less than 10 MiB are not worth a pass


def test_proxmox_shares_pages_each_minute_while_little_is_free():
    policy, state = Proxmox(), KsmState(run=0, saved=0, shared=0, pages_to_scan=100)
    full = a_host(a_guest(resident=9 * GIB), total=16 * GIB, available=GIB, ksm=state)
    found = [policy.decide(Reading(snapshot=full, unused={}), NOW + seconds).actions for seconds in (0, 30, 60)]
    shared = [next((a.pages_to_scan for a in actions if isinstance(a, TuneKsm)), None) for actions in found]
    assert shared == [80, None, 140]  # 400 and 700 pages each 100 ms, told as pages each 20 ms


def test_mom_scans_as_many_pages_a_second_as_its_rules_say():
    policy, state = Mom(), KsmState(run=0, saved=0, shared=0, pages_to_scan=100)
    found = []
    for total, available in ((16 * GIB, GIB), (16 * GIB, GIB), (32 * GIB, 8 * GIB), (8 * GIB, 4 * GIB)):
        host = a_host(a_guest(maximum=32 * GIB), total=total, available=available, ksm=state)
        policy._means.clear()
        found += [a.pages_to_scan for a in policy.decide(Reading(snapshot=host, unused={}), NOW).actions
                  if isinstance(a, TuneKsm)]
    # 364, 664 and 614 pages each 10 ms, and 564 each 20 ms, told as pages each 20 ms
    assert found == [728, 1328, 1228, 564]


def test_squeezed_puts_all_at_the_same_part_of_their_range_and_leaves_the_inactive_out():
    guests = [a_guest('small', maximum=GIB, reservation=GIB // 2, overhead=0, target=GIB),
              a_guest('large', maximum=4 * GIB, reservation=GIB, actual=4 * GIB, target=4 * GIB, overhead=0)]
    found = targets(Squeezed(), a_host(*guests, total=4 * GIB, reserve=0))
    parts = {(found[g.uuid] - g.reservation) / (g.maximum - g.reservation) for g in guests}
    assert max(parts) - min(parts) < 1e-6 and sum(found.values()) == pytest.approx(4 * GIB - 9 * MIB, abs=2)
    policy = Squeezed()
    idle = a_guest('idle', maximum=GIB, actual=GIB, target=GIB // 2, reservation=GIB // 4, overhead=0)
    for seconds in (0.0, 6.0):
        found = targets(policy, a_host(idle, guests[1], total=4 * GIB, reserve=0), now=NOW + seconds)
    assert idle.uuid not in found and found[guests[1].uuid] == pytest.approx(3 * GIB - 9 * MIB, abs=2)


def test_esx_takes_from_the_idle_first():
    assert minimum(28 * GIB) == 899 * MIB and minimum(100 * GIB) == pytest.approx((899 + 737.28) * MIB)
    idle, busy = a_guest('idle'), a_guest('busy')
    seen = Reading(snapshot=a_host(idle, busy, available=500 * MIB), unused={},
                   active={idle.uuid: 50 * MIB, busy.uuid: GIB})
    found = {a.guest: a.target for a in Esx().decide(seen, NOW).actions if isinstance(a, SetBalloon)}
    assert found[idle.uuid] < found.get(busy.uuid, GIB)


def test_all_policies_run_on_the_same_worlds():
    setting = worlds.setting(1, seed=3, seconds=300.0)
    results = [worlds.run(setting, name) for name in POLICIES]
    assert len({r.policy for r in results}) == 6 and not sum(r.kills for r in results)
    assert worlds.setting(1, seed=3, seconds=300.0) == setting


def test_who_is_better_is_named_with_the_part_that_makes_it_so():
    ours, other = (worlds.run(worlds.setting(4, seed=3, seconds=300.0), 'ovc') for _ in range(2))
    other = dataclasses.replace(other, policy='mom', slowdown=0.0)
    none = dict.fromkeys(worlds_told.PARTS, 0.0)
    ours = dataclasses.replace(ours, slowdown=0.02, parts=none | {'paged': 0.02})
    other = dataclasses.replace(other, parts=none)
    lines = worlds_told.reasons([ours, other], {'cache': {'ovc': 0.02, 'mom': 0.0}})
    assert 'mom 0.000% < ours 2.000%' in lines[0] and 'more by 2.000% paged; less by nothing' in lines[0]
