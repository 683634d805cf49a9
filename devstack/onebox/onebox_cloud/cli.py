# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""onebox up | down | wipe | status | demo."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .cloud import Cloud
from .errors import OneboxError
from .options import add_options, from_arguments
from .progress import Progress
from .report import render
from .state import default_state_dir, running_record

DESCRIPTION = """\
A real small OpenStack on this machine, with hypervisors of a chosen memory size.

RabbitMQ, MariaDB, keystone, placement, glance, nova and a stand-in for neutron serve on the
loopback address; each hypervisor is a libvirtd and a nova-compute in namespaces of their own, with
a hard limit of RAM and an allowance of real swap, so that a shortage of memory there is a real one
and the rest of the machine is safe from it."""

EPILOG = """\
examples:
  onebox demo                              the accident, without and with the plugin
  onebox up                                two hosts of 1500 MB RAM and 1280 MB swap, plugin in charge
  onebox up --hosts 3 --ratio 4            three hosts, stock nova with ram_allocation_ratio 4
  onebox up --set ovc_host.tick=2          an extra nova.conf setting
  onebox status                            what runs, and how full each host is
  onebox wipe                              leave no process, mount, group, swap file or KSM change

The cloud's files, logs included, are below the --state directory (default: {state});
downloads and snapshots that make the next start quick stay in the directory above it.
OVC_CACHE moves both. `export OS_CLIENT_CONFIG_FILE={state}/etc/clouds.yaml OS_CLOUD=onebox`
lets other OpenStack clients find the cloud; virsh takes the address
qemu:///system?socket={state}/hosts/node1/run/libvirt-sock"""


def parser() -> argparse.ArgumentParser:
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument("--state", type=Path, default=None, metavar="DIR",
                       help=f"the cloud's directory (default {default_state_dir()})")
    top = argparse.ArgumentParser(prog="onebox", description=DESCRIPTION,
                                  epilog=EPILOG.format(state=default_state_dir()),
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="up | down | wipe | status | demo")
    up = commands.add_parser("up", parents=[state], help="bring the cloud up, or what of it is missing",
                             description="Brings the cloud up, or what of it is missing. Doing it again is harmless; "
                                         "interrupted, it continues the next time.")
    add_options(up)
    commands.add_parser("down", parents=[state], help="stop it and keep its files",
                        description="Stops everything and gives the machine its memory, swap and KSM settings back. "
                                    "Databases, images and disks stay: `up` continues, with the guests shut off.")
    commands.add_parser("wipe", parents=[state], help="remove it without a trace",
                        description="Removes the cloud whatever state it is in, also after a crash: no process, "
                                    "mount, memory group, swap file, namespace or KSM change stays.")
    status = commands.add_parser("status", parents=[state], help="what runs, and how full each host is",
                                 description="Prints every part and host. Exit status 0: all up; 1: not.")
    status.add_argument("--json", action="store_true", help="for programs; memory in bytes")
    commands.add_parser("demo", add_help=False, help="the accident, without and with the plugin; see demo --help")
    return top


def state_dir(arguments: argparse.Namespace) -> Path | None:
    """As given; else for all but `up` the cloud that is up, wherever it is."""
    running = running_record()
    if arguments.state is None and running and arguments.command != "up":
        return Path(running["state"])
    return arguments.state


def run(arguments: argparse.Namespace) -> int:
    say = Progress()
    options = from_arguments(arguments) if arguments.command == "up" else None
    cloud = Cloud(state_dir(arguments), options, say)
    match arguments.command:
        case "up":
            if cloud.up():
                print(f"the cloud is up after {say.seconds:.0f} s: {cloud.options.describe()}")
            else:
                print(f"the cloud is up already: {cloud.options.describe()}")
        case "down":
            cloud.down()
            print(f"the cloud is down; its files are in {cloud.state.dir}")
        case "wipe":
            print("nothing is left of the cloud" if cloud.wipe() else f"there is no cloud in {cloud.state.dir}")
        case "status":
            status = cloud.status()
            print(json.dumps(status.to_json(), indent=1) if arguments.json else render(status))
            return 0 if status.all_up else 1
    return 0


def demo(argv: list[str]) -> int:
    from . import demo as accident

    return accident.main(argv)


def main(argv: list[str]) -> int:
    try:
        if argv[:1] == ["demo"]:
            return demo(argv[1:])
        top = parser()
        arguments = top.parse_args(argv)
        try:
            return run(arguments)
        except ValueError as error:
            top.error(str(error))
    except OneboxError as error:
        print(f"onebox: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("onebox: interrupted; 'onebox up' continues, 'onebox wipe' removes what there is", file=sys.stderr)
        return 130
