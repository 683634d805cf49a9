# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What a cloud shall be like: sizes, who is in charge of memory, extra settings."""
from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass

MB = 1 << 20
MAX_HOSTS = 9
#: Below this libvirtd and one guest's QEMU do not fit.
MIN_HOST_MEMORY_MB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `onebox up`.

    ratio None means that the plugin is in charge; otherwise it is stock nova with that
    ram_allocation_ratio. settings are (section, key, value), appended to nova's configuration.
    Raises ValueError for a value that cannot work.
    """

    hosts: int = 2
    host_memory_mb: int = 1500
    host_swap_mb: int = 1280
    ratio: float | None = None
    settings: tuple[tuple[str, str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= MAX_HOSTS:
            raise ValueError(f"--hosts must be from 1 to {MAX_HOSTS}, not {self.hosts}")
        if self.host_memory_mb < MIN_HOST_MEMORY_MB:
            raise ValueError(f"--host-memory must be at least {MIN_HOST_MEMORY_MB} (MB), not {self.host_memory_mb}")
        if self.host_swap_mb < 0:
            raise ValueError(f"--host-swap must be 0 or more (MB), not {self.host_swap_mb}")
        if self.ratio is not None and not 0 < self.ratio <= 100:
            raise ValueError(f"--ratio must be above 0 and at most 100, not {self.ratio}")

    @property
    def names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.hosts + 1)]

    @property
    def plugin(self) -> bool:
        return self.ratio is None

    def describe(self) -> str:
        """The options as they would be typed."""
        mode = "--plugin" if self.ratio is None else f"--ratio {self.ratio:g}"
        extra = "".join(f" --set {section}.{key}={value}" for section, key, value in self.settings)
        return (f"--hosts {self.hosts} --host-memory {self.host_memory_mb} "
                f"--host-swap {self.host_swap_mb} {mode}{extra}")

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Options:
        return cls(**{**data, "settings": tuple(tuple(entry) for entry in data["settings"])})


def parse_setting(text: str) -> tuple[str, str, str]:
    """SECTION.KEY=VALUE -> its three parts. Raises argparse.ArgumentTypeError."""
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key.isidentifier()) or "\n" in text:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not SECTION.KEY=VALUE, as in filter_scheduler.ram_weight_multiplier=0")
    return section, key, value.strip()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a cloud, for `up` and whoever else builds one."""
    default = Options()
    parser.add_argument("--hosts", type=int, default=default.hosts, metavar="N",
                        help=f"hypervisors, each with its own libvirtd and nova-compute (default {default.hosts})")
    parser.add_argument("--host-memory", type=int, default=default.host_memory_mb, metavar="MB",
                        help=f"RAM of each host; a hard limit (default {default.host_memory_mb})")
    parser.add_argument("--host-swap", type=int, default=default.host_swap_mb, metavar="MB",
                        help=f"swap each host may use beyond its RAM (default {default.host_swap_mb})")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--plugin", action="store_true",
                      help="our driver, filter and weigher in charge of memory (the default)")
    mode.add_argument("--ratio", type=float, metavar="R",
                      help="stock nova instead, with ram_allocation_ratio R")
    parser.add_argument("--set", type=parse_setting, action="append", default=[], dest="settings",
                        metavar="SECTION.KEY=VALUE", help="an extra nova.conf setting; may be repeated")


def from_arguments(arguments: argparse.Namespace) -> Options:
    """Raises ValueError, see Options."""
    return Options(hosts=arguments.hosts, host_memory_mb=arguments.host_memory,
                   host_swap_mb=arguments.host_swap, ratio=arguments.ratio,
                   settings=tuple(arguments.settings))
