# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which frames a process maps, and which of them page sharing has merged: the kernel's own word, read as root.

``/proc/PID/pagemap`` gives the frame behind each page, ``/proc/kpageflags`` says of each frame whether KSM holds it.
Two processes share a merged page if and only if they map the same frame.
"""
from __future__ import annotations

import os
import re
from pathlib import Path

import numpy

PAGE = 4096
_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1
_KSM = 1 << 21  # KPF_KSM of linux/kernel-page-flags.h
_ANY = 1 << 16  # mappings smaller than this are no guest's memory


class HiddenError(RuntimeError):
    """The kernel shows no frame numbers to this process: that needs CAP_SYS_ADMIN."""


def flags() -> numpy.ndarray:
    """The flags of all frames of the machine."""
    with open('/proc/kpageflags', 'rb') as file:
        parts = []
        while part := file.read(1 << 22):
            parts.append(part)
    return numpy.frombuffer(b''.join(parts), dtype=numpy.uint64)


def mapped(pid: int) -> numpy.ndarray:
    """The frames behind the private writable mappings of a process.

    :raises HiddenError: all frame numbers read as zero.
    """
    found = []
    with open(f'/proc/{pid}/pagemap', 'rb', buffering=0) as pagemap:
        for start, end in re.findall(r'^([0-9a-f]+)-([0-9a-f]+) rw.p ', Path(f'/proc/{pid}/maps').read_text(), re.M):
            first, size = int(start, 16), int(end, 16) - int(start, 16)
            if size < _ANY:
                continue
            entries = numpy.frombuffer(os.pread(pagemap.fileno(), size // PAGE * 8, first // PAGE * 8),
                                       dtype=numpy.uint64)
            present = entries[(entries & numpy.uint64(_PRESENT)) != 0]
            found.append(present & numpy.uint64(_FRAME))
    frames = numpy.concatenate(found) if found else numpy.empty(0, numpy.uint64)
    if len(frames) and not frames.any():
        raise HiddenError(f'/proc/{pid}/pagemap shows no frame numbers: run this as root with CAP_SYS_ADMIN')
    return frames


def merged(pid: int, of_all: numpy.ndarray | None = None) -> numpy.ndarray:
    """The frames of a process that KSM holds, each once."""
    known = flags() if of_all is None else of_all
    frames = numpy.unique(mapped(pid))
    frames = frames[frames < len(known)]
    return frames[(known[frames] & numpy.uint64(_KSM)) != 0]


def common(one: numpy.ndarray, other: numpy.ndarray) -> int:
    """How many frames two processes share."""
    return len(numpy.intersect1d(one, other, assume_unique=True))
