# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The scenes: which guests, what each does and when, which mechanism must carry it, and what is checked in numbers."""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """``steps`` are (second, command), see the test guest's README. ``memory`` is in MB; without ``balloon`` its
    kernel never loads the driver. ``busy`` guests show what a scene costs those that work."""

    name: str
    steps: tuple[tuple[float, str], ...]
    memory: int = 512
    balloon: bool = True
    busy: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One scene, for ``seconds``.

    Checked at the end, as means over the last ``last`` seconds: ``carried_by`` has freed at least ``share`` of what
    all mechanisms together have freed, unless it names several, and each of it has freed ``each`` MB. ``most_swap_in``
    bounds what all guests read back from swap, in MB. ``only`` names the one guest that may be swapped: at least
    ``each`` MB of it, and of the others no more than a tenth of the sum. The guests ``rest`` for so many seconds before
    it begins: one that does not speak is taken to boot for two minutes.
    """

    name: str
    says: str
    guests: tuple[Guest, ...]
    carried_by: tuple[str, ...]
    share: float = 0.5
    each: int = 40
    most_swap_in: int | None = None
    only: str | None = None
    rest: int = 0
    seconds: int = 110
    last: int = 15
    reservation: str = '25%'


def _each(count: int, name: str, *steps: tuple[float, str], busy: bool = False) -> tuple[Guest, ...]:
    return tuple(Guest(name=f'{name}{number}', steps=steps, busy=busy) for number in range(1, count + 1))


CACHE = Scene(
    name='cache', carried_by=('balloon',), most_swap_in=4, seconds=125,
    says='three guests full of file cache, one that grows: their balloons carry it, and nothing is read back from swap',
    guests=(*_each(3, 'files', (5, 'store 280 rate=6')),
            Guest(name='app', steps=((52, 'touch 400 rate=8'), (104, 'read rate=100')), busy=True)))

ALIKE = Scene(
    name='alike', carried_by=('ksm',),
    says='four guests of one project fill their memory with pages that are alike: page sharing carries it',
    guests=_each(4, 'alike', (5, 'touch 380 kind=alike rate=5'), (83, 'read rate=50'), busy=True))

UNIQUE = Scene(
    name='unique', carried_by=('swap',),
    says='four guests fill their memory with pages unlike any other, and one goes on working: swap carries it',
    guests=(Guest(name='hot', steps=((5, 'touch 400 rate=8'), (60, 'read rate=50')), busy=True),
            *_each(3, 'cold', (5, 'touch 400 rate=8'))))

STUCK = Scene(
    name='stuck', carried_by=('balloon', 'swap'), only='mute', rest=120,
    says='one guest has no balloon driver and lies idle: it alone is swapped, the others give cache by balloon',
    guests=(Guest(name='mute', steps=((5, 'touch 380 rate=20'),), balloon=False),
            *_each(3, 'files', (5, 'touch 100 rate=10'), (16, 'store 180 rate=4'), (66, 'touch 50 rate=4'),
                   (80, 'read rate=50'), busy=True)))

MIXED = Scene(
    name='mixed', carried_by=('balloon', 'ksm', 'swap'), seconds=115,
    says='a guest full of file cache, two alike, one that works on pages of its own, one without balloon driver: each '
         'mechanism carries its part',
    guests=(Guest(name='files', steps=((5, 'store 280 rate=5'),)),
            *_each(2, 'alike', (5, 'touch 250 kind=alike rate=5')),
            Guest(name='app', steps=((25, 'touch 380 rate=6'), (90, 'read rate=50')), busy=True),
            Guest(name='mute', steps=((10, 'touch 380 rate=8'),), balloon=False)))

SCENES = {scene.name: scene for scene in (CACHE, ALIKE, UNIQUE, STUCK, MIXED)}
