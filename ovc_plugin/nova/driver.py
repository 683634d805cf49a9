# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The class that nova loads by ``[DEFAULT] compute_driver = ovc.OvcLibvirtDriver``: nova's LibvirtDriver, and ours."""
from __future__ import annotations

import typing

from nova.virt.libvirt import config as libvirt_config
from nova.virt.libvirt import driver as libvirt_driver

from ovc_plugin.decide import guarantee
from ovc_plugin.nova.host_state import OVERCOMMIT, warn_once
from ovc_plugin.nova.mixin import OvcMixin

SHARE = 'ovc:share'


class OvcLibvirtDriver(OvcMixin, libvirt_driver.LibvirtDriver):  # type: ignore[misc]
    """What nova's driver answers, always; and while all is well, our report, ratio, late check and ``ovc:share``."""

    def _ovc_connection(self) -> typing.Any:
        return self._host.get_connection()

    def _get_guest_memory_backing_config(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        backing = super()._get_guest_memory_backing_config(*args, **kwargs)
        unshared = self._ovc_guarded('page sharing', 'The guest starts mergeable, as nova has it.', _unshared,
                                     backing, *args, **kwargs)
        return unshared or backing


def _unshared(backing: typing.Any, inst_topology: typing.Any, numatune: typing.Any, flavor: typing.Any,
              image_meta: typing.Any) -> typing.Any:
    """The memory backing of a guest whose flavor says no to ``ovc:share`` or to ``ovc:overcommit``: never merged."""
    if not any(_says_no(flavor, name) for name in (SHARE, OVERCOMMIT)):
        return None
    backing = backing or libvirt_config.LibvirtConfigGuestMemoryBacking()
    backing.sharedpages = False
    return backing


def _says_no(flavor: typing.Any, name: str) -> bool:
    """A word that cannot be read is a no: merged pages leak, unmerged ones only cost."""
    text = (flavor.extra_specs if 'extra_specs' in flavor else {}).get(name)
    try:
        return text is not None and not guarantee.yes(text)
    except ValueError as error:
        warn_once(f'flavor {flavor.name!r}, extra spec {name}: {error}; its guests are not merged until that is '
                  'corrected')
        return True
