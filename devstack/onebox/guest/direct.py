# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Starting a test guest on a libvirt connection, without nova."""
from __future__ import annotations

import subprocess
import uuid as uuids
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .client import Console

MB = 1 << 20
#: The console, and fewer kernel messages: they take the emulated serial line's time.
COMMAND_LINE = "console=ttyS0 quiet"

_DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>{memory_kib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{images}/vmlinuz</kernel>
    <initrd>{images}/initrd</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{images}/disk.qcow2'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
    </disk>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{console}'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='{stats_period}'/></memballoon>
  </devices>
</domain>
"""


def build(directory: Path) -> Path:
    """Build the images into the directory, from the cache where they are in it; the directory.

    Raises subprocess.CalledProcessError, after the build has said on stderr what is missing.
    """
    subprocess.run([str(Path(__file__).with_name("build")), str(directory)], check=True)
    return directory


def definition(name: str, images: Path, console: Path, *, memory: int, start: str = "",
               uuid: str | None = None, stats_period: int = 2) -> str:
    """The domain's XML. memory in bytes, stats_period in seconds.

    start: words for the kernel command line, such as "ovc.touch=100,rate=20 ovc.balloon=off".
    """
    xml = _DOMAIN.format(
        name=escape(name), uuid=uuid or uuids.uuid4(), memory_kib=memory // 1024, images=escape(str(images)),
        command_line=escape(f"{COMMAND_LINE} {start}".strip()), console=escape(str(console)),
        stats_period=stats_period)
    ElementTree.fromstring(xml)  # a slip in the text above shall not look like libvirt's fault
    return xml


def boot_direct(connection: Any, name: str, images: Path, console: Path, *, memory: int = 256 * MB,
                start: str = "", uuid: str | None = None, stats_period: int = 2) -> tuple[Any, Console]:
    """Define and start a guest; its virDomain and its console. Raises libvirt.libvirtError.

    The guest stays defined after it ends, as nova's do: undefine() it.
    """
    xml = definition(name, images, console, memory=memory, start=start, uuid=uuid, stats_period=stats_period)
    domain = connection.defineXML(xml)
    domain.create()
    return domain, Console(console)
