# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests on their way to a host: none is forgotten, however it is told (promise 8)."""
from __future__ import annotations

import threading

from ovc_plugin.arrivals import EXPECTED, Arrivals
from tests.builders import NOW, a_guest, a_host


def domains(arrivals, host=None, now=NOW):
    return arrivals.seen(host or a_host(), now).arriving


def test_a_guest_is_expected_until_it_is_here_or_has_not_come():
    arrivals = Arrivals()
    arrivals.expect('uuid-g1', 'p2', NOW)
    arrivals.expect('uuid-other', 'p3', NOW)
    assert domains(arrivals) == ('p2', 'p3')
    assert domains(arrivals, a_host(a_guest())) == ('p3',)
    assert domains(arrivals, now=NOW + EXPECTED + 1) == ()


def test_one_that_is_announced_is_news_until_a_pass_has_seen_it():
    arrivals = Arrivals()
    assert arrivals.news is None
    arrivals.expect('uuid-g1', 'p2', NOW)
    assert 'uuid-g1' in arrivals.news
    domains(arrivals)
    assert arrivals.news is None


def test_one_that_is_announced_while_a_pass_looks_is_not_lost():
    arrivals, begun = Arrivals(), []

    class Slow(str):
        """Another thread has its turn whenever the loop looks at this guest."""

        def __hash__(self):
            if threading.current_thread() is threading.main_thread() and not begun and armed:
                begun.append(threading.Thread(target=arrivals.expect, args=('uuid-late', 'p-late', NOW)))
                begun[0].start()
                begun[0].join(0.3)
            return super().__hash__()
    armed = False
    for number in range(3):
        arrivals.expect(Slow(f'uuid-{number}'), 'p-early', NOW)
    armed = True
    domains(arrivals)
    begun[0].join()
    assert arrivals.news is not None, 'it came after the look'
    assert domains(arrivals) == ('p-early', 'p-late')
