# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What nova's scheduler knows of the guests on a host, with stand-ins that have nova's attributes and nothing else."""
from __future__ import annotations

import datetime

import pytest

from ovc_plugin import report
from ovc_plugin.nova import neighbours
from tests.builders import NOW
from tests.unit.nova.test_host_state import Thing


@pytest.fixture(autouse=True)
def forget():
    neighbours._kept.clear()


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(NOW + seconds, datetime.UTC)


def a_guest(project: str, came: float = -1000, extra: dict[str, str] | None = None, **fields) -> Thing:
    return Thing(**dict(project_id=project, image_ref='i1', instance_type_id=7, launched_at=at(came), updated_at=None,
                        flavor=Thing(extra_specs=extra or {})) | fields)


def on(*guests: Thing) -> Thing:
    return Thing(nodename='h1', instances={f'u{n}': guest for n, guest in enumerate(guests)})


def domains(*guests: Thing, since: float = NOW) -> set[str]:
    return set(neighbours.of(on(*guests)).domains(since))


def test_guests_that_the_report_can_have_are_left_to_it():
    assert domains(a_guest('p1', came=-30)) == set()
    assert domains(a_guest('p1', came=-30), a_guest('p2', came=5)) == {report.domain_name('p2')}


def test_without_a_report_all_of_them_count():
    assert domains(a_guest('p1'), a_guest('p2'), since=0.0) == {report.domain_name(p) for p in ('p1', 'p2')}


def test_a_guest_that_came_by_migration_counts_from_then():
    assert domains(a_guest('p1', came=-9999, updated_at=at(3))) == {report.domain_name('p1')}


@pytest.mark.parametrize('name, text', [('ovc:share', 'no'), ('ovc:overcommit', 'no'), ('ovc:share', 'nope')])
def test_a_guest_that_does_not_share_meets_anybody(name, text):
    assert domains(a_guest('p1', came=5, extra={name: text})) == set()


def test_a_guest_from_which_nothing_may_be_taken_meets_anybody():
    huge = Thing(cells=[Thing(pagesize=2048)])
    assert domains(a_guest('p1', came=5, numa_topology=huge)) == set()
    assert domains(a_guest('p1', came=5, system_metadata={'image_ovc:share': 'no'})) == set()


def test_a_guest_of_which_nova_knows_the_id_alone_is_not_asked_for():
    assert domains(Thing(uuid='u1')) == set() and neighbours.of(on(Thing(uuid='u1'))).kinds == frozenset()


def test_guests_are_alike_by_image_and_without_one_by_flavor():
    host = on(a_guest('p1'), a_guest('p1', image_ref=''))
    assert neighbours.of(host).kinds == {('p1', 'i1'), ('p1', 'flavor 7')}


def test_what_was_made_of_them_is_kept_until_one_comes_or_changes():
    one, two = a_guest('p1'), a_guest('p1')
    first = neighbours.of(on(one))
    assert neighbours.of(on(one)) is first
    assert neighbours.of(on(one, two)) is not first and neighbours.of(on(two)) is not first
