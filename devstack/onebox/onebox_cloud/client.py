# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The cloud through openstacksdk: connection, service catalogue, images, flavors."""
from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import openstack

from .errors import OneboxError
from .ports import PORTS
from .state import State, password

GUEST = Path(__file__).resolve().parents[1] / "guest"


def connect() -> openstack.connection.Connection:
    """As the administrator. Uses nothing of the caller's environment."""
    # requests would ask a proxy of the environment even for the loopback address.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    return openstack.connect(load_yaml_config=False, load_envvars=False,
                             auth_url=f"http://127.0.0.1:{PORTS['keystone']}/v3", username="admin",
                             password=password(), project_name="admin", user_domain_id="default",
                             project_domain_id="default", region_name="RegionOne", identity_api_version="3",
                             compute_default_microversion="2.100")


def register_endpoints() -> None:
    """Tell keystone where the other services are."""
    identity = connect().identity
    services = (("placement", "placement", f"http://127.0.0.1:{PORTS['placement']}"),
                ("compute", "nova", f"http://127.0.0.1:{PORTS['nova-api']}/v2.1"),
                ("image", "glance", f"http://127.0.0.1:{PORTS['glance']}"),
                ("network", "neutron", f"http://127.0.0.1:{PORTS['neutron-stub']}"))
    for kind, name, url in services:
        service = identity.create_service(type=kind, name=name)
        for interface in ("public", "internal"):
            identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id="RegionOne")


def wait_for_hosts(names: list[str], since: float, timeout: float = 120) -> None:
    """Until each host reported after `since` (seconds of the epoch), is mapped, and has memory in placement."""
    connection = connect()
    deadline = time.monotonic() + timeout
    while True:
        missing = set(names) - _reported(connection, since) or set(names) - _in_placement(connection)
        if not missing:
            return
        if time.monotonic() > deadline:
            raise OneboxError(f"nova did not accept {', '.join(sorted(missing))} within {timeout:g} s: "
                              "see the logs of that host's compute, of nova-scheduler and of nova-conductor")
        time.sleep(0.5)


def _reported(connection: Any, since: float) -> set[str]:
    # The service's own word is not enough: after a restart the last run's is still "up". One that never
    # reported is new.
    after = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    up = {service.host for service in connection.compute.services(binary="nova-compute")
          if service.state == "up" and (service.updated_at is None or service.updated_at >= after)}
    # Only hosts that are mapped to a cell are listed as hypervisors.
    return up & {hypervisor.name for hypervisor in connection.compute.hypervisors()}


def _in_placement(connection: Any) -> set[str]:
    found = set()
    for provider in connection.placement.resource_providers():
        answer = connection.placement.get(f"/resource_providers/{provider.id}/inventories")
        if "MEMORY_MB" in answer.json().get("inventories", {}):
            found.add(provider.name)
    return found


def build_guest(directory: Path) -> str:
    """Build the test guest into the directory; a digest of it. Raises OneboxError."""
    directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([str(GUEST / "build"), str(directory)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OneboxError(f"building the test guest failed: {(done.stderr or done.stdout).strip()[-1500:]}")
    digest = hashlib.sha256()
    for name in ("vmlinuz", "initrd", "disk.qcow2"):
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()[:16]


def ensure_image(state: State, connection: Any, name: str, cmdline: str) -> Any:
    """The glance image `name` of the test guest, started with that kernel command line.

    Uploads what is missing or was built from other sources; an image with another command line
    is changed. Returns the image.
    """
    directory = state / "guest"
    digest = build_guest(directory)
    wanted = {"os_command_line": cmdline, "ovc_digest": digest}
    image = connection.image.find_image(name)
    if image is not None and image.properties.get("ovc_digest") != digest:
        connection.image.delete_image(image)
        image = None
    if image is not None:
        if image.os_command_line != cmdline:
            connection.image.update_image(image, os_command_line=cmdline)
        return connection.image.get_image(image.id)
    parts = {}
    for key, file, kind in (("kernel_id", "vmlinuz", "aki"), ("ramdisk_id", "initrd", "ari")):
        part_name = f"guest-{file}-{digest}"
        part = connection.image.find_image(part_name) or connection.image.create_image(
            name=part_name, filename=str(directory / file), disk_format=kind, container_format=kind)
        parts[key] = part.id
    image = connection.image.create_image(
        name=name, filename=str(directory / "disk.qcow2"), disk_format="qcow2", container_format="bare",
        properties={**parts, **wanted, "hw_video_model": "none", "hw_rng_model": "virtio",
                    "hw_qemu_guest_agent": "yes"})
    return connection.image.get_image(image.id)


def ensure_flavor(connection: Any, name: str, ram_mb: int, extra_specs: dict[str, str] | None = None) -> Any:
    """The flavor, with one vCPU, no disk and exactly these extra specs. Returns it.

    Raises OneboxError when one of that name has another memory size.
    """
    compute = connection.compute
    flavor = compute.find_flavor(name) or compute.create_flavor(name=name, ram=ram_mb, vcpus=1, disk=0)
    if flavor.ram != ram_mb:
        raise OneboxError(f"flavor {name} exists with {flavor.ram} MB, not {ram_mb}: choose another name")
    wanted = {key: str(value) for key, value in (extra_specs or {}).items()}
    present = compute.fetch_flavor_extra_specs(flavor).extra_specs or {}
    for key in set(present) - set(wanted):
        compute.delete_flavor_extra_specs_property(flavor, key)
    if wanted and wanted != present:
        compute.create_flavor_extra_specs(flavor, wanted)
    return compute.fetch_flavor_extra_specs(compute.get_flavor(flavor.id))
