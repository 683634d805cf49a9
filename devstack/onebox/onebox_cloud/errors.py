# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What can go wrong, said with the thing and the remedy."""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class OneboxError(Exception):
    """Something the user can act on; its text is the whole message."""


def finish(name: str, main: Callable[[], int]) -> NoReturn:
    """End the program with what ``main`` returns; what the user can act on is told without a traceback."""
    try:
        sys.exit(main())
    except OneboxError as error:
        sys.exit(f"{name}: error: {error}")


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log, indented; a sentence when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 200 * count))
            lines = file.read().decode(errors="replace").splitlines()[-count:]
    except OSError as error:
        return f"    | (no log: {error})"
    return "\n".join(f"    | {line[:300]}" for line in lines) or "    | (the log is empty)"


class PartFailed(OneboxError):
    """A part of the cloud ended, or did not answer in time."""

    def __init__(self, name: str, what: str, logs: list[Path]) -> None:
        shown = "\n".join(f"  {path}\n{last_lines(path)}" for path in logs)
        super().__init__(f"{name} {what}. Its log, and the log's last lines:\n{shown}")
