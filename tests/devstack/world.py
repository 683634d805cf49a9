# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A machine as DevStack finds it: files below one directory, a systemd and a sudo that note what they are asked."""
from __future__ import annotations

import os
import pathlib
import subprocess
import textwrap

from oslo_config import cfg

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRIVE = ROOT / 'tests' / 'devstack' / 'drive'

# Section to option to its values; an option may be given more than once.
Options = dict[str, dict[str, list[str]]]

# What stack.sh does, as far as it concerns nova and plugins, in its order.
STACK = ('stack pre-install', 'stack install', 'nova-conf', 'stack post-config', 'local-conf', 'nova-start',
         'stack extra', 'stack test-config')
# clean.sh calls unstack.sh first.
UNSTACK = ('unstack', 'nova-stop')
CLEAN = (*UNSTACK, 'clean')


def read(path: pathlib.Path) -> Options:
    """The options of a file as oslo.config finds them; {} where there is none, and no section without options."""
    sections: Options = {}
    if path.exists():
        cfg.ConfigParser(str(path), sections).parse()
    return {name: options for name, options in sections.items() if options}


def readme() -> Options:
    """What README.rst tells an operator to write into nova.conf."""
    blocks = (ROOT / 'README.rst').read_text().split('.. code-block:: ini\n')[1:]
    found: Options = {}
    for block in blocks:
        lines = block.splitlines()[1:]
        indent = len(lines[0]) - len(lines[0].lstrip())
        end = next(n for n, line in enumerate(lines) if line and len(line) - len(line.lstrip()) < indent)
        parser = cfg.ConfigParser('', found)
        super(cfg.ConfigParser, parser).parse(textwrap.dedent('\n'.join(lines[:end])).splitlines(keepends=True))
    return found


class World:
    def __init__(self, path: pathlib.Path, devstack: str = '') -> None:
        """:param devstack: a checkout of DevStack whose functions to use; our own where empty."""
        self.path, self._devstack = path, devstack
        (path / 'units').mkdir()
        (path / 'calls').touch()

    def run(self, *steps: str, **variables: str) -> str:
        """Take the steps in one shell, as one run of stack.sh; returns what it printed, errors included.

        :raises AssertionError: a step has failed.
        """
        variables.setdefault('LOCAL', 'DEFAULT debug True')
        environment = {name: value for name, value in os.environ.items() if not name.startswith(('OVC_', 'DEVSTACK'))}
        environment |= {'WORK': str(self.path), 'DEVSTACK_DIR': self._devstack, **variables}
        done = subprocess.run(['bash', str(DRIVE), *steps], env=environment, cwd=self.path, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        return done.stdout

    @property
    def nova_conf(self) -> Options:
        return read(self.path / 'nova.conf')

    @property
    def nova_cpu_conf(self) -> Options:
        return read(self.path / 'nova-cpu.conf')

    @property
    def state(self) -> pathlib.Path:
        return self.path / 'data' / 'ovc'

    @property
    def calls(self) -> list[str]:
        """What pip, systemctl and sudo were asked on behalf of the plugin: DevStack's own units are left out."""
        return [line for line in (self.path / 'calls').read_text().splitlines()
                if line.startswith(('pip ', 'systemctl ', 'sudo install', 'sudo rm'))
                and 'devstack@' not in line and 'daemon-reload' not in line]

    @property
    def names(self) -> set[str]:
        """Variables and functions that the shell knew in the end."""
        return set((self.path / 'names').read_text().split())

    @property
    def files(self) -> dict[str, bytes]:
        """All that the plugin and DevStack have written, without what was noted for the tests."""
        return {str(path.relative_to(self.path)): path.read_bytes() for path in sorted(self.path.rglob('*'))
                if path.is_file() and path.name not in ('calls', 'names', 'nova-filters')}

    def unit(self, name: str, words: str | None = None) -> set[str]:
        """What systemd knows of a unit, "enabled" and "active"; with ``words``, install it so."""
        path = self.path / 'units' / name
        if words is not None:
            path.write_text(words + '\n')
        return set(path.read_text().split()) if path.exists() else set()
