# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The host's own count of arrivals that no report has yet."""
from __future__ import annotations

import threading

from ovc_plugin.decide import placement
from ovc_plugin.model import MIB, InFlight, Request, Verdict
from ovc_plugin.nova.admission import Ledger
from ovc_plugin.settings import SchedulerSettings, SharedSettings
from tests.builders import GIB, NOW, a_report

NOBODY: dict[str, int] = {}


def ask(ledger: Ledger, guest: str, room: int = 10 * GIB, *, counted=NOBODY, listed_at=NOW, now=NOW,
        **options) -> Verdict:
    def judge(in_flight: InFlight) -> Verdict:
        return Verdict(ok=in_flight.memory + GIB <= room, reason=f'{in_flight.guests} {in_flight.memory // MIB}')
    return ledger.admit(Request(memory=GIB, reservation=GIB, guest=guest), judge, counted=counted,
                        listed_at=listed_at, now=now, **options)


def test_guests_that_arrive_together_are_not_all_let_in_by_one_report():
    ledger = Ledger()
    verdicts = []
    threads = [threading.Thread(target=lambda n=n: verdicts.append(ask(ledger, f'g{n}', room=3 * GIB).ok))
               for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdicts) == [False] * 5 + [True] * 3


def test_an_arrival_counts_until_the_guests_were_listed_after_it_landed():
    ledger = Ledger()
    ask(ledger, 'g1')
    # Still on its way (an image is fetched): no list can have it, however new.
    assert ask(ledger, 'g2', listed_at=NOW + 60, now=NOW + 61).reason == '1 1024'
    ledger.landed('g1', NOW + 70)
    assert ask(ledger, 'g2', listed_at=NOW + 65, now=NOW + 71).reason == '1 1024'
    assert ask(ledger, 'g2', listed_at=NOW + 75, now=NOW + 76).reason == '0 0'


def test_an_arrival_that_the_report_counts_is_in_flight_no_more():
    ledger = Ledger()
    ask(ledger, 'g1')
    assert ask(ledger, 'g2', counted={'g1': GIB}).reason == '0 0'


def test_a_guest_that_is_resized_where_it_is_counts_with_what_it_gains_until_it_is_listed_anew():
    """nova may resize on the same host (allow_resize_to_same_host); its old definition is listed until then."""
    ledger, here = Ledger(), {'counted': {'g1': GIB // 2}, 'sizes': {'g1': GIB // 2}}
    ask(ledger, 'g1', force=True, **here)
    assert ask(ledger, 'g2', **here).reason == '0 512'
    ledger.landed('g1', NOW + 1)
    assert ask(ledger, 'g2', counted={'g1': GIB}, sizes={'g1': GIB}, listed_at=NOW + 2, now=NOW + 3).reason == '0 0'


def test_a_guest_that_shrinks_gives_nothing_to_others_before_it_is_listed():
    ledger, here = Ledger(), {'counted': {'g1': 2 * GIB}, 'sizes': {'g1': 2 * GIB}}
    ask(ledger, 'g1', force=True, **here)
    assert ask(ledger, 'g2', **here).reason == '0 0'


def test_a_guest_that_is_here_already_is_not_judged_again():
    assert ask(Ledger(), 'g1', room=0, counted={'g1': GIB}).ok


def test_asking_twice_does_not_count_the_guest_against_itself():
    ledger = Ledger()
    ask(ledger, 'g1')
    assert ask(ledger, 'g1').reason == '0 0'


def test_a_migration_that_never_comes_expires():
    ledger = Ledger()
    ask(ledger, 'g1', expires=NOW + 120)
    assert ask(ledger, 'g2', now=NOW + 119).reason == '1 1024'
    ledger.landed('g2', 0.0)
    assert ask(ledger, 'g3', now=NOW + 121).reason == '0 0'


def test_a_clock_that_was_set_back_keeps_nobody_in_flight_for_longer():
    ledger, back = Ledger(), NOW - 3600
    ask(ledger, 'g1')
    ledger.landed('g1', NOW + 1)
    ask(ledger, 'g2', expires=NOW + 120)
    assert ask(ledger, 'g3', listed_at=back, now=back + 1, expires=back + 2).reason == '2 2048'
    assert ask(ledger, 'g4', listed_at=back + 5, now=back + 6, expires=back + 7).reason == '1 1024'
    assert ask(ledger, 'g5', listed_at=back + 120, now=back + 122).reason == '0 0'


def test_a_refused_arrival_is_counted_only_when_it_comes_all_the_same():
    ledger = Ledger()
    assert not ask(ledger, 'g1', room=0).ok
    assert ask(ledger, 'g2').reason == '0 0'
    assert not ask(ledger, 'g3', room=0, force=True).ok
    assert ask(ledger, 'g4').reason == '2 2048'


def test_what_is_in_flight_counts_with_its_own_guarantee_and_not_with_the_next_guests():
    """16 GB, empty; 15 of them are promised in full to guests on their way. A fifth of 4 GB more is not there."""
    ledger, report = Ledger(), a_report()

    def arrive(guest: str, memory: int, reservation: int, overcommit: bool = True) -> Verdict:
        request = Request(memory=memory, reservation=reservation, guest=guest, overcommit=overcommit)
        return ledger.admit(request, lambda flying: placement.fits(report, request, flying, SchedulerSettings(),
                                                                   SharedSettings(), NOW),
                            counted=NOBODY, listed_at=NOW, now=NOW)

    large = 15 * GIB // 2
    assert arrive('g1', large, large).ok
    assert arrive('g2', large, large // 4, overcommit=False).ok  # as good as a full reservation
    refused = arrive('g3', 4 * GIB, 4 * GIB // 5)
    assert not refused.ok and 'guarantees would need 16563 MB > 15872 MB' in refused.reason


def test_landing_unknown_guests_is_no_error():
    Ledger().landed('nobody', NOW)


# -- guests that are defined anew -----------------------------------------------------------------------------------
WHOLE = Request(memory=4 * GIB, reservation=4 * GIB, guest='g1', overcommit=False)
HALF = Request(memory=4 * GIB, reservation=2 * GIB, guest='g1')


def grow(ledger: Ledger, room: int, *, request: Request = WHOLE, counted=NOBODY, now=NOW, **options) -> Verdict:
    """``room`` is what can be guaranteed beyond what is counted, without overheads."""
    def judge(more: int, in_flight: InFlight) -> Verdict:
        return Verdict(ok=more + (in_flight.reserved or 0) <= room, reason=f'{more // MIB} {in_flight}')
    return ledger.grow(request, judge, otherwise=HALF, counted=counted, listed_at=NOW, now=now, expires=NOW + 120,
                       **options)


def flying(ledger: Ledger, *, counted=NOBODY, now=NOW, listed_at=NOW) -> tuple[int, int, int | None]:
    seen: list[InFlight] = []

    def judge(in_flight: InFlight) -> Verdict:
        seen.append(in_flight)
        return Verdict(ok=False, reason='only asked')
    ledger.admit(Request(memory=1, reservation=1, guest='who asks'), judge, counted=counted, listed_at=listed_at,
                 now=now)
    return seen[0].guests, seen[0].memory // MIB, (seen[0].reserved or 0) // MIB


def test_what_a_guest_is_guaranteed_beyond_what_it_is_counted_with_is_judged_and_counted_until_the_report_has_it():
    ledger, counted = Ledger(), {'g1': 2 * GIB}
    assert not grow(ledger, GIB, counted=counted).ok and flying(ledger, counted=counted) == (0, 0, 0)
    assert grow(ledger, 2 * GIB, counted=counted).ok and flying(ledger, counted=counted) == (0, 0, 2048)
    assert flying(ledger, counted={'g1': 4 * GIB}) == (0, 0, 0)


def test_what_a_guest_has_grown_by_is_not_there_for_the_next_that_comes():
    ledger, counted = Ledger(), {'g1': 2 * GIB}
    assert grow(ledger, 2 * GIB, counted=counted).ok
    report = a_report(total=16 * GIB, reserve=0, reserved=11 * GIB, committed=11 * GIB, claimed=11 * GIB,
                      available=14 * GIB, swap_usable=64 * GIB)
    for size, ok in ((4, False), (2, True)):
        new = Request(memory=size * GIB, reservation=size * GIB, guest='new')
        verdict = Ledger.admit(ledger, new, lambda flying, new=new: placement.fits(
            report, new, flying, SchedulerSettings(), SharedSettings(), NOW), counted=counted, listed_at=NOW, now=NOW)
        assert verdict.ok is ok, verdict


def test_guests_that_grow_together_are_not_all_let_by_one_report():
    ledger, counted = Ledger(), {f'g{n}': 2 * GIB for n in range(4)}
    verdicts = [grow(ledger, 5 * GIB, counted=counted,
                     request=Request(memory=4 * GIB, reservation=4 * GIB, guest=guest)).ok for guest in counted]
    assert verdicts == [True, True, False, False]


def test_a_guest_that_is_counted_whole_already_asks_for_no_more():
    assert grow(Ledger(), 0, counted={'g1': 4 * GIB}).ok


def test_one_that_nobody_counts_just_then_is_judged_whole_and_with_what_it_costs_beside():
    assert grow(Ledger(), 0).reason == f'4096 {InFlight(guests=1, memory=0, reserved=0)}'


def test_one_that_must_have_it_is_counted_with_it_though_it_is_refused():
    ledger, counted = Ledger(), {'g1': 2 * GIB}
    assert not grow(ledger, 0, counted=counted, force=True).ok and flying(ledger, counted=counted) == (0, 0, 2048)
    # one that was never started leaves in the end
    assert flying(ledger, counted=counted, now=NOW + 121) == (0, 0, 0)


def test_one_that_was_let_in_with_it_counts_without_it_once_that_is_refused():
    ledger = Ledger()
    ledger.admit(WHOLE, lambda _: Verdict(ok=False, reason=''), counted=NOBODY, listed_at=NOW, now=NOW, force=True)
    assert flying(ledger) == (1, 4096, 4096)
    assert not grow(ledger, GIB).ok and flying(ledger) == (1, 4096, 2048)


def test_a_guest_that_is_rebuilt_is_counted_while_it_is_gone():
    """It is in the last report, is destroyed, is in the next report no more, and has not been started again."""
    ledger, counted = Ledger(), {'g1': 2 * GIB}
    assert ledger.admit(HALF, lambda _: Verdict(ok=False, reason=''), counted=counted, listed_at=NOW, now=NOW,
                        force=True).ok
    assert flying(ledger, counted=counted) == (0, 0, 0)
    assert flying(ledger, listed_at=NOW + 5, now=NOW + 6) == (1, 4096, 2048)
    ledger.landed('g1', NOW + 9)
    assert flying(ledger, counted=counted, listed_at=NOW + 10, now=NOW + 11) == (0, 0, 0)
    assert flying(ledger, listed_at=NOW + 15, now=NOW + 16) == (0, 0, 0)
