# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Reading nova's HostState and RequestSpec, with stand-ins that have nova's attributes and nothing else."""
from __future__ import annotations

import dataclasses
import logging
import typing

import pytest

from ovc_plugin import report as reports
from ovc_plugin.model import MIB
from ovc_plugin.nova import host_state
from ovc_plugin.settings import SharedSettings
from tests.builders import GIB, a_report

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


def asked(spec: Thing, *aggregates: dict[str, str]):
    state = a_state()
    state.aggregates = [Thing(metadata=metadata) for metadata in aggregates]
    return host_state.Asking(spec, SHARED).of(state)


@pytest.fixture(autouse=True)
def forget_warnings():
    host_state._warned.clear()
    host_state._known.clear()


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
    assert host_state.untouchable(spec, extra) == why
    assert asked(spec).overcommit is (why is None)


def test_an_instance_is_read_like_a_request():
    instance = Thing(flavor=a_spec(2048, {'ovc:reservation': '50%'}).flavor, uuid='i1', numa_topology=None)
    request = host_state.Asking(instance, SHARED).of()
    assert (request.guest, request.memory, request.reservation) == ('i1', 2 * GIB, GIB)


def test_reports_from_hosts_without_the_field_of_novas_reserve_are_still_read():
    text = reports.encode(dataclasses.replace(a_report(), nova_reserved=7)).replace(',"nova_reserved":7', '')
    assert reports.decode(text).nova_reserved == 0
