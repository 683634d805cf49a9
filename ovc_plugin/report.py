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
from ovc_plugin.plain import plain
from ovc_plugin.settings import ALL_TENANTS, HostSettings

VERSION = 1
STATS_KEY = 'ovc'
# More trust domains than one on a host are all the same to a scheduler: nobody else who shares may come.
MOST_DOMAINS = 4
# Those of one trust domain; nobody's, as nothing is merged; everybody's, as the operator has said.
SHARING = ('domain', 'none', 'all')
SMOOTHED_OVER = 60.0


class ReportError(ValueError):
    """A report that cannot be read; the message names what is wrong and the remedy."""


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

    ``sharing`` is whose pages may meet on the host, one of :data:`SHARING`. ``default_reservation`` is what it
    guarantees a guest whose flavor says nothing, as text; '' where that is not told.
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
_MOST = 1 << 50
LONGEST_SKETCH = 900
_LONGEST = 400  # characters of any other text
_ONLY_INT = {int}
_RARE = frozenset(('predicted_peak', 'growth', 'stall', 'domains', 'sketch', 'sharing', 'default_reservation'))
_TEXTS = frozenset(('host', 'reason'))
_amounts = operator.attrgetter(*_INTS)


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
    kept = {name: value for name, value in fields.items() if name == 'version' or _DEFAULTS.get(name, _MOST) != value}
    return json.dumps(kept, separators=(',', ':'))


def decode(text: str) -> HostReport:
    """Read a report written by :func:`encode`.

    Unknown fields are passed over, so that a newer host of the same version can say more.

    :raises ReportError: not JSON, another version, a field missing, or a number that cannot be.
    """
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise TypeError('not an object')
    except (TypeError, ValueError, RecursionError) as error:
        raise ReportError(f'report is not readable ({error}): is the same ovc-plugin release installed on the host '
                          'and the scheduler?') from None
    version = fields.get('version')
    if type(version) is not int or version != VERSION:
        raise ReportError(f'report has version {version!r:.80}, this scheduler reads {VERSION}: install the same '
                          'ovc-plugin release on the host and the scheduler')
    return _checked(fields if fields.keys() <= _KNOWN else {n: v for n, v in fields.items() if n in _KNOWN})


def _checked(fields: dict[str, typing.Any]) -> HostReport:
    try:
        fields['level'] = _LEVELS[fields['level']]
        if 'domains' in fields:
            if type(fields['domains']) is not list:
                raise TypeError('domains is no list')
            fields['domains'] = tuple(fields['domains'])
        for name in _TEXTS & fields.keys():
            fields[name] = _text(name, fields[name])
        report = HostReport(**fields)
    except (KeyError, TypeError) as error:
        raise ReportError(f'report lacks or misnames a field ({error!s:.80}): install the same ovc-plugin release on '
                          'the host and the scheduler') from None
    amounts = _amounts(report)
    if set(map(type, amounts)) != _ONLY_INT or min(amounts) < 0 or max(amounts) > _MOST:
        name, value = next((n, v) for n, v in zip(_INTS, amounts, strict=True) if not _can_be(v))
        raise ReportError(f'report says {name}={value!r:.80}, which cannot be: look at the host\'s ovc log')
    if type(report.taken_at) not in (int, float) or not 0 < report.taken_at < 1e11:
        raise ReportError(f'report says taken_at={report.taken_at!r:.80}, which cannot be: check the host\'s clock')
    if type(report.backed) is not bool or type(report.dry_run) is not bool:
        raise ReportError(f'report says backed={report.backed!r:.80} and dry_run={report.dry_run!r:.80}, which cannot '
                          'be: look at the host\'s ovc log')
    if report.total <= 0:
        raise ReportError(f'report says total={report.total}, which cannot be: look at the host\'s ovc log')
    if not fields.keys().isdisjoint(_RARE):
        _check_rare(report)
    return report


def _text(name: str, text: typing.Any) -> str:
    """Words of a host, in which nothing is left that a log or a terminal would take for its own."""
    if type(text) is not str or len(text) > _LONGEST:
        raise ReportError(f'report says {name}={text!r:.80}, which cannot be: look at the host\'s ovc log')
    return plain(text)


def _can_be(amount: typing.Any) -> bool:
    return type(amount) is int and 0 <= amount <= _MOST


def _check_rare(report: HostReport) -> None:
    """What a report may leave out.

    :raises ReportError: it says something else than can be.
    """
    for name, held in (
            ('predicted_peak', report.predicted_peak is None or _can_be(report.predicted_peak)),
            ('growth', report.growth is None or type(report.growth) in (int, float) and abs(report.growth) < _MOST),
            ('stall', report.stall is None or type(report.stall) in (int, float) and 0 <= report.stall <= 1),
            ('domains', len(report.domains) <= MOST_DOMAINS and all(
                type(d) is str and len(d) < 64 for d in report.domains)),
            ('sharing', report.sharing in SHARING),
            ('default_reservation', type(report.default_reservation) is str and len(report.default_reservation) < 32),
            ('sketch', type(report.sketch) is str and len(report.sketch) <= LONGEST_SKETCH)):
        if not held:
            raise ReportError(f'report says {name}={getattr(report, name)!r:.80}, which cannot be: look at the '
                              'host\'s ovc log')
