# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""When placement refuses, the log says why, with both numbers."""
import logging
import time

from ovc_plugin import report as reports
from ovc_plugin.model import MIB
from ovc_plugin.nova import explain, kept
from ovc_plugin.settings import SharedSettings
from tests.builders import GIB, NOW, a_report


def a_known(report, guests=0, memory=0):
    text = reports.encode(report)
    known = kept.Known(text, reports.read(text))
    known.seen = kept.Seen(0, 0, 0, guests, memory, 0, memory)
    return known


def explaining(**hosts):
    return explain.Explainer(SharedSettings, lambda: hosts)


def test_the_hosts_with_most_room_are_named_first_with_both_numbers():
    explainer = explaining(full=a_known(a_report(committed=23 * GIB), guests=1, memory=400 * MIB),
                           roomy=a_known(a_report(committed=20 * GIB)))
    first, second, last = explainer.lines(NOW + 3)
    assert first.startswith('host roomy can promise a guest of about 3456 MB') and '20480 MB of 24064 MB' in first
    assert 'full can promise a guest of about 0 MB' in second and 'could touch 24080 MB of 24064 MB' in second
    assert '(report 3 s old)' in second and 'was not refused for memory' in last and 'ratio_step' in last


def test_a_host_on_which_little_can_be_guaranteed_any_more_promises_no_more_than_that():
    known = a_known(a_report(committed=16 * GIB, reserved=15 * GIB, swap_usable=64 * GIB))
    line = explaining(h1=known).lines(NOW)[0]
    assert 'a guest of about 410 MB' in line and '15360 MB of 15872 MB are guaranteed' in line


def test_where_nothing_needs_backing_there_is_no_limit_to_name():
    assert 'as much as max_ratio allows' in explaining(h1=a_known(a_report(committed=1, backed=False))).lines(NOW)[0]


def test_of_hosts_whose_ratio_does_not_follow_their_report_nothing_is_said_to_be_promised():
    """A host in a dry run has nova's own ratio: that is what placement refused by, and it was for memory."""
    lines = explaining(dry=a_known(a_report(dry_run=True)), gone=a_known(a_report(taken_at=NOW - 86400))).lines(NOW)
    assert len(lines) == 2 and not any('promise' in line or 'not refused for memory' in line for line in lines)
    assert 'host dry: a dry run' in lines[0] and 'initial_ram_allocation_ratio' in lines[0]
    assert 'host gone: report is 86400 s old > 120 s (report_max_age)' in lines[1]
    ahead = explaining(h1=a_known(a_report(taken_at=NOW + 500))).lines(NOW)
    assert 'report is 500 s ahead of this clock' in ahead[0]
    mixed = explaining(dry=a_known(a_report(dry_run=True)), h1=a_known(a_report())).lines(NOW)
    assert mixed[0].startswith('host h1 can promise') and 'was not refused for memory' in mixed[-1]


def test_only_a_few_of_many_hosts_are_named():
    explainer = explaining(**{f'h{number}': a_known(a_report()) for number in range(10)})
    lines = explainer.lines(NOW)
    assert len(lines) == 5 and lines[-1].startswith('7 more hosts')


def test_a_scheduler_that_has_judged_nobody_yet_points_to_the_status():
    assert 'ovc status' in explaining().lines(NOW)[0]


def test_it_speaks_when_nova_does_and_only_then(caplog, monkeypatch):
    explainer = explain.attach(SharedSettings)
    assert explain.attach(SharedSettings) is explainer
    monkeypatch.setattr(kept, 'HOSTS', {'h1': a_known(a_report(taken_at=time.time()))})
    speaker = logging.getLogger(explain.SPEAKER)
    try:
        with caplog.at_level(logging.INFO):
            speaker.info('something else')
            assert not [r for r in caplog.records if r.name == explain.__name__]
            speaker.info('Got no allocation candidates from the Placement API. This could be due to …')
        assert any('host h1 can promise' in r.getMessage() for r in caplog.records)
    finally:
        speaker.removeHandler(explainer)


def test_its_own_failure_stays_its_own(caplog):
    broken = explain.Explainer(lambda: 1 / 0, lambda: {'h1': a_known(a_report())})
    broken.emit(logging.LogRecord(explain.SPEAKER, logging.INFO, '', 0, 'Got no allocation candidates', (), None))
