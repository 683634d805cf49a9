# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Puts a host controller together over libvirt, from settings and a connection."""
from __future__ import annotations

import logging
import pathlib
import select
import typing

from oslo_config import cfg

from ovc_plugin import predictors, privileged, publish, record, rules, watch
from ovc_plugin.act.actuator import Actuator
from ovc_plugin.act.migration import Cloud, Departures
from ovc_plugin.contents import Sampler
from ovc_plugin.controller import Controller
from ovc_plugin.foresight import Foresight
from ovc_plugin.hypervisor.patient import Patient
from ovc_plugin.samples import Counted
from ovc_plugin.sense import pressed, published
from ovc_plugin.sense.sensor import Sensor
from ovc_plugin.settings import HostSettings, Settings

LOG = logging.getLogger(__name__)


def build(host: str, settings: Settings, connect: typing.Callable[[], typing.Any], reserve: int,
          cloud: Cloud | None = None, no_cloud: str = 'this host runs without nova') -> Controller:
    """A controller over libvirt. ``connect`` returns a live connection, ``reserve`` is in bytes. ``cloud`` moves guests
    to other hosts when asked; ``no_cloud`` says why there is none.

    :raises ImportError: libvirt-python is not installed.
    :raises rules.UnknownRule: a rule that the settings name does not load.
    """
    from ovc_plugin.hypervisor.libvirt import LibvirtHypervisor
    options = settings.host
    libvirt = LibvirtHypervisor(connect)
    hypervisor = Patient(libvirt)
    sensor = Sensor(host, hypervisor, options.boundary, run_path=options.run_path,
                    ksm_helper=privileged.merged_pages, publications=_publications(libvirt.read_guest_file, options),
                    pressures=_pressures(Patient(libvirt, most=2).read_pressures, options))
    if not options.require_swap_backing:
        LOG.warning('%s: require_swap_backing is off: guests may be promised more than memory and swap can hold, and '
                    'the kernel may then kill them', host)
    _tell_of_eventlet(host, options)
    store = publish.Store(options.state_path, host, options.run_path)
    # In a dry run too, if there can be any: they are an earlier run's, and would outlive it. But those of another
    # process that controls this host are at work.
    if (not options.dry_run or privileged.LEASES.exists()) and _alone(store):
        _lift_leftovers(host)
    departures = Departures(cloud, measure=hypervisor.measure_dirty, why_not=no_cloud)
    return Controller(
        host=host, settings=settings, sensor=sensor, departures=departures, watch=watch.over(sensor),
        actuator=Actuator(hypervisor, sensor.group_of, ask_away=departures.apply),
        store=store, reserve=reserve, tune_ksm=privileged.set_ksm,
        recorder=record.of(options.state_path, options.record_path, host, options.record_size),
        rules=rules.load(options.rules), foresight=_foresight(host, options), sampler=_sampler(options))


def _alone(store: publish.Store) -> bool:
    try:
        return store.free()
    except OSError:  # as in keeping.Keeper.claim
        return True


def _sampler(options: HostSettings) -> Sampler | None:
    def pid_of(name: str) -> int:
        return int((pathlib.Path(options.run_path) / f'{name}.pid').read_text())

    return Sampler(privileged.page_hashes, pid_of, options.sample_pages) if options.sample_pages else None


def _tell_of_eventlet(host: str, options: HostSettings) -> None:
    if (options.ask_guests or options.ask_monitor) and not hasattr(select, 'poll'):
        LOG.warning('%s: ask_guests and ask_monitor are without effect, as this process runs on eventlet: have it on '
                    'threads (OS_NOVA_DISABLE_EVENTLET_PATCHING=true in nova-compute\'s environment)', host)


def _publications(read: typing.Callable[[str, str], str], options: HostSettings) -> published.Published | None:
    """An agent that hangs would hold all of a nova-compute on eventlet, which has no poll()."""
    return published.Published(read) if options.ask_guests and hasattr(select, 'poll') else None


def _pressures(read: typing.Callable[[str], Counted], options: HostSettings) -> pressed.Pressed | None:
    return pressed.Pressed(read) if options.ask_monitor and hasattr(select, 'poll') else None


def _lift_leftovers(host: str) -> None:
    """Undo what a killed process left; where root actions do not work, say so once, before the first shortage."""
    privileged.prepare(cfg.CONF)
    try:
        for group in privileged.lift_leftovers():
            LOG.warning('%s: a limit left behind by an earlier run was lifted from %s', host, group)
    except Exception as error:
        LOG.error('%s: actions that need root will fail, because the helper does not start (%s): set '
                  '[ovc_privileged] helper_command, for example "sudo privsep-helper", and allow it in sudoers',
                  host, error)


def _foresight(host: str, options: HostSettings) -> Foresight | None:
    """What predicts the host's peaks; without it nothing is predicted, and everything else goes on."""
    if options.predictor == 'none':
        return None
    try:
        predictor = predictors.load(options.predictor)
    except predictors.UnknownPredictor as error:
        LOG.error('%s: no peak is predicted: %s; correct [ovc_host] predictor', host, error)
        return None
    foresight = Foresight(options.predictor, predictor, publish.Store(options.state_path, f'{host}.peaks'))
    foresight.recall()
    return foresight
