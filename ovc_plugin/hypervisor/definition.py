# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Reading a guest's libvirt definition: who owns it, what it was promised, and what must not be touched."""
from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as etree

from ovc_plugin import placing

# Before Victoria (nova 22) it was 1.0; a guest that has only been migrated live since still has that.
_NOVA = ('{http://openstack.org/xmlns/libvirt/nova/1.1}', '{http://openstack.org/xmlns/libvirt/nova/1.0}')
NAMESPACE = 'https://ovc-plugin/xmlns/domain/1.0'
_OVC = f'{{{NAMESPACE}}}'
_UNITS = {'b': 1, 'bytes': 1, 'kb': 1000, 'k': 1024, 'kib': 1024, 'mb': 10**6, 'm': 1 << 20, 'mib': 1 << 20,
          'gb': 10**9, 'g': 1 << 30, 'gib': 1 << 30, 'tb': 10**12, 't': 1 << 40, 'tib': 1 << 40}
_PAGE = 64 * 1024  # no kernel's own pages are larger

# What a guest has that cannot go with it while it runs, or may not stand still for it. Hugepages can, and free nothing
# that other guests could use.
_STAYS = ('memoryBacking/hugepages', 'launchSecurity', 'cputune/vcpusched', 'devices/hostdev',
          "devices/interface[@type='hostdev']", "devices/interface[@type='vdpa']", "devices/disk[@type='vhostvdpa']")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a domain's XML says; texts of extra specs are not interpreted here. ``gives_way``: the balloon deflates by
    itself when the guest runs out of memory. ``huge``: how many bytes of ``maximum`` are in huge pages."""

    maximum: int
    has_balloon: bool
    gives_way: bool
    mergeable: bool
    untouchable: str | None
    managed: bool
    project: str | None
    extra_specs: dict[str, str]
    title: str = ''
    image: str = ''
    movable: bool = True
    complaint: str = ''
    huge: int = 0


def read(xml: str) -> Definition:
    """Read a domain definition.

    The owner and the extra specs come from nova's metadata. A guest without nova may say its trust domain and its
    specs in metadata of its own: ``<ovc:guest xmlns:ovc="https://ovc-plugin/xmlns/domain/1.0" trust-domain="…"
    reservation="25%" weight="2" overcommit="yes"/>``. Our nova driver says there what a guest's image says.

    :raises ValueError: not a domain definition, or one without memory.
    """
    try:
        domain = etree.fromstring(xml)
    except etree.ParseError as error:
        raise ValueError(f'domain definition is not XML ({error})') from None
    memory = domain.find('memory')
    if memory is None or not (memory.text or '').strip().isdigit():
        raise ValueError('domain definition has no <memory>')
    maximum = _bytes(memory.text, memory)
    balloon = domain.find('devices/memballoon')
    nova, ns = _of_nova(domain)
    project = nova.find(f'{ns}owner/{ns}project') if nova is not None else None
    own = domain.find(f'metadata/{_OVC}guest')
    untouchable = _untouchable(domain)
    specs = {s.get('name', ''): s.text or '' for s in nova.iter(f'{ns}extraSpec')} if nova is not None else {}
    if own is not None:
        specs |= {f'ovc:{name}': value for name, value in own.attrib.items()}
    # Nova's owner goes before a trust domain of the guest's own, its image before one.
    spoken = {name for name, other in (('ovc:trust-domain', project), ('ovc:image', nova)) if other is None}
    named = [name for name in specs if name not in spoken]
    return Definition(
        maximum=maximum, has_balloon=balloon is not None and balloon.get('model') != 'none',
        gives_way=balloon is not None and balloon.get('autodeflate') == 'on',
        # whatever backs its memory: QEMU marks firmware and video memory of its own mergeable too
        mergeable=domain.find('memoryBacking/nosharepages') is None,
        untouchable=untouchable, huge=_huge(domain, maximum),
        image=_image(nova, ns, own),
        complaint='; '.join(placing.unread(named)),
        title=(nova.findtext(f'{ns}name') if nova is not None else domain.findtext('title')) or '',
        managed=nova is not None, extra_specs=specs, movable=all(domain.find(path) is None for path in _STAYS),
        project=project.get('uuid') if project is not None else specs.get('ovc:trust-domain'))


def unread(name: str, maximum: int | None, error: Exception) -> Definition:
    """What is assumed of a guest whose definition cannot be read: nothing may be taken from it, and it may share pages
    with others, as libvirt's guests do unless told otherwise.

    :raises ValueError: nor is its size known.
    """
    if not maximum:
        raise ValueError(f'guest {name}: neither its definition ({error}) nor its size can be read') from error
    return Definition(maximum=maximum, has_balloon=False, gives_way=False, mergeable=True, managed=False, project=None,
                      untouchable=f'its definition cannot be read: {error}', extra_specs={}, movable=False,
                      complaint=f'its definition cannot be read ({error}); it counts at its full size and is left '
                      'alone, and the others go on')


def _of_nova(domain: etree.Element) -> tuple[etree.Element | None, str]:
    """What nova says of the guest, and the namespace in which it does."""
    for namespace in _NOVA:
        if (found := domain.find(f'metadata/{namespace}instance')) is not None:
            return found, namespace
    return None, _NOVA[0]


def _image(nova: etree.Element | None, ns: str, own: etree.Element | None) -> str:
    """What the guest was made from, if it is known: guests of one image hold much alike."""
    root = nova.find(f'{ns}root') if nova is not None else None
    if root is not None and root.get('type') == 'image':
        return str(root.get('uuid', ''))
    return str(own.get('image', '')) if own is not None else ''


def _bytes(text: str | None, element: etree.Element) -> int:
    return int((text or '').strip()) * _UNITS[element.get('unit', 'KiB').lower()]


def _huge(domain: etree.Element, maximum: int) -> int:
    """Bytes of the guest's memory that are known to be in huge pages: of some of its NUMA nodes, or of all. What the
    definition does not say clearly is in none: it then counts as the memory of others too, never as too little."""
    asked = domain.find('memoryBacking/hugepages')
    if asked is None:
        return 0
    pages = asked.findall('page')
    try:
        if any(_bytes(page.get('size'), page) <= _PAGE for page in pages):
            return 0  # the kernel's own pages, which libvirt takes for huge ones too
        if not pages or any(page.get('nodeset') is None for page in pages):
            return maximum
        nodes = {number for page in pages for number in _numbers(page.get('nodeset', ''))}
        cells = enumerate(domain.findall('cpu/numa/cell'))
        return min(maximum, sum(_bytes(cell.get('memory'), cell) for index, cell in cells
                                if int(cell.get('id', index)) in nodes))
    except (ValueError, KeyError):
        return 0


def _numbers(text: str) -> set[int]:
    """Those that a list like "0-2,5" names.

    :raises ValueError: it is no such list ("^1" too).
    """
    ends = [[int(end) for end in part.split('-')] for part in text.split(',')]
    return {number for end in ends for number in range(end[0], end[-1] + 1)}


def _untouchable(domain: etree.Element) -> str | None:
    """Why nothing may be taken from this guest (promise 7), or ``None``."""
    # the more telling first: encryption and realtime lock memory too
    for path, why in (('memoryBacking/hugepages', 'hugepages'), ('launchSecurity', 'encrypted memory'),
                      ('cputune/vcpusched', 'realtime'), ('memoryBacking/locked', 'locked memory'),
                      ("devices/hostdev[@type='pci']", 'passed-through device'),
                      ("devices/hostdev[@type='mdev']", 'passed-through device'),
                      ("devices/interface[@type='hostdev']", 'passed-through device'),
                      ("devices/interface[@type='vdpa']", 'passed-through device'),
                      ("devices/disk[@type='nvme']", 'passed-through device'),
                      ("devices/disk[@type='vhostvdpa']", 'passed-through device'),
                      ("cpu/numa/cell[@memAccess='shared']", 'file-backed memory')):
        if domain.find(path) is not None:
            return why
    source = domain.find('memoryBacking/source')
    if source is not None and source.get('type') in ('file', 'memfd'):
        return f'{source.get("type")}-backed memory'
    if domain.find("memoryBacking/access[@mode='shared']") is not None:
        return 'file-backed memory'  # libvirt then backs it by a file of its own choice
    # wherever its processors may run: what is bound to one node, by libvirt or by its group, is taken from that alone
    bound = [*domain.findall('numatune/memory'), *domain.findall('numatune/memnode')]
    return 'pinned NUMA memory' if any(
        one.get('mode', 'strict') in ('strict', 'restrictive') for one in bound) else None
