# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What others do, written from their published formulas, to run on the same modelled hosts as our rules.

Each file states its formulas. Where a formula leaves something open, the choice that serves the policy better is taken
and said so. None of them has a per-guest swap, so that the modelled kernel swaps by its own choice for all but ESX.
"""
from __future__ import annotations

from benchmarks.policies.esx import Esx
from benchmarks.policies.mom import Mom
from benchmarks.policies.proxmox import Proxmox
from benchmarks.policies.squeezed import Squeezed
from ovc_plugin.simulate.policy import Nothing, Ours

POLICIES = {'ovc': Ours, 'mom': Mom, 'proxmox': Proxmox, 'squeezed': Squeezed, 'esx-like': Esx, 'nothing': Nothing}
