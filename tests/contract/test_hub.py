# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""On eventlet a call of libvirt must not hold all of nova-compute: what asks libvirtd is done in another thread."""
from __future__ import annotations

import select

import pytest

from ovc_plugin.nova.driver import OvcLibvirtDriver


class Domain:
    def __init__(self, wrapped=False):
        self.wrapped = wrapped

    def UUIDString(self):
        assert not self.wrapped, 'it asks nobody, and a thread for each guest and pass costs more than it'
        return 'uuid-g1'

    def XMLDesc(self, flags):
        return 'aside' if self.wrapped else 'in the hub'

    jobInfo = XMLDesc


class Host:
    """nova's, whose connection is wrapped and the domains in a list of its are not."""

    def __init__(self):
        self.connection = self

    def get_connection(self):
        return self.connection

    def getAllDomainStats(self, kinds, flags):
        return [(Domain(), {'kinds': kinds})]

    def isAlive(self):
        return True

    def _wrap_libvirt_proxy(self, domain):
        return Domain(wrapped=True)


@pytest.fixture
def driver():
    found = OvcLibvirtDriver.__new__(OvcLibvirtDriver)
    found._host, found._ovc_aside = Host(), None
    return found


def test_on_eventlet_domains_of_a_list_ask_libvirtd_in_another_thread(driver, monkeypatch):
    monkeypatch.delattr(select, 'poll')
    connection = driver._ovc_connection()
    [(domain, stats)] = connection.getAllDomainStats(5, 0)
    assert domain.UUIDString() == 'uuid-g1' and stats == {'kinds': 5} and connection.isAlive()
    assert domain.XMLDesc(0) == domain.jobInfo(0) == 'aside'


def test_the_connection_is_the_same_until_nova_has_another(driver, monkeypatch):
    """Whoever listens to its events listens anew on another one."""
    monkeypatch.delattr(select, 'poll')
    first = driver._ovc_connection()
    assert driver._ovc_connection() is first
    driver._host = Host()
    assert driver._ovc_connection() is not first


def test_on_threads_it_is_novas_own(driver):
    assert driver._ovc_connection() is driver._host
