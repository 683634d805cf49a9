# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A hypervisor that may hang, asked so that the asker never does.

libvirt waits without end for a QEMU that was stopped or hangs in the kernel, and with it the call for all guests. Such
a call is left to itself after some seconds; the next one passes over that guest, since libvirt knows it as busy.
"""
from __future__ import annotations

import queue
import threading
import typing

from ovc_plugin.hypervisor.protocol import Hypervisor
from ovc_plugin.samples import Counted, GuestFacts

SECONDS = 2.5
MOST = 8

T = typing.TypeVar('T')


class Patient:
    """Waits ``seconds`` for each call. At most ``most`` calls are left to themselves at a time."""

    def __init__(self, inner: Hypervisor, seconds: float = SECONDS, most: int = MOST) -> None:
        self._inner, self._seconds, self._most = inner, seconds, most
        self._lock = threading.Lock()
        self._under_way = 0
        self._sizes: dict[threading.Thread, tuple[str, int]] = {}

    def guests(self) -> list[GuestFacts]:
        """:raises TimeoutError: no answer in time; what the hypervisor raises otherwise."""
        return self._patiently('the guests', self._inner.guests)

    def set_balloon(self, uuid: str, target: int) -> None:
        """:raises TimeoutError: not taken in time; what the hypervisor raises otherwise."""
        self._patiently(f'guest {uuid}', self._set, uuid, target)

    def late(self) -> dict[str, int]:
        """Guests that were asked for a size by a call that has not come back, with the least such size in bytes: it may
        be carried out at any time, by a process that is not this one."""
        found: dict[str, int] = {}
        for uuid, target in list(self._sizes.values()):
            found[uuid] = min(target, found.get(uuid, target))
        return found

    def _set(self, uuid: str, target: int) -> None:
        thread = threading.current_thread()
        self._sizes[thread] = uuid, target
        try:
            self._inner.set_balloon(uuid, target)
        finally:
            del self._sizes[thread]

    def measure_dirty(self, uuids: typing.Collection[str]) -> None:
        """:raises TimeoutError: not taken in time; what the hypervisor raises otherwise."""
        measure = getattr(self._inner, 'measure_dirty', None)
        if measure is not None:
            self._patiently('dirty rates', measure, uuids)

    def read_pressures(self, uuid: str) -> Counted:
        """:raises TimeoutError: no answer in time; what the hypervisor raises otherwise."""
        return self._patiently(f'guest {uuid}', self._inner.read_pressures, uuid)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> typing.Any:
        """What else the hypervisor can do, as it is: calls that have patience of their own."""
        return getattr(self._inner, name)

    def _patiently(self, what: str, call: typing.Callable[..., T], *arguments: typing.Any) -> T:
        done: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                done.put((call(*arguments), None))
            except Exception as error:  # handed over to the one who waits
                done.put((None, error))
            finally:
                with self._lock:
                    self._under_way -= 1
        with self._lock:
            if self._under_way >= self._most:
                raise TimeoutError(f'{self._under_way} calls have had no answer; not asked about {what}')
            self._under_way += 1
        try:
            threading.Thread(target=work, name='ovc-hypervisor', daemon=True).start()
        except RuntimeError:  # there is none to be had
            with self._lock:
                self._under_way -= 1
            raise
        try:
            result, error = done.get(timeout=self._seconds)
        except queue.Empty:
            raise TimeoutError(f'no answer about {what} within {self._seconds:g} s: a guest\'s QEMU may hang') from None
        if error is not None:
            raise error
        return typing.cast(T, result)
