# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""MariaDB with the services' schemas; a snapshot of it makes the next start quick.

Making the schemas takes most of a minute, so the finished data directory is kept in the cache,
named after everything that went into it.
"""
from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
from pathlib import Path

from . import client, config
from .config import DATABASES, VENV
from .ports import PORTS
from .process import Part, Runner
from .progress import Progress
from .state import State, cache_dir, password

SNAPSHOTS_KEPT = 3
_CONTENT = ("mysql", "fernet", "credential")
_PACKAGES = ("nova", "keystone", "glance", "openstack-placement", "sqlalchemy", "oslo.db", "alembic")


def mariadb(state: State) -> Part:
    socket = state / "mysql.sock"

    def command() -> list[str]:
        return ["/usr/sbin/mariadbd", "--no-defaults", "--user=root", f"--datadir={state / 'mysql'}",
                f"--socket={socket}", "--skip-networking", f"--pid-file={state / 'mysql.pid'}",
                "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0",
                "--innodb-doublewrite=0", "--performance-schema=0", "--max-connections=400",
                "--character-set-server=utf8mb3"]

    def ready() -> bool:
        ping = ["mariadb-admin", "--no-defaults", "-uroot", "-S", str(socket), "ping"]
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0

    # Killed in the middle of a write without the double-write buffer, it may not start again.
    return Part(name="mariadb", command=command, ready=ready, polite=30)


def snapshot_path() -> Path:
    """Where the snapshot for these versions, ports, secret and this code is."""
    text = [password(), str(PORTS), Path(__file__).read_text(), Path(client.__file__).read_text()]
    text += [f"{name}=={importlib.metadata.version(name)}" for name in _PACKAGES]
    done = subprocess.run(["/usr/sbin/mariadbd", "--version"], capture_output=True, text=True, check=False)
    digest = hashlib.sha256("\n".join([*text, done.stdout]).encode()).hexdigest()[:12]
    return cache_dir() / f"database-{digest}.tar"


def ready_mark(state: State) -> Path:
    """Exists once the data directory is whole; one without it is thrown away."""
    return state / "database-ready"


def restore(state: State) -> bool:
    """Put the snapshot in place; False when there is none."""
    path = snapshot_path()
    if not path.exists():
        return False
    forget(state)
    subprocess.run(["tar", "-C", str(state.dir), "-xf", str(path)], check=True)
    path.touch()
    ready_mark(state).touch()
    return True


def forget(state: State) -> None:
    ready_mark(state).unlink(missing_ok=True)
    for name in _CONTENT:
        shutil.rmtree(state / name, ignore_errors=True)


def save(state: State) -> Path:
    """Keep the data directory of a stopped server as the snapshot, and only the newest few."""
    path = snapshot_path()
    for leftover in path.parent.glob("database-*.tar.new"):
        leftover.unlink()
    temporary = path.with_suffix(".tar.new")
    subprocess.run(["tar", "-C", str(state.dir), "-S", "-cf", str(temporary), *_CONTENT], check=True)
    temporary.chmod(0o600)
    temporary.replace(path)
    kept = sorted(path.parent.glob("database-*.tar"), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[SNAPSHOTS_KEPT:]:
        old.unlink()
    return path


def create_server(runner: Runner) -> None:
    """An empty data directory with the databases in it; the server runs afterwards."""
    state = runner.state
    runner.command("mysql-install", ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal",
                                     "--skip-test-db", f"--datadir={state / 'mysql'}", "--user=root"]).finish()
    part = mariadb(state)
    runner.start(part)
    runner.wait(part)
    statements = "".join(f"CREATE DATABASE {name} CHARACTER SET utf8mb3;" for name in DATABASES)
    runner.command("mysql-create", ["mariadb", "--no-defaults", "-uroot", "-S", str(state / "mysql.sock"),
                                    "-e", statements]).finish()


def bootstrap_keystone(runner: Runner) -> None:
    state = runner.state
    for name in ("fernet", "credential"):
        (state / name).mkdir(mode=0o700, exist_ok=True)
    manage = [f"{VENV}/bin/keystone-manage", "--config-file", str(state.etc / "keystone.conf")]
    owner = ["--keystone-user", "root", "--keystone-group", "root"]
    url = f"http://127.0.0.1:{PORTS['keystone']}/v3"
    bootstrap = ["bootstrap", "--bootstrap-region-id", "RegionOne", "--bootstrap-public-url", url,
                 "--bootstrap-internal-url", url, "--bootstrap-admin-url", url]
    runner.command("keystone-setup", [*manage, "db_sync"], [*manage, "fernet_setup", *owner],
                   [*manage, "credential_setup", *owner], [*manage, *bootstrap],
                   extra_env={"OS_BOOTSTRAP_PASSWORD": password()}).finish()


def create_schemas(runner: Runner) -> None:
    """nova's, glance's and placement's, side by side."""
    state = runner.state
    nova = [f"{VENV}/bin/nova-manage", *config.nova_arguments(state, "control")]
    # Templates, filled in from nova's own configuration: so the snapshot fits any state directory.
    queue = "{scheme}://{username}:{password}@{hostname}:{port}/"
    cells = "{scheme}://{username}@{hostname}/%s?{query}"
    commands = [
        runner.command("nova-setup", [*nova, "api_db", "sync"],
                       [*nova, "cell_v2", "map_cell0", "--database_connection", cells % "nova_cell0"],
                       [*nova, "db", "sync"],
                       [*nova, "cell_v2", "create_cell", "--name", "cell1", "--transport-url", queue,
                        "--database_connection", cells % "nova_cell1"]),
        runner.command("glance-setup", [f"{VENV}/bin/glance-manage", "--config-file",
                                        str(state.etc / "glance-api.conf"), "db_sync"],
                       [f"{VENV}/bin/placement-manage", "--config-file", str(state.etc / "placement.conf"),
                        "db", "sync"]),
    ]
    for command in commands:
        command.finish()


def bring_up(runner: Runner, keystone: Part, say: Progress) -> None:
    """The server running with all schemas: found, restored, or made (then keystone is started too)."""
    state = runner.state
    part = mariadb(state)
    if runner.pid(part.name) is None or not ready_mark(state).exists():
        found = ready_mark(state).exists()
        if not found:
            runner.stop([keystone, part])
            forget(state)
        if found or restore(state):
            runner.start(part)
            runner.wait(part)
            say("database: " + ("as it was left" if found else "restored from the snapshot"))
        else:
            _make(runner, part, keystone, say)


def _make(runner: Runner, part: Part, keystone: Part, say: Progress) -> None:
    state = runner.state
    create_server(runner)
    say("database: server is up, making the schemas (about a minute, the first time only)")
    bootstrap_keystone(runner)
    say("database: keystone has its users")
    runner.start(keystone)
    create_schemas(runner)
    runner.wait(keystone)
    client.register_endpoints()
    runner.stop([keystone, part])
    path = save(state)
    ready_mark(state).touch()
    runner.start(part)
    runner.wait(part)
    say(f"database: schemas are ready; snapshot of {path.stat().st_size >> 20} MB kept")
