# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Names in configuration files that no option or section of ours has: oslo.config passes over them in silence."""
from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import glob
import logging
import os
import typing

from oslo_config import cfg

from ovc_plugin import conf as options

LOG = logging.getLogger(__name__)
Options = collections.abc.Iterable[tuple[cfg.OptGroup, list[cfg.Opt]]]
# Whose options keystoneauth1 owns: its names are judged only where somebody tells them.
_OTHERS = ('ovc_nova',)
_ALIKE = 0.85  # a section that does not begin as ours do must be this much like one of them (difflib's ratio)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """``what`` is written where, and ``change``, what was meant. Never the value: it may be a password."""

    what: str
    change: str


def find(conf: cfg.ConfigOpts, more: Options = ()) -> collections.abc.Iterator[Unread]:
    """Those in the files that ``conf`` has read. ``more`` are options of ours beside those of ``conf.list_opts``."""
    known = {group.name: _taken(group.name, opts) for group, opts in (*options.list_opts(), *more)}
    for file in _files(conf):
        for section, keys in _sections(file).items():
            name = section.lower()  # as oslo.config compares them
            if name in known:
                for key in keys:
                    if key not in known[name]:
                        yield Unread(what=f'[{section}] {key} in {file}: there is no such option, and the line does '
                                     'nothing', change=_meant(key, name, known))
            elif name not in _OTHERS and (change := _section_meant(name, (*known, *_OTHERS))):
                yield Unread(what=f'[{section}] in {file}: there is no such section, and its lines do nothing',
                             change=change)


def warn(conf: cfg.ConfigOpts, more: typing.Callable[[], Options] = tuple) -> None:
    """One warning of them all, at a start. Whatever fails here stops nothing."""
    try:
        if found := list(find(conf, more())):
            LOG.warning('the configuration has names that nothing reads: %s',
                        '; '.join(f'{one.what} ({one.change})' for one in found))
    except Exception as error:
        LOG.debug('the names in the configuration could not be looked at: %s', error)


def _taken(group: str, opts: list[cfg.Opt]) -> set[str]:
    """The names by which a file may call these options."""
    return {opt.dest for opt in opts} | {
        old.name or opt.dest for opt in opts for old in opt.deprecated_opts if old.group in (None, group)}


def _files(conf: cfg.ConfigOpts) -> list[str]:
    """In the order in which oslo.config reads them."""
    inside = [file for directory in getattr(conf, 'config_dir', None) or ()
              for file in sorted(glob.glob(os.path.join(directory, '*.conf')))]
    return list(dict.fromkeys([*(getattr(conf, 'config_file', None) or ()), *inside]))


def _sections(file: str) -> dict[str, dict[str, typing.Any]]:
    """What a file has; of one that cannot be read as much as could be, as whoever needs it says so."""
    found: dict[str, dict[str, typing.Any]] = {}
    try:
        cfg.ConfigParser(file, found).parse()
    except (OSError, ValueError, cfg.ParseError) as error:
        LOG.debug('%s is not looked at for names that nothing reads: %s', file, error)
    return found


def _meant(key: str, section: str, known: dict[str, set[str]]) -> str:
    if near := difflib.get_close_matches(key.lower(), sorted(known[section]), n=1):
        return f'write {near[0]}, if that is meant, or remove the line'
    if others := [f'[{other}]' for other, names in known.items() if key in names]:
        return f'move it to {" or ".join(others)}, or remove it'
    return 'remove the line; all options are in etc/ovc/ovc.conf.sample'


def _section_meant(name: str, ours: tuple[str, ...]) -> str | None:
    """``None`` where it is somebody else's."""
    mine = name.strip().startswith('ovc')
    near = difflib.get_close_matches(name, ours, n=1, cutoff=0.6 if mine else _ALIKE)
    if near:
        return f'write [{near[0]}], if that is meant, or remove it'
    return f'ours are {", ".join(f"[{one}]" for one in ours)}' if mine else None
