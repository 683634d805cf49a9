# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How much of what a guest holds is on a host already, from a few hashes of page contents.

Of the hashes of a guest's different pages only the smallest are kept. They are a fair sample of its pages, and samples
meet: whatever is below the limit of both is kept in both (bottom-k sketches: Broder 1997; Cohen and Kaplan 2007). A
sketch of 32 hashes tells the share held with a standard deviation of at most 9 %.

A host names the images of its guests and tells a sketch of some of them; a scheduler learns an image's sketch from
whatever host has told it (:mod:`ovc_plugin.decide.learned`). One sketch of a whole host would not do: a guest is a
small part of it, and hardly a hash of the guest's would be among the smallest of the host's.

A sketch is an estimate, and what the kernel has merged is a count. So a host also tells what part of its guests of an
image is merged, and guests of that image are judged by it.
"""
from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import typing

from ovc_plugin.model import GuestSnapshot

SPACE = 1 << 40
KEPT = 32
NAME = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Sketch:
    """Page hashes in [0, :data:`SPACE`), rising: all there are below ``limit``."""

    hashes: tuple[int, ...]
    limit: int = SPACE


def of(hashes: typing.Iterable[int], kept: int = KEPT) -> Sketch:
    """The sketch of pages with these hashes, in any order."""
    found = sorted(set(hashes))
    return Sketch(tuple(found[:kept]), SPACE if len(found) <= kept else found[kept])


def held(guest: Sketch, others: typing.Iterable[Sketch]) -> float:
    """The share (0..1) of the guest's different pages that are among the others'."""
    there: set[int] = set()
    limit = guest.limit
    for other in others:
        there.update(other.hashes)
        limit = min(limit, other.limit)
    sample = [h for h in guest.hashes if h < limit]
    return sum(h in there for h in sample) / len(sample) if sample else 0.0


def image_name(domain: str, image: str) -> str:
    """A short name for an image in one trust domain, the same on every host and in every scheduler. Another domain's
    sketches are made with another salt, and do not compare."""
    return hashlib.blake2s(f'{domain}/{image}'.encode(), digest_size=4).hexdigest()[:NAME]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a host tells of its guests that share: the images there are, the sketches of some of them, and by image the
    share (0..1) of its guests' memory that one more of them would save (:func:`measured`)."""

    images: frozenset[str] = frozenset()
    sketches: typing.Mapping[str, Sketch] = dataclasses.field(default_factory=dict)
    saved: typing.Mapping[str, float] = dataclasses.field(default_factory=dict)


def measured(guests: typing.Iterable[GuestSnapshot], scanned: typing.Container[str]) -> dict[str, float]:
    """By image, the share of their memory that one more guest would save: what the kernel has merged of those there.

    All that is merged of a guest, a twin finds there as well. What a guest has saved itself is less: of what two alone
    share each saves half, and a third saves it whole. ``GuestSnapshot.saved`` counts where ``merged`` is not told.

    Only of guests that it has looked through (``scanned``: their uuids), and only of two or more: one alone has no
    twin to merge with, and says nothing of what a second would save.
    """
    found: dict[str, list[int]] = {}
    for guest in guests:
        if guest.can_share and guest.image and guest.saved is not None and guest.uuid in scanned:
            total = found.setdefault(image_name(guest.trust_domain, guest.image), [0, 0, 0])
            merged = guest.saved if guest.merged is None else guest.merged
            for index, amount in enumerate((1, merged, guest.maximum)):
                total[index] += amount
    return {name: min(1.0, merged / memory) for name, (count, merged, memory) in found.items() if count > 1 and memory}


def encode(contents: Contents, most: int, turn: int = 0) -> str:
    """At most ``most`` characters: all names that fit, each with the percent that is measured, then as many sketches as
    fit, other ones with each ``turn``."""
    names, text = [], ''
    for name in sorted(contents.images):
        part = f'{name}:{contents.saved[name]:.0%}'.rstrip('%') if name in contents.saved else name
        if len(text) + len(part) + 1 > most:
            break
        names.append(name)
        text += f',{part}' if text else part
    told = sorted(n for n in names if n in contents.sketches)
    for name in told[turn % len(told):] + told[:turn % len(told)] if told else ():
        part = f';{name}={_packed(contents.sketches[name])}'
        if len(text) + len(part) <= most:
            text += part
    return text


def decode(text: str, wanted: typing.Callable[[str], bool] = lambda name: True,
           before: There | None = None) -> Contents:
    """Only the sketches of ``wanted`` images are read: they cost more than all else in a report. ``before``: what was
    read from the same host; from one report to the next little changes but which sketches there are.

    :raises ValueError: not written by :func:`encode`.
    """
    names, *parts = text.split(';')
    images, saved = (before.images, before.saved) if before is not None and before.names == names else _named(names)
    sketches = {}
    for part in parts:
        name, equals, packed = part.partition('=')
        if not equals or len(name) != NAME:
            raise ValueError(f'{part[:20]!r} is not a sketch')
        if wanted(name):
            sketches[name] = _unpacked(packed)
    return Contents(images=images, sketches=sketches, saved=saved)


def _named(names: str) -> tuple[frozenset[str], dict[str, float]]:
    images, saved = set(), {}
    for part in names.split(',') if names else ():
        name, colon, percent = part.partition(':')
        if colon:
            if not percent.isdecimal() or int(percent) > 100:
                raise ValueError(f'{part[:20]!r} is not a share of an image')
            saved[name] = int(percent) / 100
        images.add(name)
    return frozenset(images), saved


def _packed(sketch: Sketch) -> str:
    """Differences of what rises, seven bits a byte: some 170 characters for 32 hashes of a guest of 1 GiB."""
    out, before = bytearray(), 0
    for value in (*sketch.hashes, sketch.limit):
        left, before = value - before, value
        while left >= 128:
            out.append(left & 127 | 128)
            left >>= 7
        out.append(left)
    return base64.b64encode(bytes(out)).decode().rstrip('=')


def _unpacked(text: str) -> Sketch:
    try:
        packed = base64.b64decode(text + '=' * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f'{text[:20]!r} is not a sketch ({error})') from None
    values, value, shift, total = [], 0, 0, 0
    for byte in packed:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            total += value
            values.append(total)
            value = shift = 0
    if shift or not values or values[-1] > SPACE:
        raise ValueError(f'{text[:20]!r} is not a sketch')
    return Sketch(tuple(values[:-1]), values[-1])


class There:
    """What guests of these ``images`` hold together; ``saved`` is what the kernel counts there, by image, and ``names``
    are the words that said so. Their ``pages`` below ``limit`` are put together when first asked for
    (:meth:`ovc_plugin.decide.learned.Book.expected`): few requests are for a host's trust domain."""

    __slots__ = ('images', 'saved', 'names', 'pages', 'limit')

    def __init__(self, images: frozenset[str], saved: typing.Mapping[str, float], names: str = '') -> None:
        self.images, self.saved, self.names = images, saved, names
        self.pages: frozenset[int] | None = None
        self.limit = 0
