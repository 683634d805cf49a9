# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The machine's swap file for the hosts, each of which may use its allowance of it."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .errors import OneboxError

#: Beyond the hosts' allowances: swap slots are handed out in clusters, so the last ones are hard to get.
SLACK = 256 << 20


def active(under: Path, swaps: str | None = None) -> list[Path]:
    """Active swap files below a directory."""
    text = Path("/proc/swaps").read_text() if swaps is None else swaps
    names = [line.split()[0].encode().decode("unicode_escape") for line in text.splitlines()[1:]]
    return [Path(name) for name in names if Path(name).is_relative_to(under)]


def check_space(directory: Path, size: int, other: int) -> None:
    """Raises OneboxError unless size bytes of swap and `other` bytes of files fit below directory."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < size + other:
        raise OneboxError(f"{there} has {free >> 20} MB free, but the cloud needs {(size + other) >> 20} MB "
                          f"({size >> 20} MB of it swap): make room, choose another --state directory, "
                          "or a smaller --host-swap")


def activate(path: Path, size: int) -> None:
    """Make a swap file of size bytes and use it. Does nothing when it is in use. Raises OneboxError."""
    if active(path):
        return
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
    # Before the machine's own swap, if it has any: that one stays its owner's.
    for command in (["mkswap", "--quiet", str(path)], ["swapon", "--priority", "100", str(path)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OneboxError(f"'{' '.join(command)}' failed: {done.stderr.strip()}; swap files need a file system "
                              "such as ext4 or xfs: choose a --state directory on one")


def deactivate(under: Path) -> None:
    """Take every swap file below the directory out of use and remove it. Raises OneboxError."""
    for path in active(under):
        done = subprocess.run(["swapoff", str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OneboxError(f"swapoff {path} failed: {done.stderr.strip()}; is there enough free memory?")
        path.unlink(missing_ok=True)
