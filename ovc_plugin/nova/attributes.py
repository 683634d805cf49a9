# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How to read nova's objects without importing nova, and without making them ask the database."""
from __future__ import annotations

import typing

from ovc_plugin.decide import guarantee

OVERCOMMIT = 'ovc:overcommit'
SHARE = 'ovc:share'
# What an image may ask for. Not a reservation or a weight: whoever uploads an image is not who sells those.
OF_IMAGES = (OVERCOMMIT, SHARE)


def given(thing: typing.Any, name: str) -> typing.Any:
    """An attribute that nova has set; one that is not set must not be asked for: nova would load it or raise.

    nova's objects keep what is set under this name; to ask them (``name in thing``) takes ten times as long.
    """
    if thing is None:
        return None
    kept = getattr(thing, '__dict__', None)
    if kept is not None:
        if f'_obj_{name}' in kept:
            return kept[f'_obj_{name}']
        if '_changed_fields' in kept:  # one of nova's, and this is not set
            return None
    return getattr(thing, name, None) if name in thing else None


def specs_of(thing: typing.Any) -> typing.Mapping[str, str]:
    """What a guest's flavor says and, where that says nothing, :data:`OF_IMAGES` of its image. Nova keeps an image's
    properties with an instance, so hosts know them; it drops those it does not know from a scheduler's request."""
    flavor: typing.Mapping[str, str] = given(given(thing, 'flavor'), 'extra_specs') or {}
    kept = given(thing, 'system_metadata')
    return {**said_by_image(kept), **flavor} if kept else flavor


def said_by_image(system_metadata: typing.Mapping[str, str]) -> dict[str, str]:
    """Of ``ovc:share`` and ``ovc_share``, as some tools take no colon in the name of a property, either will do."""
    found = {}
    for name in OF_IMAGES:
        for key in (f'image_{name}', f'image_{name.replace(":", "_")}'):
            if key in system_metadata:
                found[name] = system_metadata[key]
    return found


def shares(specs: typing.Mapping[str, str] | None) -> bool:
    """Whether a guest of these extra specs may merge: nova starts it so unless one of them says no."""
    return not any(says_no((specs or {}).get(name)) for name in (SHARE, OVERCOMMIT))


def says_no(text: str | None) -> bool:
    """A word that cannot be read is a no, as in the driver: merged pages leak, unmerged ones only cost."""
    try:
        return text is not None and not guarantee.yes(text)
    except ValueError:
        return True


def image_or_flavor(image: typing.Any, flavor: typing.Any) -> str:
    """What two guests must have in common to be taken for alike: the image, or without one (as when they are booted
    from a volume) the flavor."""
    return str(image) if image else f'flavor {flavor}'
