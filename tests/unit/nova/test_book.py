# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What schedulers learn of page contents, from the reports alone."""
from __future__ import annotations

import random
import sys
import threading

import pytest

from ovc_plugin import report as reports
from ovc_plugin.decide import learned, score, sketch
from ovc_plugin.nova import book
from tests.builders import a_report

CHANCE = random.Random(5)
COMMON, ONE, OTHER = ([CHANCE.randrange(sketch.SPACE) for _ in range(5000)] for _ in range(3))
DEBIAN, FEDORA, UBUNTU = (sketch.image_name('p1', image) for image in ('debian', 'fedora', 'ubuntu'))
DOMAIN = reports.domain_name('p1')


@pytest.fixture(autouse=True)
def a_new_book(monkeypatch):
    monkeypatch.setattr(book, 'BOOK', learned.Book())


def told(**held: list[int]) -> reports.HostReport:
    names = {'debian': DEBIAN, 'fedora': FEDORA, 'ubuntu': UBUNTU}
    contents = sketch.Contents(images=frozenset(names[n] for n in held),
                               sketches={names[n]: sketch.of(found) for n, found in held.items() if found})
    return a_report(domains=(DOMAIN,), sketch=sketch.encode(contents, reports.LONGEST_SKETCH))


def read(report: reports.HostReport) -> sketch.There | None:
    return book.read(report.host, report.sketch)


def test_a_host_with_the_same_image_is_preferred_to_one_with_a_kin_and_that_to_a_stranger():
    same, kin, stranger = (read(r) for r in (told(debian=COMMON + ONE), told(ubuntu=COMMON + OTHER),
                                            told(fedora=OTHER)))
    votes = [score.affinity(a_report(domains=(DOMAIN,)), DOMAIN, False, book.BOOK.expected(DEBIAN, there))
             for there in (same, kin, stranger)]
    assert votes[0] == 1.0 > votes[1] > votes[2] == 0.0


def test_a_measured_saving_votes_the_same_with_sketches_and_without():
    votes = []
    for sketches in ({}, {DEBIAN: sketch.of(COMMON + ONE)}):
        contents = sketch.Contents(images=frozenset((DEBIAN,)), sketches=sketches, saved={DEBIAN: 0.05})
        report = a_report(domains=(DOMAIN,), claimed=16 << 30, saved=16 << 30,
                          sketch=sketch.encode(contents, reports.LONGEST_SKETCH))
        votes.append(score.affinity(report, DOMAIN, True, book.BOOK.expected(DEBIAN, read(report))))
    assert votes == [0.05, 0.05]


def test_another_trust_domain_gets_no_vote_whatever_its_pages():
    there = read(told(debian=COMMON))
    report = a_report(domains=(reports.domain_name('p2'),))
    assert score.affinity(report, DOMAIN, False, book.BOOK.expected(DEBIAN, there)) == 0.0


def test_an_image_learned_from_one_host_is_judged_on_another():
    read(told(debian=COMMON + ONE))
    there = read(told(ubuntu=COMMON + OTHER))
    assert 0.2 < book.BOOK.expected(DEBIAN, there) < 0.8


def test_a_host_that_samples_nothing_says_nothing():
    assert read(a_report()) is None


def test_what_cannot_be_read_is_left_out_and_named(caplog):
    assert read(a_report(sketch='abcdef;nonsense')) is None
    assert 'h1: what its report says of page contents is left out' in caplog.text


def test_a_report_with_a_full_sketch_is_below_2_kb():
    held = {sketch.image_name('p1', str(n)): sketch.of(COMMON) for n in range(40)}
    text = sketch.encode(sketch.Contents(images=frozenset(held), sketches=held), reports.LONGEST_SKETCH)
    assert len(reports.encode(a_report(sketch=text, reason='r' * 200, domains=('a' * 10,) * 4))) < 2048


def test_reports_read_by_several_threads_do_not_cost_a_host_each_other(monkeypatch):
    """Beyond what is kept each forgets the oldest, and two may be about to forget the same."""
    monkeypatch.setattr(book, 'BOOK', learned.Book(most=20))
    before, failed = sys.getswitchinterval(), []
    kinds = [[f'{CHANCE.randrange(1 << 24):06x}' for _ in range(8)] for _ in range(400)]
    texts = [sketch.encode(sketch.Contents(images=frozenset(names), sketches=dict.fromkeys(names, sketch.of([1, 2]))),
                           900) for names in kinds]

    def reads(first):
        try:
            for text in texts[first::4] * 5:
                book.read(f'h{first}', text)
        except Exception as error:
            failed.append(error)
    threads = [threading.Thread(target=reads, args=(first,)) for first in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed
