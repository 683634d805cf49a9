# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The idle memory tax experiment comes out as its formula says, at any tax."""
from __future__ import annotations

import pytest

from benchmarks import idle_tax


@pytest.mark.parametrize('tax', [0.0, 0.3, 0.5, 0.75, 0.9])
def test_the_rule_splits_memory_as_the_formula_says(monkeypatch, tax):
    monkeypatch.setattr(idle_tax, 'HALF', 600.0)
    found = idle_tax.run(idle_tax.Rule(), tax)
    assert found.split(0) == pytest.approx((180, 180), abs=0.5)
    assert found.split(1) == pytest.approx(idle_tax.formula(tax), rel=0.02)
    assert found.worked[1] >= found.worked[0]


def test_the_formula_charges_four_times_for_an_idle_page_at_75_percent():
    idle, busy = idle_tax.formula(0.5)  # below the busy guest's maximum: nothing is cut off
    used = idle_tax.IDLE.hot * idle_tax.IDLE.demand.base / idle_tax.MIB
    assert 2 * (idle - used) + used == pytest.approx(busy) and idle + busy == pytest.approx(360)
    assert idle_tax.formula(0.75)[1] == 256
