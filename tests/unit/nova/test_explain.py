# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""When placement refuses, the log says why, with both numbers."""
import logging

from ovc_plugin.model import MIB, InFlight
from ovc_plugin.nova import explain
from ovc_plugin.settings import SharedSettings
from tests.builders import GIB, NOW, a_report


def test_the_hosts_with_most_room_are_named_first_with_both_numbers():
    explainer = explain.Explainer(SharedSettings)
    explainer.saw('full', a_report(committed=23 * GIB), InFlight(guests=1, memory=400 * MIB))
    explainer.saw('roomy', a_report(committed=20 * GIB), InFlight())
    first, second = explainer.lines(NOW + 3)
    assert first.startswith('host roomy refused by placement') and '20480 MB of 24064 MB' in first
    assert 'could touch 24080 MB of 24064 MB' in second and '(report 3 s old)' in second


def test_only_a_few_of_many_hosts_are_named():
    explainer = explain.Explainer(SharedSettings)
    for number in range(10):
        explainer.saw(f'h{number}', a_report(), InFlight())
    lines = explainer.lines(NOW)
    assert len(lines) == 4 and lines[-1].startswith('7 more hosts')


def test_a_scheduler_that_has_judged_nobody_yet_points_to_the_status():
    assert 'ovc status' in explain.Explainer(SharedSettings).lines(NOW)[0]


def test_it_speaks_when_nova_does_and_only_then(caplog):
    explainer = explain.attach(SharedSettings)
    assert explain.attach(SharedSettings) is explainer
    explainer.saw('h1', a_report(), InFlight())
    speaker = logging.getLogger(explain.SPEAKER)
    try:
        with caplog.at_level(logging.INFO):
            speaker.info('something else')
            assert not [r for r in caplog.records if r.name == explain.__name__]
            speaker.info('Got no allocation candidates from the Placement API. This could be due to …')
        assert any('host h1 refused by placement' in r.getMessage() for r in caplog.records)
    finally:
        speaker.removeHandler(explainer)


def test_its_own_failure_stays_its_own(caplog):
    broken = explain.Explainer(lambda: 1 / 0)
    broken.saw('h1', a_report(), InFlight())
    broken.emit(logging.LogRecord(explain.SPEAKER, logging.INFO, '', 0, 'Got no allocation candidates', (), None))
