# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""When placement refuses, the log says why, with both numbers."""
import logging

from ovc_plugin.model import MIB
from ovc_plugin.nova import explain, host_state
from ovc_plugin.settings import SharedSettings
from tests.builders import GIB, NOW, a_report


def a_known(report, guests=0, memory=0):
    known = host_state.Known('', report)
    known.seen = host_state.Seen(0, 0, guests, memory, {})
    return known


def explaining(**hosts):
    return explain.Explainer(SharedSettings, lambda: hosts)


def test_the_hosts_with_most_room_are_named_first_with_both_numbers():
    explainer = explaining(full=a_known(a_report(committed=23 * GIB), guests=1, memory=400 * MIB),
                           roomy=a_known(a_report(committed=20 * GIB)))
    first, second = explainer.lines(NOW + 3)
    assert first.startswith('host roomy refused by placement') and '20480 MB of 24064 MB' in first
    assert 'could touch 24080 MB of 24064 MB' in second and '(report 3 s old)' in second


def test_only_a_few_of_many_hosts_are_named():
    explainer = explaining(**{f'h{number}': a_known(a_report()) for number in range(10)})
    lines = explainer.lines(NOW)
    assert len(lines) == 4 and lines[-1].startswith('7 more hosts')


def test_a_scheduler_that_has_judged_nobody_yet_points_to_the_status():
    assert 'ovc status' in explaining().lines(NOW)[0]


def test_it_speaks_when_nova_does_and_only_then(caplog, monkeypatch):
    explainer = explain.attach(SharedSettings)
    assert explain.attach(SharedSettings) is explainer
    monkeypatch.setattr(host_state, '_known', {'h1': a_known(a_report())})
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
    broken = explain.Explainer(lambda: 1 / 0, lambda: {'h1': a_known(a_report())})
    broken.emit(logging.LogRecord(explain.SPEAKER, logging.INFO, '', 0, 'Got no allocation candidates', (), None))
