# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The level: how short of memory the host is. It rises at once and falls after a dwell."""
from __future__ import annotations

import dataclasses

from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, HostSnapshot, Level
from ovc_plugin.settings import HostSettings

_KNEE = 28 << 30
_AT_KNEE = 899 * MIB
# Shares of the sliding minimum below which a level begins (ESXi's soft, hard and low), and above which it ends.
_ENTER = {Level.SOFT: 0.64, Level.HARD: 0.32, Level.CRITICAL: 0.16}
_LEAVE = {Level.SOFT: 1.0, Level.HARD: 0.48, Level.CRITICAL: 0.24}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    level: Level
    better_since: float | None
    reason: str


def minimum(total: int, scale: float) -> int:
    """Bytes that should stay available: ESXi's sliding minimum, 899 MiB for the first 28 GiB (in proportion below
    that) and 1 % of the rest, times ``scale``."""
    return int(scale * (_AT_KNEE * min(total, _KNEE) / _KNEE + max(0, total - _KNEE) * 0.01))


def enter_soft(total: int, settings: HostSettings) -> int:
    """Available memory below which a pass is due at once."""
    return int(_ENTER[Level.SOFT] * minimum(total, settings.level_scale))


def goal(total: int, settings: HostSettings) -> int:
    """Available memory to get back to once it is short: a quarter above where SOFT ends."""
    return int(1.25 * minimum(total, settings.level_scale))


def judge(snapshot: HostSnapshot, state: LadderState, settings: HostSettings, now: float) -> Judgement:
    """The level of this pass, from available memory, memory pressure stall and time to exhaustion."""
    least = minimum(snapshot.total, settings.level_scale)
    worst, reason = max(_signs(snapshot, least, _ENTER, settings), key=lambda sign: sign[0])
    if worst >= state.level:
        return Judgement(level=worst, better_since=None, reason=reason)
    # better than the level: only what is also above the level's exit threshold lets it fall
    staying, why = max(_signs(snapshot, least, _LEAVE, settings), key=lambda sign: sign[0])
    if staying >= state.level:
        return Judgement(level=state.level, better_since=None, reason=why)
    since = now if state.better_since is None else min(state.better_since, now)  # a clock may have been set back
    if now - since < settings.dwell:
        return Judgement(level=state.level, better_since=since,
                         reason=f'{reason}; better for {now - since:.0f} s of {settings.dwell:.0f} s')
    return Judgement(level=max(worst, staying), better_since=None, reason=reason)


def _signs(snapshot: HostSnapshot, least: int, shares: dict[Level, float],
           settings: HostSettings) -> list[tuple[Level, str]]:
    signs = [_available(snapshot, least, shares)]
    if snapshot.stall is not None:
        signs.append(_stalled(snapshot.stall, settings))
    if snapshot.growth is not None and snapshot.growth > 0:
        signs.append(_exhaustion(snapshot, snapshot.growth, least, settings))
    return signs


def _available(snapshot: HostSnapshot, least: int, shares: dict[Level, float]) -> tuple[Level, str]:
    below = [level for level, share in shares.items() if snapshot.available < share * least]
    level = max(below, default=Level.CLEAR)
    compared = (f'{snapshot.available // MIB} MB available < {int(shares[level] * least) // MIB} MB' if below else
                f'{snapshot.available // MIB} MB available >= {int(shares[Level.SOFT] * least) // MIB} MB')
    return level, compared


def _stalled(stall: float, settings: HostSettings) -> tuple[Level, str]:
    for level, limit in ((Level.HARD, settings.stall_hard), (Level.SOFT, settings.stall_soft)):
        if stall >= limit:
            return level, f'tasks wait for memory {stall:.0%} of the time >= {limit:.0%}'
    return Level.CLEAR, f'tasks wait for memory {stall:.0%} of the time < {settings.stall_soft:.0%}'


def _exhaustion(snapshot: HostSnapshot, growth: float, least: int, settings: HostSettings) -> tuple[Level, str]:
    """At the present speed, SOFT when less than two passes are left until the CRITICAL threshold."""
    left = max(0.0, snapshot.available - _ENTER[Level.CRITICAL] * least) / growth
    text = f'exhausted in {left:.0f} s at {growth / MIB:.0f} MB/s'
    return (Level.SOFT if left < 2 * settings.tick else Level.CLEAR), text
