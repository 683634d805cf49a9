# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which guests are started with ``<nosharepages/>``: the kernel has one switch for all that are not (promises 7, 8)."""
from __future__ import annotations

import threading
import typing

from ovc_plugin.decide import guarantee
from ovc_plugin.hypervisor import definition
from ovc_plugin.nova.asking import warn_once
from ovc_plugin.nova.attributes import OF_IMAGES, given, specs_of
from ovc_plugin.plain import plain
from ovc_plugin.settings import HostSettings

# A guest that was defined and is not running after so long will not run.
_COMING = 300.0
_LONGEST = 100  # characters of a word that are kept; those that mean something are far shorter


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

    def expect(self, guest: str, domain: str, now: float) -> None:
        """A mergeable guest migrates to here."""
        with self._lock:
            self._coming[guest] = (domain, now)

    def _here(self, uuid: str, guests: typing.Iterable[typing.Mapping[str, typing.Any]], now: float) -> set[str]:
        seen = {g['uuid']: g for g in guests}
        self._coming = {u: (domain, at) for u, (domain, at) in self._coming.items()
                        if u not in seen and abs(now - at) < _COMING}
        running = {g['trust_domain'] for g in seen.values() if g['running'] and g['can_share'] and g['uuid'] != uuid}
        return running | {domain for u, (domain, _) in self._coming.items() if u != uuid}


def declined(instance: typing.Any) -> str | None:
    """Why a guest never merges, in words; ``None`` when neither its flavor nor its image minds."""
    flavor = given(instance.flavor, 'extra_specs') or {}
    for name, text in specs_of(instance).items():
        if name in OF_IMAGES and _says_no(instance, name, text):
            return f'its {"flavor" if name in flavor else "image"} says no to {name}'
    return None


def unshare(config: typing.Any, backing: typing.Callable[[], typing.Any]) -> None:
    """Write ``<nosharepages/>`` into nova's definition of a guest; ``backing`` makes an empty memory backing."""
    config.membacking = config.membacking or backing()
    config.membacking.sharedpages = False


def said(instance: typing.Any) -> dict[str, str]:
    """What the guest's image says and its flavor does not, by the names of a guest's own metadata."""
    flavor = given(instance.flavor, 'extra_specs') or {}
    return {name.partition(':')[2]: _xml(text) for name, text in specs_of(instance).items() if name not in flavor}


def _xml(text: str) -> str:
    """A tenant may write anything on an image. What XML cannot hold would make nova's definition of the guest fail, on
    one host after the other; a word that cannot be read stays one."""
    return plain(str(text).strip()[:_LONGEST])


def tell(config: typing.Any, said: dict[str, str], element: typing.Callable[..., typing.Any]) -> None:
    """Write the word of an image into the metadata of nova's definition: nova writes there those properties alone that
    it knows itself. ``element`` makes one of nova's objects for libvirt."""
    if said:
        config.metadata.append(_Word(element(root_name='guest', ns_prefix='ovc', ns_uri=definition.NAMESPACE), said))


class _Word:
    """An element of nova's with attributes; the host controller reads it by :mod:`ovc_plugin.hypervisor.definition`."""

    def __init__(self, element: typing.Any, said: dict[str, str]) -> None:
        self._element, self._said = element, said

    def format_dom(self) -> typing.Any:
        dom = self._element.format_dom()
        for name, text in self._said.items():
            dom.set(name, text)
        return dom


def _says_no(instance: typing.Any, name: str, text: str) -> bool:
    """A word that cannot be read is a no: merged pages leak, unmerged ones only cost."""
    try:
        return not guarantee.yes(text)
    except ValueError as error:
        warn_once(f'flavor {given(instance.flavor, "name")!r} or the image of its guest, {name}: {error}; its guests '
                  'are not merged until that is corrected')
        return True
