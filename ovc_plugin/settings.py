# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Every knob once: type, default, bounds and help, in bytes and seconds.

``conf.py`` turns each field into an oslo.config option: a field of unit ``MiB`` becomes an option ``<name>_mb``. The
pure rules take these dataclasses, so that a rule can be run without any configuration file.
"""
from __future__ import annotations

import dataclasses
import typing

from ovc_plugin.model import MIB


def knob(default: typing.Any, help: str, *, low: float | None = None, high: float | None = None, unit: str = '',
         choices: tuple[str, ...] = (), mutable: bool = False) -> typing.Any:
    """A dataclass field that carries what an operator must know of it."""
    return dataclasses.field(default=default, metadata={
        'help': help, 'low': low, 'high': high, 'unit': unit, 'choices': choices, 'mutable': mutable})


# Of [ovc_host] ksm: the one that merges pages of different projects says so in words that name the risk.
ALL_TENANTS = 'all-tenants-despite-side-channels'


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """Group ``[ovc]``: what schedulers and hosts must agree on. Set it alike on all of them."""

    GROUP: typing.ClassVar[str] = 'ovc'

    default_reservation: str = knob(
        '50%', 'Memory that a guest is guaranteed when its flavor does not say so (extra spec ovc:reservation): a '
        'percentage of the flavor\'s memory ("50%") or a number of MB ("512"). Lower admits more guests and leans '
        'harder on balloon and swap. A host whose value is less than what its aggregates promise is refused. Related: '
        'default_overhead_mb.')
    default_overhead: int = knob(
        128 * MIB, 'Host memory that a guest costs beyond its own (QEMU, page tables) until it has been measured. '
        'Larger guests and many devices cost more; too small a value weakens the promise that every byte is backed.',
        low=0, high=64 << 30, unit='MiB')
    report_max_age: float = knob(
        120.0, 'Seconds after which a host\'s report is too old to place guests by; the host is then refused. Keep it '
        'above twice nova\'s update_resources_interval (60 s by default).', low=1, high=86400, unit='s')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Group ``[ovc_scheduler]``: the filter and the weigher in nova-scheduler."""

    GROUP: typing.ClassVar[str] = 'ovc_scheduler'

    dry_run: bool = knob(
        True, 'Judge every host and log what would be refused and why, but refuse nothing. Set it to false once the '
        'log has been read.', mutable=True)
    headroom_weight_multiplier: float = knob(
        1.0, 'Strength of OvercommitWeigher\'s vote for room left (memory and swap that the host can still give) '
        'among nova\'s weighers; 0 switches it off, a negative value stacks guests. Host aggregates override it with '
        'metadata of the same name.')
    pressure_trend_weight_multiplier: float = knob(
        0.5, 'Strength of its vote for hosts whose available memory does not shrink, or not soon to nothing. 0 '
        'switches it off. Host aggregates override it with metadata of the same name.')
    sharing_affinity_weight_multiplier: float = knob(
        1.0, 'Strength of its vote for hosts where the guest may share pages with guests of the same image in its '
        'project, by what sharing there saves already. 0 switches it off. Host aggregates override it with metadata of '
        'the same name.')
    require_swap_backing: bool = knob(
        True, 'Refuse a guest when not every byte that the host\'s guests may touch is backed by its memory or swap. '
        'With false the kernel may kill guests; the log then says so.')
    unreported_ratio: float = knob(
        1.0, 'Hosts that send no report at all (no plugin there) are left to nova up to this ratio of flavor memory to '
        'host memory; 0 leaves them to nova entirely.', low=0, high=64)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Group ``[ovc_host]``: the controller on each host."""

    GROUP: typing.ClassVar[str] = 'ovc_host'

    dry_run: bool = knob(
        True, 'Sense, decide, log and report, but act on nothing and leave placement\'s ratio alone. Set it to false '
        'once the log has been read; set to true again, the host is first left as by a stop.', mutable=True)
    tick: float = knob(
        5.0, 'Seconds between two passes of the host controller; six times as many, up to 30, while nothing is '
        'short, merged, or taken from a guest.', low=0.2, high=300, unit='s')
    fast_look: float = knob(
        0.2, 'Seconds between two cheap looks at available memory, at how fast demand grows, and at the pressure stall '
        'counter; a pass runs at once when it would raise the level. 0 leaves that to the kernel\'s alarm, where there '
        'is one, and passes are then never further apart than a tick.', low=0, high=60, unit='s')
    boundary: str = knob(
        'machine', 'What counts as the host\'s memory: "machine", or the path of the control group (v1 memory or v2) '
        'that holds the guests, for example /sys/fs/cgroup/machine.slice.')
    reserve: int = knob(
        -1, 'Host memory never promised to guests. -1 takes nova\'s reserved_host_memory_mb (ovc-agent: 512).',
        low=-1, high=1 << 44, unit='MiB')
    level_scale: float = knob(
        1.0, 'Scales the minimum of available memory (899 MiB for the first 28 GiB in proportion, 1 % beyond) from '
        'which the levels SOFT, HARD and CRITICAL follow. Raise it where memory is filled faster than it is freed.',
        low=0.1, high=32)
    dwell: float = knob(
        15.0, 'Seconds for which the host must look better before the level falls; a third of them to fall to SOFT.',
        low=0, high=3600, unit='s')
    stall_soft: float = knob(
        0.10, 'Share of time that tasks wait for memory (PSI some, 10 s) from which it is SOFT.', low=0.001, high=1)
    stall_hard: float = knob(0.40, 'The same for HARD. Related: stall_soft.', low=0.001, high=1)
    ask_guests: bool = knob(
        False, 'Ask guests six times a minute, through their QEMU guest agent, for the working set that the script '
        'etc/guest/ovc-working-set publishes in them. For stats_max_age it counts instead of their statistics, between '
        'their reservation and their maximum. Without effect where nova-compute runs on eventlet.')
    ask_monitor: bool = knob(
        False, 'Ask guests for the pressure that they count themselves (stalls, direct reclaim, kills; Linux 6.12 and '
        'QEMU 9.2), six times a minute, so that one that was shrunk too far is seen sooner. It goes through QEMU\'s '
        'monitor, and libvirt notes such guests as tainted (custom-monitor) in its log. Without effect on eventlet.')
    stats_max_age: float = knob(
        30.0, 'Seconds after which a guest\'s word of its memory is too old to act on.', low=1, high=3600, unit='s')
    rules: tuple[str, ...] = knob(
        ('sharing', 'relief', 'balloon', 'swap', 'evacuation', 'return'), 'The rules of the ladder (see '
        'doc/adding-a-rule.rst), in the order in which they are asked: each finds what those before it left of a '
        'shortage. A package may bring more (entry points in ovc_plugin.rules). One that is left out does nothing.')
    balloon: bool = knob(True, 'Use ballooning.', mutable=True)
    balloon_step: float = knob(
        0.10, 'Largest cut of one balloon target in one pass, as a share of the guest\'s maximum; twice as much at '
        'HARD, four times at CRITICAL. What the host does not back of a guest comes on top.', low=0.005, high=1)
    dead_band: float = knob(
        0.01, 'Smallest change of a balloon target worth asking for, a share of its maximum.', low=0, high=0.5)
    cushion: float = knob(
        0.10, 'Memory left to a guest beyond what it cannot give up, as a share of its maximum. Half of it is taken at '
        'CRITICAL, if swap cannot take what is missing and the guest\'s balloon gives way.', low=0, high=1)
    idle_tax: float = knob(
        0.75, 'Tax on idle memory when memory is taken or handed out: at 0.75 an idle page costs a guest as much of '
        'its share as four used ones; at 0 shares go by weight and size alone.', low=0, high=0.99)
    need_slow: float = knob(
        120.0, 'Seconds over which a guest\'s need is believed to have fallen; it rises at once. 0 believes each word.',
        low=0, high=86400, unit='s')
    turn_after: float = knob(
        1200.0, 'Seconds for which a guest that was given memory is not shrunk, unless one lacks its reservation or '
        'nothing else is left. 97.5 % of overloads end in 30 min. Related: return_after.', low=0, high=86400, unit='s')
    return_after: float = knob(
        600.0, 'Seconds for which the host must have been CLEAR before guests that show no use for more memory get '
        'theirs back. Guests in need never wait for it. Related: turn_after.', low=0, high=86400, unit='s')
    stuck_after: float = knob(
        20.0, 'Seconds after which a guest that was asked to shrink and has not moved is stuck: others carry its part, '
        'and swap takes over.', low=1, high=3600, unit='s')
    swap: bool = knob(
        True, 'Move memory of single guests to swap when the balloon cannot help. Needs a memory control group per '
        'guest (libvirt\'s default).', mutable=True)
    swap_step: int = knob(
        32 * MIB, 'Most memory moved to swap from one guest in one pass; of large guests 1 % of their memory. Four '
        'times as much of guests that do not answer the balloon, and at CRITICAL. Passes follow each other each second '
        'then: larger steps move what a burst no longer needs.', low=1 * MIB, high=64 << 30, unit='MiB')
    refault_limit: float = knob(
        200.0, 'Pages per second read back from swap above which a guest is not swapped further, except at CRITICAL. A '
        'guest that was shrunk and itself reads back or reclaims as much is not shrunk further.', low=0, high=1e6)
    ksm: str = knob(
        'auto', 'Page sharing. "auto": merge while all guests that can merge belong to one trust domain (project), '
        'pause otherwise; nova starts guests of further projects unmergeable. "off": never. "leave": put back what we '
        'set, and set no more. "all-tenants-despite-side-channels": merge across projects too; merged pages leak '
        'their presence to other tenants by timing and allow targeted bit flips. Where the kernel\'s own advisor is '
        'switched on (advisor_mode scan-time), it sets the speed of the scan, and ours is not written. We do not '
        'switch it on: one scan in its 200 s is out of reach above some 45 to 60 GiB that nobody shares.',
        choices=('auto', 'off', 'leave', ALL_TENANTS), mutable=True)
    ksm_pages_to_scan: int = knob(
        5000, 'Most pages that the kernel scans at each wake-up while sharing is on. While no kernel advisor sets the '
        'speed (see ksm), ours follows what the scan saves. Related: ksm_max_cpu, ksm_least_profit_mb.', low=1,
        high=100000, unit='pages')
    ksm_max_cpu: float = knob(
        0.2, 'Most of one core that the kernel\'s scanner may take, at its measured cost of a page. So much it takes '
        'while a new guest is looked through, else less. Related: ksm_boost_cpu.', low=0.005, high=0.9)
    ksm_boost_cpu: float = knob(
        0.5, 'The same at level SOFT or worse, when merging spares guests the balloon and swap.', low=0.005, high=0.9)
    ksm_least_profit: int = knob(
        4 * MIB, 'Memory saved per processor second of the scanner below which it is slowed down, down to a 16th of '
        'its full speed; at twice as much it gets faster again. 0 keeps it at full speed.', low=0, high=1 << 40,
        unit='MiB')
    ksm_zero_pages: bool = knob(
        True, 'Merge pages full of zeroes with the kernel\'s own one (use_zero_pages): there is no limit to how many '
        'share it. Only where the kernel counts them (Linux 6.6).')
    ksm_across_nodes: bool = knob(
        True, 'Merge pages of different NUMA nodes too. False spares guests slow accesses to another node\'s memory; '
        'it is carried out when no page is merged, and never by unmerging.')
    sample_pages: int = knob(
        0, 'Pages of guests\' memory looked at in each pass, to estimate where a new guest of an image would share '
        'most; 500 cost some 0.1 % of a core. Only the smallest hashes leave the host, salted by trust domain. 0: no '
        'memory of a guest is ever read. Needs a root helper of its own, [ovc_privileged_pages].', low=0, high=65536,
        unit='pages')
    evaporation_window: float = knob(
        300.0, 'Seconds over which it is watched how fast merged pages are written and take memory of their own again. '
        'Until sharing has been watched for so long, what it has saved is not spent.', low=1, high=86400, unit='s')
    evaporation_sigmas: float = knob(
        3.0, 'Of merged memory as much is kept free as would dissolve at the mean rate plus this many standard '
        'deviations, within evaporation_reaction. Related: evaporation_window.', low=0, high=20)
    evaporation_reaction: float = knob(
        60.0, 'Seconds that balloon and swap are given to make up for merged pages that guests write.', low=1,
        high=3600, unit='s')
    migrate: bool = knob(
        False, 'Ask nova to move a guest to another host when a shortage lasts. Needs the section [ovc_nova] with '
        'credentials of a service user that may migrate guests of all projects.', mutable=True)
    migrate_after: float = knob(
        600.0, 'Seconds for which a shortage must last (level HARD, or guests keep reading back from swap) before a '
        'guest is asked away; at level CRITICAL a fifth of it. On real traces 79 % of overloads end by themselves '
        'within 10 minutes: balloon and swap carry those.', low=1, high=86400, unit='s')
    migrate_swap_in: int = knob(
        4 * MIB, 'Memory per second that guests read back from swap, from which a shortage counts as such whatever the '
        'level. 4 MB/s are 1,000 pages, for each of which some processor waits.', low=0, high=64 << 30, unit='MiB')
    migrate_bandwidth: int = knob(
        112 * MIB, 'Memory per second that a live migration moves on this network; 112 MB/s are a link of 1 Gbit/s. '
        'A guest that writes faster is not asked away.', low=1 * MIB, high=64 << 30, unit='MiB')
    migrate_cooldown: float = knob(
        600.0, 'Seconds between two requests of one host, and those that a guest stays where it has come. A guest that '
        'could not be moved is left alone for twice as long, and again twice as long each time.', low=0, high=86400,
        unit='s')
    manage_ratio: bool = knob(
        True, 'Keep placement\'s MEMORY_MB allocation_ratio equal to what the host can promise. Needs placement 14 or '
        'later and an unset ram_allocation_ratio.')
    min_ratio: float = knob(1.0, 'Lowest allocation_ratio the host asks placement for.', low=0.1, high=64)
    max_ratio: float = knob(4.0, 'Highest allocation_ratio it asks for, unless more is claimed.', low=0.1, high=64)
    ratio_step: float = knob(
        0.05, 'The ratio is rounded down to a multiple of this, so that placement is not written at each audit.',
        low=0.001, high=1)
    require_swap_backing: bool = knob(
        True, 'Promise only what memory and swap can hold together. With false, guarantees and max_ratio bound it, '
        'and the kernel may kill guests; the log and the report then say so.')
    state_path: str = knob(
        '/var/lib/ovc', 'Directory for what must survive a restart: what was asked of guests and learned of them, page '
        'sharing as it was found, and whether placement\'s ratio is ours. Some 100 KB for each host.')
    predictor: str = knob(
        'calibrated', 'What predicts the most memory that guests need at once within a day: an entry point in the '
        'namespace ovc_plugin.predictors (see doc/adding-a-rule.rst), or "none". It is part of the report and guides '
        'placement.')
    record_path: str = knob(
        'record', 'Directory for the decision log, which "ovc replay" decides again and "ovc explain --record" reads: '
        'every pass in which something was done, and one a minute otherwise. A relative one is below state_path. Empty '
        'records nothing. Related: record_size_mb.')
    record_size: int = knob(
        20 * MIB, 'Most that the decision log of this host takes on disk; the oldest goes first.', low=1 * MIB,
        high=64 << 30, unit='MiB')
    run_path: str = knob('/run/libvirt/qemu', 'Where libvirt keeps its guests\' process ids; one process controls it.')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All groups together, as the host controller takes them."""

    shared: SharedSettings = SharedSettings()
    host: HostSettings = HostSettings()
    scheduler: SchedulerSettings = SchedulerSettings()


GROUPS: tuple[type, ...] = (SharedSettings, HostSettings, SchedulerSettings)
