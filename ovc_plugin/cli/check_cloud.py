# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc check`` of the cloud: placement, what each host last reported, and the release of nova."""
from __future__ import annotations

import contextlib
import importlib.metadata
import time
import typing

from oslo_config import cfg

from ovc_plugin import report
from ovc_plugin.cli import hosts
from ovc_plugin.cli.check_host import patiently
from ovc_plugin.cli.check_scheduler import OPTIONAL, OURS
from ovc_plugin.cli.findings import DRIVER, Findings, error, ok, unknown, warning
from ovc_plugin.conf import ConfigError
from ovc_plugin.model import Level
from ovc_plugin.plain import plain
from ovc_plugin.settings import Settings

SOON, FAR = 2.0, 10.0  # seconds by which clocks may be apart before it is told, and before it is grave


def releases() -> Findings:
    try:
        from ovc_plugin.nova.preflight import TESTED
        release = importlib.metadata.version('nova')
    except ImportError:  # also of a package that is not there
        yield unknown('nova', 'is not installed in this environment', 'run it with the Python of nova')
        return
    if int(release.split('.')[0]) in TESTED:
        yield ok('nova', f'{release}, one of those that this release is made for')
    else:
        yield warning('nova', f'{release}, and this release is made for {TESTED[0]} to {TESTED[-1]}',
                      'look for an ovc-plugin release made for it')


def placement(conf: cfg.ConfigOpts, *, probe: bool) -> Findings:
    try:
        from ovc_plugin.nova import preflight
    except ImportError as problem:
        yield unknown('placement', f'cannot be asked ({problem})', 'install keystoneauth1')
        return
    try:
        client = preflight.adapter(conf)
        found = patiently(lambda: preflight.look(client))
    except (preflight.PlacementError, TimeoutError) as problem:
        yield error('placement', f'does not answer: {problem}', 'check [placement] in nova.conf, and that it is up')
        return
    yield from age(found, preflight, lambda: patiently(lambda: preflight.lets_leave(client)) if probe else None)
    yield from clock(found.ahead)


REMEDY = 'upgrade placement to 14 or later: until then nova-compute leaves the ratio alone'


def age(found: typing.Any, preflight: typing.Any, probe: typing.Callable[[], bool | None]) -> Findings:
    """Whether guests can leave a host whose ratio is below what is used."""
    if preflight.too_old(found.newest):
        yield error('placement', f'its newest microversion is {found.newest} < {preflight.MICROVERSION}: the ratio is '
                    'left alone', REMEDY)
        return
    try:
        leaves = probe()
    except (preflight.PlacementError, TimeoutError) as problem:
        yield unknown('placement', f'could not be tried: {problem}')
        leaves = None
    release = found.release
    if leaves is None and release is not None:
        leaves = int(release.split('.')[0]) >= preflight.OLDEST
    if leaves:
        yield ok('placement', f'lets guests leave a full host (release {release or "unknown, tried"})')
    elif leaves is None:
        yield unknown('placement', f'answers; whether it is {preflight.OLDEST} or later its API does not tell',
                      'ovc check --probe tries, with a provider of its own that it removes')
    else:
        yield error('placement', f'release {release or "before 14 (tried)"}: guests cannot leave a host whose ratio is '
                    'below what is used', REMEDY)


def clock(ahead: float | None) -> Findings:
    if ahead is None:
        yield unknown('clocks', 'placement tells no time')
    elif abs(ahead) <= SOON:
        yield ok('clocks', f'placement\'s and this one agree within {SOON:g} s')
    else:
        grave = error if abs(ahead) > FAR else warning
        yield grave('clocks', f'placement\'s is {abs(ahead):.0f} s {"ahead of" if ahead > 0 else "behind"} this one: '
                    'reports look older or younger than they are', 'one time source for all: chronyc tracking')


def migration(conf: cfg.ConfigOpts, settings: Settings) -> Findings:
    """Whether there is somebody to ask for migrations, by the words of the section alone: nobody logs in here."""
    if conf.compute_driver != DRIVER or not settings.host.migrate:
        return
    try:
        from ovc_plugin.nova import api
    except ImportError as problem:
        yield unknown('migration', f'[ovc_nova] cannot be judged ({problem})', 'install keystoneauth1')
        return
    nova, why = api.nova_or_why(conf, '')
    section = _word(conf[api.GROUP], 'auth_section') or api.GROUP
    if nova is not None:
        yield ok('migration', f'nova can be asked with the credentials of [{section}]')
        return
    if section == api.GROUP and _word(conf.placement, 'auth_type') and not _word(conf[api.GROUP], 'auth_type'):
        region = _word(conf.placement, 'region_name') or 'RegionOne'
        change = (f'[{api.GROUP}] auth_section = placement and region_name = {region}, if the user there may migrate '
                  'guests of all projects (role admin)')
    else:
        change = (f'[{section}] auth_type = password, with auth_url, username, password, user_domain_name, '
                  'project_name, project_domain_name and region_name, as README.rst has them')
    yield error('migration', f'migrate is on in [ovc_host], and no guest is asked away: {why}', change)


def _word(section: typing.Any, option: str) -> str | None:
    """What a line says; nothing of one that refers to what is not there."""
    try:
        return getattr(section, option, None)
    except cfg.Error:
        return None


def reports(conf: cfg.ConfigOpts, settings: Settings, now: float | None = None) -> Findings:
    """What each host last told nova."""
    try:
        found = hosts.last_reports(conf)
    except ConfigError as problem:
        yield unknown('reports', str(problem))
        return
    for cell in hosts.left_out(found):
        yield warning('reports', f'{cell}: nothing is known of its hosts', 'see the database that "nova-manage cell_v2 '
                      'list_cells" names for it')
    if not found:
        yield unknown('reports', 'nova knows of no compute host yet')
    apart = getattr(found, 'apart', {})
    for host, text in sorted(found.items()):
        if host in apart:
            yield ok(f'report of {host}', f'not looked at: {plain(apart[host])}')
        else:
            yield from one_report(host, text, settings, time.time() if now is None else now)
    yield from domains(conf, found.values())


def domains(conf: cfg.ConfigOpts, texts: typing.Iterable[str | None]) -> Findings:
    """Whether guests of several projects could share pages and nothing brings each project together."""
    filters = conf.filter_scheduler
    if OPTIONAL in [one.rpartition('.')[2] for one in filters.enabled_filters]:
        return
    sharing: set[str] = set()
    for text in texts:
        with contextlib.suppress(report.ReportError):  # told already
            known = report.decode(text) if text else None
            sharing |= set(known.domains) if known is not None and known.sharing == 'domain' else set()
    if len(sharing) < 2:
        return
    available = OURS + OPTIONAL
    more = '' if available in filters.available_filters else f', and available_filters = {available} on its own line'
    yield warning('sharing domains', f'guests of {len(sharing)} projects may share pages, and nothing keeps them on '
                  'different hosts: on a host of several, only the first one\'s guests save memory',
                  f'[filter_scheduler] enabled_filters = {",".join([*filters.enabled_filters, OPTIONAL])}{more}; it '
                  'segregates projects, so give ovc:share=no to flavors that gain little')


def one_report(host: str, text: str | None, settings: Settings, now: float) -> Findings:
    check, oldest = f'report of {host}', settings.shared.report_max_age
    if text is None:
        yield warning(check, 'none: nova runs this host by itself',
                      '[DEFAULT] compute_driver = ovc.OvcLibvirtDriver on it, to enable the plugin there')
        return
    try:
        known = report.decode(text)
    except report.ReportError as problem:
        yield error(check, str(problem), 'the same ovc-plugin release on all hosts')
        return
    old = known.age(now)
    if old < -FAR:
        yield error(check, f'{-old:.0f} s ahead of this clock', 'one time source for all: chronyc tracking')
    elif old > oldest:
        yield error(check, f'{old:.0f} s old > {oldest:g} s (report_max_age): no guest is placed there',
                    'see nova-compute\'s log on it; update_resources_interval below half of report_max_age; one time '
                    'source for all, should its clock be behind: chronyc tracking')
    elif known.dry_run:
        yield warning(check, f'{old:.0f} s old, level {known.level.name}; a dry run',
                      '[ovc_host] dry_run = false there')
    elif known.level >= Level.HARD:
        yield warning(check, f'{old:.0f} s old, level {known.level.name}: no guest is placed there now',
                      f'ovc status --host {host}, which says what it does about it')
    else:
        yield ok(check, f'{old:.0f} s old, level {known.level.name}')
