# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The ``ovc`` command."""
from __future__ import annotations

import importlib.metadata
import logging
import sys

from cliff import app, commandmanager

from ovc_plugin.cli.check import Check
from ovc_plugin.cli.explain import Explain
from ovc_plugin.cli.release import Release
from ovc_plugin.cli.replay import Replay
from ovc_plugin.cli.status import Status


class Ovc(app.App):
    """Safe memory overcommit for KVM clouds: what hosts and guests are doing."""

    NAME = 'ovc'

    def __init__(self) -> None:
        commands = commandmanager.CommandManager('ovc_plugin.commands')
        commands.add_command('status', Status)
        commands.add_command('check', Check)
        commands.add_command('explain', Explain)
        commands.add_command('release', Release)
        commands.add_command('replay', Replay)
        super().__init__(description=self.__doc__, version=importlib.metadata.version('ovc-plugin'),
                         command_manager=commands, deferred_help=True)

    def configure_logging(self) -> None:
        """The libraries' complaints repeat what a command says in words: they are shown on request only."""
        super().configure_logging()
        if self.options.verbose_level <= self.DEFAULT_VERBOSE_LEVEL and not self.options.debug:
            for handler in logging.getLogger().handlers:
                if type(handler) is logging.StreamHandler:
                    handler.addFilter(logging.Filter(self.NAME))


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 when some host did not answer, 2 for wrong usage or configuration."""
    # Without a command cliff would open a shell of its own.
    return Ovc().run((sys.argv[1:] if argv is None else argv) or ['--help'])
