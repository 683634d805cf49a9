# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The level: how short of memory the host is. It rises at once and falls after a dwell."""
from __future__ import annotations

import dataclasses

from ovc_plugin.decide.state import LadderState
from ovc_plugin.model import MIB, HostSnapshot, Level, Plan
from ovc_plugin.samples import Recent
from ovc_plugin.settings import HostSettings

_KNEE = 28 << 30
_FALL = 8 * MIB
_AT_KNEE = 899 * MIB
# Shares of the sliding minimum below which a level begins (ESXi's soft, hard and low), and above which it ends.
_ENTER = {Level.SOFT: 0.64, Level.HARD: 0.32, Level.CRITICAL: 0.16}
_LEAVE = {Level.SOFT: 1.0, Level.HARD: 0.48, Level.CRITICAL: 0.24}
# Seconds until memory is exhausted at which only swap arrives in time, and at which not even one more look does.
# A balloon takes two passes: one to ask, one to see what came of it.
_SWAP_TAKES, _LAST_MOMENT = 4.0, 1.5
_LATE = 2.0              # a level begun so ends only when that many times as long is left
_EASED = 1.5             # a level begun by waiting or by reading back ends at so many times less of it
_READ_BACK = 5.0         # times refault_limit, of the average guest, from which reading back is HARD
_CALMER = 3.0            # a level above SOFT falls to SOFT after the dwell divided by this: nothing is handed out there
_PAUSE, _URGENT = 0.3, 1.0   # least seconds between two passes when it gets worse, and while it is HARD or worse
_PAGE = 4096
_TRIES = 60.0  # seconds: a guest that read back so long ago, and gave nothing since, may do so for hours
_QUIET, _LONGEST = 6, 30.0  # ticks between two passes while nothing needs one, and the most seconds that they may take


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    level: Level
    better_since: float | None
    soft_at: float | None
    reason: str


def minimum(total: int, scale: float) -> int:
    """Bytes that should stay available: ESXi's sliding minimum, 899 MiB for the first 28 GiB (in proportion below
    that) and 1 % of the rest, times ``scale``."""
    return int(scale * (_AT_KNEE * min(total, _KNEE) / _KNEE + max(0, total - _KNEE) * 0.01))


def enter_soft(total: int, settings: HostSettings) -> int:
    """Available memory below which a pass is due at once."""
    return int(_ENTER[Level.SOFT] * minimum(total, settings.level_scale))


def urgent(recent: Recent, snapshot: HostSnapshot | None, level: Level, since: float,
           settings: HostSettings, swapping: bool = False) -> str | None:
    """Why a pass is due at once, ``since`` seconds after the last one; ``None`` when the next tick is soon enough.

    It is when a cheap look finds more than the level of the last pass, or as much where that is HARD or worse: what
    swapping frees by then, and what guests take, is to be seen each second. Below SOFT a further fall is as good. While
    ``swapping`` goes on, each second tells whether it is still wanted: a shock may have ended.
    """
    if snapshot is None or since < _PAUSE:
        return None
    now = dataclasses.replace(snapshot, available=recent.available, growth=recent.growth, stall=recent.stall,
                              swap_in=None)
    least = minimum(snapshot.total, settings.level_scale)
    worst, reason = max(_signs(now, least, _ENTER, settings, 1.0), key=lambda sign: sign[0])
    if worst > level:
        return reason
    if since < _URGENT:
        return None
    if swapping:
        return f'memory is being moved to swap: {reason}'
    if worst is Level.CLEAR:
        return None
    fell = recent.available < min(snapshot.available - _FALL, enter_soft(snapshot.total, settings))
    return reason if worst >= Level.HARD or fell else None


def quiet(snapshot: HostSnapshot, plan: Plan, state: LadderState, settings: HostSettings) -> int | None:
    """Available memory with less of which the host is not quiet; ``None`` where it is not now.

    It is while memory is far above where SOFT begins, nothing is taken from a guest or asked of one, and nothing is
    under way: passes may then be :func:`apart` further, as looks see at once when that ends. Not while the kernel
    merges pages: how fast they dissolve is measured by passes, and whether they may be merged is looked at by them.
    """
    least = 2 * minimum(snapshot.total, settings.level_scale)
    if plan.level is not Level.CLEAR or plan.actions or snapshot.available < least:
        return None
    if snapshot.arriving or state.departing.guest or state.departing.short_since:
        return None
    if any(one.misses or abs(snapshot.taken_at - one.at) < _TRIES for one in state.probes.values()):
        return None
    if snapshot.ksm is not None and snapshot.ksm.run == 1:
        return None
    whole = all((g.actual or g.maximum) >= g.maximum <= (g.target or g.maximum) for g in snapshot.running)
    return least if whole else None


def apart(tick: float, *, quiet: bool) -> float:
    """Seconds between two passes that nothing brings forward. Reports are made by passes, and must not get old."""
    return max(tick, min(_QUIET * tick, _LONGEST)) if quiet else tick


def backed(snapshot: HostSnapshot) -> bool:
    """Whether memory and swap hold all that guests may ever touch (promise 2)."""
    return sum(g.committed for g in snapshot.running) <= snapshot.total - snapshot.reserve + snapshot.swap_usable


def goal(total: int, settings: HostSettings, *, backed: bool = True) -> int:
    """Available memory to get back to once it is short: a quarter above where SOFT ends, and twice as much where memory
    and swap do not hold all that guests may touch, as nothing catches a fall there."""
    return int(1.25 * minimum(total, settings.level_scale)) * (1 if backed else 2)


def beyond(level: Level, total: int, settings: HostSettings, *, backed: bool = True) -> int:
    """Bytes by which the goal lies above the available memory at which that level ends."""
    return goal(total, settings, backed=backed) - int(_LEAVE[level] * minimum(total, settings.level_scale))


def judge(snapshot: HostSnapshot, state: LadderState, settings: HostSettings, now: float) -> Judgement:
    """The level of this pass, from available memory, memory pressure stall and time to exhaustion."""
    least = minimum(snapshot.total, settings.level_scale)
    worst, reason = max(_signs(snapshot, least, _ENTER, settings, 1.0), key=lambda sign: sign[0])
    soft_at = None if state.soft_at is None else min(state.soft_at, now)  # a clock may have been set back
    if worst >= state.level:
        return Judgement(level=worst, better_since=None, soft_at=now if worst else soft_at, reason=reason)
    # better than the level: only what is also above the level's exit threshold lets it fall
    staying, why = max(_signs(snapshot, least, _LEAVE, settings, _LATE), key=lambda sign: sign[0])
    wanted = max(worst, staying)
    soft_at = now if wanted else soft_at
    if staying >= state.level:
        return Judgement(level=state.level, better_since=None, soft_at=soft_at, reason=why)
    since = now if state.better_since is None else min(state.better_since, now)
    better = now - since
    # Better than HARD is not yet better than SOFT: that the host has to be for as long.
    calm = better if soft_at is None else min(better, now - soft_at)
    level = max(wanted, Level.SOFT) if calm < settings.dwell else wanted
    if better < settings.dwell / _CALMER:
        level = state.level
    if calm < settings.dwell:
        reason = f'{reason}; better for {calm:.0f} s of {settings.dwell:.0f} s'
    return Judgement(level=level, better_since=None if wanted >= level else since, soft_at=soft_at, reason=reason)


def _signs(snapshot: HostSnapshot, least: int, shares: dict[Level, float],
           settings: HostSettings, late: float) -> list[tuple[Level, str]]:
    """What each sign says, by the thresholds at which levels begin, or (``late`` above 1) end."""
    signs, ease = [_available(snapshot, least, shares)], _EASED if late > 1 else 1.0
    if snapshot.stall is not None:
        signs.append(_stalled(snapshot.stall, settings, ease))
    if snapshot.swap_in is not None:
        signs.append(_read_back(snapshot, snapshot.swap_in, least, settings, ease))
    if snapshot.growth is not None and snapshot.growth > 0:
        signs.append(_exhaustion(snapshot, snapshot.growth, least, settings, late))
    return signs


def _available(snapshot: HostSnapshot, least: int, shares: dict[Level, float]) -> tuple[Level, str]:
    below = [level for level, share in shares.items() if snapshot.available < share * least]
    level = max(below, default=Level.CLEAR)
    compared = (f'{snapshot.available // MIB} MB available < {int(shares[level] * least) // MIB} MB' if below else
                f'{snapshot.available // MIB} MB available >= {int(shares[Level.SOFT] * least) // MIB} MB')
    return level, compared


def _stalled(stall: float, settings: HostSettings, ease: float) -> tuple[Level, str]:
    for level, limit in ((Level.HARD, settings.stall_hard / ease), (Level.SOFT, settings.stall_soft / ease)):
        if stall >= limit:
            return level, f'tasks wait for memory {stall:.0%} of the time >= {limit:.0%}'
    return Level.CLEAR, f'tasks wait for memory {stall:.0%} of the time < {settings.stall_soft / ease:.0%}'


def _read_back(snapshot: HostSnapshot, swap_in: float, least: int, settings: HostSettings,
               ease: float) -> tuple[Level, str]:
    """Guests that read back while memory is short: what was swapped was in use. With memory to spare they only heal."""
    limit = settings.refault_limit * _PAGE * max(1, len(snapshot.running)) / ease
    if snapshot.available >= least or swap_in < limit:
        return Level.CLEAR, f'{swap_in / MIB:.1f} MB/s read back from swap'
    level = Level.HARD if swap_in >= _READ_BACK * limit else Level.SOFT
    return level, (f'{swap_in / MIB:.1f} MB/s read back from swap >= {limit / MIB:.1f} MB/s with '
                   f'{snapshot.available // MIB} MB available < {least // MIB} MB')


def _exhaustion(snapshot: HostSnapshot, growth: float, least: int, settings: HostSettings,
                late: float) -> tuple[Level, str]:
    """The level by what still arrives in time, at the present speed, before the CRITICAL threshold is reached.

    Not before the reserve is: what the host's own processes take of it is gone from what is available, and would count
    twice. Below the reserve any growth would be CRITICAL, though the host is at SOFT only by the minimum.
    """
    left = max(0.0, snapshot.available - _ENTER[Level.CRITICAL] * least) / growth
    takes = {Level.SOFT: 2 * settings.tick, Level.HARD: _SWAP_TAKES, Level.CRITICAL: _LAST_MOMENT}
    level = max((level for level, seconds in takes.items() if left < late * seconds), default=Level.CLEAR)
    return level, f'exhausted in {left:.0f} s at {growth / MIB:.0f} MB/s'
