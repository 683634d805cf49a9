# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which guests are started with ``<nosharepages/>``: the kernel has one switch for all that are not (promises 7, 8)."""
from __future__ import annotations

import threading
import typing

from ovc_plugin.decide import guarantee
from ovc_plugin.hypervisor import definition
from ovc_plugin.nova.host_state import OVERCOMMIT, warn_once
from ovc_plugin.settings import HostSettings

SHARE = 'ovc:share'
# A guest that was defined and is not running after so long will not run.
_COMING = 300.0


class Sharers:
    """The trust domains of the mergeable guests of one host, also of those that are just being started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: dict[str, tuple[str, float]] = {}

    def why_not(self, instance: typing.Any, xml: str, guests: typing.Iterable[typing.Mapping[str, typing.Any]],
                settings: HostSettings, now: float) -> str | None:
        """Why the guest that nova is about to define must not merge, in words; ``None`` when it may.

        ``guests`` are those that the host controller has seen. A second trust domain stays out of it: else sharing
        would pause for all.

        :raises ValueError: the definition cannot be read.
        """
        if settings.dry_run:
            return None
        guest = definition.read(xml)
        if guest.untouchable and guest.mergeable:
            return f'nothing may be taken from it ({guest.untouchable})'
        with self._lock:
            here = self._here(instance.uuid, guests, now)
            if settings.ksm == 'auto' and here and instance.project_id not in here:
                return 'guests of another project can merge on this host'
            if guest.mergeable:
                self._coming[instance.uuid] = (instance.project_id, now)
        return None

    def _here(self, uuid: str, guests: typing.Iterable[typing.Mapping[str, typing.Any]], now: float) -> set[str]:
        seen = {g['uuid']: g for g in guests}
        self._coming = {u: (domain, at) for u, (domain, at) in self._coming.items()
                        if u not in seen and abs(now - at) < _COMING}
        running = {g['trust_domain'] for g in seen.values() if g['running'] and g['can_share'] and g['uuid'] != uuid}
        return running | {domain for u, (domain, _) in self._coming.items() if u != uuid}


def declined(flavor: typing.Any) -> str | None:
    """Why a guest of this flavor never merges, in words; ``None`` when its flavor does not mind."""
    for name in (SHARE, OVERCOMMIT):
        if _says_no(flavor, name):
            return f'its flavor says no to {name}'
    return None


def unshare(config: typing.Any, backing: typing.Callable[[], typing.Any]) -> None:
    """Write ``<nosharepages/>`` into nova's definition of a guest; ``backing`` makes an empty memory backing."""
    config.membacking = config.membacking or backing()
    config.membacking.sharedpages = False


def _says_no(flavor: typing.Any, name: str) -> bool:
    """A word that cannot be read is a no: merged pages leak, unmerged ones only cost."""
    text = (flavor.extra_specs if 'extra_specs' in flavor else {}).get(name)
    try:
        return text is not None and not guarantee.yes(text)
    except ValueError as error:
        warn_once(f'flavor {flavor.name!r}, extra spec {name}: {error}; its guests are not merged until that is '
                  'corrected')
        return True
