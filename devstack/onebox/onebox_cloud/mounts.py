# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Mounts below the state directory, and the directories the hosts mount over."""
from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .errors import OneboxError

MNT_DETACH = 2
#: Mount points that each host covers with its own; libvirt's packages leave some of them to be made at start.
COVERED = ("/run/libvirt", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt")


def below(directory: Path, mountinfo: str | None = None) -> list[Path]:
    """Mount points at or below the directory, deepest first."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in text.splitlines()]
    return sorted((point for point in points if point.is_relative_to(directory)), key=str, reverse=True)


def unmount_below(directory: Path) -> None:
    """Detach them all, also those whose server is dead. Raises OneboxError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for point in below(directory):
        if libc.umount2(os.fsencode(point), MNT_DETACH):
            raise OneboxError(f"cannot unmount {point}: {os.strerror(ctypes.get_errno())}")


def cover(record: Path) -> None:
    """Make the mount points that do not exist, and note which."""
    made = [path for path in COVERED if not os.path.isdir(path)]
    if made:
        with open(record, "a", encoding="utf-8") as file:
            file.write("".join(f"{path}\n" for path in made))
    for path in made:
        os.makedirs(path)


def uncover(record: Path) -> None:
    """Remove the mount points that cover() made, where they are still empty."""
    try:
        lines = record.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return
    for path in lines:
        try:
            os.rmdir(path)
        except OSError:
            continue
    record.unlink()
