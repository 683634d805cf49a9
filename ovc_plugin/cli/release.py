# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""``ovc release``: leave a host as if the plugin had never been there, as far as there is room."""
from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import socket
import time
import typing

from cliff import command
from oslo_config import cfg

from ovc_plugin import conf as options
from ovc_plugin import describe, keeping, parting, privileged, publish
from ovc_plugin.act.balloon import apply as ask
from ovc_plugin.chronicle import Chronicle
from ovc_plugin.cli import bus, check_host, check_state, findings
from ovc_plugin.decide import leave
from ovc_plugin.decide.state import LadderState
from ovc_plugin.hypervisor.connection import Connection
from ovc_plugin.hypervisor.patient import Patient
from ovc_plugin.hypervisor.protocol import Hypervisor
from ovc_plugin.model import MIB, HostSnapshot, Level, Outcome, Plan, SetBalloon
from ovc_plugin.settings import Settings

LOG = logging.getLogger('ovc')
PAUSE = 2.0

EXAMPLES = '''\
Run it on the host, as root, while nova-compute (or ovc-agent) is stopped, or in a dry run. To
turn the plugin off, stop it, run this, remove the plugin's lines from nova.conf and start
nova-compute again. "ovc check" says whether anything is left.

Guests get memory back only as the host has room beyond its minimum. What is missing is told:
move guests away and run it again, or let it come from swap with --into-swap. A guest that is
started anew has its full size in any case.

examples:
  ovc release                       with what nova reads in /etc/nova
  ovc release --dry-run             only say what would be done
  ovc release --connect qemu:///system --config-file /etc/ovc/ovc.conf

exit status:
  0  nothing of the plugin is left on this host
  1  something is; it is told what, and why
  2  wrong usage, a file that cannot be read, or the controller is still at work
'''


class Release(command.Command):
    """Lift limits, give guests their full size as room allows, and put page sharing and placement's ratio back."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = EXAMPLES
        bus.add_config_arguments(parser, 'that the controller has read')
        parser.add_argument('--connect', metavar='URI', help='libvirt to ask (default: as in the configuration)')
        parser.add_argument('--host', metavar='HOST', help='name under which the controller kept its state (default: '
                            'as in the configuration, else this machine\'s)')
        parser.add_argument('--wait', type=bus.seconds, default=30.0, metavar='S',
                            help='seconds to go on while guests grow and room comes free (default: 30)')
        parser.add_argument('--into-swap', action='store_true',
                            help='give what the host has no room for, too, as far as its swap is free')
        parser.add_argument('--dry-run', action='store_true', help='say what would be done')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        try:
            return self._run(parsed_args)
        except PermissionError as error:
            LOG.error('ovc release: %s: run it as root', error)
        except (options.ConfigError, OSError) as error:
            LOG.error('ovc release: %s', error)
        except ImportError as error:
            LOG.error('ovc release: %s: run it with the Python of nova-compute or ovc-agent, which has libvirt-python',
                      error)
        return 2

    def _run(self, args: argparse.Namespace) -> int:
        conf, settings = configured(args)
        host = args.host or conf.host or options.load_agent(conf).host or socket.gethostname()
        store = publish.Store(settings.host.state_path, host, settings.host.run_path)
        # Where there is no directory for the claim, none is made.
        if not (store.claim() if os.path.isdir(settings.host.state_path) else store.free()):
            raise options.ConfigError('the host controller is at work here and would take back what is given: stop '
                                      'nova-compute (or ovc-agent) first')
        try:
            return self._release(args, conf, settings, host, store)
        finally:
            store.give_up()

    def _release(self, args: argparse.Namespace, conf: cfg.ConfigOpts, settings: Settings, host: str,
                 store: publish.Store) -> int:
        uri = args.connect or str(conf.libvirt.connection_uri or options.load_agent(conf).connection_uri)
        connect = Connection(uri)

        def look() -> HostSnapshot:
            return check_host.sense(conf, settings, uri, connect)
        left = [*limits(args.dry_run), *self._sizes(look, connect, settings, args), *sharing(host, store, args.dry_run),
                *ratio(conf, settings, host, args.dry_run)]
        for line in left:
            print(f'left: {line}', file=self.app.stdout)
        if not left:
            print('nothing of the plugin is left on this host', file=self.app.stdout)
        return int(bool(left))

    def _sizes(self, look: typing.Callable[[], HostSnapshot], connect: Connection, settings: Settings,
               args: argparse.Namespace) -> typing.Iterator[str]:
        from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor
        return sizes(look, Patient(LibvirtHypervisor(connect)), settings, args,
                     lambda line: print(line, file=self.app.stdout, flush=True))


def configured(args: argparse.Namespace) -> tuple[cfg.ConfigOpts, Settings]:
    """:raises ConfigError: a file that cannot be read or used."""
    read, conf = bus.sources(args), cfg.ConfigOpts()
    if not any(read):
        LOG.warning('ovc release: neither %s nor %s is there: the defaults are taken, unless the controller\'s file is '
                    'named with --config-file', options.NOVA_CONF, options.OVC_CONF)
    also: list[typing.Callable[[cfg.ConfigOpts], None]] = [findings.register]
    try:
        from ovc_plugin.nova import preflight
        also.append(preflight.register)
    except ImportError:
        LOG.debug('keystoneauth1 is not installed; placement is not asked')
    options.read_files(conf, *read, prog='ovc', also=also)
    options.read_files(cfg.CONF, *read, prog='ovc')
    privileged.prepare(cfg.CONF)
    return conf, options.load(conf)


def limits(dry_run: bool) -> typing.Iterator[str]:
    """Lift limits that a killed controller left; yields what could not be."""
    if not check_state.leases():
        return
    if dry_run:
        yield f'{check_state.leases()} lowered limits (dry run)'
        return
    try:
        for group in privileged.lift_leftovers():
            LOG.warning('ovc release: limit lifted from %s', group)
        if left := check_state.leases():
            yield (f'{left} lowered limits, which the kernel does not let go now: run this again, or see '
                   f'{privileged.LEASES}')
    except Exception as error:  # whatever the helper says, the rest can still be done
        yield f'{check_state.leases()} lowered limits: {error}'


def sizes(look: typing.Callable[[], HostSnapshot], hypervisor: Hypervisor, settings: Settings,
          args: argparse.Namespace, say: typing.Callable[[str], None]) -> typing.Iterator[str]:
    """Grow guests step by step, as the host has room; yields what they lack in the end, and why."""
    deadline, handed, first = time.monotonic() + args.wait, 0, None
    while True:
        snapshot = look()
        if said := check_host.silence(snapshot):
            yield f'what guests lack, which is not known ({said}): {findings.ASK_LIBVIRT}, and run this again'
            return
        first = snapshot.available if first is None else first
        # Room that was handed out looks free until guests take it up.
        taken_up = max(0, first - snapshot.available)
        back = leave.give_back(snapshot, settings.host, max(0, handed - taken_up), into_swap=args.into_swap)
        plan = Plan(level=Level.CLEAR, actions=(), reason='release')
        if args.dry_run:
            for action in back.actions:
                say(f'would {describe.verb(action, names(snapshot))}: {action.reason}')
            break
        done = parting.give_back(snapshot, settings.host, plan, lambda plan: asked(plan, hypervisor),
                                 handed=max(0, handed - taken_up), into_swap=args.into_swap, seconds=args.wait)
        handed += done.given
        for outcome in done.outcomes:
            say(describe.sentence(outcome, names(snapshot)))
        if not back.lacking or time.monotonic() + PAUSE > deadline:
            break
        time.sleep(PAUSE)
    if back.lacking:
        guests = [g.name for g in snapshot.running if leave.lack(g)]
        yield (f'{len(guests)} guests ({", ".join(guests[:5])}) lack {back.lacking // MIB} MB; the host has room for '
               f'{back.room // MIB} MB more beyond its minimum: move guests away and run this again, or let it come '
               f'from {snapshot.swap_free // MIB} MB of free swap with --into-swap; a guest that is started anew has '
               'its full size')


def names(snapshot: HostSnapshot) -> dict[str, str]:
    return {guest.uuid: guest.name for guest in snapshot.guests}


def asked(plan: Plan, hypervisor: Hypervisor) -> list[Outcome]:
    found = []
    for action in plan.actions:
        assert isinstance(action, SetBalloon)
        try:
            ask(action, hypervisor)
            found.append(Outcome(action=action, done=True))
        except Exception as error:  # one guest's failure must not cost the others their turn
            found.append(Outcome(action=action, done=False, error=f'{type(error).__name__}: {error}'))
    return found


def sharing(host: str, store: publish.Store, dry_run: bool) -> typing.Iterator[str]:
    """Page sharing as it was found, where a killed controller did not put it back."""
    keeper = keeping.Keeper(host, store, Chronicle(host))
    remembered = keeper.recall() or LadderState()
    if keeper.ksm_before is None:
        return
    if dry_run:
        yield f'page sharing, to be put back to run={keeper.ksm_before.run} (dry run)'
    elif problem := keeper.restore_ksm(privileged.set_ksm, dataclasses.replace(remembered, asked={})):
        yield f'page sharing could not be put back: {problem}'


def ratio(conf: cfg.ConfigOpts, settings: Settings, host: str, dry_run: bool) -> typing.Iterator[str]:
    """Placement's ratio, where a killed nova-compute did not give it back."""
    store = publish.Store(f'{settings.host.state_path}/ratio', host, durable=True)
    kept = store.load()
    if store.torn:
        yield (f'perhaps placement\'s allocation_ratio of this host: {store.path} says nothing, so whether it is the '
               'plugin\'s is not known; look at it (openstack resource provider inventory list UUID), set it with '
               'openstack resource provider inventory set --resource MEMORY_MB:allocation_ratio='
               f'{conf.initial_ram_allocation_ratio:g} --amend UUID, and remove that file')
    if not kept.get('ratios'):
        return
    initial = float(kept.get('before') or conf.initial_ram_allocation_ratio)
    if dry_run:
        yield f'placement\'s allocation_ratio, to be put back to {initial:g} (dry run)'
        return
    try:
        from ovc_plugin.nova import preflight
        preflight.give_back(preflight.adapter(conf), str(kept['provider']), [float(r) for r in kept['ratios']], initial)
        store.save({})
    except Exception as error:  # said, with what can be done by hand
        yield (f'placement\'s allocation_ratio of this host is the plugin\'s ({error}): openstack resource provider '
               f'inventory set --resource MEMORY_MB:allocation_ratio={initial:g} --amend {kept.get("provider")}')
