# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Guests with manners, by name, drawn from a seeded source. Bytes and seconds."""
from __future__ import annotations

import random
import typing

from ovc_plugin.model import MIB
from ovc_plugin.simulate.habit import Demand, Habit

GIB = 1 << 30


def _constant(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    base = int(maximum * chance.uniform(0.1, 0.9))
    return {'demand': Demand(base=base), 'cache': int((maximum - base) * chance.uniform(0, 0.5))}


def _ideal(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    return _constant(chance, maximum, horizon)


def _floor(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """The balloon stops at a size well above what is used."""
    return _constant(chance, maximum, horizon) | {'least': int(maximum * chance.uniform(0.5, 0.95))}


def _ceiling(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """Once shrunk, it never takes all of its memory back."""
    return _constant(chance, maximum, horizon) | {'most': int(maximum * chance.uniform(0.6, 0.95))}


def _leaking(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    base, start = int(maximum * chance.uniform(0.1, 0.4)), chance.uniform(0, horizon / 3)
    peak = int(maximum * chance.uniform(0.8, 1.0))
    return {'demand': Demand(base=base, peak=peak, start=start, rise=(peak - base) / chance.uniform(200, 2000))}


def _bursty(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """Overloads are short: on a real trace four in five end within ten minutes."""
    base, period = int(maximum * chance.uniform(0.1, 0.4)), chance.uniform(120, 900)
    return {'demand': Demand(base=base, peak=int(maximum * chance.uniform(0.5, 1.0)), period=period,
                             start=chance.uniform(0, period), length=period * chance.uniform(0.1, 0.5)),
            'cache': int((maximum - base) * chance.uniform(0, 0.3))}


def _stuck(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """No balloon driver that answers, though it tells statistics."""
    return _constant(chance, maximum, horizon) | {'answers': 0.0}


def _sometimes_stuck(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    return _constant(chance, maximum, horizon) | {'answers': chance.uniform(0.1, 0.9)}


def _dead(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """Hangs at some time: no statistics, no balloon; its memory stays used."""
    return _constant(chance, maximum, horizon) | {'hangs': chance.uniform(0, horizon)}


def _silent(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    return _constant(chance, maximum, horizon) | {'speaks': False}


def _garbled(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    return _constant(chance, maximum, horizon) | {'garbled': True}


def _unreachable(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    return _constant(chance, maximum, horizon) | {'reachable': False}


def _cache_heavy(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    base = int(maximum * chance.uniform(0.05, 0.25))
    return {'demand': Demand(base=base), 'cache': int((maximum - base) * chance.uniform(0.6, 1.0)),
            'reuse': chance.uniform(0.002, 0.02)}


def _alike(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    base = int(maximum * chance.uniform(0.3, 0.9))
    return {'demand': Demand(base=base), 'alike': int(base * chance.uniform(0.3, 0.8)), 'image': 'common'}


def _writing(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """Alike, and writing its shared pages."""
    return _alike(chance, maximum, horizon) | {'rewrites': chance.uniform(0.5, 20) * MIB}


def _untouchable(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    return _constant(chance, maximum, horizon) | {
        'untouchable': 'memory is locked', 'locked': True, 'cache': 0, 'fill': 1.0, 'reservation': maximum}


def _opted_out(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """Started before us with mergeable pages: nothing but our own restraint keeps its memory from being taken."""
    return _alike(chance, maximum, horizon) | {'untouchable': 'opted out by ovc:overcommit'}


def _publishing(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """Self-ballooning: it tells its working set, with balloon statistics beside it or without."""
    return _constant(chance, maximum, horizon) | {'publishes': True, 'speaks': chance.random() < 0.5}


def _rebooting(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    """Started anew from time to time, at its full size, and silent until it has booted."""
    return _constant(chance, maximum, horizon) | {'reboots': float(chance.randint(120, 900))}


def _no_balloon(chance: random.Random, maximum: int, horizon: float) -> dict[str, typing.Any]:
    return _constant(chance, maximum, horizon) | {'has_balloon': False, 'speaks': False}


Maker = typing.Callable[[random.Random, int, float], dict[str, typing.Any]]
MANNERS: dict[str, Maker] = {
    'ideal': _ideal, 'floor': _floor, 'ceiling': _ceiling, 'leaking': _leaking, 'bursty': _bursty, 'stuck': _stuck,
    'sometimes stuck': _sometimes_stuck, 'dead': _dead, 'silent': _silent, 'garbled': _garbled,
    'unreachable': _unreachable, 'cache-heavy': _cache_heavy, 'alike': _alike, 'writing': _writing,
    'untouchable': _untouchable, 'opted out': _opted_out, 'no balloon': _no_balloon, 'rebooting': _rebooting,
    'publishing': _publishing}
# What such a guest wants of memory never changes, nor what it does with what is merged.
CONSTANT = tuple(name for name in MANNERS if name not in ('leaking', 'bursty', 'writing', 'sometimes stuck', 'garbled',
                                                        'rebooting'))


def guest(manner: str, name: str, chance: random.Random, horizon: float, **changes: typing.Any) -> Habit:
    """A guest of that manner. ``horizon``: how long the world will last."""
    maximum = changes.pop('maximum', None) or chance.choice((1, 2, 2, 4, 4, 8)) * GIB
    fields: dict[str, typing.Any] = {
        'maximum': maximum, 'reservation': maximum * chance.choice((10, 25, 50, 50, 75)) // 100,
        'weight': chance.choice((0.5, 1.0, 1.0, 1.0, 2.0)), 'hot': chance.uniform(0.1, 0.6),
        'fill': chance.choice((0.0, 0.0, 0.5, 1.0)), 'speed': chance.choice((64, 256, 1024)) * MIB}
    fields |= MANNERS[manner](chance, maximum, horizon)
    return Habit(name=name, manner=manner, **fields | changes)
