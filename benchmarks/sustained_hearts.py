# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""When guests that may move were last heard of: a part of benchmarks/sustained."""
from __future__ import annotations

import re
import threading
import time
from pathlib import Path


class Hearts(threading.Thread):
    """Listens to guests' consoles and notes when each beat is first seen.

    Both hosts write to the same file, the new one from its beginning, so that the whole of it is read at each change.
    """

    def __init__(self, consoles: dict[str, Path]) -> None:
        super().__init__(daemon=True)
        self.consoles, self.over = consoles, threading.Event()
        self.beats: dict[str, list[tuple[float, int]]] = {name: [] for name in consoles}
        #: Processes that a guest's own kernel has killed for want of memory, as it counts them, and what it refused.
        self.oom: dict[str, int] = {}
        self.refused: dict[str, set[str]] = {name: set() for name in consoles}

    def run(self) -> None:
        seen: dict[str, tuple[int, int]] = {}
        while not self.over.wait(0.02):
            for name, path in self.consoles.items():
                try:
                    stat = path.stat()
                    if seen.get(name) != (seen_now := (stat.st_mtime_ns, stat.st_size)):
                        seen[name] = seen_now
                        self._read(name, path.read_bytes())
                except OSError:
                    continue  # it is being moved; a pause will tell

    def _read(self, name: str, text: bytes) -> None:
        known, now = self.beats[name], time.monotonic()
        last = known[-1][1] if known else 0
        known += [(now, seq) for seq in sorted({int(found) for found in re.findall(rb'ovc-beat seq=(\d+) up=', text)})
                  if seq > last]
        for found in re.findall(rb'ovc-beat seq=\d+ up=[^\n]* oom=(\d+)', text):
            self.oom[name] = max(self.oom.get(name, 0), int(found))
        self.refused[name] |= {line.decode(errors='replace').strip()
                               for line in re.findall(rb'^ovc-refused[^\n]*(?=\n)', text, re.MULTILINE)}

    def longest(self, name: str, until: float) -> float:
        """The longest pause between two beats in seconds, that until the end included."""
        times = [at for at, _ in self.beats[name] if at <= until] + [until]
        return max((later - earlier for earlier, later in zip(times, times[1:], strict=False)), default=float('inf'))

    def missed(self, name: str) -> int:
        """Beats that the guest counted and nobody saw."""
        numbers = [seq for _, seq in self.beats[name]]
        return numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
