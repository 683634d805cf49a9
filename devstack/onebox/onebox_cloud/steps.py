# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Bringing a cloud up: checks that change nothing, then the parts in an order that overlaps their slow starts."""
from __future__ import annotations

import os
import time
from pathlib import Path

from . import cgroup, client, config, database, hosts, ksm, mounts, parts, ports, swap
from .errors import OneboxError
from .options import MB, Options
from .process import Runner
from .progress import Progress
from .state import State, record_running

#: What the servers themselves need, measured: 1.5 GB of memory; databases, images and logs on disk.
SERVERS_MEMORY = 1600 * MB
FILES_SIZE = 1500 * MB
#: Unix socket paths are short; the longest name below the state directory has to fit.
LONGEST_STATE_PATH = 70


def check_machine(state: State, options: Options) -> None:
    """Raises OneboxError for what makes a new cloud impossible here."""
    if os.geteuid():
        raise OneboxError("only root can make memory groups, namespaces and swap: run it as root")
    text = str(state.dir)
    if len(text) > LONGEST_STATE_PATH or not all(letter.isalnum() or letter in "/._-+" for letter in text):
        raise OneboxError(f"the state directory {text} must be at most {LONGEST_STATE_PATH} characters of "
                          "letters, digits and /._-+ : choose another with --state")
    if not Path("/dev/fuse").exists():
        raise OneboxError("/dev/fuse is missing, which lxcfs needs to show each host its memory: run 'modprobe fuse'")
    cgroup.own_group()
    swap.check_space(state.dir, swap_size(options), FILES_SIZE)
    needed = options.hosts * options.host_memory_mb * MB + SERVERS_MEMORY
    available = _memory_available()
    if available < needed:
        raise OneboxError(f"the machine has {available // MB} MB of memory available, but {options.hosts} hosts of "
                          f"{options.host_memory_mb} MB and the servers need {needed // MB} MB: "
                          "choose smaller --hosts or --host-memory")


def _memory_available() -> int:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def swap_size(options: Options) -> int:
    """Bytes of swap for all hosts; 0 when they have none."""
    return options.hosts * options.host_swap_mb * MB + swap.SLACK if options.host_swap_mb else 0


def check_ports(runner: Runner, options: Options) -> None:
    """Raises OneboxError naming every port that a part not yet running needs and cannot have."""
    wanted: dict[str, int] = {}
    for part in parts.everything(runner, options):
        if runner.pid(part.name) is None:
            wanted |= part.ports
    # What a killed part of this cloud left behind is ended, or used, when that part is started.
    found = ports.taken(wanted, ours=lambda pid: cgroup.contains(runner.group, pid))
    if found:
        raise OneboxError("; ".join(found) + ": end these processes first")


def prepare_machine(runner: Runner, options: Options, say: Progress) -> None:
    """Groups, swap, remembered KSM settings, configuration: all that is not a process."""
    state = runner.state
    record_running(state)
    ksm.remember(state / "ksm.json")
    for path in (runner.servers, runner.setup):
        cgroup.create(path)
    cgroup.kill(runner.setup)  # what an interrupted `up` left at work
    mounts.cover(state / "made-directories")
    config.write_services(state, options)
    hosts.prepare(runner, options)
    size = swap_size(options)
    if size:
        swap.activate(state / "swap", size)
    say(f"machine: {options.hosts} memory groups, {size // MB} MB of swap")


def start_hosts(runner: Runner, options: Options) -> None:
    """lxcfs and the libvirtds, which start while the rest does."""
    lxcfs = parts.lxcfs(runner)
    if runner.pid(lxcfs.name) is None:
        # What the hosts see in /proc/meminfo came from the dead one: they need it anew. Guests go on.
        runner.stop([hosts.libvirtd(runner, name) for name in options.names])
        runner.stop([parts.compute(runner, name) for name in options.names])
        mounts.unmount_below(runner.state / "lxcfs")
    runner.start(lxcfs)
    runner.wait(lxcfs)
    for name in options.names:
        runner.start(hosts.libvirtd(runner, name))


def start_services(runner: Runner, options: Options, say: Progress) -> None:
    """The control plane, then the hosts' nova-compute; returns when nova accepts every host."""
    rabbit, keystone = parts.rabbit(runner), parts.keystone(runner)
    runner.start(rabbit)
    database.bring_up(runner, keystone, say)
    web = [keystone, *parts.web_services(runner)]
    conductor, scheduler = parts.conductor(runner), parts.scheduler(runner, options)
    for part in web[:2]:
        runner.start(part)
    runner.wait(rabbit)
    say("rabbit: serves")
    for part in (conductor, *web[2:], scheduler):
        runner.start(part)
    for name in options.names:
        runner.wait(hosts.libvirtd(runner, name))
    runner.wait(conductor)
    say("conductor and libvirtds: ready")
    since = time.time()
    computes = [parts.compute(runner, name) for name in options.names]
    for part in computes:
        runner.start(part)
    for part in (*web, scheduler, *computes):
        runner.wait(part)
    say("nova-compute and the APIs: ready")
    client.wait_for_hosts(options.names, since)
    hosts.keep_capabilities(runner, options.names[0])
    say(f"nova: accepts {', '.join(options.names)}")
