# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What is told once, and in how many lines."""
import logging

from ovc_plugin.chronicle import Chronicle

SILENT = 'guest {}: says nothing of its memory'


def lines(caplog):
    return [record.message for record in caplog.records]


def test_what_holds_for_many_guests_is_one_line_with_their_count_and_the_first_names(caplog):
    told = Chronicle('h1')
    with caplog.at_level(logging.WARNING):
        told.note([SILENT.format(f'g{number}') for number in range(1, 8)] + ['no KSM'])
        told.note([SILENT.format(f'g{number}') for number in range(1, 8)] + ['no KSM'])
    assert lines(caplog) == ['h1: 7 guests (g1, g2, g3, g4, …): says nothing of its memory', 'h1: no KSM']
    assert told.fields()['notes'] == ['7 guests (g1, g2, g3, g4, …): says nothing of its memory', 'no KSM']


def test_one_guest_more_is_one_line_of_its_own(caplog):
    told = Chronicle('h1')
    told.note([SILENT.format('a'), SILENT.format('b')])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        told.note([SILENT.format('a'), SILENT.format('b'), SILENT.format('c')])
    assert lines(caplog) == ['h1: guest c: says nothing of its memory']
