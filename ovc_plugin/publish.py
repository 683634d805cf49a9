# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What must survive a restart, as one small file that is replaced whole."""
from __future__ import annotations

import fcntl
import json
import os
import pathlib
import typing


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


class Store:
    """A JSON file. A missing or unreadable one is an empty one: the host is then sensed afresh."""

    def __init__(self, directory: str, host: str) -> None:
        self.path = pathlib.Path(directory) / f'{host.replace("/", "_")}.json'
        self._last = ''
        self._claim: int | None = None

    def claim(self) -> bool:
        """Take the host for this process, until it ends or :meth:`give_up`; false where another process has it.

        :raises OSError: the directory may not be written.
        """
        if self._claim is not None:
            return True
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # For reading: root may have made the file, and nova must be able to take it all the same.
        claim = os.open(self.path.with_suffix('.lock'), os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            return False
        self._claim = claim
        return True

    def free(self) -> bool:
        """Whether no other process has the host; nothing is written to find out.

        :raises OSError: that cannot be looked at.
        """
        if self._claim is not None:
            return True
        try:
            look = os.open(self.path.with_suffix('.lock'), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(look, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(look)
        return True

    @property
    def held(self) -> bool:
        """Whether this process has the host."""
        return self._claim is not None

    def give_up(self) -> None:
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def load(self) -> dict[str, typing.Any]:
        """:returns: what was saved, or {}.
        :raises OSError: the file is there and may not be read.
        """
        self._last = ''  # another process may have written it: what this one saved last is to be saved again
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            return {}  # a torn or foreign file says nothing that the next pass does not find out
        return found if isinstance(found, dict) else {}

    def save(self, fields: dict[str, typing.Any]) -> None:
        """Write, if anything changed.

        :raises OSError: no space or no permission; the old file is still whole.
        """
        text = json.dumps(fields, sort_keys=True)
        if text == self._last:
            return
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        fresh = self.path.with_suffix(f'.{os.getpid()}.tmp')
        try:
            fresh.unlink(missing_ok=True)
            # Made here and now: "ovc release" writes as root where the service may have laid a link to anything.
            with open(fresh, 'x', opener=_opener) as file:
                file.write(text)
            fresh.replace(self.path)
        finally:
            fresh.unlink(missing_ok=True)
        self._last = text
