# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What nova-api takes as an extra spec is what the scheduler and the host can read, and the other way round."""
from __future__ import annotations

import pytest
from nova import exception

from ovc_plugin.decide import guarantee
from ovc_plugin.nova import extra_specs
from ovc_plugin.placing import EXTRA_SPECS

VALIDATORS = {validator.name: validator for validator in extra_specs.register()}


def taken(name: str, text: str) -> bool:
    try:
        VALIDATORS[name].validate(name, text)
    except exception.ValidationError:
        return False
    return True


def readable(read, *arguments) -> bool:
    try:
        read(*arguments)
    except ValueError:
        return False
    return True


def test_what_the_api_knows_is_what_scheduler_and_host_know():
    assert set(VALIDATORS) == set(EXTRA_SPECS)


@pytest.mark.parametrize('text', [
    '50%', '50 %', '0%', '100%', '100.0%', '12.5%', '512', '512MB', '512 mb', '1M', '1MiB', '0', '101%', '100.5%',
    '-5%', '', 'half', '5.5', '50%%', '512GB', '1e3', '٥٠%', '999999999', '9999999999', ' 50%', 'MB'])
def test_reservations(text):
    assert not taken('ovc:reservation', text) or readable(guarantee.reservation, text, 1 << 60)
    if text == text.strip() and text.isascii():
        assert taken('ovc:reservation', text) == readable(guarantee.reservation, text, 1 << 60)


@pytest.mark.parametrize('name', ['ovc:overcommit', 'ovc:share'])
@pytest.mark.parametrize('text', ['yes', 'No', 'TRUE', 'false', 'on', 'off', '1', '0', 'y', 'n', '', '2', 'nope'])
def test_yes_and_no(name, text):
    assert taken(name, text) == readable(guarantee.yes, text)


@pytest.mark.parametrize('text', ['1', '0.01', '100', '100.00', '2.5', '0', '0.00', '100.01', '-1', '1e2', 'nan', ''])
def test_weights(text):
    # The host takes a number from 0.01 to 100; in exponents only the API is stricter.
    expected = text not in ('nan', '', '1e2') and 0.01 <= float(text) <= 100
    assert taken('ovc:weight', text) == expected
