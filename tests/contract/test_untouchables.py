# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests from which nothing may be taken (promise 7), defined by nova itself: API, scheduler and libvirt driver.

Each test orders a guest of one kind from nova's API over its functional fixtures and reads the definition that nova's
libvirt driver has written for it. With ``OVC_DEFINITIONS`` set to a directory, the definitions are left there.
"""
from __future__ import annotations

import copy
import dataclasses
import os
import pathlib
import time
from unittest import mock

import fixtures
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.api import client
from nova.tests.functional.libvirt import base, test_pci_sriov_servers, test_vgpu
from nova.virt.libvirt import host as libvirt_host
from oslo_serialization import jsonutils
from oslo_utils import versionutils
from oslo_utils.fixture import uuidsentinel as uuids

from ovc_plugin.model import MIB
from ovc_plugin.nova.driver import OvcLibvirtDriver
from tests import untouchable
from tests.contract.cloud import ToldController, enable


class Kinds:
    """Put before a test base of nova's."""

    ADMIN_API = True
    microversion = 'latest'
    ADDITIONAL_FILTERS = ['NUMATopologyFilter', 'PciPassthroughFilter']

    def setUp(self):
        self.written = {}
        original, written = fakelibvirt.Domain._parse_definition, self.written

        def parse(domain, xml):
            found = original(domain, xml)
            written[found['uuid']] = xml
            return found

        self.useFixture(fixtures.MonkeyPatch('nova.tests.fixtures.libvirt.Domain._parse_definition', parse))
        self.useFixture(fixtures.MonkeyPatch(
            'ovc_plugin.nova.driver.OvcLibvirtDriver._ovc_build',
            lambda driver, host, reserve: ToldController(host, driver._ovc_settings)))
        enable(self)
        self.flags(group='ovc_host', dry_run=False, state_path=self.useFixture(fixtures.TempDir()).path)
        super().setUp()

    def _setup_compute_service(self):
        self.flags(compute_driver='ovc.OvcLibvirtDriver')

    def untouched(self, kind, why, server):
        """The definition of this server is recognised, and nothing is taken from the guest in a shortage."""
        self.assertIsInstance(next(iter(self.computes.values())).driver, OvcLibvirtDriver)
        xml = self.written[server['id']]
        if folder := os.environ.get('OVC_DEFINITIONS'):
            pathlib.Path(folder, f'{kind}.xml').write_text(xml)
        found = untouchable.judge(xml)
        self.assertEqual(why, found.why)
        self.assertTrue(found.untouched, found)

    def order(self, specs, **server):
        flavor = self._create_flavor(memory_mb=512, vcpu=2, extra_spec=specs)
        return self._create_server(**{'flavor_id': flavor, 'networks': 'none'} | server)


class TestMemory(Kinds, base.ServersTestBase):

    def start(self, **kwargs):
        """One host of two NUMA nodes, each with 6 GB in small pages and 2 GB in large ones."""
        pages = {node: fakelibvirt.create_mempages([(4, 6 << 18), (2048, 1024)]) for node in (0, 1)}
        self.start_compute(host_info=fakelibvirt.HostInfo(
            cpu_nodes=2, cpu_sockets=1, cpu_cores=2, cpu_threads=2, kB_mem=16 << 20, mempages=pages), **kwargs)

    def test_an_ordinary_guest_is_taken_from(self):
        self.start()
        found = untouchable.judge(self.written[self.order({})['id']])
        self.assertEqual((None, True, True, True, False),
                         (found.why, found.ballooned, found.swapped, found.mergeable, found.at_maximum))

    def test_hugepages(self):
        self.start()
        self.untouched('hugepages', 'hugepages', self.order({'hw:mem_page_size': '2MB'}))

    def test_locked_memory(self):
        self.start()
        self.untouched('locked', 'locked memory', self.order({'hw:mem_page_size': 'small', 'hw:locked_memory': 'true'}))

    def test_file_backed_memory(self):
        self.flags(file_backed_memory=16384, group='libvirt')
        self.flags(ram_allocation_ratio=1.0, reserved_host_memory_mb=0)
        self.start()
        self.untouched('file-backed', 'file-backed memory', self.order({}))

    def test_pinned_numa(self):
        self.flags(cpu_dedicated_set='0-7', group='compute')
        self.start()
        self.untouched('pinned NUMA', 'pinned NUMA memory', self.order({'hw:cpu_policy': 'dedicated'}))

    def test_memory_of_one_numa_node_without_pinned_processors(self):
        self.start()
        self.untouched('bound NUMA', 'pinned NUMA memory', self.order({'hw:numa_nodes': '1'}))

    def test_realtime(self):
        self.flags(cpu_dedicated_set='0-7', group='compute')
        self.flags(sysinfo_serial='none', group='libvirt')
        self.start()
        self.untouched('realtime', 'realtime', self.order({
            'hw:cpu_realtime': 'yes', 'hw:cpu_policy': 'dedicated', 'hw:cpu_realtime_mask': '^1'}))

    def test_opted_out(self):
        self.start()
        self.untouched('opted out', 'opted out by ovc:overcommit', self.order({'ovc:overcommit': 'no'}))

    @mock.patch.object(fakelibvirt.virConnect, '_domain_capability_features',
                       new=fakelibvirt.virConnect._domain_capability_features_with_SEV)
    def test_encrypted(self):
        image = copy.deepcopy(self.glance.image1)
        image['id'] = uuids.encrypted
        image['properties'] |= {'hw_firmware_type': 'uefi', 'hw_machine_type': 'q35', 'hw_mem_encryption': 'True'}
        self.glance.create(None, image)
        self.libvirt.amd_sev.sev = True
        self.start(qemu_version=versionutils.convert_version_to_int(libvirt_host.MIN_QEMU_SEV_ES_VERSION))
        self.untouched('encrypted', 'encrypted memory', self.order({}, image_uuid=uuids.encrypted))


class TestPassthrough(Kinds, test_pci_sriov_servers._PCIServersTestBase):
    PCI_DEVICE_SPEC = [jsonutils.dumps({'vendor_id': fakelibvirt.PCI_VEND_ID, 'product_id': fakelibvirt.PCI_PROD_ID})]
    PCI_ALIAS = [jsonutils.dumps({'vendor_id': fakelibvirt.PCI_VEND_ID, 'product_id': fakelibvirt.PCI_PROD_ID,
                                  'name': 'a1'})]

    def test_a_device_passed_through(self):
        self.start_compute(pci_info=fakelibvirt.HostPCIDevicesInfo(num_pci=1))
        self.untouched('hostdev pci', 'passed-through device', self.order({'pci_passthrough:alias': 'a1:1'}))


class TestPorts(Kinds, test_pci_sriov_servers.SRIOVAttachDetachTest):
    """A direct port, attached to a guest that runs."""

    def attach(self, left, state='ACTIVE'):
        """To a guest of 1 GB, of which a tenth is guaranteed, on a host with ``left`` MB to guarantee: did it come?"""
        self.start_compute(
            host_info=fakelibvirt.HostInfo(cpu_nodes=2, cpu_sockets=1, cpu_cores=2, cpu_threads=2),
            pci_info=fakelibvirt.HostPCIDevicesInfo(num_pfs=1, num_vfs=1))
        driver = next(iter(self.computes.values())).driver
        flavor = self._create_flavor(memory_mb=1024, vcpu=2, extra_spec={'ovc:reservation': '10%'})
        server = self._create_server(flavor_id=flavor, networks='none')
        told = driver._ovc
        told.guests = [{'uuid': server['id'], 'maximum': 1024 * MIB, 'reservation': 102 * MIB, 'untouchable': None,
                        'running': True, 'can_share': False, 'trust_domain': 'p'}]
        told.report = dataclasses.replace(told.report, taken_at=time.time(),
                                          reserved=told.report.total - told.report.reserve - left * MIB)
        self.api.attach_interface(server['id'], {'interfaceAttachment': {'port_id': self.neutron.sriov_port['id']}})
        self.assertEqual(state, self.api.get_server(server['id'])['status'])
        return self.neutron.sriov_port['id'] in self._get_attached_port_ids(server['id'])

    def test_is_judged_by_what_the_guest_is_guaranteed_from_then_on(self):
        self.assertTrue(self.attach(left=1000))

    def test_is_refused_where_that_is_guaranteed_to_others(self):
        with self.assertLogs('ovc_plugin', 'WARNING') as logged:
            refused = self.assertRaises(client.OpenStackApiException, self.attach, left=500)
        self.assertEqual(500, refused.response.status_code)
        self.assertIn('is not attached, as a guest with a passed-through device', logged.output[-1])
        self.assertIn('attach an ordinary port', logged.output[-1])

    def test_is_attached_in_a_dry_run_that_says_what_would_have_been(self):
        self.flags(group='ovc_host', dry_run=True)
        with self.assertLogs('ovc_plugin', 'INFO') as logged:
            self.assertTrue(self.attach(left=500))
        self.assertIn('would not be attached', ' '.join(logged.output))


for _name in [name for name in dir(test_pci_sriov_servers.SRIOVAttachDetachTest) if name.startswith('test_')]:
    setattr(TestPorts, _name, None)  # nova's own, which benchmarks/nova-suite runs


class TestVdpa(Kinds, test_pci_sriov_servers._PCIServersTestBase):
    PCI_DEVICE_SPEC = [jsonutils.dumps({'vendor_id': '15b3', 'product_id': product, 'physical_network': 'physnet4'})
                       for product in ('101d', '101e')]
    PCI_ALIAS = []

    def test_a_network_device_that_reaches_into_the_guest(self):
        self.neutron = self.useFixture(base.LibvirtNeutronFixture(self))
        kinds = test_pci_sriov_servers.VDPAServersTest
        pci, vdpa = fakelibvirt.HostPCIDevicesInfo(num_pci=0, num_pfs=0, num_vfs=0), fakelibvirt.HostVDPADevicesInfo()
        mellanox = dict(bus=0x6, slot=0x0, numa_node=0, vf_ratio=1, vend_id='15b3', vend_name='Mellanox Technologies',
                        driver_name='mlx5_core')
        pci.add_device(dev_type='PF', function=0, iommu_group=40, prod_id='101d', prod_name='ConnectX-6', **mellanox)
        function = pci.add_device(dev_type='VF', function=1, iommu_group=41, parent=(0x6, 0x0, 0), prod_id='101e',
                                  prod_name='ConnectX Virtual Function', **mellanox)
        vdpa.add_device('vdpa_vdpa0', 0, function)
        self.start_compute(pci_info=pci, vdpa_info=vdpa)
        port = kinds.create_vdpa_port(self)
        self.untouched('vdpa', 'passed-through device', self.order({}, networks=[{'port': port['id']}]))


class TestMdev(Kinds, test_vgpu.VGPUTestBase):

    def test_a_virtual_gpu(self):
        self.flags(enabled_mdev_types=fakelibvirt.NVIDIA_11_VGPU_TYPE, group='devices')
        self.start_compute_with_vgpu('host1')
        self.untouched('hostdev mdev', 'passed-through device', self.order({'resources:VGPU': '1'}))
