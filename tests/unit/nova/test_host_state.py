# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Reading nova's HostState and RequestSpec, with stand-ins that have nova's attributes and nothing else."""
from __future__ import annotations

import dataclasses
import datetime
import logging
import typing

import pytest

from ovc_plugin import report as reports
from ovc_plugin.model import MIB
from ovc_plugin.nova import asking, host_state, judging, kept, neighbours
from ovc_plugin.settings import Settings, SharedSettings
from tests.builders import GIB, NOW, a_report

SHARED = SharedSettings(default_reservation='50%')


class Thing:
    """An object of nova's: what is not set raises when asked for, and ``in`` tells."""

    def __init__(self, **fields: typing.Any) -> None:
        self.__dict__.update(fields)

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__


def a_state(report: reports.HostReport | None = None, used_mb: int = 512, guests: int = 0, **fields):
    stats = {'ovc': reports.encode(report)} if report else {}
    return Thing(**dict(host='h1', nodename='h1', stats=stats, total_usable_ram_mb=16384, free_ram_mb=16384 - used_mb,
                        num_instances=guests, aggregates=[], instances={}) | fields)


def a_spec(memory_mb: int = 1024, extra: dict[str, str] | None = None, **fields) -> Thing:
    return Thing(flavor=Thing(memory_mb=memory_mb, name='m1', extra_specs=extra or {}), instance_uuid='u1', **fields)


def asked(spec: Thing, *aggregates: dict[str, str], default: str = ''):
    state = a_state()
    state.aggregates = [Thing(metadata=metadata) for metadata in aggregates]
    return host_state.Asking(spec, SHARED).of(state, default)


@pytest.fixture(autouse=True)
def forget_warnings():
    asking._warned.clear()
    kept.HOSTS.clear()


def test_a_report_is_read_back_as_it_was_written():
    report = a_report(nova_reserved=512 * MIB)
    assert host_state.known(a_state(report)).report == report


@pytest.mark.parametrize('stats', [None, {}, {'uptime': '3 days', 'ovc': None}])
def test_a_host_without_a_report_is_not_an_error(stats):
    assert host_state.known(Thing(stats=stats)) is None


def test_a_host_that_nova_has_not_audited_yet_has_no_stats_at_all():
    assert host_state.known(Thing(host='h1')) is None


def in_flight(report, **fields):
    state = a_state(report, **fields)
    return host_state.in_flight(state, host_state.known(state))


def test_what_nova_claimed_and_the_report_does_not_know_is_in_flight():
    report = a_report(claimed=2 * GIB, guests=2, nova_reserved=512 * MIB)
    assert in_flight(report, used_mb=512 + 2048, guests=2) == (0, 0)
    assert in_flight(report, used_mb=512 + 2048 + 3000, guests=4) == (2, 3000 * MIB)


def test_a_guest_that_left_since_the_report_never_makes_in_flight_negative():
    report = a_report(claimed=2 * GIB, guests=2, nova_reserved=512 * MIB)
    assert in_flight(report, used_mb=512, guests=0) == (0, 0)


def test_a_migration_on_its_way_is_memory_without_a_guest_and_counts_as_one():
    report = a_report(claimed=GIB, guests=1, nova_reserved=0)
    assert in_flight(report, used_mb=2048, guests=1) == (1, GIB)


def test_a_report_is_read_once_and_anew_when_it_changes():
    first, again, later = (host_state.known(a_state(a_report(guests=n))) for n in (3, 3, 4))
    assert first is again and later.report.guests == 4


@pytest.mark.parametrize('extra, aggregates, expected_mb', [
    ({'ovc:reservation': '25%'}, [{'ovc:reservation': '75%'}], 256),
    ({}, [{'ovc:reservation': '75%'}], 768),
    ({}, [{'ovc:reservation': '10%'}, {'ovc:reservation': '900'}, {'other': 'x'}], 900),
    ({}, [{'other': 'x'}], 512),
    ({}, [], 512),
])
def test_the_reservation_is_the_flavors_then_the_aggregates_then_the_default(extra, aggregates, expected_mb):
    request = asked(a_spec(extra=extra), *aggregates)
    assert (request.memory, request.reservation) == (GIB, expected_mb * MIB)
    assert request.guest == 'u1' and request.overcommit


def test_a_reservation_that_cannot_be_used_guarantees_everything_and_is_warned_of_once(caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        request = asked(a_spec(extra={'ovc:reservation': 'lots'}))
        assert request.reservation == request.memory
    assert len(caplog.records) == 1
    assert 'flavor \'m1\', extra spec ovc:reservation' in caplog.text and 'is neither a percentage' in caplog.text


def test_a_spec_that_nothing_reads_is_warned_of_once_for_its_flavor(caplog):
    caplog.set_level(logging.WARNING)
    for extra in ({'ovc:overcomit': 'no', 'hw:cpu_policy': 'shared'}, {'ovc:overcomit': 'yes'}, {'ovc:share': 'no'}):
        asked(a_spec(extra=extra))
    assert len(caplog.records) == 1
    assert 'flavor \'m1\', extra spec ovc:overcomit is none of ours' in caplog.text


# -- what the host itself would keep --------------------------------------------------------------------------------
def conflict(extra: dict[str, str], aggregate: dict[str, str], default: str) -> str | None:
    state = a_state(aggregates=[Thing(metadata=aggregate)])
    return host_state.Asking(a_spec(extra=extra), SHARED).conflict(state, default)


def test_what_aggregates_promise_and_the_host_would_not_keep_is_a_conflict_with_both_numbers_and_the_remedy():
    said = conflict({}, {'ovc:reservation': '75%'}, '25%')
    assert 'promises 768 MB > 256 MB that the host would keep' in said and 'set that option on the host alike' in said
    assert 'give flavor \'m1\' ovc:reservation' in said


@pytest.mark.parametrize('extra, aggregate, default', [
    ({'ovc:reservation': '75%'}, {'ovc:reservation': '90%'}, '25%'), ({}, {'ovc:reservation': '25%'}, '25%'),
    ({}, {'ovc:reservation': '10%'}, '25%'), ({}, {}, '25%'), ({}, {'ovc:reservation': '75%'}, ''),
    ({'ovc:overcommit': 'no'}, {'ovc:reservation': '75%'}, '25%')])
def test_it_is_none_where_the_flavor_says_all_the_host_keeps_as_much_or_has_not_said(extra, aggregate, default):
    assert conflict(extra, aggregate, default) is None


def test_no_less_is_counted_than_the_host_will_keep(caplog):
    assert asked(a_spec(), {'ovc:reservation': '10%'}, default='25%').reservation == 256 * MIB
    assert not caplog.records
    assert asked(a_spec(), default='75%').reservation == 768 * MIB
    assert 'default_reservation = 50% here and 75% on hosts' in caplog.text
    assert asked(a_spec(extra={'ovc:reservation': '10%'}), default='75%').reservation == int(0.1 * GIB)


# -- guarantees in flight -------------------------------------------------------------------------------------------
def an_instance(memory_mb: int, share: str, came: float = 5.0) -> Thing:
    return Thing(project_id='p1', flavor=Thing(memory_mb=memory_mb, name='m1', extra_specs={'ovc:reservation': share}),
                 launched_at=datetime.datetime.fromtimestamp(NOW + came, datetime.UTC), updated_at=None)


def guarantee_left(*guests: Thing, flying_mb: int, **spec) -> int:
    """What the guarantee leaves of 8 GiB for a guest of 1 GiB at 25 % with so much in flight, without overheads."""
    neighbours._kept.clear()
    report = a_report(total=8 * GIB, reserve=0)
    state = a_state(report, used_mb=flying_mb, guests=len(guests) or 1,
                    instances={f'u{n}': guest for n, guest in enumerate(guests)})
    known = host_state.known(state)
    left = host_state.left(state, known, host_state.Asking(a_spec(extra={'ovc:reservation': '25%'}, **spec), SHARED))
    known.seen = kept._NEVER
    return left.guarantee + (1 + (len(guests) or 1)) * SHARED.default_overhead


MOVE = {'requested_destination': Thing(cell='cell1')}


def test_guests_that_came_since_the_report_are_counted_at_what_they_are_guaranteed():
    assert guarantee_left(an_instance(4096, '100%'), flying_mb=4096) == 8 * GIB - GIB // 4 - 4 * GIB
    assert guarantee_left(an_instance(4096, '0%'), flying_mb=4096) == 8 * GIB - GIB // 4


def test_of_guests_on_their_way_the_share_is_the_requests_which_their_host_judges_again():
    assert guarantee_left(flying_mb=4096) == 8 * GIB - GIB // 4 - GIB


def test_a_move_that_no_host_judges_again_takes_them_to_be_guaranteed_all_their_memory():
    assert guarantee_left(flying_mb=4096, **MOVE) == 8 * GIB - GIB // 4 - 4 * GIB
    # Of those it knows, too: one that was there before is told again once it changes, like one that came.
    assert guarantee_left(an_instance(1024, '50%'), flying_mb=4096, **MOVE) == 8 * GIB - GIB // 4 - 4 * GIB
    assert guarantee_left(an_instance(4096, '10%'), flying_mb=4096, **MOVE) == 8 * GIB - GIB // 4 - 4 * GIB
    named = {'requested_destination': Thing(host='h1')}
    assert guarantee_left(flying_mb=4096, **named) == 8 * GIB - GIB // 4 - GIB


def test_where_the_report_has_some_of_them_no_more_than_what_is_in_flight_is_guaranteed():
    assert guarantee_left(an_instance(4096, '100%'), flying_mb=1024) == 8 * GIB - GIB // 4 - GIB
    assert guarantee_left(an_instance(4096, '100%', came=-60), flying_mb=1024) == 8 * GIB - GIB // 4 - GIB // 4
    # Which of them it has is not known, so those on their way are not taken for less than the request.
    assert guarantee_left(an_instance(4096, '0%'), flying_mb=1024) == 8 * GIB - GIB // 4 - GIB // 4


def test_a_guest_that_is_told_of_later_is_looked_at_then():
    report = a_report(total=8 * GIB, reserve=0)
    asking = host_state.Asking(a_spec(extra={'ovc:reservation': '25%'}), SHARED)
    neighbours._kept.clear()
    states = [a_state(report, used_mb=4096, guests=1, instances=there) for there in (
        {}, {'u1': an_instance(4096, '100%')})]
    before, after = (host_state.left(state, host_state.known(state), asking).guarantee for state in states)
    assert before - after == 3 * GIB


def test_a_guest_from_which_nothing_may_be_taken_has_no_trust_domain():
    for spec in (a_spec(project_id='p1', **cells(pagesize=2048)), a_spec(project_id='p1', **cells(pagesize=4)),
                 a_spec(extra={'ovc:share': 'no'}, project_id='p1')):
        assert host_state.Asking(spec, SHARED).domain is None
    assert host_state.Asking(a_spec(project_id='p1'), SHARED).domain is not None


def test_a_host_knows_what_the_image_of_a_guest_says():
    instance = Thing(flavor=a_spec(2048).flavor, uuid='i1', project_id='p1',
                     system_metadata={'image_ovc_overcommit': 'no'})
    asking = host_state.Asking(instance, SHARED)
    assert asking.of().reservation == 2 * GIB and asking.domain is None


def test_what_a_guest_was_before_its_image_is_what_its_flavor_says():
    for fields in ({'image': Thing(properties=Thing(hw_mem_encryption=True))},
                   {'system_metadata': {'image_ovc_overcommit': 'no'}}):
        spec = a_spec(2048, **fields)
        assert host_state.Asking(spec, SHARED).of().reservation == 2 * GIB
        assert host_state.Asking(spec, SHARED, flavor_only=True).of().reservation == GIB
    assert not host_state.Asking(a_spec(**cells(pagesize=2048)), SHARED, flavor_only=True).of().overcommit


@pytest.mark.parametrize('name', ['hw_mem_encryption', 'hw_locked_memory'])
@pytest.mark.parametrize('text, whole', [('True', True), ('yes', True), ('False', False)])
def test_a_host_knows_of_memory_that_the_image_of_a_guest_locks(name, text, whole):
    instance = Thing(flavor=a_spec(2048, {'ovc:reservation': '50%'}).flavor, uuid='i1', project_id='p1',
                     system_metadata={f'image_{name}': text})
    request = host_state.Asking(instance, SHARED).of()
    assert request.overcommit is not whole and request.reservation == (2 * GIB if whole else GIB)


@pytest.mark.parametrize('text, overcommit, warned', [
    ('no', False, False), ('False', False, False), ('yes', True, False), ('perhaps', False, True)])
def test_a_guest_that_opts_out_counts_at_its_full_size(text, overcommit, warned, caplog):
    request = asked(a_spec(extra={'ovc:overcommit': text, 'ovc:reservation': '10%'}))
    assert request.overcommit is overcommit
    assert request.reservation == (int(GIB * 0.1) if overcommit else GIB)
    assert bool(caplog.records) is warned


def cells(**fields):
    return {'numa_topology': Thing(cells=[Thing(**fields)])}


@pytest.mark.parametrize('fields, extra, why', [
    (cells(pagesize=2048, cpu_policy=None), {}, 'huge pages'),
    # nova's "large" and "any" in a request; "small" are ordinary ones, and yet of one node
    (cells(pagesize=-2, cpu_policy=None), {}, 'huge pages'),
    (cells(pagesize=-3, cpu_policy=None), {}, 'huge pages'),
    (cells(pagesize=-1, cpu_policy=None), {}, 'memory bound to NUMA nodes'),
    (cells(pagesize=4, cpu_policy='dedicated'), {}, 'pinned processors'),
    ({'pci_requests': Thing(requests=[object()])}, {}, 'passed-through devices'),
    ({}, {'resources:VGPU': '1'}, 'passed-through devices'),
    ({}, {'resources_gpu2:PGPU': '2'}, 'passed-through devices'),
    ({}, {'resources1:CUSTOM_PCI_10DE_2236': '1'}, 'passed-through devices'),
    ({}, {'pci_passthrough:alias': 'a1:1'}, 'passed-through devices'),
    ({}, {'accel:device_profile': 'fpga'}, 'passed-through devices'),
    ({}, {'resources:VGPU': '0', 'resources:CUSTOM_LICENCE': '1', 'resources:VCPU': '1', 'trait:HW_GPU': 'required'},
     None),
    ({}, {'hw:locked_memory': 'True'}, 'locked memory'),
    ({'image': Thing(properties=Thing(hw_mem_encryption=True))}, {}, 'mem encryption'),
    (cells(pagesize=4, cpu_policy='shared'), {}, 'memory bound to NUMA nodes'),
    ({'numa_topology': Thing(cells=[]), 'pci_requests': Thing(requests=[]), 'image': None}, {}, None),
    ({}, {'hw:locked_memory': 'false'}, None),
])
def test_untouchable_guests_count_at_their_full_size(fields, extra, why):
    spec = a_spec(extra=extra, **fields)
    assert asking.untouchable(spec, extra) == why
    assert asked(spec).overcommit is (why is None)


def test_an_instance_is_read_like_a_request():
    instance = Thing(flavor=a_spec(2048, {'ovc:reservation': '50%'}).flavor, uuid='i1', numa_topology=None)
    request = host_state.Asking(instance, SHARED).of()
    assert (request.guest, request.memory, request.reservation) == ('i1', 2 * GIB, GIB)


def test_reports_from_hosts_without_the_field_of_novas_reserve_are_still_read():
    text = reports.encode(dataclasses.replace(a_report(), nova_reserved=7)).replace(',"nova_reserved":7', '')
    assert reports.decode(text).nova_reserved == 0


def test_a_guest_that_takes_the_place_of_another_of_its_size_is_seen():
    """Its flavor may guarantee it more: the quick judgement must say the same as the one that keeps nothing."""
    report = a_report(nova_reserved=512 * MIB, committed=9 * GIB, reserved=int(5.5 * GIB), claimed=9 * GIB, guests=2)

    def state(uuid, reservation):
        came = datetime.datetime.fromtimestamp(NOW + 5, datetime.UTC)
        guest = Thing(uuid=uuid, project_id='p', launched_at=came, updated_at=came, system_metadata={}, image_ref='i',
                      flavor=Thing(memory_mb=6144, name='f', extra_specs={'ovc:reservation': reservation}))
        return a_state(report, used_mb=512 + 9216 + 6144, guests=3, instances={uuid: guest}, updated=None)

    def passes(host):
        asked = asking.Asking(a_spec(5120, {'ovc:reservation': '100%'}), SharedSettings())
        quick = judging.Quick(asked, Settings(), NOW + 10)
        quick.sift([host])
        return bool(quick.passed), judging.judge(host, asked, Settings(), NOW + 10).ok
    for uuid, reservation, expected in (('a', '0%', True), ('b', '100%', False), ('c', '0%', True)):
        assert passes(state(uuid, reservation)) == (expected, expected)
