# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One line per step, with the seconds since the command began."""
from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Callable as progress("text"); counts from its creation."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def __call__(self, text: str) -> None:
        print(f"[{self.seconds:6.1f}s] {text}", file=self.stream, flush=True)
