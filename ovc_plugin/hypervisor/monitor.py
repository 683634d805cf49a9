# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest counts of its own pressure (Linux 6.12, QEMU 9.2), read of its balloon through QEMU's monitor.

libvirt passes on the older balloon statistics only. The form is that of QEMU's docs/interop/virtio-balloon-stats.rst.
"""
from __future__ import annotations

import json
import typing

from ovc_plugin.samples import Counted

BALLOON = '/machine/peripheral/balloon0'  # libvirt's name of the one that a guest can have
_UNTOLD = 2 ** 64 - 1                     # what QEMU says of a counter that the guest's driver does not have
_PAGE = 4096
_NAMES = {f'stat-{name}': name.replace('-', '_') for name in (
    'oom-kills', 'alloc-stalls', 'async-scans', 'direct-scans', 'async-reclaims', 'direct-reclaims')}
Ask = typing.Callable[[str], str]  # one command of QEMU's monitor protocol, and its answer


class Untold(LookupError):
    """This guest or its QEMU does not count it, and will not before it is started anew."""


def counted(ask: Ask) -> Counted:
    """The counters that the guest has, and when it told them.

    :raises Untold: it has none.
    :raises ValueError: the answer cannot be understood.
    :raises Exception: whatever ``ask`` raises.
    """
    answer = json.loads(ask(json.dumps(
        {'execute': 'qom-get', 'arguments': {'path': BALLOON, 'property': 'guest-stats'}})))
    if 'error' in answer:
        raise Untold(f'QEMU refuses: {answer["error"]}')
    try:
        told, at = answer['return']['stats'], float(answer['return']['last-update'])
        counts = {name: int(told[key]) for key, name in _NAMES.items() if 0 <= told.get(key, _UNTOLD) < _UNTOLD}
        # The guest's driver tells bytes of what its kernel counts in pages (pages_to_bytes in virtio_balloon.c).
        counts = {name: count // _PAGE if name.endswith(('scans', 'reclaims')) else count
                  for name, count in counts.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'guest-stats has another form: {error!r}') from None
    if not at:
        raise ValueError('the guest has not spoken yet')
    if not counts:
        raise Untold('neither is counted before Linux 6.12 and QEMU 9.2')
    return Counted(at=at, counts=counts)
