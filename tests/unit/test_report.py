# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The report's codec: what is written is read back, and what cannot be is refused with the remedy."""
import json

import pytest

from ovc_plugin import report
from tests.builders import a_report


def changed(**fields):
    return json.dumps(json.loads(report.encode(a_report())) | fields)


def test_a_report_survives_the_trip_in_less_than_two_kilobytes():
    text = report.encode(a_report(reason='x' * 5000))
    assert len(text) < 2048
    assert report.decode(report.encode(a_report())) == a_report()


def test_fields_of_a_newer_release_are_passed_over():
    assert report.decode(changed(novelty=[1])) == a_report()


@pytest.mark.parametrize('text, words', [
    ('', 'not readable'), ('[]', 'not readable'), ('null', 'not readable'), ('{}', 'version None'),
    (changed(version=2), 'version 2, this scheduler reads 1'),
    (changed(level='PANIC'), 'PANIC'), (changed(total=-1), 'total=-1'), (changed(total=0), 'total=0'),
    (changed(committed=-5), 'committed=-5'), (changed(available='much'), "available='much'"),
    (changed(swap_usable=1 << 60), 'swap_usable'), (changed(guests=True), 'guests=True'),
    (changed(taken_at=0), 'taken_at=0'), (changed(taken_at='now'), "taken_at='now'"),
    (changed(total=float('nan')), 'total=nan'), (json.dumps({'version': 1, 'host': 'x'}), 'lacks')])
def test_what_cannot_be_is_refused_with_its_name(text, words):
    with pytest.raises(report.ReportError) as caught:
        report.decode(text)
    assert words in str(caught.value)
    assert 'install' in str(caught.value) or 'look' in str(caught.value) or 'clock' in str(caught.value)
