# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Reading decision logs for the commands: passes with the settings they were decided under, and what to say of them."""
from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import os
import pathlib
import typing

from ovc_plugin import codec, record, rules
from ovc_plugin.conf import ASK_ROOT, ConfigError
from ovc_plugin.decide import host, why
from ovc_plugin.decide.replay import Pass
from ovc_plugin.decide.rule import Rule
from ovc_plugin.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One pass of a log, the settings in force, and the host's name."""

    passed: Pass
    settings: Settings
    host: str


@dataclasses.dataclass(slots=True)
class Log:
    """The passes of some files in their order; ``remarks`` are complete once they have been gone through."""

    paths: list[pathlib.Path]
    remarks: list[str] = dataclasses.field(default_factory=list)
    unreadable: int = 0

    def __iter__(self) -> typing.Iterator[Entry]:
        """:raises ConfigError: a file may not be read."""
        for path in self.paths:
            lines = record.Lines(path)
            try:
                yield from self._file(path, lines)
            except OSError as error:
                raise _unreadable(path, error) from None
            for remark in lines.remarks:
                self._say(remark)
            self.unreadable += len(lines.remarks)

    def _file(self, path: pathlib.Path, lines: record.Lines) -> typing.Iterator[Entry]:
        settings, name, unknown = None, '', codec.Remarks()
        for fields in lines:
            try:
                if 'record' in fields:
                    name = str(fields.get('host', ''))
                    self._version(path, fields)
                    settings = codec.read(Settings, fields.get('settings'), unknown)
                elif 'pass' in fields:
                    passed = codec.read(Pass, fields['pass'], unknown)
                    if settings is None:
                        self._say(f'{path}: does not say under which settings it was decided; the defaults are taken')
                        settings = Settings()
                    yield Entry(passed=passed, settings=settings, host=name)
            except codec.CodecError as error:
                self.unreadable += 1
                self._say(f'{path}: a line is passed over: {error}')
        if unknown:
            self._say(f'{path}: written by another release: {", ".join(sorted(unknown))} is unknown here and left out')

    def _version(self, path: pathlib.Path, fields: dict[str, typing.Any]) -> None:
        release, here = fields.get('release'), importlib.metadata.version('ovc-plugin')
        if fields['record'] != record.VERSION:
            self._say(f'{path}: has version {fields["record"]}, this release reads {record.VERSION}; what can be read '
                      'of it is')
        elif release != here:
            self._say(f'{path}: recorded by ovc-plugin {release}, decided again by {here}')

    def _say(self, remark: str) -> None:
        if remark not in self.remarks:
            self.remarks.append(remark)


def find(named: typing.Sequence[str]) -> Log:
    """The log of these files, and of all files in these directories.

    :raises ConfigError: one of them is not there, or may not be looked at.
    """
    paths: list[pathlib.Path] = []
    for name in named:
        path = pathlib.Path(name)
        try:
            # Not glob(): to that a directory that may not be listed is empty.
            found = (sorted(path / one for one in os.listdir(path) if '.jsonl' in one) if path.is_dir()
                     else [path] if path.exists() else [])
        except OSError as error:
            raise _unreadable(path, error) from None
        if not found:
            raise ConfigError(f'no decision log at {path}: name a file, or the directory that [ovc_host] record_path '
                              'names (by default /var/lib/ovc/record)')
        paths += found
    return Log(paths)


def _unreadable(path: pathlib.Path, error: OSError) -> ConfigError:
    return ConfigError(f'{path} cannot be read: {error.strerror}'
                       + (f': {ASK_ROOT}' if isinstance(error, PermissionError) else ''))


def decider(settings: Settings) -> why.Decide:
    """The ladder with the rules that these settings name, as they are installed here.

    :raises ConfigError: one of them is not.
    """
    return functools.partial(host.decide_host, rules=_loaded(settings.host.rules))


@functools.cache
def _loaded(names: tuple[str, ...]) -> tuple[Rule, ...]:
    try:
        return rules.load(names)
    except rules.UnknownRule as error:
        raise ConfigError(f'{error}; --set ovc_host.rules=... names others') from None


def when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')


def moment(text: str) -> float:
    """Seconds since the epoch of a time of day; one without a zone is of this machine's."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text} is not a time like 2026-03-01T04:30:00Z') from None
