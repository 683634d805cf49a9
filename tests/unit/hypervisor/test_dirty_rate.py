# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How fast guests write is measured when asked for, once a minute, and never at the cost of a pass."""
from __future__ import annotations

import sys
import types

import pytest

from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor
from ovc_plugin.model import MIB

XML = '<domain type="kvm"><memory unit="MiB">512</memory></domain>'


class LibvirtError(Exception):
    pass


class Domain:
    """A guest that writes ``rate`` MB/s and tells it once it was measured; ``able`` false: its QEMU cannot."""

    def __init__(self, uuid, rate=30, able=True):
        self.uuid, self.rate, self.able, self.measured = uuid, rate, able, 0

    def UUIDString(self):
        return self.uuid

    def ID(self):
        return 1

    def name(self):
        return f'instance-{self.uuid}'

    def XMLDesc(self, flags):
        return XML

    def startDirtyRateCalc(self, seconds):
        if not self.able:
            raise LibvirtError('not supported')
        self.measured += 1


class Host:
    """A libvirt with guests; ``kinds`` are the statistics last asked for."""

    def __init__(self, monkeypatch, *domains):
        self.domains, self.now, self.kinds = {d.uuid: d for d in domains}, 1000.0, 0
        fields = dict(libvirtError=LibvirtError, VIR_DOMAIN_STATS_STATE=1, VIR_DOMAIN_STATS_BALLOON=4,
                      VIR_DOMAIN_STATS_DIRTYRATE=512, VIR_DOMAIN_DIRTYRATE_MEASURED=2, VIR_DOMAIN_RUNNING=1,
                      VIR_DOMAIN_SHUTOFF=5, VIR_DOMAIN_CRASHED=6, VIR_ERR_NO_DOMAIN=42)
        monkeypatch.setitem(sys.modules, 'libvirt', types.SimpleNamespace(**fields))
        self.hypervisor = LibvirtHypervisor(lambda: self, clock=lambda: self.now)

    def lookupByUUIDString(self, uuid):
        return self.domains[uuid]

    def getAllDomainStats(self, kinds, flags):
        self.kinds = kinds
        return [(d, {'state.state': 1} | ({'dirtyrate.calc_status': 2, 'dirtyrate.megabytes_per_second': d.rate}
                                          if d.measured and kinds & 512 else {})) for d in self.domains.values()]

    def rates(self):
        return {f.uuid: f.dirty_rate for f in self.hypervisor.guests()}


def test_nothing_is_measured_nor_asked_for_unless_wanted(monkeypatch):
    host = Host(monkeypatch, Domain('a'))
    assert host.rates() == {'a': None} and host.kinds == 5


def test_only_who_may_have_to_go_is_measured_and_told_in_bytes(monkeypatch):
    host = Host(monkeypatch, Domain('a'), Domain('b', rate=7))
    host.hypervisor.measure_dirty(['b'])
    assert host.rates() == {'a': None, 'b': 7 * MIB} and host.domains['a'].measured == 0


def test_it_is_measured_once_a_minute(monkeypatch):
    host = Host(monkeypatch, Domain('a'))
    for _ in range(13):
        host.hypervisor.measure_dirty(['a'])
        host.now += 5
    assert host.domains['a'].measured == 2


def test_once_nobody_has_to_go_any_more_nobody_is_asked(monkeypatch):
    host = Host(monkeypatch, Domain('a'))
    host.hypervisor.measure_dirty(['a'])
    for _ in range(12):  # who has to go is measured anew in time, and is known in every pass until then
        assert host.rates() == {'a': 30 * MIB} and host.kinds & 512
        host.now += 10
        host.hypervisor.measure_dirty(['a'])
    host.now += 200
    assert host.rates() == {'a': None} and host.kinds == 5


def test_one_guest_that_cannot_be_measured_costs_the_others_nothing(monkeypatch):
    host = Host(monkeypatch, Domain('a', able=False), Domain('b'))
    host.hypervisor.measure_dirty(['a', 'b'])
    assert host.rates() == {'a': None, 'b': 30 * MIB}


def test_a_hypervisor_that_does_not_answer_is_an_error_that_the_caller_passes_over(monkeypatch):
    host = Host(monkeypatch, Domain('a'))
    host.hypervisor._connect = lambda: (_ for _ in ()).throw(LibvirtError('down'))
    with pytest.raises(LibvirtError):
        host.hypervisor.measure_dirty(['a'])
