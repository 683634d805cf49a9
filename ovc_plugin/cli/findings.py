# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What ``ovc check`` finds, and what it finds in a compute host's configuration files. Data in, data out."""
from __future__ import annotations

import collections.abc
import dataclasses
import enum
import math
import typing

from oslo_config import cfg

from ovc_plugin.decide.pressure import apart
from ovc_plugin.settings import ALL_TENANTS, Settings, SharedSettings


class Severity(enum.IntEnum):
    """``ERROR``: a promise cannot be kept, or nothing works. ``WARNING``: less is gained, or it may become an error."""

    OK = 0
    UNKNOWN = 1
    WARNING = 2
    ERROR = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: ``what`` it is with its numbers, and ``change``, the line or command that mends it."""

    check: str
    severity: Severity
    what: str
    change: str = ''

    def to_dict(self) -> dict[str, str]:
        return {'check': self.check, 'severity': self.severity.name.lower(), 'what': self.what, 'change': self.change}


Findings = typing.Iterator[Finding]
Grave = typing.Callable[[str, str, str], Finding]
DRIVER = 'ovc.OvcLibvirtDriver'
# The highest report_max_age there may be, and how many times what it needs is long.
OLDEST_AGE = next(f.metadata['high'] for f in dataclasses.fields(SharedSettings) if f.name == 'report_max_age')
LONG = 10
ASK_LIBVIRT = 'start libvirtd (or virtqemud), and let this user ask it'
ALL_FILTERS = 'nova.scheduler.filters.all_filters'
ALL_WEIGHERS = 'nova.scheduler.weights.all_weighers'
# Of nova's own options those that matter, as nova has them (tests/contract compares); so that no nova is needed here.
NOVA_OPTIONS: dict[str, list[cfg.Opt]] = {
    'DEFAULT': [cfg.StrOpt('compute_driver'), cfg.FloatOpt('ram_allocation_ratio'),
                cfg.BoolOpt('periodic_enable', default=True),
                cfg.FloatOpt('initial_ram_allocation_ratio', default=1.0),
                cfg.IntOpt('update_resources_interval', default=0), cfg.IntOpt('reserved_host_memory_mb', default=512),
                cfg.HostDomainOpt('host'), cfg.StrOpt('rootwrap_config', default='/etc/nova/rootwrap.conf')],
    'filter_scheduler': [cfg.MultiStrOpt('available_filters', default=[ALL_FILTERS]),
                         cfg.ListOpt('enabled_filters', default=[
                             'ComputeFilter', 'ComputeCapabilitiesFilter', 'ImagePropertiesFilter',
                             'ServerGroupAntiAffinityFilter', 'ServerGroupAffinityFilter']),
                         cfg.ListOpt('weight_classes', default=[ALL_WEIGHERS])],
    'libvirt': [cfg.IntOpt('mem_stats_period_seconds', default=10), cfg.StrOpt('connection_uri', default=''),
                cfg.StrOpt('virt_type', default='kvm'), cfg.IntOpt('file_backed_memory', default=0)],
    'workarounds': [cfg.BoolOpt('disable_rootwrap', default=False)],
    'api_database': [cfg.StrOpt('connection', secret=True)],
}


def register(conf: cfg.ConfigOpts) -> None:
    for group, options in NOVA_OPTIONS.items():
        conf.register_opts(options, group=None if group == 'DEFAULT' else group)


def unusable(conf: cfg.ConfigOpts) -> Findings:
    """Those of nova's own options whose value cannot be one: nova does not start with it."""
    for group, options in NOVA_OPTIONS.items():
        for option in options:
            try:
                getattr(conf if group == 'DEFAULT' else conf[group], option.dest)
            except (cfg.Error, ValueError) as problem:
                why = str(problem).splitlines()[0].rpartition('is not valid: ')[2]
                yield error('options', f'[{group}] {option.name} cannot be used, nova does not start so: {why}',
                            'correct or remove that line')


def ok(check: str, what: str) -> Finding:
    return Finding(check=check, severity=Severity.OK, what=what)


def unknown(check: str, what: str, change: str = '') -> Finding:
    return Finding(check=check, severity=Severity.UNKNOWN, what=what, change=change)


def warning(check: str, what: str, change: str) -> Finding:
    return Finding(check=check, severity=Severity.WARNING, what=what, change=change)


def error(check: str, what: str, change: str) -> Finding:
    return Finding(check=check, severity=Severity.ERROR, what=what, change=change)


# -- a compute host's file -------------------------------------------------------------------------------------------
def compute(conf: cfg.ConfigOpts, settings: Settings) -> Findings:
    driver, line = conf.compute_driver, f'[DEFAULT] compute_driver = {DRIVER}'
    if driver and driver != DRIVER and 'ovc' in driver.lower():
        yield error('compute driver', f'{driver}: there is no such driver, and nova-compute does not start', line)
    elif driver != DRIVER:
        # The file that wins may be another one than meant: Debian's nova-compute.conf is read after nova.conf.
        where = conf.get_location('compute_driver').detail if driver else ''
        yield warning('compute driver', f'{driver or "none"}: the plugin is off on this host, nova runs guests here by '
                      'itself', f'{line}{f" in {where}" if where else ""}, to enable it')
    else:
        yield ok('compute driver', DRIVER)
    grave = error if driver == DRIVER else warning
    yield from _ratio(conf, settings, grave)
    yield from _statistics(conf, settings, grave)
    if driver == DRIVER:
        yield from _controller_of(conf, settings)


def _controller_of(conf: cfg.ConfigOpts, settings: Settings) -> Findings:
    host = settings.host
    if host.dry_run:
        yield warning('host dry run', 'this host is sensed and judged, and nothing is done', '[ovc_host] dry_run = '
                      'false, once the log pleases you')
    else:
        yield ok('host dry run', 'off: the controller acts')
    works = [name for name in ('balloon', 'swap') if name in host.rules and getattr(host, name)]
    if not works:
        yield warning('mechanisms', 'neither balloon nor swap may free memory of guests: in a shortage nothing '
                      'does, and the kernel may kill one', '[ovc_host] balloon = true and swap = true, both in rules')
    elif len(works) < 2:
        off = 'swap' if works == ['balloon'] else 'balloon'
        yield warning('mechanisms', f'{off} may not free memory of guests: '
                      + ('what a guest does not give by itself is not to be had' if off == 'swap' else 'swap alone '
                         'does, which is slower and costs guests more'),
                      f'[ovc_host] {off} = true, and in rules')
    if host.manage_ratio and host.min_ratio > 1:
        yield warning('least ratio', f'[ovc_host] min_ratio = {host.min_ratio:g}: so much is handed out whatever the '
                      'host can promise', '[ovc_host] min_ratio = 1.0')
    if host.ksm == ALL_TENANTS:
        yield warning('page sharing', 'pages are merged across tenants by configuration, which leaks their presence '
                      'and allows targeted bit flips', '[ovc_host] ksm = auto')
    if not host.require_swap_backing:
        yield warning('backing', 'the host may promise more than memory and swap can hold, and the kernel may kill '
                      'guests', '[ovc_host] require_swap_backing = true')
    yield from _report_age(conf, settings)


def _report_age(conf: cfg.ConfigOpts, settings: Settings) -> Findings:
    """Nova's resource tracker takes the report of the last pass along: every minute where nothing else is set."""
    interval, oldest = conf.update_resources_interval or 60, settings.shared.report_max_age
    if interval < 0 or not conf.periodic_enable:
        line = 'update_resources_interval' if interval < 0 else 'periodic_enable'
        yield error('report age', f'{line} switches nova-compute\'s audit off, which takes reports along: they get too '
                    'old, and this host is refused', f'remove the line [DEFAULT] {line}')
        return
    yield from age(interval, oldest, settings.host.tick, 'this host is')


def age(interval: float, oldest: float, tick: float, who: str) -> Findings:
    """Whether ``report_max_age`` suits reports that come every ``interval`` seconds."""
    passes = apart(tick, quiet=True)
    least = max(2 * interval, math.ceil(interval + passes))
    if least > OLDEST_AGE:
        yield error('report age', f'reports come every {interval:g} s, and may count as good for {OLDEST_AGE:g} s at '
                    'most', '[DEFAULT] update_resources_interval = 60')
    elif oldest < least:
        yield error('report age', f'reports come every {interval:g} s, of passes that are up to {passes:g} s apart, '
                    f'and count as too old after {oldest:g} s: {who} refused again and again',
                    f'[ovc] report_max_age = {least:g} (on schedulers and hosts alike)')
    elif oldest > LONG * least:
        yield warning('report age', f'reports come every {interval:g} s and count as good for {oldest:g} s: guests '
                      'are placed by what a host was long ago, also on one whose controller has stopped',
                      f'[ovc] report_max_age = {least:g} (on schedulers and hosts alike)')


def _ratio(conf: cfg.ConfigOpts, settings: Settings, grave: Grave) -> Findings:
    fixed, kept = conf.ram_allocation_ratio, settings.host.manage_ratio
    alone = 'as the plugin leaves the ratio alone ([ovc_host] manage_ratio = false)'
    if conf.libvirt.file_backed_memory and conf.reserved_host_memory_mb:
        yield grave('reserved memory', 'nova-compute does not start with [libvirt] file_backed_memory unless '
                    'reserved_host_memory_mb is 0', '[DEFAULT] reserved_host_memory_mb = 0')
    if conf.libvirt.file_backed_memory and fixed != 1:
        yield grave('static ratio', 'nova-compute does not start with [libvirt] file_backed_memory unless '
                    'ram_allocation_ratio is 1.0', '[DEFAULT] ram_allocation_ratio = 1.0'
                    + (', and [ovc_host] manage_ratio = false' if kept else ''))
    elif fixed and kept:
        yield grave('static ratio', f'[DEFAULT] ram_allocation_ratio = {fixed:g} wins over the ratio that the plugin '
                    'keeps: placement hands out what the host cannot promise, or less than it could. Without that '
                    'line it keeps the ratio until the plugin acts or somebody sets another: openstack resource '
                    'provider inventory set --resource MEMORY_MB:allocation_ratio=1.0 --amend UUID',
                    '[ovc_host] manage_ratio = false: nova-compute needs that line with [libvirt] file_backed_memory'
                    if conf.libvirt.file_backed_memory else 'remove the line [DEFAULT] ram_allocation_ratio')
    elif fixed and fixed > 1:
        yield warning('static ratio', f'[DEFAULT] ram_allocation_ratio = {fixed:g}: placement hands out so much, '
                      f'whatever the host can promise, {alone}', '[DEFAULT] ram_allocation_ratio = 1.0, or remove that '
                      'line and set [ovc_host] manage_ratio = true')
    elif fixed:
        yield ok('static ratio', f'[DEFAULT] ram_allocation_ratio = {fixed:g}, {alone}')
    elif conf.initial_ram_allocation_ratio > 1:
        yield warning('initial ratio', f'initial_ram_allocation_ratio = {conf.initial_ram_allocation_ratio:g}: so much '
                      'is handed out before the first report, and once the plugin is off',
                      '[DEFAULT] initial_ram_allocation_ratio = 1.0')
    elif not kept:
        yield ok('static ratio', f'none: nova\'s own, {alone}')
    else:
        yield ok('static ratio', 'none: nothing is in the way of the ratio that the plugin keeps')


def _statistics(conf: cfg.ConfigOpts, settings: Settings, grave: Grave) -> Findings:
    period, oldest = conf.libvirt.mem_stats_period_seconds, settings.host.stats_max_age
    if period <= 0:
        yield grave('balloon statistics', 'switched off: no guest says what it uses, so none is ever ballooned',
                    '[libvirt] mem_stats_period_seconds = 10; guests take it at their next start')
    elif period > oldest / 2:
        yield warning('balloon statistics', f'guests speak every {period} s, and their word is too old after '
                      f'{oldest:g} s: they are ballooned late or not at all',
                      '[libvirt] mem_stats_period_seconds = 10' if oldest >= 20 else f'[ovc_host] stats_max_age = '
                      f'{max(20, 2 * period)}')
    else:
        yield ok('balloon statistics', f'every {period} s')


def worst(findings: collections.abc.Iterable[Finding]) -> Severity:
    return max((finding.severity for finding in findings), default=Severity.OK)
