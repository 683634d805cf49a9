# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a report can say, and what is wrong with one that cannot be. Pure."""
from __future__ import annotations

import typing

from ovc_plugin.plain import plain

# More trust domains than one on a host are all the same to a scheduler: nobody else who shares may come.
MOST_DOMAINS = 4
# Those of one trust domain; nobody's, as nothing is merged; everybody's, as the operator has said.
SHARING = ('domain', 'none', 'all')
LONGEST_SKETCH = 900
MOST = 1 << 50
NUMBERS = (int, float)
_LONGEST = 400  # characters of any other text


class ReportError(ValueError):
    """A report that cannot be read; the message names what is wrong and the remedy."""


def cannot_be(name: str, value: typing.Any, remedy: str = 'look at the host\'s ovc log') -> ReportError:
    return ReportError(f'report says {name}={value!r:.80}, which cannot be: {remedy}')


def text_of(name: str, text: typing.Any) -> str:
    """Words of a host, in which nothing is left that a log or a terminal would take for its own."""
    if type(text) is not str or len(text) > _LONGEST:
        raise cannot_be(name, text)
    return plain(text)


def amount_can_be(amount: typing.Any) -> bool:
    return type(amount) is int and 0 <= amount <= MOST


def check_rest(fields: dict[str, typing.Any]) -> None:
    """All but the amounts.

    :raises ReportError: one says something else than can be.
    """
    peak, growth, stall = fields['predicted_peak'], fields['growth'], fields['stall']
    if fields['total'] <= 0:
        wrong = 'total'
    elif peak is not None and not amount_can_be(peak):
        wrong = 'predicted_peak'
    elif growth is not None and (type(growth) not in NUMBERS or not abs(growth) < MOST):
        wrong = 'growth'
    elif stall is not None and (type(stall) not in NUMBERS or not 0 <= stall <= 1):
        wrong = 'stall'
    else:
        wrong = _wrong_word(fields)
    if wrong:
        raise cannot_be(wrong, fields[wrong])


def _wrong_word(fields: dict[str, typing.Any]) -> str:
    default, sketch, domains = fields['default_reservation'], fields['sketch'], fields['domains']
    if type(fields['backed']) is not bool:
        return 'backed'
    if type(fields['dry_run']) is not bool:
        return 'dry_run'
    if fields['sharing'] not in SHARING:
        return 'sharing'
    if type(default) is not str or len(default) >= 32 or not default.isprintable():
        return 'default_reservation'
    if type(sketch) is not str or len(sketch) > LONGEST_SKETCH:
        return 'sketch'
    if domains and (len(domains) > MOST_DOMAINS or not all([type(d) is str and len(d) < 64 and d.isprintable()
                                                              for d in domains])):
        return 'domains'
    return ''
