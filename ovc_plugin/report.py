# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a host tells schedulers and operators: :class:`HostReport` and its one codec."""
from __future__ import annotations

import dataclasses
import functools
import json
import operator
import typing

from ovc_plugin.model import HostSnapshot, Level, Plan

VERSION = 1
STATS_KEY = 'ovc'


class ReportError(ValueError):
    """A report that cannot be read; the message names what is wrong and the remedy."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """A host in one line: bytes, seconds since the epoch, and counts.

    ``committed`` sums maximum + overhead and ``reserved`` reservation + overhead of all guests that are here or may
    be started here without asking a scheduler. ``claimed`` sums the maximums of ``guests`` guests that nova manages, so
    that a scheduler can tell what was promised since. ``reclaimable`` is what balloon and swap could free within
    a minute without breaking a reservation, ``saved`` what page sharing holds merged. ``nova_reserved`` is what nova on
    that host counts as used by the host itself: no scheduler can know it otherwise.
    """

    version: int = VERSION
    host: str
    taken_at: float
    level: Level
    total: int
    reserve: int
    available: int
    committed: int
    reserved: int
    claimed: int
    guests: int
    reclaimable: int
    saved: int
    swap_usable: int
    swap_used: int
    nova_reserved: int = 0
    backed: bool = True
    dry_run: bool = False
    reason: str = ''

    @property
    def headroom(self) -> int:
        return self.available - self.reserve

    def age(self, now: float) -> float:
        return now - self.taken_at


_KNOWN = frozenset(f.name for f in dataclasses.fields(HostReport))
_INTS = tuple(f.name for f in dataclasses.fields(HostReport) if f.type == 'int' and f.name != 'version')
_MOST = 1 << 50
_amounts = operator.attrgetter(*_INTS)


def of(snapshot: HostSnapshot, plan: Plan, *, reclaimable: int, swap_usable: int, backed: bool,
       dry_run: bool) -> HostReport:
    """The report of one pass. What others use beyond the reserve is not there for guests, and not in ``total``."""
    managed = [g for g in snapshot.guests if g.managed]
    return HostReport(
        host=snapshot.host, taken_at=snapshot.taken_at, level=plan.level,
        total=snapshot.total - max(0, snapshot.others - snapshot.reserve),
        reserve=snapshot.reserve, available=snapshot.available,
        committed=sum(g.committed for g in snapshot.guests), reserved=sum(g.guaranteed for g in snapshot.guests),
        claimed=sum(g.maximum for g in managed), guests=len(managed), reclaimable=reclaimable,
        saved=snapshot.ksm.saved if snapshot.ksm else 0, swap_usable=swap_usable,
        swap_used=snapshot.swap_total - snapshot.swap_free, backed=backed, dry_run=dry_run, reason=plan.reason)


def to_dict(report: HostReport) -> dict[str, typing.Any]:
    fields = {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}
    fields['level'] = report.level.name
    fields['taken_at'] = round(report.taken_at, 3)
    return fields


def encode(report: HostReport) -> str:
    """One line of JSON, below 2 KB: nova's stats column holds strings only."""
    fields = to_dict(report)
    fields['reason'] = fields['reason'][:200]
    return json.dumps(fields, separators=(',', ':'))


@functools.lru_cache(maxsize=4096)
def decode(text: str) -> HostReport:
    """Read a report written by :func:`encode`.

    Unknown fields are passed over, so that a newer host of the same version can say more.

    :raises ReportError: not JSON, another version, a field missing, or a number that cannot be.
    """
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise TypeError('not an object')
    except (TypeError, ValueError) as error:
        raise ReportError(f'report is not readable ({error}): is the same ovc-plugin release installed on the host '
                          'and the scheduler?') from None
    version = fields.get('version')
    if version != VERSION:
        raise ReportError(f'report has version {version!r}, this scheduler reads {VERSION}: install the same '
                          'ovc-plugin release on the host and the scheduler')
    return _checked(fields)


def _checked(fields: dict[str, typing.Any]) -> HostReport:
    kept = {name: value for name, value in fields.items() if name in _KNOWN}
    try:
        kept['level'] = Level[kept['level']]
        report = HostReport(**kept)
    except (KeyError, TypeError) as error:
        raise ReportError(f'report lacks or misnames a field ({error}): install the same ovc-plugin release on the '
                          'host and the scheduler') from None
    amounts = _amounts(report)
    if set(map(type, amounts)) != {int} or min(amounts) < 0 or max(amounts) > _MOST:
        name, value = next((n, v) for n, v in zip(_INTS, amounts, strict=True)
                           if type(v) is not int or not 0 <= v <= _MOST)
        raise ReportError(f'report says {name}={value!r}, which cannot be: look at the host\'s ovc log')
    if type(report.taken_at) not in (int, float) or not 0 < report.taken_at < 1e11:
        raise ReportError(f'report says taken_at={report.taken_at!r}, which cannot be: check the host\'s clock')
    if report.total <= 0:
        raise ReportError(f'report says total={report.total}, which cannot be: look at the host\'s ovc log')
    return report
