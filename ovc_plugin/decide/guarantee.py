# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a guest is guaranteed: reading ``ovc:reservation`` and its like."""
from __future__ import annotations

import re

from ovc_plugin.model import MIB

_PERCENT = re.compile(r'(\d{1,3}(?:\.\d+)?)\s*%')
_MEGABYTES = re.compile(r'(\d{1,9})\s*(?:MB|MiB|M)?', re.IGNORECASE)
_YES = {'yes': True, 'true': True, '1': True, 'on': True, 'no': False, 'false': False, '0': False, 'off': False}


def reservation(text: str, maximum: int) -> int:
    """Bytes guaranteed to a guest of ``maximum`` bytes; ``text`` is a percentage ("25%") or MB ("512").

    :raises ValueError: neither, above 100 %, or above the guest's memory; the message names the remedy.
    """
    text = str(text).strip()
    if match := _PERCENT.fullmatch(text):
        share = float(match[1]) / 100
        if share > 1:
            raise ValueError(f'reservation {text!r} is above 100 %: a guest cannot be guaranteed more than it has')
        return int(maximum * share)
    if match := _MEGABYTES.fullmatch(text):
        wanted = int(match[1]) * MIB
        if wanted > maximum:
            raise ValueError(f'reservation {match[1]} MB is above the guest\'s memory of {maximum // MIB} MB: lower '
                             'the reservation or give the flavor more memory')
        return wanted
    raise ValueError(f'reservation {text!r} is neither a percentage like "50%" nor a number of MB like "512"')


def first_reservation(sources: list[tuple[str, str | None]], maximum: int) -> tuple[int, str | None]:
    """The reservation of the first source that has one, and a complaint if that one could not be used.

    ``sources`` are (name, text) pairs in order of precedence. A value that cannot be used guarantees the guest all
    its memory: the one reading that can never promise too little.
    """
    for name, text in sources:
        if text is None:
            continue
        try:
            return reservation(text, maximum), None
        except ValueError as error:
            return maximum, f'{name}: {error}; the guest is guaranteed all its memory until that is corrected'
    return maximum, None


def yes(text: str) -> bool:
    """Read a yes/no value.

    :raises ValueError: anything else.
    """
    try:
        return _YES[str(text).strip().lower()]
    except KeyError:
        raise ValueError(f'{text!r} is neither yes nor no') from None
