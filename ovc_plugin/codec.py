# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The nouns as JSON-able data and back, exactly, by the types their fields are declared with. Pure.

Written from the dataclasses themselves, so that a field added to one of them is carried along without a word here.
Fields that hold their default are left out. Of a union of dataclasses the name of the class is written too.
"""
from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import types
import typing

Write = typing.Callable[[typing.Any], typing.Any]
Read = typing.Callable[[typing.Any, 'Remarks'], typing.Any]


class CodecError(ValueError):
    """Data that does not describe the noun asked for; the message says where."""


class Remarks(set[str]):
    """Names of fields that were there and that this release does not know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """Of one type: ``write`` to JSON-able data, ``read`` back (:raises CodecError:)."""

    write: Write
    read: Read


def write(kind: typing.Any, value: typing.Any, *, whole: bool = False) -> typing.Any:
    """``value``, an instance of ``kind``, as JSON-able data; ``whole`` keeps fields that hold their default."""
    return _codec(kind, whole).write(value)


def read(kind: typing.Any, data: typing.Any, remarks: Remarks | None = None) -> typing.Any:
    """The ``kind`` that :func:`write` made ``data`` of. Fields unknown here are passed over, and named in ``remarks``.

    :raises CodecError: a field is missing that has no default, or has another type.
    """
    return _codec(kind, False).read(data, Remarks() if remarks is None else remarks)


@functools.cache
def _codec(kind: typing.Any, whole: bool) -> Codec:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return Codec(lambda value: value, lambda data, _: data)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, whole)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, whole)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return Codec(lambda value: value.name, functools.partial(_member, kind))
    if origin is tuple:
        return _tuple(arguments, whole)
    if origin in (list, set, frozenset, collections.abc.Sequence):
        return _many(list if origin is collections.abc.Sequence else origin, arguments[0], whole)
    if origin in (dict, collections.abc.Mapping):
        return _mapping(arguments, whole)
    return _atom(kind)


def _atom(kind: typing.Any) -> Codec:
    good: tuple[type, ...] = (int, float) if kind is float else (kind,)

    def back(data: typing.Any, _: Remarks) -> typing.Any:
        if not isinstance(data, good) or (isinstance(data, bool) and kind is not bool):
            raise CodecError(f'{data!r:.60} is no {kind.__name__}')
        return data
    return Codec(lambda value: value, back)


def _member(kind: typing.Any, data: typing.Any, _: Remarks) -> typing.Any:
    try:
        return kind[data]
    except KeyError:
        raise CodecError(f'{data!r:.60} is no {kind.__name__}') from None


def _dataclass(kind: typing.Any, whole: bool) -> Codec:
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    parts = {f.name: _codec(hints[f.name], whole) for f in fields}
    known = parts.keys()
    usual = {} if whole else {f.name: _default(f) for f in fields}

    def forth(value: typing.Any) -> dict[str, typing.Any]:
        found = {}
        for name, part in parts.items():
            held = getattr(value, name)
            if name not in usual or held != usual[name]:
                found[name] = part.write(held)
        return found

    def back(data: typing.Any, remarks: Remarks) -> typing.Any:
        if not isinstance(data, dict):
            raise CodecError(f'{data!r:.60} is no {kind.__name__}')
        remarks.update(f'{kind.__name__}.{name}' for name in data.keys() - known)
        try:
            return kind(**{name: parts[name].read(data[name], remarks) for name in known & data.keys()})
        except CodecError as error:
            raise CodecError(f'{kind.__name__}: {error}') from None
        except TypeError as error:
            raise CodecError(f'{kind.__name__} lacks a field: {error}') from None
    return Codec(forth, back)


def _default(field: dataclasses.Field[typing.Any]) -> typing.Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _union(arguments: tuple[typing.Any, ...], whole: bool) -> Codec:
    kinds = [kind for kind in arguments if kind is not type(None)]
    inner = _codec(kinds[0], whole) if len(kinds) == 1 else _tagged(kinds, whole)
    if len(kinds) == len(arguments):
        return inner
    return Codec(lambda value: None if value is None else inner.write(value),
                 lambda data, remarks: None if data is None else inner.read(data, remarks))


def _tagged(kinds: list[typing.Any], whole: bool) -> Codec:
    parts = {kind.__name__: _codec(kind, whole) for kind in kinds}

    def forth(value: typing.Any) -> dict[str, typing.Any]:
        name = type(value).__name__
        return {name: parts[name].write(value)}

    def back(data: typing.Any, remarks: Remarks) -> typing.Any:
        name = next(iter(data)) if isinstance(data, dict) and len(data) == 1 else None
        if name not in parts:
            raise CodecError(f'{name or data!r:.60} is none of {", ".join(parts)}')
        return parts[name].read(data[name], remarks)
    return Codec(forth, back)


def _tuple(arguments: tuple[typing.Any, ...], whole: bool) -> Codec:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _many(tuple, arguments[0], whole)
    parts = [_codec(kind, whole) for kind in arguments]

    def back(data: typing.Any, remarks: Remarks) -> typing.Any:
        if not isinstance(data, list) or len(data) != len(parts):
            raise CodecError(f'{data!r:.60} is not a list of {len(parts)}')
        return tuple(part.read(one, remarks) for part, one in zip(parts, data, strict=True))
    return Codec(lambda value: [part.write(one) for part, one in zip(parts, value, strict=True)], back)


def _many(made: typing.Any, kind: typing.Any, whole: bool) -> Codec:
    part = _codec(kind, whole)

    def back(data: typing.Any, remarks: Remarks) -> typing.Any:
        if not isinstance(data, list):
            raise CodecError(f'{data!r:.60} is no list')
        return made(part.read(one, remarks) for one in data)
    ordered = sorted if made in (set, frozenset) else list
    return Codec(lambda value: [part.write(one) for one in ordered(value)], back)


def _mapping(arguments: tuple[typing.Any, ...], whole: bool) -> Codec:
    if arguments[0] is not str:
        raise TypeError(f'JSON names are text: a mapping from {arguments[0]} cannot be written')
    part = _codec(arguments[1], whole)

    def back(data: typing.Any, remarks: Remarks) -> typing.Any:
        if not isinstance(data, dict):
            raise CodecError(f'{data!r:.60} is no mapping')
        return {name: part.read(one, remarks) for name, one in data.items()}
    return Codec(lambda value: {name: part.write(one) for name, one in value.items()}, back)
