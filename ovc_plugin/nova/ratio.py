# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The ratio that the host asks placement for, and when a new one is worth a write."""
from __future__ import annotations

from ovc_plugin.decide import placement
from ovc_plugin.report import HostReport
from ovc_plugin.settings import HostSettings, SharedSettings


def next_ratio(current: float, report: HostReport, capacity: int, host: HostSettings, shared: SharedSettings,
               now: float) -> float:
    """The MEMORY_MB allocation_ratio to ask for; ``current`` when it should stay.

    ``capacity`` is total - reserved as placement has it, in bytes. Lower at once, higher only by more than one step:
    each change costs placement a conflict with whoever writes allocations. A report that is stale earns no new guest,
    but takes the ratio no lower than what was claimed: the filter refuses such a host anyway, and those that are there
    must be able to leave.
    """
    if abs(report.age(now)) > shared.report_max_age:
        wanted = max(host.min_ratio, placement.claimed_ratio(report, capacity))
    else:
        wanted = placement.permitted_ratio(report, capacity, host, shared)
    if wanted < current or wanted - current > host.ratio_step + 1e-9:
        return wanted
    return current
