# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The decision log: one line of JSON a pass, compressed, in files that together stay below a size.

Each line is flushed as it is written, so that a file can be read while it grows, and one that a killed process or a
full disk cut short is read up to the cut. A file begins with the settings in force; they are written again when they
change. While nothing has to be done one pass a minute is enough.
"""
from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import re
import typing
import zlib

from ovc_plugin import codec

VERSION = 1
QUIET_SECONDS = 60.0
RETRY_SECONDS = 60.0
PARTS = 8
MOST_FILES = 200
_GZIP = 31  # zlib's window size for the gzip format
_NUMBER = re.compile(r'-(\d{6,})\.jsonl\.gz')


class Recorded(typing.Protocol):
    """One pass: a dataclass of which only this need be known."""

    @property
    def at(self) -> float: ...

    @property
    def quiet(self) -> bool: ...


class Recorder:
    """Writes passes below ``directory``, at most ``limit`` bytes of them; the oldest file goes first.

    ``release`` is that of the rules. Every start begins a new file: the last may have been cut short.
    """

    def __init__(self, directory: str | os.PathLike[str], host: str, limit: int, release: str = '') -> None:
        self._directory, self._host, self._limit, self._release = pathlib.Path(directory), host, limit, release
        self._stem = host.replace('/', '_')
        self._file: io.FileIO | None = None
        self._compressor = zlib.compressobj()
        self._size = self._passes = 0
        self._settings = ''
        self._last: float | None = None
        self._failed_at: float | None = None
        self._failure: str | None = None

    def add(self, passed: Recorded, settings: typing.Any) -> str | None:
        """Write one pass; returns why it could not be written, in words. Never raises for want of room or rights."""
        if self._failed_at is not None and 0 <= passed.at - self._failed_at < RETRY_SECONDS:
            return self._failure
        if passed.quiet and self._last is not None and 0 <= passed.at - self._last < QUIET_SECONDS:
            return None
        try:
            self._add(passed, settings)
        except Exception as error:  # whatever it is, a log must not cost a pass
            self._abandon()
            self._failed_at = passed.at
            why = getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'
            self._failure = (f'decisions are not recorded below {self._directory} ({why}); '
                             'everything else goes on: make room or give this service the right to write there '
                             '([ovc_host] record_path)')
            return self._failure
        self._failed_at = self._failure = None
        self._last = passed.at if passed.quiet else None
        return None

    def close(self) -> None:
        """End the file properly."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.write(self._compressor.flush(zlib.Z_FINISH))
        self._abandon()

    def _abandon(self) -> None:
        """Let go of the file; one that holds no pass, as a full disk leaves it, goes with it."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
                if not self._passes:
                    pathlib.Path(self._file.name).unlink(missing_ok=True)
        self._file = None

    def _add(self, passed: Recorded, settings: typing.Any) -> None:
        if self._file is None or self._size > self._limit // PARTS:
            self.close()
            self._open()
        told = json.dumps(codec.write(type(settings), settings, whole=True), sort_keys=True)
        if told != self._settings:
            self._write({'record': VERSION, 'release': self._release, 'host': self._host, 'fingerprint': _mark(told),
                         'settings': json.loads(told)})
            self._settings = told
        self._write({'settings': _mark(self._settings), 'pass': codec.write(type(passed), passed)})
        self._passes += 1

    def _write(self, fields: dict[str, typing.Any]) -> None:
        line = json.dumps(fields, separators=(',', ':')).encode() + b'\n'
        data = self._compressor.compress(line) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if self._file is not None:
            written = self._file.write(data)
            self._size += len(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> None:
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        kept = files(self._directory, self._stem)
        self._drop(kept)
        number = 1 + max((_number(path) for path in kept), default=0)
        path = self._directory / f'{self._stem}-{number:06d}.jsonl.gz'
        self._file = path.open('xb', buffering=0)
        self._compressor, self._settings = zlib.compressobj(6, zlib.DEFLATED, _GZIP), ''
        self._size = self._passes = 0

    def _drop(self, kept: list[pathlib.Path]) -> None:
        """The oldest files, until one more full one fits."""
        room = self._limit - self._limit // PARTS
        total = 0
        for count, path in enumerate(reversed(kept), 1):
            total += path.stat().st_size
            if total > room or count >= MOST_FILES:
                path.unlink(missing_ok=True)


def of(state_path: str, record_path: str, host: str, limit: int) -> Recorder | None:
    """The recorder that the settings ask for, if any."""
    if not record_path:
        return None
    return Recorder(pathlib.Path(state_path, record_path), host, limit, importlib.metadata.version('ovc-plugin'))


def files(directory: pathlib.Path, stem: str) -> list[pathlib.Path]:
    """One host's files, the oldest first."""
    return sorted((path for path in directory.glob('*.jsonl.gz')
                   if _NUMBER.sub('', path.name) == stem and _NUMBER.search(path.name)), key=_number)


def _number(path: pathlib.Path) -> int:
    found = _NUMBER.search(path.name)
    return int(found[1]) if found else 0


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclasses.dataclass(slots=True)
class Lines:
    """The lines of one file as dictionaries, and in ``remarks`` what of it could not be read."""

    path: pathlib.Path
    remarks: list[str] = dataclasses.field(default_factory=list)

    def __iter__(self) -> typing.Iterator[dict[str, typing.Any]]:
        """:raises OSError: there is no such file, or it may not be read."""
        number = 0
        for number, line in enumerate(self._split(), 1):
            try:
                fields = json.loads(line)
                if not isinstance(fields, dict):
                    raise ValueError('not an object')
            except ValueError as error:
                self.remarks.append(f'{self.path}, line {number}: passed over, cut short or not a record ({error})')
                continue
            yield fields
        if not number:
            self.remarks.append(f'{self.path}: no lines')

    def _split(self) -> typing.Iterator[bytes]:
        rest = b''
        for part in self._parts():
            *whole, rest = (rest + part).split(b'\n')
            yield from (line for line in whole if line)
        if rest:
            yield rest

    def _parts(self) -> typing.Iterator[bytes]:
        with self.path.open('rb') as file:
            packed = file.read(2) == b'\x1f\x8b'
            file.seek(0)
            unpack = zlib.decompressobj(_GZIP)
            while part := file.read(1 << 20):
                while packed and part:
                    try:
                        yield unpack.decompress(part)
                    except zlib.error as error:
                        self.remarks.append(f'{self.path}: not readable beyond here ({error})')
                        return
                    part = unpack.unused_data
                    if unpack.eof:
                        unpack = zlib.decompressobj(_GZIP)
                if not packed:
                    yield part
