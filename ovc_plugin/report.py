# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a host tells schedulers and operators: :class:`HostReport` and its one codec."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import operator
import typing

from ovc_plugin.model import HostSnapshot, Level, Plan
from ovc_plugin.report_checks import (
    LONGEST_SKETCH,
    MOST,
    MOST_DOMAINS,
    NUMBERS,
    ReportError,
    amount_can_be,
    cannot_be,
    check_rest,
    text_of,
)
from ovc_plugin.settings import ALL_TENANTS, HostSettings

VERSION = 1
STATS_KEY = 'ovc'
SMOOTHED_OVER = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """A host in one line: bytes, seconds since the epoch, and counts.

    ``committed`` sums maximum + overhead and ``reserved`` reservation + overhead of all guests that are here or may
    be started here without asking a scheduler. ``claimed`` sums the maximums of ``guests`` guests that nova manages, so
    that a scheduler can tell what was promised since. ``reclaimable`` is what balloon and swap could free within
    a minute without breaking a reservation (nothing in a dry run: nobody would), ``saved`` what page sharing holds
    merged. ``nova_reserved`` is what nova on that host counts as used by the host itself: no scheduler can know it
    otherwise. ``swap_usable`` and ``swap_used`` are of guests: what others have in swap is in neither.

    ``predicted_peak`` is the most memory expected in use at once, of guests and of others within the reserve, with
    what is in swap left there; ``None`` when nothing predicts it. ``growth`` is the smoothed speed, in bytes per
    second, at which available memory shrinks, ``stall`` the share (0..1) of time in which tasks waited for it.
    ``domains`` name the trust domains (:func:`domain_name`) of guests that can merge, ``evaporation`` is what of the
    merged memory is kept free because guests may write it, ``sketch`` what is known of the contents that guests here
    share.

    ``sharing`` is whose pages may meet on the host, one of :data:`ovc_plugin.report_checks.SHARING`.
    ``default_reservation`` is what it guarantees a guest whose flavor says nothing, as text; '' where that is not told.
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
    predicted_peak: int | None = None
    growth: float | None = None
    stall: float | None = None
    domains: tuple[str, ...] = ()
    evaporation: int = 0
    sketch: str = ''
    sharing: str = 'domain'
    default_reservation: str = ''

    @property
    def headroom(self) -> int:
        return self.available - self.reserve

    def age(self, now: float) -> float:
        return now - self.taken_at


_KNOWN = frozenset(f.name for f in dataclasses.fields(HostReport))
_INTS = tuple(f.name for f in dataclasses.fields(HostReport) if f.type == 'int' and f.name != 'version')
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(HostReport) if f.default is not dataclasses.MISSING}
_LEVELS = {level.name: level for level in Level}
_ONLY_INT = {int}
_object_at = json.JSONDecoder().raw_decode
_amounts = operator.itemgetter(*_INTS)


def domain_name(domain: str) -> str:
    """A short name for a trust domain, the same on every host and in every scheduler."""
    return hashlib.blake2s(domain.encode(), digest_size=5).hexdigest()


def domains_of(snapshot: HostSnapshot) -> tuple[str, ...]:
    """The trust domains of the running guests that the kernel may merge."""
    found = {domain_name(g.trust_domain) for g in snapshot.running if g.can_share}
    return tuple(sorted(found)[:MOST_DOMAINS])


def sharing_of(settings: HostSettings) -> str:
    """:attr:`HostReport.sharing`. In a dry run the kernel's settings are not ours, so pages may be merged."""
    if settings.ksm == ALL_TENANTS:
        return 'all'
    return 'none' if settings.ksm == 'off' and not settings.dry_run else 'domain'


def smoothed(earlier: HostReport | None, snapshot: HostSnapshot) -> float | None:
    """The growth with this pass's reading added: an exponential average over :data:`SMOOTHED_OVER` seconds."""
    now, before = snapshot.growth, earlier.growth if earlier else None
    if now is None or earlier is None or before is None:
        return before if now is None else now
    share = 1.0 - math.exp(-max(0.0, snapshot.taken_at - earlier.taken_at) / SMOOTHED_OVER)
    return before + share * (now - before)


def of(snapshot: HostSnapshot, plan: Plan, *, reclaimable: int, swap_usable: int, backed: bool, dry_run: bool,
       predicted_peak: int | None = None, evaporation: int = 0, sketch: str = '',
       earlier: HostReport | None = None) -> HostReport:
    """The report of one pass. What others use beyond the reserve is not there for guests, and not in ``total``; what
    they have in swap is not in ``swap_used``.

    ``earlier`` is the report of the pass before.
    """
    managed = [g for g in snapshot.guests if g.managed]
    return HostReport(
        host=snapshot.host, taken_at=snapshot.taken_at, level=plan.level,
        total=snapshot.total - max(0, snapshot.others - snapshot.reserve),
        reserve=snapshot.reserve, available=snapshot.available,
        committed=sum(g.committed for g in snapshot.guests), reserved=sum(g.guaranteed for g in snapshot.guests),
        claimed=sum(g.maximum for g in managed), guests=len(managed), reclaimable=reclaimable,
        saved=snapshot.ksm.saved if snapshot.ksm else 0, swap_usable=swap_usable,
        swap_used=max(0, snapshot.swap_usable - snapshot.swap_free), backed=backed, dry_run=dry_run, reason=plan.reason,
        predicted_peak=predicted_peak, growth=smoothed(earlier, snapshot), stall=snapshot.stall,
        domains=domains_of(snapshot), evaporation=evaporation, sketch=sketch)


def to_dict(report: HostReport) -> dict[str, typing.Any]:
    fields = {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}
    fields['level'] = report.level.name
    fields['taken_at'] = round(report.taken_at, 3)
    return fields


def encode(report: HostReport) -> str:
    """One line of JSON, below 2 KB: nova's stats column holds strings only. What is as by default is left out."""
    fields = to_dict(report)
    fields['reason'] = fields['reason'][:200]
    fields['sketch'] = fields['sketch'][:LONGEST_SKETCH]
    if report.growth is not None:
        fields['growth'] = round(report.growth)
    if report.stall is not None:
        fields['stall'] = round(report.stall, 2)
    kept = {name: value for name, value in fields.items() if name == 'version' or _DEFAULTS.get(name, MOST) != value}
    return json.dumps(kept, separators=(',', ':'))


def decode(text: str) -> HostReport:
    """Read a report written by :func:`encode`.

    :raises ReportError: as :func:`read`.
    """
    return HostReport(**read(text))


def read(text: str) -> dict[str, typing.Any]:
    """What a report written by :func:`encode` says, by the names of :class:`HostReport`; all of them are there.

    Unknown fields are passed over, so that a newer host of the same version can say more. A scheduler reads thousands
    of reports a minute, and few of them must be made into an object.

    :raises ReportError: not JSON, another version, a field missing, or a number that cannot be.
    """
    fields = _said(text)
    for name, value in _DEFAULTS.items():
        if name not in fields:
            fields[name] = value
    if len(fields) != len(_KNOWN):
        fields = {name: value for name, value in fields.items() if name in _KNOWN}
    try:
        fields['level'] = _LEVELS[fields['level']]
        domains = fields['domains']
        if type(domains) is list:
            fields['domains'] = tuple(domains)
        elif type(domains) is not tuple:  # the default
            raise TypeError('domains is no list')
        amounts = _amounts(fields)
        fields['host'], fields['reason'] = text_of('host', fields['host']), text_of('reason', fields['reason'])
        taken_at = fields['taken_at']
    except (KeyError, TypeError) as error:
        raise ReportError(f'report lacks or misnames a field ({error!s:.80}): install the same ovc-plugin release on '
                          'the host and the scheduler') from None
    if set(map(type, amounts)) != _ONLY_INT or min(amounts) < 0 or max(amounts) > MOST:
        raise cannot_be(*next((n, v) for n, v in zip(_INTS, amounts, strict=True) if not amount_can_be(v)))
    if type(taken_at) not in NUMBERS or not 0 < taken_at < 1e11:
        raise cannot_be('taken_at', taken_at, 'check the host\'s clock')
    check_rest(fields)
    return fields


def _said(text: str) -> dict[str, typing.Any]:
    try:
        said, end = _object_at(text)
        if type(said) is not dict or end != len(text):
            raise TypeError('not an object')
    except (TypeError, ValueError, RecursionError) as error:
        raise ReportError(f'report is not readable ({error}): is the same ovc-plugin release installed on the host '
                          'and the scheduler?') from None
    version = said.get('version')
    if type(version) is not int or version != VERSION:
        raise ReportError(f'report has version {version!r:.80}, this scheduler reads {VERSION}: install the same '
                          'ovc-plugin release on the host and the scheduler')
    return said
