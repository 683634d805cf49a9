# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Every server of the cloud, as a table: how it is started, when it serves, how it is ended."""
from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from . import database, hosts, ports
from .config import VENV, nova_arguments
from .options import Options
from .ports import PORTS
from .process import Part, Runner

SERVERS = Path(__file__).resolve().parents[1] / "servers"


def lxcfs(runner: Runner) -> Part:
    """Shows each host its own free memory and swap in /proc/meminfo."""
    mount = runner.state / "lxcfs"

    def command() -> list[str]:
        mount.mkdir(exist_ok=True)
        return ["/usr/bin/lxcfs", "-f", "-p", str(runner.state.pids / "lxcfs-itself"), str(mount)]

    return Part(name="lxcfs", command=command, ready=(mount / "proc/meminfo").exists)


def rabbit(runner: Runner) -> Part:
    """The message bus. Nothing in it must outlive its process, so it is killed and starts empty.

    Run directly: Debian's wrapper would change the user and use /var.
    """
    directory = runner.state / "rabbit"
    env = {"HOME": str(directory), "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(PORTS["epmd"]),
           "RABBITMQ_NODENAME": "onebox@localhost", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
           "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"), "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
           "RABBITMQ_LOG_BASE": str(directory / "log"), "RABBITMQ_PID_FILE": str(directory / "pid"),
           "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
           "RABBITMQ_DIST_PORT": str(PORTS["rabbit-dist"]), "RABBITMQ_ERLANG_COOKIE": "onebox",
           "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
               "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"}

    def command() -> list[str]:
        shutil.rmtree(directory / "mnesia", ignore_errors=True)
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    return Part(name="rabbit", command=command,
                ready=lambda: ports.answers(PORTS["rabbit"]), extra_env=env,
                ports={name: PORTS[name] for name in ("rabbit", "rabbit-dist", "epmd")},
                more_logs=(directory / "log/onebox@localhost.log",))


def api(name: str, module: str, env: dict[str, str]) -> Part:
    """An OpenStack API, served by our small WSGI server."""
    return _web(name, [str(SERVERS / "wsgi.py"), module, str(PORTS[name])], env)


def _web(name: str, arguments: list[str], env: dict[str, str]) -> Part:
    return Part(name=name, command=lambda: [sys.executable, *arguments], extra_env=env,
                ready=lambda: ports.answers(PORTS[name]), ports={name: PORTS[name]})


def keystone(runner: Runner) -> Part:
    return api("keystone", "keystone.wsgi.api", {"OS_KEYSTONE_CONFIG_DIR": str(runner.state.etc)})


def web_services(runner: Runner) -> list[Part]:
    """What listens on a port beside keystone and rabbit."""
    etc = str(runner.state.etc)
    files = "api-paste.ini;nova.conf;nova-db.conf;nova-mode.conf;nova-set.conf"
    return [
        api("placement", "placement.wsgi.api", {"OS_PLACEMENT_CONFIG_DIR": etc}),
        api("glance", "glance.wsgi.api", {"OS_GLANCE_CONFIG_DIR": etc}),
        _web("neutron-stub", [str(SERVERS / "neutron_stub.py"), str(PORTS["neutron-stub"])], {}),
        api("nova-api", "nova.wsgi.osapi_compute", {"OS_NOVA_CONFIG_DIR": etc, "OS_NOVA_CONFIG_FILES": files}),
    ]


def _logged(runner: Runner, name: str, words: str) -> Callable[[], bool]:
    """Whether the part's log has the words."""
    def ready() -> bool:
        try:
            return words in runner.log(name).read_text(errors="replace")
        except OSError:
            return False
    return ready


def conductor(runner: Runner) -> Part:
    arguments = nova_arguments(runner.state, "control")
    return Part(name="nova-conductor", command=lambda: [f"{VENV}/bin/nova-conductor", *arguments], polite=6,
                ready=_logged(runner, "nova-conductor", "Starting conductor node"))


def scheduler(runner: Runner, options: Options) -> Part:
    """With the plugin in charge it logs at debug level: there the filter gives its reasons."""
    arguments = nova_arguments(runner.state, "control") + (["--debug"] if options.plugin else [])
    return Part(name="nova-scheduler", command=lambda: [f"{VENV}/bin/nova-scheduler", *arguments], polite=6,
                ready=_logged(runner, "nova-scheduler", "Starting scheduler node"))


def compute(runner: Runner, name: str) -> Part:
    """A host's nova-compute: within the host's view, outside its memory limit."""
    def command() -> list[str]:
        inside = runner.pid(hosts.part_name(name))
        return ["/usr/bin/nsenter", "-t", str(inside), "-u", "-m", "--wd=/", f"{VENV}/bin/nova-compute",
                *nova_arguments(runner.state, name)]

    return Part(name=f"compute-{name}", command=command, polite=6,
                ready=_logged(runner, f"compute-{name}", "Starting compute node"))


def everything(runner: Runner, options: Options) -> list[Part]:
    """In the order of starting."""
    libvirts = [hosts.libvirtd(runner, name) for name in options.names]
    return [lxcfs(runner), *libvirts, rabbit(runner), database.mariadb(runner.state), keystone(runner),
            *web_services(runner), conductor(runner), scheduler(runner, options),
            *(compute(runner, name) for name in options.names)]
