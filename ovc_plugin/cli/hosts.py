# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Which hosts there are, and what each last told nova."""
from __future__ import annotations

import collections.abc
import dataclasses
import os
import queue
import socket
import threading
import time

from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin import report
from ovc_plugin.display import Fields, HostView, number
from ovc_plugin.rpc import Answer

DATABASE_SECONDS = 15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Host names; their last reports where nova's database was read; a remark for the operator. ``whole``: they are all
    that there are, as far as anybody was to be asked for all."""

    names: list[str]
    reports: collections.abc.Mapping[str, str | None] | None = None
    remark: str | None = None
    whole: bool = True


def find(conf: cfg.ConfigOpts, named: list[str]) -> Found:
    """The hosts named, else those in nova's database, else the cloud's compute services, else this machine alone.

    :raises ConfigError: the database or the cloud is configured, and cannot be read.
    """
    if named:
        return Found(names=list(dict.fromkeys(named)))
    if options.is_set(conf, 'api_database', 'connection'):
        try:
            reports = last_reports(conf)
        except options.ConfigError as error:
            raise options.ConfigError(f'{error}, or name hosts with --host') from None
        return Found(names=sorted(reports), reports=reports, remark='; '.join(left_out(reports)) or None,
                     whole=not left_out(reports))
    if cloud_configured():
        return Found(names=_cloud())
    name = options.load_agent(conf).host or socket.gethostname()
    return Found(names=[name], remark=(
        f'asking {name} alone: there is no [api_database] connection in the configuration, and no OS_CLOUD or '
        'OS_AUTH_URL in the environment, to learn of others; name them with --host'))


def left_out(reports: collections.abc.Mapping[str, str | None]) -> tuple[str, ...]:
    """Which cells' hosts are missing there, in words."""
    return getattr(reports, 'left_out', ())


def cloud_configured() -> bool:
    return any(os.environ.get(name) for name in ('OS_CLOUD', 'OS_AUTH_URL'))


def last_reports(conf: cfg.ConfigOpts) -> dict[str, str | None]:
    """The last report of every host of nova's. ``conf`` must not be ``cfg.CONF``: nova takes that one for itself.

    :raises ConfigError: nova is not installed here, or its database cannot be read.
    """
    done: queue.SimpleQueue[dict[str, str | None] | Exception] = queue.SimpleQueue()
    # A thread, because nova tries for minutes to reach a database that is down.
    threading.Thread(target=lambda: done.put(_read_database(conf)), daemon=True).start()
    try:
        found = done.get(timeout=DATABASE_SECONDS)
    except queue.Empty:
        found = TimeoutError(f'no answer within {DATABASE_SECONDS} s')
    if isinstance(found, dict):
        return found
    # The words of a ValueError may be of the URL, and so of the password in it.
    text = 'it is not of the form of a URL' if isinstance(found, ValueError) else str(found).strip().partition('\n')[0]
    remedy = ('run it with the Python of nova-scheduler' if isinstance(found, ImportError)
              else 'check [api_database] connection')
    raise options.ConfigError(f'nova\'s database cannot be read ({type(found).__name__}: {text}): {remedy}')


def _read_database(conf: cfg.ConfigOpts) -> dict[str, str | None] | Exception:
    from ovc_plugin.nova import inventory

    # The message bus may have read it already, and nova adds options of a kind that it only takes before that.
    cfg.CONF.clear()
    try:
        return inventory.last_reports(conf)
    except Exception as error:  # handed over to the thread that asked
        return error


def _cloud() -> list[str]:
    try:
        from ovc_plugin.nova import cloud
        return cloud.compute_hosts()
    except ImportError as error:
        raise options.ConfigError(f'{error}: install openstacksdk, or name hosts with --host') from None
    except cloud.CloudError as error:
        raise options.ConfigError(f'the cloud cannot be asked for its hosts: {error}; check OS_CLOUD or the other '
                                  'OS_* variables, or name hosts with --host') from None


def view(host: str, answer: Answer, last: str | None, now: float | None = None) -> HostView:
    """What is known of a host from its answer, or else from the report that nova has of it."""
    now = time.time() if now is None else now
    if isinstance(answer, dict):
        return HostView(host=host, status=answer, age=_age(answer, now))
    if last is None:
        return HostView(host=host, error=answer)
    try:
        known = report.decode(last)
    except report.ReportError as error:
        return HostView(host=host, error=f'{answer}; and its last report cannot be used: {error}')
    return HostView(host=host, error=answer, last_report=report.to_dict(known), age=known.age(now))


def _age(status: Fields, now: float) -> float | None:
    """By the host's own clock where it says so, since the two clocks may differ."""
    tick, told = status.get('tick'), status.get('report')
    if isinstance(tick, dict) and number(tick.get('age')):
        return float(tick['age'])
    taken = told.get('taken_at') if isinstance(told, dict) else None
    return now - float(taken) if taken is not None and number(taken) else None
