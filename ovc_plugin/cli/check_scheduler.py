# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What ``ovc check`` finds in a controller's configuration files: filters, weighers, dry run. Data in, data out."""
from __future__ import annotations

import collections
import difflib
import typing

from oslo_config import cfg

from ovc_plugin.cli.findings import ALL_FILTERS, ALL_WEIGHERS, Finding, Findings, age, error, ok, warning
from ovc_plugin.settings import Settings

OURS, WEIGHERS = 'ovc_plugin.nova.filters.', 'ovc_plugin.nova.weights.'
WEIGHER = f'{WEIGHERS}OvercommitWeigher'
REQUIRED, OPTIONAL = 'OvercommitFilter', 'SharingDomainFilter'
# As the classes have it (tests/contract compares), so that no nova is needed here: which filters there are, and which
# votes each weigher gives.
FILTERS = (OURS + REQUIRED, OURS + OPTIONAL)
_VOTES = {f'{WEIGHERS}HeadroomWeigher': ('headroom_weight_multiplier',),
          f'{WEIGHERS}PressureTrendWeigher': ('pressure_trend_weight_multiplier',),
          f'{WEIGHERS}SharingAffinityWeigher': ('sharing_affinity_weight_multiplier',)}
VOTES = {WEIGHER: tuple(vote for votes in _VOTES.values() for vote in votes), **_VOTES}


def controller(conf: cfg.ConfigOpts, settings: Settings) -> Findings:
    lists = conf.filter_scheduler
    named = (*lists.available_filters, *lists.enabled_filters, *lists.weight_classes)
    if not any(_is_ours(name) or _nearly(name) for name in named):
        yield warning('scheduler plugins', 'neither a filter nor a weigher of ours is named: the plugin is off here, '
                      'nova places guests by itself', 'available_filters, enabled_filters and weight_classes of '
                      '[filter_scheduler] as README.rst has them, to enable it')
        return
    yield from _filters(conf)
    yield from _weighers(conf)
    yield from age(max(0, conf.update_resources_interval) or 60, settings.shared.report_max_age, settings.host.tick,
                   'hosts are')
    if settings.scheduler.dry_run:
        yield warning('scheduler dry run', 'nova-scheduler judges every host and refuses none',
                      '[ovc_scheduler] dry_run = false, once its log pleases you')
    else:
        yield ok('scheduler dry run', 'off: hosts that cannot keep a promise are refused')
    if not settings.scheduler.require_swap_backing:
        yield warning('backing', 'guests may be promised more than memory and swap can hold, and the kernel may kill '
                      'them', '[ovc_scheduler] require_swap_backing = true')


def _is_ours(name: str) -> bool:
    return name.startswith('ovc_plugin.') or name in (REQUIRED, OPTIONAL)


def _nearly(name: str) -> str | None:
    """Which of our filters is meant by a name that is nearly its."""
    found = difflib.get_close_matches(name, (REQUIRED, OPTIONAL), 1, 0.85)
    return found[0] if found else None


def _like_ours(name: str) -> bool:
    last = name.rpartition('.')[2]
    return bool(difflib.get_close_matches(last, [one.rpartition('.')[2] for one in VOTES], 1, 0.85))


def _misspelt(names: list[str]) -> typing.Generator[Finding, None, set[str]]:
    """Which of ours were meant by names that are nearly theirs; ``names`` has them in their place from then on."""
    meant = set()
    for at, name in enumerate(names):
        like = _nearly(name)
        if like and name not in (REQUIRED, OPTIONAL):
            names[at] = like
            meant.add(like)
            yield error(f'filter {name}', 'there is no such filter, and nova-scheduler does not start',
                        f'[filter_scheduler] enabled_filters = {",".join(dict.fromkeys(names))}')
    return meant


def _filters(conf: cfg.ConfigOpts) -> Findings:
    available, enabled = conf.filter_scheduler.available_filters, conf.filter_scheduler.enabled_filters
    lines = ' and '.join(f'[filter_scheduler] available_filters = {name}' for name in (ALL_FILTERS, OURS + REQUIRED))
    if ALL_FILTERS not in available:
        yield error('available filters', f'nova\'s own filters are not among them ({", ".join(available)}): naming one '
                    'filter drops all others', f'{lines}, each on a line of its own')
    if strange := [name for name in available if _is_ours(name) and name not in FILTERS]:
        yield error('available filters', f'{", ".join(strange)}: there is no such filter, and nova-scheduler does not '
                    'start', f'correct that line to [filter_scheduler] available_filters = {" or ".join(FILTERS)}')
    # nova knows filters by the names of their classes alone (nova/scheduler/host_manager.py): a path is not found.
    names = list(dict.fromkeys(name.rpartition('.')[2] for name in enabled))
    meant = yield from _misspelt(names)
    looked = dict.fromkeys([*(one.rpartition('.')[2] for one in enabled if '.' in one), REQUIRED, OPTIONAL])
    for name in [one for one in looked if one not in meant]:
        known = OURS + name in available
        if any(one.endswith(f'.{name}') for one in enabled):
            yield error(f'filter {name}', 'enabled with its path: nova-scheduler does not start, as it knows filters '
                        'by their names alone', f'[filter_scheduler] enabled_filters = {",".join(names)}')
        elif name in names and known:
            yield ok(f'filter {name}', 'available and enabled')
        elif name in names:
            yield error(f'filter {name}', 'enabled and not available: nova-scheduler does not start so',
                        f'[filter_scheduler] available_filters = {OURS + name} (beside the lines that are there)')
        elif name == REQUIRED:
            more = '' if known else f', and available_filters = {OURS + name} on a line of its own'
            yield error(f'filter {name}', 'not enabled: hosts are not asked what they can still promise',
                        f'[filter_scheduler] enabled_filters = {",".join([*names, name])}{more}')


def _weighers(conf: cfg.ConfigOpts) -> Findings:
    classes, line = conf.filter_scheduler.weight_classes, '[filter_scheduler] weight_classes = '
    # A class that is named without its path is in no module that could be loaded.
    ours = [name for name in classes if _is_ours(name) or '.' not in name or _like_ours(name)]
    known = [name for name in classes if name not in ours or name in VOTES]
    counted = collections.Counter(vote for name in ours for vote in VOTES.get(name, ()))
    if not ours:
        yield warning('weighers', 'none of ours: hosts are ranked without what they can really give',
                      line + ','.join([*classes, WEIGHER]))
    elif len(known) < len(classes):
        yield error('weighers', f'{", ".join(name for name in ours if name not in VOTES)}: there is no such weigher, '
                    'and nova-scheduler does not start', line + ','.join(known if counted else [*known, WEIGHER]))
    elif max(counted.values()) > 1:
        once = [name for name in dict.fromkeys(classes) if WEIGHER not in ours or name not in ours or name == WEIGHER]
        yield warning('weighers', f'{", ".join(vote for vote, times in counted.items() if times > 1)} counts more than '
                      'once: OvercommitWeigher gives all our votes, and each other weigher of ours one of them',
                      line + ','.join(once))
    elif ALL_WEIGHERS not in classes:
        yield warning('weighers', f'nova\'s own are not among them ({", ".join(classes)})',
                      line + ','.join([ALL_WEIGHERS, *classes]))
    else:
        yield ok('weighers', ', '.join(name.rpartition('.')[2] for name in ours))
