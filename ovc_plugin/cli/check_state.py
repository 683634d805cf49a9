# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc check`` of what the plugin keeps on a host: where it writes, and what of it is there while it is off."""
from __future__ import annotations

import os
import pathlib
import pwd
import socket

from oslo_config import cfg

from ovc_plugin import privileged, publish
from ovc_plugin.cli.findings import ASK_LIBVIRT, Findings, error, ok, unknown, warning
from ovc_plugin.model import MIB, HostSnapshot
from ovc_plugin.settings import Settings


def writable(path: pathlib.Path, service_user: str) -> Findings:
    """Whether that user can write there; judged by owner, groups and mode, so it can be asked as root."""
    lost = 'after a restart targets and ratio are not known'
    try:
        found = path.stat()
    except OSError as problem:
        yield error('state path', f'{path}: {problem.strerror}: {lost}', _made(path, service_user))
        return
    if not path.is_dir():
        yield error('state path', f'{path} is no directory: {lost}', '[ovc_host] state_path = a directory of its own')
        return
    try:
        user = pwd.getpwnam(service_user)
        own, groups = user.pw_uid, set(os.getgrouplist(service_user, user.pw_gid))
    except KeyError:
        own, groups = os.geteuid(), {os.getegid(), *os.getgroups()}
    bits = found.st_mode >> (6 if own == found.st_uid else 3 if found.st_gid in groups else 0) & 7
    if own == 0 or bits & 3 == 3:
        yield ok('state path', f'{path} can be written')
        return
    # Another's directory that is in use is not taken over: it may be /tmp or /var/lib.
    yield error('state path', f'{path} is of user {found.st_uid} and group {found.st_gid} with mode '
                f'{found.st_mode & 0o7777:o}, and {service_user} ({own}) cannot write there: {lost}',
                _made(path, service_user) if _is_empty(path) else 'let that user write there, or name a directory of '
                'its own: [ovc_host] state_path')


def _made(path: pathlib.Path, service_user: str) -> str:
    # The colon alone names the user's own group, which need not be called like the user.
    return f'install -d -m 750 {path} && chown {service_user}: {path}'


def _is_empty(path: pathlib.Path) -> bool:
    try:
        return not any(path.iterdir())
    except OSError:
        return False


def left_behind(conf: cfg.ConfigOpts, settings: Settings, snapshot: HostSnapshot, ours: bool,
                silent: str | None) -> Findings:
    """What of ours would outlive us: of interest once the driver is not ours any more. ``silent``: the hypervisor did
    not answer."""
    if ours:
        return
    found = []
    if small := [g for g in snapshot.running if g.actual is not None and g.actual < g.maximum - 4 * MIB]:
        found.append(f'{len(small)} guests are smaller than their flavor by '
                     f'{sum(g.maximum - (g.actual or 0) for g in small) // MIB} MB')
    if lowered := leases():
        found.append(f'{lowered} limits are lowered')
    host = conf.host or socket.gethostname()
    state = publish.Store(settings.host.state_path, host)
    ratio = publish.Store(f'{settings.host.state_path}/ratio', host)
    try:
        if state.load().get('ksm_before'):
            found.append('page sharing was not put back')
        if ratio.load().get('ratios'):
            found.append('placement\'s allocation_ratio is the plugin\'s')
        strange = list(_torn(state, ratio))
    except OSError as problem:
        strange = [unknown('left behind', f'{settings.host.state_path} cannot be read ({problem.strerror}): whether '
                           'page sharing and ratio are nova\'s is not known', 'run this as root')]
    yield from strange
    if found:
        yield warning('left behind', '; '.join(found), 'ovc release')
    elif not strange and silent:
        yield unknown('left behind', 'no limit is lowered, page sharing and ratio are nova\'s; whether guests have '
                      'their full size is not known', ASK_LIBVIRT)
    elif not strange:
        yield ok('left behind', 'nothing: guests have their full size, no limit is lowered, page sharing and ratio are '
                 'nova\'s')


def _torn(state: publish.Store, ratio: publish.Store) -> Findings:
    if state.torn:
        yield unknown('left behind', f'{state.path} says nothing: whether page sharing is nova\'s is not known',
                      'look at /sys/kernel/mm/ksm/run, and remove that file')
    if ratio.torn:
        yield unknown('left behind', f'{ratio.path} says nothing: whether placement\'s allocation_ratio is nova\'s is '
                      'not known', 'ovc release, which says what to look at')


def leases() -> int:
    try:
        return sum(1 for _ in privileged.LEASES.iterdir())
    except OSError:
        return 0
