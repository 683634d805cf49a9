# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Where a cloud keeps its files, and the record of what it is.

Two records: STATE/cloud.json says what the cloud in that directory is like; CACHE/cloud exists
while a cloud is up (or partly up), and tells tools/env and other checkouts whose it is.
"""
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import OneboxError
from .options import Options

CHECKOUT = Path(__file__).resolve().parents[3]


def cache_dir() -> Path:
    """The same rule as in tools/lib.sh."""
    named = os.environ.get("OVC_CACHE")
    if named:
        return Path(named).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "/root")) / ".cache"
    return (Path(base) / "ovc").resolve()


def default_state_dir() -> Path:
    return cache_dir() / "run"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomic(path: Path, text: str, mode: int = 0o600) -> None:
    """Write whole or not at all, so that an interruption leaves the old file."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


@dataclass(frozen=True)
class State:
    """The directories of one cloud. Nothing is created before create()."""

    dir: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", Path(self.dir).resolve())

    def __truediv__(self, name: str) -> Path:
        return self.dir / name

    @property
    def etc(self) -> Path:
        return self / "etc"

    @property
    def log(self) -> Path:
        return self / "log"

    @property
    def pids(self) -> Path:
        return self / "pids"

    def host(self, name: str) -> Path:
        return self / "hosts" / name

    @property
    def group_name(self) -> str:
        """Of its cgroups; derivable from the path alone, so that wipe needs no record."""
        return "ovc-onebox-" + hashlib.sha256(str(self.dir).encode()).hexdigest()[:10]

    def create(self) -> None:
        """Raises OneboxError for a directory that holds something else."""
        if self.dir.is_dir() and any(self.dir.iterdir()) and not (self / "cloud.json").exists():
            raise OneboxError(f"{self.dir} is not empty and holds no cloud: choose another --state directory")
        self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.dir.chmod(0o700)
        for path in (self.etc, self.log, self.pids, self / "hosts", self / "instances", self / "images", self / "tmp"):
            path.mkdir(exist_ok=True)

    def record(self) -> dict | None:
        """The cloud's record, None without one."""
        try:
            return json.loads((self / "cloud.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise OneboxError(f"{self / 'cloud.json'} is damaged ({error}): run 'onebox wipe'") from error

    def save(self, options: Options) -> None:
        record = {"checkout": str(CHECKOUT), "options": options.to_json()}
        write_atomic(self / "cloud.json", json.dumps(record, indent=1))

    def options(self) -> Options | None:
        record = self.record()
        return Options.from_json(record["options"]) if record else None


def running_record() -> dict[str, str] | None:
    """Whose cloud is up from this cache: checkout, state, boot. None when none is, or the machine booted since."""
    try:
        lines = (cache_dir() / "cloud").read_text().splitlines()
    except FileNotFoundError:
        return None
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return found if found.get("boot") == boot_id() else None


def record_running(state: State) -> None:
    write_atomic(cache_dir() / "cloud", f"checkout={CHECKOUT}\nstate={state.dir}\nboot={boot_id()}\n", 0o644)


def forget_running(state: State) -> None:
    """Remove the record if it is this cloud's, or of an earlier boot."""
    found = running_record()
    if found is None or found.get("state") == str(state.dir):
        (cache_dir() / "cloud").unlink(missing_ok=True)


def password() -> str:
    """One secret per cache, not per cloud: the database snapshot contains its hash."""
    path = cache_dir() / "password"
    if not path.exists():
        write_atomic(path, secrets.token_hex(16))
    return path.read_text()


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock of commands that change a cloud. Raises OneboxError when another one runs."""
    path = cache_dir() / "cloud.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise OneboxError(f"another onebox command is at work (process {file.read().strip() or '?'}): "
                              "wait for it, or interrupt it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
