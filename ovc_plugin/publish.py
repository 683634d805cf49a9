# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What must survive a restart, as one small file that is replaced whole."""
from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import typing


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def _locked(path: pathlib.Path, kind: int, flags: int = 0) -> int | None:
    """The file or directory, locked; ``None`` where another has locked it."""
    file = os.open(path, os.O_RDONLY | flags, 0o644)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def _free(path: pathlib.Path, flags: int = 0) -> bool:
    """Whether no other has locked it, or it is not there."""
    try:
        look = _locked(path, fcntl.LOCK_SH, flags)
    except FileNotFoundError:
        return True
    if look is not None:
        os.close(look)
    return look is not None


class Store:
    """A JSON file. A missing or unreadable one is an empty one: the host is then sensed afresh.

    ``run_path`` is where the host's libvirt keeps the process ids of its guests: whoever takes the host takes that too,
    whatever name it has for the host and wherever it keeps its file. ``durable``: what is saved outlives a loss of
    power at any moment; that costs a wait for the disk. ``torn``: the file was there when last read, and said nothing.
    """

    def __init__(self, directory: str, host: str, run_path: str = '', *, durable: bool = False) -> None:
        self.path = pathlib.Path(directory) / f'{host.replace("/", "_")}.json'
        self._run_path = pathlib.Path(run_path) if run_path else None
        self._last, self._durable, self.torn = '', durable, False
        self._name: int | None = None
        self._guests: int | None = None

    def claim(self) -> bool:
        """Take the host for this process, until it ends or :meth:`give_up`; false where another process has it.

        :raises OSError: the directory may not be written.
        """
        if self._name is None:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            # For reading: root may have made the file, and nova must be able to take it all the same.
            self._name = _locked(self.path.with_suffix('.lock'), fcntl.LOCK_EX, os.O_CREAT | os.O_NOFOLLOW)
        if self._name is None:
            return False
        if self._guests is None and self._libvirt is not None:
            with contextlib.suppress(PermissionError, FileNotFoundError):  # then the name alone is taken
                self._guests = _locked(self._libvirt, fcntl.LOCK_EX)
                if self._guests is None:
                    self.give_up()
                    return False
        return True

    def free(self) -> bool:
        """Whether no other process has the host; nothing is written to find out.

        :raises OSError: that cannot be looked at.
        """
        if self._name is None and not _free(self.path.with_suffix('.lock'), os.O_NOFOLLOW):
            return False
        if self._guests is None and self._libvirt is not None:
            with contextlib.suppress(PermissionError):
                return _free(self._libvirt)
        return True

    @property
    def _libvirt(self) -> pathlib.Path | None:
        """The directory of the host's libvirt; ``None`` where none works there.

        It outlives libvirt's restarts, as do the guests whose process ids it has; its ``driver.pid`` does not.
        """
        found = self._run_path is not None and os.path.exists(self._run_path / 'driver.pid')
        return self._run_path if found else None

    @property
    def held(self) -> bool:
        """Whether this process has the host, and its libvirt, if there is one by now."""
        return self._name is not None and (self._guests is not None or self._libvirt is None)

    def give_up(self) -> None:
        for claim in (self._name, self._guests):
            if claim is not None:
                os.close(claim)
        self._name = self._guests = None

    def load(self) -> dict[str, typing.Any]:
        """:returns: what was saved, or {}.
        :raises OSError: the file is there and may not be read.
        """
        self._last = ''  # another process may have written it: what this one saved last is to be saved again
        self.torn = False
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            found = None
        self.torn = not isinstance(found, dict)
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
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            fresh.replace(self.path)
        finally:
            fresh.unlink(missing_ok=True)
        self._last, self.torn = text, False
