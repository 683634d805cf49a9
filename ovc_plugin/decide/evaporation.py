# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Merged pages are a loan: what is kept free because guests may write them (promise 4).

Each write to a merged page takes a page of memory at once, and nobody is asked. So of what sharing has saved, as much
is kept free as may dissolve before balloon and swap have made up for it: (mean + k * sigma) * reaction, where mean and
sigma are of the dissolving rate, weighted exponentially over a window, and never more than is saved. As long as sharing
has been watched for less than the window, the part that was not watched is kept whole.
"""
from __future__ import annotations

import dataclasses
import math

from ovc_plugin.model import HostSnapshot
from ovc_plugin.settings import HostSettings

# Seconds between two looks, or ticks if that is more, beyond which nobody watched: passes are not so far apart. The
# host was suspended then, or its clock set ahead.
_APART, _TICKS = 60.0, 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaporation:
    """How sharing has dissolved lately: bytes per second and their variance. ``watched`` are the seconds for which it
    was seen, ``at`` the last look."""

    mean: float = 0.0
    variance: float = 0.0
    watched: float = 0.0
    at: float | None = None


def follow(before: Evaporation, snapshot: HostSnapshot, settings: HostSettings) -> Evaporation:
    """With one more look. Where nothing is merged there is nothing to watch, and it begins anew."""
    if snapshot.ksm is None or snapshot.ksm.saved <= 0:
        return Evaporation()
    rate = snapshot.evaporation
    longest = max(_APART, _TICKS * settings.tick)
    if before.at is None or rate is None or not 0 < (seconds := snapshot.taken_at - before.at) <= longest:
        return dataclasses.replace(before, at=snapshot.taken_at)
    weight = 1 - math.exp(-seconds / settings.evaporation_window)
    apart = rate - before.mean
    return Evaporation(
        mean=before.mean + weight * apart, variance=(1 - weight) * (before.variance + weight * apart * apart),
        watched=min(settings.evaporation_window, before.watched + seconds), at=snapshot.taken_at)


def reserve_against(snapshot: HostSnapshot, watched: Evaporation, settings: HostSettings) -> int:
    """Bytes of what is available that are not to be spent: they may be needed by pages that are merged now."""
    saved = snapshot.ksm.saved if snapshot.ksm else 0
    if saved <= 0:
        return 0
    fastest = watched.mean + settings.evaporation_sigmas * math.sqrt(watched.variance)
    unseen = saved * (1 - min(1.0, watched.watched / settings.evaporation_window))
    return min(saved, math.ceil(max(fastest * settings.evaporation_reaction, unseen)))
