# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The knobs of ``settings`` as oslo.config options, and back.

An option is made from its field: unit ``MiB`` turns ``swap_step`` (bytes) into ``swap_step_mb``; bounds, choices, help
and whether it may change while running are the field's own. So nothing about a knob stands in two places.
"""
from __future__ import annotations

import dataclasses
import math
import os
import typing

from oslo_config import cfg

from ovc_plugin import privileged, settings
from ovc_plugin.decide import guarantee
from ovc_plugin.model import MIB

Field = dataclasses.Field[typing.Any]

NOVA_CONF = '/etc/nova/nova.conf'
OVC_CONF = '/etc/ovc/ovc.conf'
ASK_ROOT = 'run this as root, or as a user that may read it'

Group = typing.Any  # one of the dataclasses of settings.GROUPS, or AgentSettings


class ConfigError(ValueError):
    """Configuration that cannot be used; one line per fault, each naming file, group, option, value and remedy."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Group ``[ovc_agent]``: ovc-agent, the host controller without nova."""

    GROUP: typing.ClassVar[str] = 'ovc_agent'

    connection_uri: str = settings.knob('qemu:///system', 'The libvirt to manage, as a libvirt connection URI.')
    host: str = settings.knob(
        '', 'Name of this host in reports and for "ovc status". Empty takes the machine\'s own name.')


_GROUPS: tuple[Group, ...] = (*settings.GROUPS, AgentSettings)
_TITLES = {
    'ovc': 'What schedulers and hosts must agree on: set it alike on all of them',
    'ovc_host': 'The controller on each host, in nova-compute or ovc-agent',
    'ovc_scheduler': 'The filter and the weigher in nova-scheduler',
    'ovc_agent': 'ovc-agent, the host controller where there is no nova',
}
_UNITS = {'s': 'seconds', 'MiB': 'MB (1048576 bytes)'}


def option_name(field: Field) -> str:
    return f'{field.name}_mb' if field.metadata['unit'] == 'MiB' else field.name


def _to_mb(amount: typing.Any) -> int | None:
    """Bytes to MB; a negative number is a sentinel, not a quantity."""
    return None if amount is None else int(amount) if amount < 0 else int(amount) // MIB


def _from_mb(amount: int) -> int:
    return amount if amount < 0 else amount * MIB


def _bounds(field: Field) -> tuple[typing.Any, typing.Any]:
    low, high = field.metadata['low'], field.metadata['high']
    return (_to_mb(low), _to_mb(high)) if field.metadata['unit'] == 'MiB' else (low, high)


def _option(field: Field) -> cfg.Opt:
    meta = field.metadata
    name, text, unit = option_name(field), meta['help'], _UNITS.get(meta['unit'], meta['unit'])
    if unit.lower() not in text.lower():
        text = f'{text} Unit: {unit}.'
    common = {'default': field.default, 'help': text, 'mutable': meta['mutable']}
    if field.type == 'bool':
        return cfg.BoolOpt(name, **common)
    if field.type == 'str':
        return cfg.StrOpt(name, choices=list(meta['choices']) or None, **common)
    if field.type == 'tuple[str, ...]':
        return cfg.ListOpt(name, **{**common, 'default': list(field.default)})
    low, high = _bounds(field)
    if meta['unit'] == 'MiB':
        common['default'] = _to_mb(field.default)
    kind: type[cfg.IntOpt] | type[cfg.FloatOpt] = cfg.IntOpt if field.type == 'int' else cfg.FloatOpt
    return kind(name, min=low, max=high, **common)


def _options(group: Group) -> list[cfg.Opt]:
    return [_option(field) for field in dataclasses.fields(group)]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Every option with its group, for oslo-config-generator."""
    return [*_own(), *privileged.list_opts()]


def _own() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    return [(cfg.OptGroup(group.GROUP, help=_TITLES[group.GROUP]), _options(group)) for group in _GROUPS]


def register(conf: cfg.ConfigOpts) -> None:
    """Make the options known to ``conf`` (in nova: ``nova.conf.CONF``). Doing it twice does no harm."""
    for group, options in _own():
        conf.register_opts(options, group=group)


def load(conf: cfg.ConfigOpts) -> settings.Settings:
    """Read every option now, so that a bad value shows at the start and not in the middle of a pass.

    :raises ConfigError: a value of the wrong type, out of its bounds, or at odds with another.
    """
    faults: list[str] = []
    shared = _read(conf, settings.SharedSettings, faults)
    host = _read(conf, settings.HostSettings, faults)
    scheduler = _read(conf, settings.SchedulerSettings, faults)
    if not faults:
        loaded = settings.Settings(shared=shared, host=host, scheduler=scheduler)
        faults = list(_at_odds(conf, loaded))
    if faults:
        raise ConfigError('\n'.join(faults))
    return loaded


def load_agent(conf: cfg.ConfigOpts) -> AgentSettings:
    """The agent's own options.

    :raises ConfigError: as :func:`load`.
    """
    faults: list[str] = []
    loaded = _read(conf, AgentSettings, faults)
    if faults:
        raise ConfigError('\n'.join(faults))
    return typing.cast(AgentSettings, loaded)


def _read(conf: cfg.ConfigOpts, group: Group, faults: list[str]) -> typing.Any:
    values: dict[str, typing.Any] = {}
    for field in dataclasses.fields(group):
        try:
            value = conf[group.GROUP][option_name(field)]
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError('not a finite number')
        except (ValueError, cfg.Error) as error:
            faults.append(_fault(conf, group, field, str(error)))
            continue
        if isinstance(value, list):
            value = tuple(value)  # tuple(value) if several
        values[field.name] = _from_mb(value) if field.metadata['unit'] == 'MiB' else value
    return None if faults else group(**values)


def _fault(conf: cfg.ConfigOpts, group: Group, field: Field, why: str) -> str:
    value, place = _written(conf, group.GROUP, option_name(field))
    why = why.rpartition('is not valid: ')[2].rstrip('.')
    default = _option(field).default
    return (f'[{group.GROUP}] {option_name(field)} = {value} in {place}: {why}; '
            f'set {_permitted(field)}, or remove the line (default {default})')


def _permitted(field: Field) -> str:
    if field.type == 'bool':
        return 'true or false'
    if field.type == 'str':
        return 'one of ' + ', '.join(field.metadata['choices'])
    kind = 'a whole number' if field.type == 'int' else 'a number'
    low, high = _bounds(field)
    return f'{kind} from {low} to {high}' if low is not None else kind


def _written(conf: cfg.ConfigOpts, group: str, name: str) -> tuple[str, str]:
    """What the operator wrote and where, read again as plain text: oslo.config's own error keeps back the value."""
    try:
        plain = _plain(conf, group, name)
        location = plain.get_location(name, group)
        return str(plain[group][name]), location.detail if location else 'the defaults'
    except (ValueError, cfg.Error):
        return '(unreadable)', 'the configuration'


def _plain(conf: cfg.ConfigOpts, group: str, name: str) -> cfg.ConfigOpts:
    """The same files, with one option read as text; ``conf`` itself stays free for its owner to register it."""
    plain = cfg.ConfigOpts()
    plain.register_opt(cfg.StrOpt(name), group=group)
    plain([], default_config_files=list(conf.config_file or ()), default_config_dirs=list(conf.config_dir or ()))
    return plain


def is_set(conf: cfg.ConfigOpts, group: str, name: str) -> bool:
    """Whether the files of ``conf`` give a value to an option that another project owns."""
    try:
        return bool(_plain(conf, group, name)[group][name])
    except (ValueError, cfg.Error):
        return False


def _at_odds(conf: cfg.ConfigOpts, loaded: settings.Settings) -> typing.Iterator[str]:
    """Faults between options, each in words."""
    host, ours = loaded.host, settings.HostSettings

    def wrong(group: Group, name: str, remedy: str) -> str:
        value, place = _written(conf, group.GROUP, name)
        value = str(conf[group.GROUP][name]) if place == 'the defaults' else value
        return f'[{group.GROUP}] {name} = {value} in {place}: {remedy}'

    if host.min_ratio > host.max_ratio:
        yield wrong(ours, 'min_ratio', f'above max_ratio = {host.max_ratio}; lower it or raise max_ratio')
    if host.stall_soft > host.stall_hard:
        yield wrong(ours, 'stall_soft', f'above stall_hard = {host.stall_hard}; lower it or raise stall_hard')
    if host.boundary != 'machine' and not host.boundary.startswith('/'):
        yield wrong(ours, 'boundary', 'set "machine" or the directory of a control group: /sys/fs/cgroup/machine.slice')
    if not host.state_path.startswith('/'):
        yield wrong(ours, 'state_path', 'set a directory of its own, with all its path: /var/lib/ovc')
    try:
        # No flavor is this large, so that an amount in MB is judged by its form alone.
        guarantee.reservation(loaded.shared.default_reservation, 1 << 60)
    except ValueError as error:
        yield wrong(settings.SharedSettings, 'default_reservation', str(error))


def read_files(conf: cfg.ConfigOpts, files: typing.Iterable[str], directories: typing.Iterable[str] = (), *, prog: str,
               also: typing.Iterable[typing.Callable[[cfg.ConfigOpts], None]] = ()) -> None:
    """Give ``conf`` our options, what ``also`` registers, and the values of ``files``, then of the files in
    ``directories``.

    A program that goes on to ``rpc`` passes ``cfg.CONF``: oslo.messaging registers some of its options nowhere else.

    :raises ConfigError: one that is missing, may not be read, or is not of the form that oslo.config reads.
    """
    conf.clear()
    for more in (register, *also):
        more(conf)
    files, inside = list(files), list(directories)
    try:
        list(map(os.listdir, inside))  # oslo.config would take one that it may not list for an empty one
        conf([], project='ovc', prog=prog, default_config_files=files, default_config_dirs=inside)
    except (cfg.ConfigFilesPermissionDeniedError, PermissionError) as error:
        raise ConfigError(f'{error}: {ASK_ROOT}') from None
    except (cfg.ConfigFilesNotFoundError, OSError) as error:
        raise ConfigError(f'{error}: name an existing, readable file with --config-file'
                          + (', and a directory with --config-dir' if inside else '')) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f'{", ".join([*files, *inside])}: {error}: write it in UTF-8') from None
    except (cfg.Error, ValueError) as error:
        line = error.__context__
        text = f'{line.filename}:{line.lineno}: {line.msg}' if isinstance(line, cfg.ParseError) else str(error)
        raise ConfigError(f'{text}: mend that line of the file') from None  # which is not shown: it may be a password
