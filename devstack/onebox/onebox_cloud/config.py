# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Configuration files, from templates/ and the cloud's options."""
from __future__ import annotations

import string
import sys
import uuid
from pathlib import Path
from urllib.parse import quote

from .options import Options
from .ports import PORTS, migration_ports
from .state import State, password, write_atomic

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
VENV = Path(sys.prefix)
DATABASES = ("keystone", "placement", "glance", "nova_api", "nova_cell0", "nova_cell1")


def fill(name: str, values: dict[str, object]) -> str:
    """One template with its values put in. Raises KeyError for a value that is missing."""
    return string.Template((TEMPLATES / name).read_text()).substitute(values)


def values(state: State) -> dict[str, object]:
    """What the templates may use."""
    found: dict[str, object] = {name.replace("-", "_"): port for name, port in PORTS.items()}
    found |= {"state": state.dir, "venv": VENV, "password": password()}
    for name in DATABASES:
        socket = quote(str(state / "mysql.sock"))
        found[f"db_{name}"] = f"mysql+pymysql://root@localhost/{name}?unix_socket={socket}&charset=utf8"
    found["authtoken"] = fill("authtoken.conf", found)
    return found


def default_filters() -> str:
    """The filters that this nova enables by default, comma-separated."""
    from nova.conf import scheduler

    options = {option.name: option for option in scheduler.filter_scheduler_opts}
    return ",".join(options["enabled_filters"].default)


def extra_settings(options: Options) -> str:
    """The settings of --set as a configuration file."""
    lines = ["# Settings given with --set."]
    for section, key, value in options.settings:
        lines += [f"[{section}]", f"{key} = {value}"]
    return "\n".join(lines) + "\n"


def write_services(state: State, options: Options) -> None:
    """Everything below STATE/etc but the hosts' files."""
    known = values(state)
    for name in ("clouds.yaml", "keystone.conf", "placement.conf", "glance-api.conf", "nova.conf", "nova-db.conf"):
        write_atomic(state.etc / name, fill(name, known))
    if options.plugin:
        text = fill("plugin.conf", known | {"default_filters": default_filters()})
    else:
        text = fill("ratio.conf", known | {"ratio": options.ratio})
    write_atomic(state.etc / "nova-mode.conf", text)
    write_atomic(state.etc / "nova-set.conf", extra_settings(options))
    # glance and keystone read a directory; nova's API wants the file named first.
    write_atomic(state.etc / "api-paste.ini", (VENV / "etc/nova/api-paste.ini").read_text())
    (state / "rabbit").mkdir(exist_ok=True)
    write_atomic(state / "rabbit/rabbitmq.conf", fill("rabbitmq.conf", known))


def write_host(state: State, options: Options, name: str) -> None:
    """One host's directories, libvirt's configuration in them, and its nova-compute's."""
    directory = state.host(name)
    number = options.names.index(name) + 1
    for part in ("run", "etc/qemu", "lib/qemu", "cache", "log"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    # Kept: libvirt's identity of this host must outlive a restart.
    identity = directory / "uuid"
    if not identity.exists():
        write_atomic(identity, str(uuid.uuid4()))
    first, last = migration_ports(number)
    known = values(state) | {"host": name, "host_dir": directory, "host_uuid": identity.read_text(),
                             "host_ip": f"127.0.1.{number}", "migration_first": first, "migration_last": last}
    for file in ("libvirtd.conf", "qemu.conf"):
        write_atomic(directory / "etc" / file, fill(file, known))
    write_atomic(state.etc / f"compute-{name}.conf", fill("compute.conf", known))
    addresses = ["127.0.0.1 localhost"]
    addresses += [f"127.0.1.{index} {host}" for index, host in enumerate(options.names, 1)]
    write_atomic(directory / "hosts", "\n".join(addresses) + "\n", 0o644)


def nova_files(state: State, kind: str) -> list[Path]:
    """Configuration files of a nova service, in the order of reading; later ones win."""
    own = "nova-db.conf" if kind == "control" else f"compute-{kind}.conf"
    return [state.etc / name for name in ("nova.conf", own, "nova-mode.conf", "nova-set.conf")]


def nova_arguments(state: State, kind: str) -> list[str]:
    return [argument for path in nova_files(state, kind) for argument in ("--config-file", str(path))]
