# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The report's codec: what is written is read back, and what cannot be is refused with the remedy."""
import dataclasses
import json

import pytest

from ovc_plugin import report
from ovc_plugin.settings import ALL_TENANTS, HostSettings
from tests.builders import NOW, a_guest, a_host, a_report


def changed(**fields):
    return json.dumps(json.loads(report.encode(a_report())) | fields)


def test_a_report_survives_the_trip_in_less_than_two_kilobytes():
    text = report.encode(a_report(reason='x' * 5000))
    assert len(text) < 2048
    assert report.decode(report.encode(a_report())) == a_report()


def test_all_that_a_report_can_say_survives_the_trip_in_less_than_two_kilobytes():
    full = a_report(predicted_peak=5 << 30, growth=-1e6, domains=('a' * 10,) * 4, evaporation=7, sketch='s' * 900,
                    host='compute-0123.cell1.example.org', reason='x' * 200, nova_reserved=1 << 30, swap_used=1 << 40)
    text = report.encode(full)
    assert len(text) < 2048
    assert report.decode(text) == full


def test_a_report_says_nothing_that_is_as_ever():
    assert 'predicted_peak' not in report.encode(a_report()) and 'sketch' not in report.encode(a_report())


def test_the_growth_is_smoothed_and_a_pass_without_one_forgets_nothing():
    def told(earlier, growth, at=NOW + 5):
        return report.smoothed(earlier, a_host(growth=growth, taken_at=at))
    assert told(None, None) is None and told(None, 30.0) == told(a_report(), 30.0) == 30.0
    before = a_report(growth=0.0)
    assert told(before, None) == 0.0
    assert 0 < told(before, 100.0) < 10 < 60 < told(before, 100.0, at=NOW + 60) < 66


@pytest.mark.parametrize('options, whose', [
    ({}, 'domain'), ({'ksm': 'leave', 'dry_run': False}, 'domain'), ({'ksm': 'off'}, 'domain'),
    ({'ksm': 'off', 'dry_run': False}, 'none'), ({'ksm': ALL_TENANTS}, 'all')])
def test_a_report_tells_whose_pages_may_meet(options, whose):
    """In a dry run nothing is switched off."""
    assert report.sharing_of(HostSettings(**options)) == whose
    told = dataclasses.replace(a_report(), sharing=whose, default_reservation='50%')
    assert report.decode(report.encode(told)) == told
    with pytest.raises(report.ReportError, match='sharing'):
        report.decode(report.encode(dataclasses.replace(told, sharing='some')))


def test_a_report_names_the_domains_of_running_guests_that_can_merge():
    host = a_host(a_guest('a', trust_domain='p1'), a_guest('b', trust_domain='p1'),
                  a_guest('c', trust_domain='p2', can_share=False), a_guest('d', trust_domain='p3', running=False))
    assert report.domains_of(host) == (report.domain_name('p1'),)
    assert len(report.domain_name('p1')) == 10 and report.domain_name('p1') != report.domain_name('p2')
    many = a_host(*(a_guest(f'g{n}', trust_domain=f'p{n}') for n in range(9)))
    assert len(report.domains_of(many)) == report.MOST_DOMAINS


def test_fields_of_a_newer_release_are_passed_over():
    assert report.decode(changed(novelty=[1])) == a_report()


@pytest.mark.parametrize('text, words', [
    ('', 'not readable'), ('[]', 'not readable'), ('null', 'not readable'), ('{}', 'version None'),
    (changed(version=2), 'version 2, this scheduler reads 1'),
    (changed(level='PANIC'), 'PANIC'), (changed(total=-1), 'total=-1'), (changed(total=0), 'total=0'),
    (changed(committed=-5), 'committed=-5'), (changed(available='much'), "available='much'"),
    (changed(swap_usable=1 << 60), 'swap_usable'), (changed(guests=True), 'guests=True'),
    (changed(taken_at=0), 'taken_at=0'), (changed(taken_at='now'), "taken_at='now'"),
    (changed(predicted_peak=-1), 'predicted_peak=-1'), (changed(predicted_peak='x'), 'predicted_peak'),
    (changed(growth=float('inf')), 'growth=inf'), (changed(growth='x'), 'growth'),
    (changed(domains=['x'] * 5), 'domains'),
    (changed(domains=[1]), 'domains'), (changed(domains=3), 'misnames'), (changed(evaporation=-1), 'evaporation=-1'),
    (changed(sketch='x' * 2000), 'sketch'), (changed(sketch=None), 'sketch'),
    (changed(total=float('nan')), 'total=nan'), (json.dumps({'version': 1, 'host': 'x'}), 'lacks')])
def test_what_cannot_be_is_refused_with_its_name(text, words):
    with pytest.raises(report.ReportError) as caught:
        report.decode(text)
    assert words in str(caught.value)
    assert 'install' in str(caught.value) or 'look' in str(caught.value) or 'clock' in str(caught.value)


@pytest.mark.parametrize('text', [
    '[' * 60000, '{"a":' * 30000, changed(reason=5), changed(reason='x' * 500), changed(host=5),
    changed(host='x' * 500),
    changed(backed='no'), changed(dry_run=None), changed(version=True), changed(version='x' * 60000),
    changed(total='x' * 60000), changed(total=[0] * 20000), changed(level='x' * 60000), changed(level=[]),
    changed(taken_at=10 ** 400), changed(growth=10 ** 4000), changed(domains=['x' * 60000]), changed(domains='abc'),
    changed(sketch='x' * 60000), changed(default_reservation='x' * 60000),
    changed(default_reservation='10%\n\x1b[31mforged'), changed(domains=['x\n2026-01-01 root forged']),
    changed(sharing='x' * 60000)])
def test_an_absurd_report_is_refused_in_a_line_that_a_log_can_hold(text):
    """By a host of another release, or one that is not its owner's any more."""
    with pytest.raises(report.ReportError) as caught:
        report.decode(text)
    assert len(str(caught.value)) < 400


def test_what_a_host_says_cannot_be_taken_for_a_line_of_its_readers():
    told = report.decode(changed(reason='fine\n2026-01-01 INFO host h2 passed\x1b[2J', host='h\x00'))
    assert told.reason == 'fine?2026-01-01 INFO host h2 passed?[2J' and told.host == 'h?'
