# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Cloud: what the command line, the demo and the tests use."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import cgroup, client, config, ending, hosts, parts, report, steps, wipe
from .errors import OneboxError
from .hosts import Host
from .options import Options
from .process import Runner
from .progress import Progress
from .state import CHECKOUT, State, default_state_dir, only_one, running_record


class Cloud:
    """One cloud in one state directory. There is at most one at a time on a machine.

    Without options it is the cloud that is recorded there. Every method raises OneboxError with a
    sentence for the user; after one, or after an interruption, up() continues and wipe() cleans.
    """

    def __init__(self, state_dir: Path | None = None, options: Options | None = None,
                 say: Progress | None = None) -> None:
        self.state = State(state_dir or default_state_dir())
        self._options = options
        self.say = say or Progress()
        self._ours = False

    @property
    def options(self) -> Options:
        options = self._options or self.state.options()
        if options is None:
            raise OneboxError(f"there is no cloud in {self.state.dir}: run 'onebox up'")
        return options

    @property
    def runner(self) -> Runner:
        found = cgroup.find(self.state.group_name)
        return Runner(self.state, found[0] if found else cgroup.own_group() / self.state.group_name)

    @property
    def hosts(self) -> list[Host]:
        return hosts.all_hosts(self.runner, self.options)

    @contextlib.contextmanager
    def while_up(self, *, keep: bool = False, last: Callable[[], None] | None = None) -> Iterator[None]:
        """A fresh cloud for a block, gone afterwards unless it is kept, whatever ended it, its start included.

        ``last`` is called before it goes. A cloud that is there already is somebody's: it is refused, and stays.
        """
        try:
            self.up(fresh=True)
            yield
        finally:
            try:
                if self._ours and last:
                    last()
            finally:
                if self._ours and not keep:
                    self.wipe()

    def up(self, *, fresh: bool = False) -> bool:
        """Bring it up, or what of it is missing; False when all of it was up already. ``fresh``: only where none is."""
        ending.as_interrupted()
        with only_one():
            if fresh and wipe.is_anything_there(self.state):
                raise OneboxError(f"there is a cloud in {self.state.dir}, perhaps somebody's: run 'onebox wipe' first")
            options = self._options or self.state.options() or Options()
            runner = self.runner
            if self._refuse_or_is_up(runner, options):
                return False
            self._ours = True
            self.state.create()
            self.state.save(options)
            steps.prepare_machine(runner, options, self.say)
            steps.start_hosts(runner, options)
            steps.start_services(runner, options, self.say)
            return True

    def _refuse_or_is_up(self, runner: Runner, options: Options) -> bool:
        other = running_record()
        if other and other["state"] != str(self.state.dir):
            raise OneboxError(f"a cloud is up in {other['state']} (started from {other['checkout']}), and the machine "
                              f"has room for one: run 'onebox wipe --state {other['state']}' first")
        recorded = self.state.options()
        if recorded is not None and recorded != options:
            raise OneboxError(f"the cloud in {self.state.dir} has other options ({recorded.describe()}): "
                              "use the same, or run 'onebox wipe' first")
        if other and other["checkout"] != str(CHECKOUT):
            raise OneboxError(f"the cloud in {self.state.dir} was started from {other['checkout']}: "
                              "use that checkout, or run 'onebox wipe' first")
        if other and recorded and report.collect(runner, options).all_up:
            return True
        if not other:
            steps.check_machine(self.state, options)
        steps.check_ports(runner, options)
        return False

    def down(self) -> None:
        """Stop everything and keep the files: up() continues with the same databases, guests shut off."""
        with only_one():
            if not wipe.is_anything_there(self.state):
                raise OneboxError(f"there is no cloud in {self.state.dir}")
            options = self.state.options()
            if options is not None:
                wipe.stop_politely(self.runner, options)
            wipe.give_back(self.state, self.say)

    def wipe(self) -> bool:
        """Remove it without a trace; False when there was nothing."""
        with only_one():
            if not wipe.is_anything_there(self.state):
                return False
            wipe.give_back(self.state, self.say)
            wipe.remove_files(self.state)
            self.say(f"files: {self.state.dir} removed")
            return True

    def status(self) -> report.Status:
        return report.collect(self.runner, self.options)

    def connect(self) -> Any:
        """An openstacksdk connection as the administrator."""
        return client.connect()

    def ensure_image(self, name: str, cmdline: str) -> Any:
        """See client.ensure_image."""
        return client.ensure_image(self.state, self.connect(), name, cmdline)

    def ensure_flavor(self, name: str, ram_mb: int, extra_specs: dict[str, str] | None = None) -> Any:
        """See client.ensure_flavor."""
        return client.ensure_flavor(self.connect(), name, ram_mb, extra_specs)

    def pid(self, part: str) -> int | None:
        """The process of a part, such as compute-node1 or nova-scheduler; None when it does not live."""
        return self.runner.pid(part)

    def log(self, part: str) -> Path:
        return self.runner.log(part)

    @property
    def clouds_yaml(self) -> Path:
        """For other openstack clients; the cloud is called onebox there."""
        return self.state.etc / "clouds.yaml"

    def nova_files(self, kind: str) -> list[Path]:
        """nova's configuration files: of the control services ("control") or of one host's nova-compute."""
        return config.nova_files(self.state, kind)

    def part_names(self) -> list[str]:
        return [part.name for part in parts.everything(self.runner, self.options)]
