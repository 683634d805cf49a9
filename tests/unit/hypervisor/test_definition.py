# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a domain definition says of a guest."""
import pathlib

import pytest

from ovc_plugin.hypervisor import definition

NOVA = '''<metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:flavor name="m"
 ><nova:extraSpecs><nova:extraSpec name="ovc:reservation">25%</nova:extraSpec></nova:extraSpecs></nova:flavor>
 <nova:owner><nova:user uuid="u">admin</nova:user><nova:project uuid="p1">demo</nova:project></nova:owner>
 </nova:instance></metadata>'''


def domain(inside='', memory='<memory unit="KiB">524288</memory>', metadata=''):
    return f'<domain type="kvm"><name>x</name>{metadata}{memory}{inside}</domain>'


def test_a_nova_guest_has_an_owner_and_extra_specs():
    known = definition.read(domain(metadata=NOVA))
    assert (known.managed, known.project, known.extra_specs) == (True, 'p1', {'ovc:reservation': '25%'})
    assert known.maximum == 512 << 20


def test_a_guest_of_an_old_nova_has_its_owner_too():
    old = NOVA.replace('nova/1.1', 'nova/1.0')
    assert definition.read(domain(metadata=old)) == definition.read(domain(metadata=NOVA))


def test_a_guest_without_nova_may_speak_for_itself():
    own = ('<metadata><ovc:guest xmlns:ovc="https://ovc-plugin/xmlns/domain/1.0" trust-domain="team"'
           ' reservation="100"/></metadata>')
    known = definition.read(domain(metadata=own))
    assert (known.managed, known.project, known.extra_specs['ovc:reservation']) == (False, 'team', '100')


def test_the_definition_in_the_documentation_works():
    text = (pathlib.Path(__file__).parents[3] / 'README.rst').read_text()
    own = text.split('.. code-block:: xml\n')[1].split('\n``overcommit')[0]
    known = definition.read(domain(metadata=own))
    assert (known.project, known.complaint) == ('web', '')
    assert (known.extra_specs['ovc:reservation'], known.extra_specs['ovc:weight']) == ('25%', '2')


def test_a_spec_that_nothing_reads_is_told():
    assert definition.read(domain(metadata=NOVA)).complaint == ''
    told = definition.read(domain(metadata=NOVA.replace('ovc:reservation', 'ovc:reservaton'))).complaint
    assert 'ovc:reservaton is none of ours' in told and 'ovc:reservation' in told
    own = '<metadata><ovc:guest xmlns:ovc="https://ovc-plugin/xmlns/domain/1.0" trust-domain="t" {}="no"/></metadata>'
    for name in ('share', 'image'):
        assert definition.read(domain(metadata=own.format(name))).complaint == ''
    assert 'ovc:shar is' in definition.read(domain(metadata=own.format('shar'))).complaint


@pytest.mark.parametrize('inside, why', [
    ('<memoryBacking><hugepages/></memoryBacking>', 'hugepages'),
    ('<memoryBacking><locked/></memoryBacking>', 'locked memory'),
    ('<memoryBacking><source type="file"/></memoryBacking>', 'file-backed memory'),
    ('<memoryBacking><source type="memfd"/></memoryBacking>', 'memfd-backed memory'),
    ('<memoryBacking><access mode="shared"/></memoryBacking>', 'file-backed memory'),
    ('<cpu><numa><cell id="0" memAccess="shared"/></numa></cpu>', 'file-backed memory'),
    ('<launchSecurity type="sev"/>', 'encrypted memory'),
    ('<memoryBacking><locked/></memoryBacking><launchSecurity type="sev"/>', 'encrypted memory'),
    ('<devices><disk type="nvme" device="disk"/></devices>', 'passed-through device'),
    ('<devices><interface type="vdpa"/></devices>', 'passed-through device'),
    ('<cputune><vcpusched vcpus="0" scheduler="fifo"/></cputune>', 'realtime'),
    ('<devices><hostdev type="pci" mode="subsystem"/></devices>', 'passed-through device'),
    ('<devices><hostdev type="mdev" mode="subsystem"/></devices>', 'passed-through device'),
    ('<devices><interface type="hostdev"/></devices>', 'passed-through device'),
    ('<cputune><vcpupin vcpu="0" cpuset="1"/></cputune><numatune><memory mode="strict"/></numatune>',
     'pinned NUMA memory'),
    ('<numatune><memory mode="strict" nodeset="0"/></numatune>', 'pinned NUMA memory'),
    ('<numatune><memory mode="restrictive" nodeset="0"/></numatune>', 'pinned NUMA memory'),
    ('<numatune><memory nodeset="0"/></numatune>', 'pinned NUMA memory'),
    ('<numatune><memnode cellid="0" mode="strict" nodeset="1"/></numatune>', 'pinned NUMA memory'),
    ('<numatune><memory mode="preferred" nodeset="0"/></numatune>', None),
    ('<cputune><vcpupin vcpu="0" cpuset="1"/></cputune><numatune><memory mode="interleave"/></numatune>', None),
    ('<devices><disk type="vhostvdpa" device="disk"/></devices>', 'passed-through device'),
    ('<devices><hostdev type="usb" mode="subsystem"/></devices>', None),
    ('<memoryBacking><nosharepages/></memoryBacking>', None),
    ('', None)])
def test_untouchables_are_recognised(inside, why):
    assert definition.read(domain(inside)).untouchable == why


@pytest.mark.parametrize('inside, movable', [
    ('', True), ('<memoryBacking><locked/></memoryBacking>', True),
    ('<memoryBacking><source type="memfd"/></memoryBacking>', True),
    ('<memoryBacking><hugepages/></memoryBacking>', False),  # free nothing that others could use
    ('<memoryBacking><hugepages/></memoryBacking><devices><hostdev type="pci"/></devices>', False),
    ('<devices><hostdev type="usb"/></devices>', False), ('<devices><hostdev type="mdev"/></devices>', False),
    ('<devices><interface type="hostdev"/></devices>', False), ('<devices><interface type="vdpa"/></devices>', False),
    ('<devices><disk type="vhostvdpa"/></devices>', False),
    ('<devices><interface type="bridge"/></devices>', True), ('<launchSecurity type="sev"/>', False),
    ('<cputune><vcpusched vcpus="0" scheduler="fifo"/></cputune>', False)])
def test_who_could_go_to_another_host_while_it_runs(inside, movable):
    assert definition.read(domain(inside)).movable == movable


def test_a_guest_that_may_not_share_is_not_mergeable():
    # seen on real guests: of one with hugepages, QEMU's own small regions were merged
    assert definition.read(domain('<memoryBacking><hugepages/></memoryBacking>')).mergeable
    assert not definition.read(domain('<memoryBacking><nosharepages/></memoryBacking>')).mergeable


def test_no_balloon_device_is_no_balloon():
    assert not definition.read(domain('<devices><memballoon model="none"/></devices>')).has_balloon
    assert definition.read(domain('<devices><memballoon model="virtio"/></devices>')).has_balloon


@pytest.mark.parametrize('balloon, gives_way', [
    ('<memballoon model="virtio" autodeflate="on"/>', True), ('<memballoon model="virtio" autodeflate="off"/>', False),
    ('<memballoon model="virtio"/>', False), ('', False)])
def test_a_balloon_gives_way_only_where_it_was_told_to(balloon, gives_way):
    assert definition.read(domain(f'<devices>{balloon}</devices>')).gives_way is gives_way


@pytest.mark.parametrize('text', ['', '<domain/>', '<domain><memory>lots</memory></domain>', 'x'])
def test_a_broken_definition_is_an_error_that_says_so(text):
    with pytest.raises(ValueError, match='domain definition'):
        definition.read(text)


CELLS = '<cpu><numa><cell id="0" memory="131072"/><cell id="1" memory="384" unit="MiB"/></numa></cpu>'


def paged(*pages):
    return '<memoryBacking><hugepages>' + ''.join(f'<page {page}/>' for page in pages) + '</hugepages></memoryBacking>'


@pytest.mark.parametrize('inside, mb', [
    ('', 0),
    (paged(), 512),
    (paged('size="2048" unit="KiB"'), 512),
    (paged('size="2048" unit="KiB" nodeset="0"') + CELLS, 128),
    (paged('size="1" unit="G" nodeset="1"') + CELLS, 384),
    (paged('size="2048" nodeset="0"', 'size="1048576" nodeset="1"') + CELLS, 512),
    (paged('size="2048" nodeset="0-1"') + CELLS, 512),
    (paged('size="4" unit="KiB"'), 0),  # the kernel's own
    (paged('size="2048" nodeset="0"'), 0),  # of no node that there is
    (paged('size="2048" nodeset="0-1,^1"') + CELLS, 0),
    (paged('nodeset="0"') + CELLS, 0),
])
def test_only_memory_that_is_surely_in_huge_pages_is_taken_to_be(inside, mb):
    assert definition.read(domain(inside)).huge == mb << 20
