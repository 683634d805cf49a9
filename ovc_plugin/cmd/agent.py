# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc-agent``: the host controller where there is no nova, on any libvirt host."""
from __future__ import annotations

import argparse
import dataclasses
import gc
import logging
import os
import queue
import signal
import socket
import sys
import threading
import typing

import rich.console
from oslo_config import cfg
from oslo_log import log

from ovc_plugin import assembly, controller, display, keeping, privileged, publish, rpc, rules, unread
from ovc_plugin import conf as options
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.decide.state import LadderState
from ovc_plugin.hypervisor.connection import Connection
from ovc_plugin.model import MIB
from ovc_plugin.settings import Settings

LOG = logging.getLogger(__name__)
RESERVE = 512 * MIB

EXAMPLES = '''\
examples:
  ovc-agent --once                 one look at this host's guests, and what would be done; in a dry
                                   run (the default) nothing is
  ovc-agent                        keep going; ^C or SIGTERM ends it, and gives guests what is free
  ovc-agent --lift                 put back limits that a killed one left lowered, and page sharing as it was;
                                   etc/systemd/ovc-agent.service does so whenever it has ended
  kill -HUP PID                    read the files again; options marked so in the sample file change

A file needs nothing but what differs from etc/ovc/ovc.conf.sample, for example:
  [ovc_host]
  dry_run = false

exit status:
  0  ended by a signal; with --once or --lift: it is done
  1  the host cannot be looked at, another process controls it and this is no dry run (--once),
     or something could not be put back (--lift)
  2  wrong usage or configuration; the message names the remedy
'''


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='ovc-agent', formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES,
        description='Keep the memory of this libvirt host in order: sense, decide, act, report; without nova.')
    parser.add_argument('--config-file', action='append', default=[], metavar='FILE',
                        help=f'may be given more than once (default: {options.OVC_CONF} if it is there)')
    parser.add_argument('--once', action='store_true',
                        help='one pass: print the host, its guests, the plan and its reasons, and exit')
    parser.add_argument('--lift', action='store_true',
                        help='lift limits that a killed controller left on guests, put page sharing back as it was '
                             'found, and exit')
    parser.add_argument('--debug', action='store_true', help='log the numbers behind each decision')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0; 1 when the host cannot be sensed, or another process controls it, or what a killed one left
    cannot be put back; 2 for wrong usage or configuration."""
    args = _arguments(sys.argv[1:] if argv is None else argv)
    conf = cfg.CONF
    try:
        default = [options.OVC_CONF] if os.path.exists(options.OVC_CONF) else []
        options.read_files(conf, args.config_file or default, prog='ovc-agent', also=(log.register_options,))
        conf.set_default('debug', args.debug)
        log.setup(conf, 'ovc')
        # Also in a dry run: SIGHUP may end that.
        privileged.prepare(conf)
        if args.lift:
            return max(_lift(), _put_sharing_back(conf, options.load(conf)))
        unread.warn(conf)
        if args.once and not args.debug:
            logging.disable(logging.WARNING)  # all of it is in what is printed
        host, built = _build(conf, options.load(conf), record=not args.once)
    except (options.ConfigError, rpc.RpcError) as error:
        print(f'ovc-agent: {error}', file=sys.stderr)
        return 2
    return _once(host, built) if args.once else _Agent(conf, host, built).run()


def _build(conf: cfg.ConfigOpts, settings: Settings, *, record: bool) -> tuple[str, controller.Controller]:
    if not record:
        settings = dataclasses.replace(settings, host=dataclasses.replace(settings.host, record_path=''))
    agent = options.load_agent(conf)
    host = agent.host or socket.gethostname()
    reserve = settings.host.reserve if settings.host.reserve >= 0 else RESERVE
    try:
        return host, assembly.build(host, settings, Connection(agent.connection_uri), reserve)
    except ImportError as error:
        raise options.ConfigError(f'{error}: install python3-libvirt from your distribution, or libvirt-python with '
                                  'pip') from None
    except rules.UnknownRule as error:
        raise options.ConfigError(f'{error}; correct [ovc_host] rules') from None


def _once(host: str, built: controller.Controller) -> int:
    alone = built.claim()
    built.recall()
    try:
        plan, outcomes = built.run_pass()
        outcomes += built.finish()
    except (OSError, KeyError, ValueError) as error:
        print(f'ovc-agent: this host\'s memory cannot be read: {error}; check boundary in [ovc_host]', file=sys.stderr)
        return 1
    status = built.status()
    if status['report'] is None:
        print(f'ovc-agent: {"; ".join(status["notes"])}: start libvirtd (or virtqemud) and let this user ask it, or '
              'correct connection_uri in [ovc_agent]', file=sys.stderr)
        return 1
    view = display.HostView(host=host, status=status, age=0.0)
    console = rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else display.WIDTH)
    names = {guest['uuid']: guest['name'] for guest in status['guests']}
    for part in (display.hosts([view]), display.guests([view], plan_time(status)), display.plan(plan, outcomes, names)):
        console.print(part, soft_wrap=True)
    return int(not alone and not built.settings.host.dry_run)


def _lift() -> int:
    if not privileged.LEASES.exists():
        return 0  # nothing was ever lowered since the host started
    try:
        for group in privileged.lift_leftovers():
            print(f'limit lifted from {group}')
        if left := sum(1 for _ in privileged.LEASES.glob('*')):
            print(f'ovc-agent: {left} limits are not let go by the kernel now: run this again, or see '
                  f'{privileged.LEASES}', file=sys.stderr)
            return 1
    except Exception as error:
        print(f'ovc-agent: limits could not be lifted: {error}', file=sys.stderr)
        return 1
    return 0


def _put_sharing_back(conf: cfg.ConfigOpts, settings: Settings) -> int:
    """Page sharing as a killed one has found it, unless another process controls this host by now."""
    host = options.load_agent(conf).host or socket.gethostname()
    store = publish.Store(settings.host.state_path, host, settings.host.run_path)
    kept = keeping.Keeper(host, store, Chronicle(host))
    problem = None
    try:
        if not store.path.exists() or not store.claim():
            return 0
        remembered = kept.recall() or LadderState()
        if (before := kept.ksm_before) is None:
            return 0
        problem = kept.restore_ksm(privileged.set_ksm, remembered)
    except OSError as error:
        problem = str(error)
    finally:
        store.give_up()
    if problem:
        print(f'ovc-agent: page sharing could not be put back: {problem}', file=sys.stderr)
        return 1
    print(f'page sharing put back to run={before.run}')
    return 0


def plan_time(status: dict[str, typing.Any]) -> float:
    """When the pass just made was made, by the clock that stamps actions."""
    return float(status['report']['taken_at'])


class _Agent:
    """The main thread: waits for signals, and lets the controller and the message bus run in theirs."""

    def __init__(self, conf: cfg.ConfigOpts, host: str, built: controller.Controller) -> None:
        self._conf, self._host, self._controller = conf, host, built
        # Not an Event: its lock, taken by a handler that the next signal interrupts, would never come free.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._server: typing.Any = None

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        # What has been loaded stays: no collection need ever look through it again.
        gc.collect()
        gc.freeze()
        self._controller.start()
        LOG.info('%s: started%s', self._host, ', in a dry run: set dry_run = false in [ovc_host] to act'
                 if self._controller.settings.host.dry_run else '')
        # A broker that is down must not keep the host's memory from being looked after.
        bus = threading.Thread(target=self._serve, name='ovc-rpc', daemon=True)
        bus.start()
        while self._signals.get() == signal.SIGHUP:
            self._reload()
        LOG.info('%s: ending; guests are given what is free', self._host)
        self._controller.stop()
        if self._server is not None:
            self._server.stop()
        return 0

    def _signalled(self, number: int, _frame: typing.Any) -> None:
        self._signals.put(number)

    def _serve(self) -> None:
        if not rpc.has_transport(self._conf):
            LOG.info('%s: transport_url is not set, so "ovc status" cannot ask this host', self._host)
            return
        try:
            self._server = rpc.serve(rpc.transport(self._conf), self._host, rpc.StatusEndpoint(
                self._controller.status, self._controller.explain))
            LOG.info('%s: answers "ovc status"', self._host)
        except Exception:
            LOG.exception('%s: "ovc status" cannot be answered; check transport_url and restart', self._host)

    def _reload(self) -> None:
        """Take what may change while running; a file that cannot be used changes nothing."""
        try:
            self._conf.mutate_config_files()
            self._controller.settings = options.load(self._conf)
            LOG.info('%s: configuration read again', self._host)
        except (cfg.Error, ValueError) as error:
            LOG.error('%s: configuration not taken over: %s', self._host, error)
