# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Asks the cloud to move a guest away, and listens for what becomes of it; no pass waits for either."""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import typing

from ovc_plugin.model import AskMigration, Departure, HostSnapshot

LOG = logging.getLogger(__name__)
_EVERY = 3.0          # seconds between two questions to the cloud while a guest is on its way
_HEARD_WITHIN = 60.0  # seconds in which a cloud that did not answer in time may still begin with what it was asked


class Cloud(typing.Protocol):
    """Who can move guests between hosts. Any exception means: not asked, or no answer this time."""

    def ask(self, guest: str) -> None:
        """Ask for a guest to be moved while it runs, to wherever there is room; returns before it moves.

        :raises TimeoutError: no answer in time: the guest may have been asked away all the same.
        """

    def outcome(self, guest: str) -> Departure:
        """What has become of the last request for this guest."""


class Departures:
    """One guest at a time. ``why_not`` says, where there is no ``cloud``, what is missing and what to do.

    ``measure`` is told the guests whose dirty rate will be needed.
    """

    def __init__(self, cloud: Cloud | None = None, *, measure: typing.Callable[[typing.Collection[str]], None],
                 why_not: str = 'this host has no cloud to ask', every: float = _EVERY,
                 clock: typing.Callable[[], float] = time.monotonic) -> None:
        self._cloud, self._measure, self._why_not = cloud, measure, why_not
        self._every, self._clock = every, clock
        self._lock = threading.Lock()
        self._told: Departure | None = None
        self._wake = threading.Event()
        self._leaving: set[str] = set()

    @contextlib.contextmanager
    def leaving(self, guest: str) -> typing.Iterator[None]:
        """While this lasts somebody moves the guest, asked by us or not."""
        self._leaving.add(guest)
        try:
            yield
        finally:
            self._leaving.discard(guest)

    def seen(self, snapshot: HostSnapshot, awaited: str | None, *, wanted: bool) -> HostSnapshot:
        """The host with what the cloud says, and guests on their way marked as busy. ``awaited`` is the guest that was
        asked away, perhaps before a restart; ``wanted`` whether guests are to be asked away at all."""
        snapshot = self._held(snapshot)
        if not wanted:
            if awaited is None:
                self._forget()
            return snapshot
        if self._cloud is None:
            return dataclasses.replace(snapshot, notes=(*snapshot.notes, (
                f'migrate is on in [ovc_host], and no guest is asked away: {self._why_not}')))
        if awaited is None:
            self._forget()
        elif self._told is None or self._told.guest != awaited:
            with contextlib.suppress(RuntimeError):  # there is no thread to follow it in: the next pass tries again
                self._begin(awaited, ask=False)
        told = self._told
        notes = snapshot.notes
        if told and told.error:
            name = next((g.name for g in snapshot.guests if g.uuid == told.guest), told.guest)
            notes = (*notes, f'guest {name}: could not be moved away: {told.error}')
        return dataclasses.replace(snapshot, departures=(told,) if told else (), notes=notes)

    def _held(self, snapshot: HostSnapshot) -> HostSnapshot:
        away = set(self._leaving)
        if not away:
            return snapshot
        return dataclasses.replace(snapshot, guests=tuple(
            dataclasses.replace(g, busy=True, can_balloon=False, can_swap=False, can_migrate=False)
            if g.uuid in away else g for g in snapshot.guests))

    def measure(self, guests: typing.Collection[str]) -> None:
        """Have the dirty rate of these guests measured; a hypervisor that cannot leaves it unknown."""
        if not guests:
            return
        try:
            self._measure(guests)
        except Exception as error:  # the choice can be made without
            LOG.debug('dirty rates are not measured: %s', error)

    def apply(self, action: AskMigration) -> None:
        """Ask, in a thread of its own: the answer is in a later :meth:`seen`.

        :raises LookupError: there is no cloud to ask.
        :raises RuntimeError: there is no thread to ask in.
        """
        if self._cloud is None:
            raise LookupError(self._why_not)
        self._begin(action.guest, ask=True)

    def stop(self) -> None:
        """Ask no more; the cloud goes on with what it was asked."""
        self._forget()

    def _begin(self, guest: str, *, ask: bool) -> None:
        with self._lock:
            self._wake.set()
            self._wake = threading.Event()
            self._told = None
            threading.Thread(target=self._follow, args=(guest, ask, self._wake), name='ovc-departure',
                             daemon=True).start()
            self._told = Departure(guest=guest)  # the thread tells nothing while the lock is held

    def _forget(self) -> None:
        with self._lock:
            self._wake.set()
            self._told = None

    def _follow(self, guest: str, ask: bool, over: threading.Event) -> None:
        assert self._cloud is not None
        unanswered, until = '', 0.0
        if ask:
            try:
                self._cloud.ask(guest)
            except TimeoutError as error:
                unanswered, until = str(error), self._clock() + _HEARD_WITHIN
                LOG.warning('guest %s: %s; it is looked whether the guest moves', guest, error)
            except Exception as error:
                self._tell(Departure(guest=guest, ended=True, error=str(error) or type(error).__name__), over)
                return
        while not over.wait(self._every):
            try:
                told = self._cloud.outcome(guest)
            except Exception as error:  # the guest may be on its way all the same
                LOG.debug('no word of guest %s this time: %s', guest, error)
                continue
            if unanswered and told.ended and told.error:
                if self._clock() < until:
                    continue
                told = dataclasses.replace(told, error=f'{unanswered}; {told.error}')
            elif unanswered and not told.ended:
                unanswered = ''  # it was heard
            self._tell(told, over)
            if told.ended:
                return

    def _tell(self, told: Departure, over: threading.Event) -> None:
        with self._lock:
            if not over.is_set():
                self._told = told
