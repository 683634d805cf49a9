# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Numbers that a command can do something with: a refusal says what they may be."""
from __future__ import annotations

import argparse
import typing


def number(kind: type, least: float, below: float | None = None) -> typing.Callable[[str], float]:
    """For ``type`` of an argument: an int or float from ``least`` on, and ``below`` something."""
    def read(text: str) -> float:
        value = kind(text)
        if not (value >= least and (below is None or value < below)):
            raise argparse.ArgumentTypeError(f'{text} is not at least {least:g}'
                                             + ('' if below is None else f' and below {below:g}'))
        return value

    read.__name__ = kind.__name__  # argparse names it where the text is no number
    return read
