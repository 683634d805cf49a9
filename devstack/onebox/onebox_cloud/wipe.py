# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Taking a cloud down, and leaving nothing behind.

Works from the state directory's path alone, whatever was killed or lost before: processes are
found by their memory groups, mounts and swap by their place.
"""
from __future__ import annotations

import shutil
from pathlib import Path

from . import cgroup, ksm, mounts, parts, swap
from .errors import OneboxError
from .options import Options
from .process import Runner, wait_gone
from .progress import Progress
from .state import State, forget_running


def is_anything_there(state: State) -> bool:
    return bool((state / "cloud.json").exists() or cgroup.find(state.group_name) or swap.active(state.dir)
                or mounts.below(state.dir))


def stop_politely(runner: Runner, options: Options) -> None:
    """End the servers so that nova and the database are consistent; guests are killed as by a power cut."""
    everything = {part.name: part for part in parts.everything(runner, options)}
    database = everything.pop("mariadb")
    runner.stop(list(everything.values()))
    runner.stop([database])


def give_back(state: State, say: Progress) -> None:
    """End every process, and return groups, mounts, swap and KSM to the machine. Files stay.

    Raises OneboxError with all that could not be given back; calling it again tries again.
    """
    problems: list[str] = []
    for group in cgroup.find(state.group_name):
        ended = cgroup.pids(group)
        _attempt(problems, cgroup.kill, group)
        wait_gone(ended)
    # Mounts of the hosts' own namespaces went with their processes.
    _attempt(problems, mounts.unmount_below, state.dir)
    for group in cgroup.find(state.group_name):
        _attempt(problems, cgroup.remove, group)
    _attempt(problems, swap.deactivate, state.dir)
    if not cgroup.find(state.group_name):
        problems += ksm.restore(state / "ksm.json")
    mounts.uncover(state / "made-directories")
    if problems:
        raise OneboxError("not everything could be given back:\n  " + "\n  ".join(problems))
    forget_running(state)
    say("machine: processes, groups, mounts, swap and KSM settings given back")


def _attempt(problems: list[str], action, argument: Path) -> None:
    try:
        action(argument)
    except (OneboxError, OSError) as error:
        problems.append(str(error))


def remove_files(state: State) -> None:
    """Only below an unmounted directory that holds a cloud. Raises OneboxError."""
    if mounts.below(state.dir):
        raise OneboxError(f"{state.dir} still has mounts: {', '.join(map(str, mounts.below(state.dir)))}")
    if state.dir.exists():
        # The record last: an interrupted removal is continued by the next wipe.
        for path in state.dir.iterdir():
            if path.name != "cloud.json":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(state.dir)
