# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Mounts below the state directory, and the directories the hosts mount over."""
from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .errors import OneboxError

MNT_DETACH = 2
#: What each host covers with its own, and what lxcfs makes; packages leave some of it to be made at start.
COVERED = ("/run/lxcfs", "/run/libvirt", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt")


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
    """Make those of COVERED that do not exist, and note which."""
    made = [path for path in COVERED if not os.path.isdir(path)]
    if made:
        with open(record, "a", encoding="utf-8") as file:
            file.write("".join(f"{path}\n" for path in made))
    for path in made:
        os.makedirs(path)


def uncover(record: Path) -> None:
    """Remove what cover() made, and empty directories in it; files that another put there stay."""
    try:
        lines = record.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return
    for path in lines:
        for directory, _names, _files in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                continue
    record.unlink()
