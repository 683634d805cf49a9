# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a scheduler has learned of page contents from what hosts tell (:mod:`ovc_plugin.decide.sketch`)."""
from __future__ import annotations

import bisect
import typing

from ovc_plugin.decide.sketch import SPACE, Contents, Sketch, There, held

_FIRST, _SELDOM = 4, 64


class Book:
    """What a scheduler has learned of images, the newest word of each; at most ``most`` of them."""

    def __init__(self, most: int = 10000) -> None:
        self._most = most
        self._sketches: dict[str, tuple[str, Sketch]] = {}
        self._saved: dict[str, float] = {}
        self._alike: dict[str, float] = {}
        self._told: dict[str, int] = {}

    def wants(self, image: str) -> bool:
        """Whether one more sketch of it is worth reading: the first few, and then one in many, as images change."""
        told = self._told.get(image, 0)
        if told:
            self._told[image] = told + 1
        else:
            _renew(self._told, image, 1, self._most)
        return told < _FIRST or told % _SELDOM == 0

    def learn(self, contents: Contents, teller: str = '') -> None:
        """``teller``: the host. Sketches of one image by two hosts are of two guests, and tell what those share."""
        for name, sketch in contents.sketches.items():
            other = self._sketches.pop(name, None)
            if other is not None and other[0] != teller:
                _renew(self._alike, name, held(sketch, (other[1],)), self._most)
            _renew(self._sketches, name, (teller, sketch), self._most)
        self._saved.update(contents.saved)
        _forget(self._saved, self._most)

    def there(self, images: frozenset[str], saved: typing.Mapping[str, float] | None = None, names: str = '') -> There:
        """What guests of these images hold, as far as is known."""
        return There(images, saved or {}, names)

    def _put_together(self, there: There) -> frozenset[int]:
        """All hashes of theirs, and the smallest limit of the sketches that are known."""
        found = [told[1] for name in there.images if (told := self._sketches.get(name)) is not None]
        there.limit = min((sketch.limit for sketch in found), default=SPACE if not there.images else 0)
        there.pages = pages = frozenset().union(*(sketch.hashes for sketch in found))
        return pages

    def expected(self, image: str, there: There) -> float | None:
        """The share of a guest of this image that the host holds already.

        ``None`` where nothing is known of the image, or of none of those there. Of the same image, what the kernel has
        merged comes first, here or else on other hosts; then what sketches of two guests have in common. A sketch of
        one guest cannot say how far another differs: the two count as equal until one of these is known, which takes
        that they meet.
        """
        if image in there.images:
            share = there.saved.get(image, self._saved.get(image))
            if share is None and image in self._sketches:
                share = self._alike.get(image, 1.0)
            return share
        mine = self._sketches.get(image)
        if mine is None:
            return None
        pages = there.pages if there.pages is not None else self._put_together(there)
        if not there.limit:
            return None
        hashes, limit = mine[1].hashes, there.limit
        # As held() has it; this is asked for each host of the trust domain in each request.
        sample = hashes[:bisect.bisect_left(hashes, limit)] if limit < mine[1].limit else hashes
        return len(pages.intersection(sample)) / len(sample) if sample else 0.0


def _renew(kept: dict[str, typing.Any], name: str, value: object, most: int) -> None:
    """Keep this as the newest of at most ``most``."""
    kept.pop(name, None)
    kept[name] = value
    _forget(kept, most)


def _forget(kept: dict[str, typing.Any], most: int) -> None:
    while len(kept) > most:
        del kept[next(iter(kept))]
