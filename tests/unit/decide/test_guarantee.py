# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Reading what a guest is guaranteed."""
import pytest

from ovc_plugin.decide.guarantee import first_reservation, reservation, yes
from ovc_plugin.model import MIB
from tests.builders import GIB


@pytest.mark.parametrize('text, wanted', [('50%', GIB // 2), ('12.5 %', GIB // 8), ('0%', 0), ('100%', GIB),
                                          ('512', 512 * MIB), ('512 MB', 512 * MIB), (' 0 ', 0)])
def test_percent_and_megabytes_are_read(text, wanted):
    assert reservation(text, GIB) == wanted


@pytest.mark.parametrize('text, word', [('150%', 'above 100 %'), ('2048', 'above the guest\'s memory of 1024 MB'),
                                        ('half', 'neither a percentage'), ('-5', 'neither'), ('', 'neither')])
def test_a_bad_value_is_named_with_its_remedy(text, word):
    with pytest.raises(ValueError, match=word):
        reservation(text, GIB)


def test_the_first_source_that_speaks_wins():
    assert first_reservation([('flavor', None), ('image', '25%'), ('config', '50%')], GIB) == (GIB // 4, None)


def test_a_bad_value_promises_all_rather_than_too_little():
    kept, complaint = first_reservation([('flavor extra spec ovc:reservation', 'lots'), ('config', '50%')], GIB)
    assert kept == GIB and 'flavor extra spec ovc:reservation' in complaint


def test_yes_and_no_are_read_and_maybe_is_not():
    assert yes('Yes') and not yes('off')
    with pytest.raises(ValueError, match='neither yes nor no'):
        yes('maybe')
