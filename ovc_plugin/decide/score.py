# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""How well a host suits a request that it can take: three votes, each from 0 to 1.

All are absolute: two hosts that differ little get nearly the same, whatever the other hosts look like. (nova's own
weighers stretch the worst and the best to 0 and 1, however close they are.)
"""
from __future__ import annotations

import typing

# Four of five shortages on a published trace end within ten minutes: exhaustion further off than that matters less.
SOON = 600.0
# The vote of a host that does not say how its memory moves: between one that keeps it and one that loses it.
UNTOLD = 0.5
# Share of time in which tasks wait for memory that is as bad as no room: a host is HARD then by default (stall_hard).
WAITS = 0.4
# What guests of one image are taken to share where nothing was merged yet. Small, so that it decides between hosts with
# plenty of room and not between a full and an empty one.
UNMEASURED = 0.05


def headroom(room: float, memory: int) -> float:
    """By the ``room`` left after the request, on a scale that the request alone sets: room / (room + memory)."""
    return room / (room + memory) if room > 0 and memory > 0 else 0.0


def trend(room: float, growth: float | None, stall: float | None = None) -> float:
    """By the time until the room is used up at the present speed: time / (time + 10 minutes); 1 when it grows. Less of
    that the more tasks there wait for memory (``stall``, a share of time); nothing from :data:`WAITS` on."""
    calm = 1.0 if stall is None else max(0.0, 1.0 - stall / WAITS)
    if growth is None:
        return UNTOLD * calm
    if growth <= 0:
        return calm
    return calm * room / (room + growth * SOON) if room > 0 else 0.0


class Shared(typing.Protocol):
    """What a host tells of sharing; under these names a report has it, and what a scheduler keeps of one."""

    @property
    def sharing(self) -> str: ...

    @property
    def domains(self) -> tuple[str, ...]: ...

    @property
    def saved(self) -> int: ...

    @property
    def claimed(self) -> int: ...


def affinity(report: Shared, domain: str, alike: bool, held: float | None = None) -> float:
    """The share of its memory that a guest may expect to save by page sharing on this host.

    ``domain`` names the request's trust domain, ``alike`` says that a guest of the same image (without one, of the same
    flavor) and domain is here. Where several domains are, or another one, sharing pauses and nothing is expected,
    unless everybody's pages may meet there. ``held``: what is known of the guest's own image
    (:meth:`ovc_plugin.decide.learned.Book.expected`): the kernel's count of it, or an estimate where pages are sampled.
    Without, what all guests here save is the kernel's count over their memory.
    """
    if report.sharing == 'none' or report.sharing != 'all' and report.domains != (domain,):
        return 0.0
    if held is not None:
        return held
    if not alike:
        return 0.0
    if report.saved and report.claimed:
        return min(1.0, report.saved / report.claimed)
    return UNMEASURED
