# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The sources of readings: each is optional, fails alone, and is known by how long it takes and how often it fails."""
from __future__ import annotations

import dataclasses
import time
import typing

T = typing.TypeVar('T')
Errors = type[Exception] | tuple[type[Exception], ...]


@dataclasses.dataclass
class Record:
    """``seconds`` of the last reading, how many were ``read`` and ``failed``, and the ``error`` that holds now."""

    seconds: float = 0.0
    read: int = 0
    failed: int = 0
    error: str | None = None


class Sources:
    """Reads, and keeps a record of each source by its name."""

    def __init__(self, clock: typing.Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.records: dict[str, Record] = {}

    def read(self, name: str, source: typing.Callable[[], T]) -> T:
        """What the source says.

        :raises Exception: whatever it raises.
        """
        record = self.records.setdefault(name, Record())
        began = self._clock()
        try:
            found = source()
        except Exception as error:
            record.failed, record.error = record.failed + 1, f'{type(error).__name__}: {error}'
            raise
        finally:
            record.seconds = self._clock() - began
        record.read, record.error = record.read + 1, None
        return found

    def attempt(self, name: str, source: typing.Callable[[], T], errors: Errors, remedy: str,
                notes: list[str]) -> T | None:
        """The same; of a source that fails with one of ``errors``, a note with its ``remedy``."""
        try:
            return self.read(name, source)
        except errors as error:
            notes.append(f'{remedy} ({error})')
            return None

    def failed(self, name: str, errors: typing.Sequence[Exception]) -> None:
        """Count failures within a source that went on without what it could not read."""
        if errors:
            record = self.records.setdefault(name, Record())
            record.failed, record.error = record.failed + len(errors), f'{type(errors[-1]).__name__}: {errors[-1]}'

    def durations(self) -> dict[str, float]:
        return {name: round(record.seconds, 6) for name, record in self.records.items()}

    def fields(self) -> dict[str, dict[str, typing.Any]]:
        """For the status; JSON-able."""
        return {name: dataclasses.asdict(record) for name, record in self.records.items()}
