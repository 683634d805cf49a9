# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests as libvirt tells of them, over a connection of our own making: what it counts, and who is busy."""
from __future__ import annotations

import pytest

from ovc_plugin.hypervisor.libvirt import BusyGuest, LibvirtHypervisor
from ovc_plugin.model import MIB
from ovc_plugin.samples import GuestSample
from ovc_plugin.sense.derive import derive
from ovc_plugin.settings import Settings
from tests.builders import a_sample

libvirt = pytest.importorskip('libvirt')
XML = '<domain><memory>1048576</memory><devices><memballoon model="virtio"/></devices></domain>'


class Domain:
    """A running guest of 1 GiB; ``job`` is what libvirt has under way with it."""

    uuid, xml = 'u1', XML

    def __init__(self):
        self.job, self.asked, self.looked, self.defined = libvirt.VIR_DOMAIN_JOB_NONE, [], 0, 0
        self.stats = {'state.state': libvirt.VIR_DOMAIN_RUNNING, 'balloon.current': 1048576}

    def UUIDString(self):
        return self.uuid

    def ID(self):
        return 7

    def name(self):
        return 'g1'

    def XMLDesc(self, flags):
        self.defined += 1
        if isinstance(self.xml, Exception):
            raise self.xml
        return self.xml

    def jobInfo(self):
        self.looked += 1
        return [self.job] + [0] * 11

    def setMemoryFlags(self, kib, flags):
        self.asked.append(kib * 1024)

    # the connection's part
    def getAllDomainStats(self, kinds, flags):
        return [(self, self.stats)]

    def lookupByUUIDString(self, uuid):
        return self


@pytest.fixture
def domain():
    return Domain()


def facts(domain, hypervisor=None):
    return (hypervisor or LibvirtHypervisor(lambda: domain)).guests()[0]


def test_what_a_guest_counts_is_read_by_name_where_it_is_told(domain):
    told = facts(domain)
    assert (told.swap_in, told.major_faults, told.seen) == (None, None, None)
    domain.stats |= {'balloon.swap_in': 8, 'balloon.major_fault': 3, 'balloon.available': 1024,
                     'balloon.something_new': 1}
    told = facts(domain)
    assert (told.swap_in, told.major_faults, told.seen) == (8192, 3, MIB)


def test_a_guest_that_is_being_moved_is_not_asked_and_is_busy_until_it_has_moved(domain):
    hypervisor = LibvirtHypervisor(lambda: domain)
    assert not facts(domain, hypervisor).busy and domain.looked == 0, 'nobody is looked at without cause'
    domain.job = libvirt.VIR_DOMAIN_JOB_UNBOUNDED
    with pytest.raises(BusyGuest, match='being moved'):
        hypervisor.set_balloon('u1', MIB)
    assert domain.asked == [] and facts(domain, hypervisor).busy
    domain.job = libvirt.VIR_DOMAIN_JOB_NONE
    assert not facts(domain, hypervisor).busy
    hypervisor.set_balloon('u1', MIB)
    assert domain.asked == [MIB]


def test_a_paused_guest_is_busy(domain):
    domain.stats['state.state'] = libvirt.VIR_DOMAIN_PAUSED
    assert facts(domain).busy and facts(domain).running


class Hosts:
    """A connection with several guests."""

    def __init__(self, *domains):
        self.domains = domains

    def getAllDomainStats(self, kinds, flags):
        return [(domain, domain.stats) for domain in self.domains]


@pytest.mark.parametrize('xml', ['<domain', '<domain/>', '<domain><memory unit="odd">5</memory></domain>',
                                 libvirt.libvirtError('no answer')])
def test_a_new_guest_whose_definition_cannot_be_read_is_left_alone_and_the_others_go_on(xml):
    odd, good = Domain(), Domain()
    odd.uuid, odd.xml = 'u2', xml
    odd.stats['balloon.maximum'] = 2097152
    hypervisor = LibvirtHypervisor(lambda: Hosts(odd, good))
    first, second = hypervisor.guests()
    assert (second.uuid, second.untouchable) == ('u1', None)
    assert first.maximum == 2048 * MIB and not first.has_balloon and not first.movable and first.running
    assert first.untouchable.startswith('its definition cannot be read: ')
    found = derive(None, a_sample(GuestSample(facts=first), GuestSample(facts=second)), {}, 0, Settings())
    assert any('its definition cannot be read' in note and 'the others go on' in note for note in found.notes)
    assert found.guests[0].guaranteed == found.guests[0].committed >= 2048 * MIB
    odd.xml = XML
    assert hypervisor.guests()[0].untouchable is None, 'it is tried again'


def test_a_guest_of_which_not_even_the_size_is_known_does_not_count_as_nothing():
    odd = Domain()
    odd.xml = '<domain/>'
    with pytest.raises(ValueError, match='neither its definition'):
        LibvirtHypervisor(lambda: odd).guests()


DEVICE = XML.replace('</devices>', '<hostdev type="pci"/></devices>')


class Loud(Hosts):
    """A connection that tells who was given a device, to whoever listens; ``deaf``: it has no events."""

    def __init__(self, *domains, deaf=False):
        super().__init__(*domains)
        self.told, self.deaf = [], deaf

    def domainEventRegisterAny(self, domain, event, callback, opaque):
        if self.deaf:
            raise libvirt.libvirtError('this driver has no events')
        assert domain is None and event == libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED
        self.told.append(callback)

    def plug(self, domain):
        domain.xml = DEVICE
        for callback in self.told:
            callback(self, domain, 'hostdev0', None)


def reasons(hypervisor):
    return [f.untouchable for f in hypervisor.guests()]


def test_a_device_that_is_plugged_in_is_seen_by_the_next_pass_and_no_definition_is_read_for_nothing():
    """Promise 7: a passed-through device pins all of the guest's memory from the moment it is there."""
    one, two = Domain(), Domain()
    two.uuid = 'u2'
    connection, now = Loud(one, two), [0.0]
    hypervisor = LibvirtHypervisor(lambda: connection, clock=lambda: now[0])
    for _ in range(20):
        now[0] += 5
        assert reasons(hypervisor) == [None, None]
    assert (one.defined, two.defined) == (1, 1) and len(connection.told) == 1
    connection.plug(one)
    assert reasons(hypervisor) == ['passed-through device', None] and (one.defined, two.defined) == (2, 1)
    assert reasons(hypervisor) == ['passed-through device', None] and one.defined == 2


def test_a_device_that_comes_while_the_definition_is_read_is_not_overlooked():
    domain = Domain()
    connection = Loud(domain)
    hypervisor = LibvirtHypervisor(lambda: connection)
    read = domain.XMLDesc

    def late(flags):
        text = read(flags)
        domain.XMLDesc = read
        connection.plug(domain)
        return text
    domain.XMLDesc = late
    assert reasons(hypervisor) == [None]
    assert reasons(hypervisor) == ['passed-through device']


def test_a_definition_that_could_not_be_read_after_a_device_came_is_read_again():
    domain = Domain()
    connection = Loud(domain)
    hypervisor = LibvirtHypervisor(lambda: connection)
    reasons(hypervisor)
    connection.plug(domain)
    domain.xml = libvirt.libvirtError('no answer')
    assert reasons(hypervisor) == [None]
    domain.xml = DEVICE
    assert reasons(hypervisor) == ['passed-through device']


def test_what_was_plugged_in_while_nobody_listened_is_seen_once_the_connection_is_a_new_one():
    domain = Domain()
    connections = [Loud(domain)]
    hypervisor = LibvirtHypervisor(lambda: connections[-1])
    assert reasons(hypervisor) == [None]
    domain.xml = DEVICE
    connections.append(Loud(domain))
    assert reasons(hypervisor) == ['passed-through device'] and len(connections[-1].told) == 1


@pytest.mark.parametrize('deaf', [False, True])
def test_without_events_definitions_are_read_more_often(deaf):
    domain, now = Domain(), [0.0]
    connection = Loud(domain, deaf=deaf) if deaf else Hosts(domain)
    hypervisor = LibvirtHypervisor(lambda: connection, clock=lambda: now[0])
    assert reasons(hypervisor) == [None]
    domain.xml = DEVICE
    now[0] = 31.0
    assert reasons(hypervisor) == ['passed-through device']
    for _ in range(5):
        now[0] += 5
        reasons(hypervisor)
    assert domain.defined == 2
