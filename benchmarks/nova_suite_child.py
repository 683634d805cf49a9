# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""One process of benchmarks/nova-suite: runs nova's own tests, as they are or with us in place. Results go to stdout.

How we come in place, before any test is imported, and without a change to nova's files:

driver     ``nova.virt.libvirt.driver.LibvirtDriver`` and ``nova.virt.libvirt.LibvirtDriver`` become a class of that
           name made of our mixin and nova's class, as ``ovc.OvcLibvirtDriver`` is. Where nova's tests start a host
           (``init_host``), a controller stands behind it that reports a host with room for everything and lets all
           in: so report, ledger and late check are at work, and only what nova decides can differ. It watches no
           memory and touches no guest: nova's fake libvirt has none.
scheduler  the defaults of ``[filter_scheduler]`` get our filters and our weigher appended, as the README says; dry_run
           is false in ``[ovc_scheduler]`` and ``[ovc_host]``. ``manage_ratio`` is as asked for: nova's tests know the
           static ratio alone.
"""
from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import time
import traceback
import types
import unittest
from typing import Any

ROOM = 1 << 44


def ready_nova() -> None:
    """What nova's tests want of their surroundings: threads chosen first, and api-paste.ini where a checkout has it."""
    os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', '1')
    os.environ.setdefault('OS_STDOUT_CAPTURE', '1')
    os.environ.setdefault('OS_STDERR_CAPTURE', '1')
    from nova import monkey_patch
    monkey_patch.patch()
    from nova.tests.fixtures import conf
    original = conf.paths.state_path_def

    def state_path_def(*parts: str) -> str:
        path: str = original(*parts)
        return path if os.path.exists(path) else os.path.join(sys.prefix, *parts)

    conf.paths.state_path_def = state_path_def


class RoomyController:
    """Stands where the host controller stands, on a host that has room for everything."""

    def __init__(self, host: str, settings: Any) -> None:
        self.host, self.settings = host, settings

    @property
    def report(self) -> Any:
        from ovc_plugin import report
        from ovc_plugin.model import Level
        return report.HostReport(
            host=self.host, taken_at=time.time(), level=Level.CLEAR, total=ROOM, reserve=0, available=ROOM, committed=0,
            reserved=0, claimed=0, guests=0, reclaimable=0, saved=0, swap_usable=ROOM, swap_used=0)

    @property
    def listed_at(self) -> float:
        return time.time()

    @property
    def dry_run(self) -> bool:
        return bool(self.settings.host.dry_run)

    def start(self) -> None:
        pass

    def stop(self, timeout: float = 5.0) -> None:
        pass

    def status(self) -> dict[str, Any]:
        from ovc_plugin import report
        return {'report': report.to_dict(self.report), 'guests': []}

    def expect(self, guest: str, project: str) -> None:
        pass

    def leaving(self, guest: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def admits(self, request: Any, in_flight: Any, now: float) -> Any:
        from ovc_plugin.decide import placement
        return placement.fits(self.report, request, in_flight, self.settings.scheduler, self.settings.shared, now)


def put_us_in_place(manage_ratio: bool, state: str) -> None:
    import nova.conf
    import nova.virt.libvirt
    from nova.virt.libvirt import driver as libvirt_driver

    from ovc_plugin.nova import current
    from ovc_plugin.nova.driver import OvcLibvirtDriver
    from ovc_plugin.nova.filters import OvercommitFilter, SharingDomainFilter  # noqa: F401
    from ovc_plugin.nova.mixin import OvcMixin
    # nova's tests replace static methods of its class, and the library by which they do so puts inherited ones back as
    # ordinary methods: they must be the class's own, as they are in nova's.
    static = {name: value for name, value in vars(libvirt_driver.LibvirtDriver).items()
              if isinstance(value, staticmethod) and not hasattr(OvcMixin, name)}
    ours = types.new_class('LibvirtDriver', (OvcLibvirtDriver,), exec_body=lambda body: body.update(
        static, __module__=libvirt_driver.__name__, _ovc_build=lambda self, host, reserve: RoomyController(
            host, self._ovc_settings)))
    libvirt_driver.LibvirtDriver = nova.virt.libvirt.LibvirtDriver = ours
    current.conf.register(nova.conf.CONF)
    default(('filter_scheduler', 'available_filters'), lambda before: [
        *before, 'ovc_plugin.nova.filters.OvercommitFilter', 'ovc_plugin.nova.filters.SharingDomainFilter'])
    default(('filter_scheduler', 'enabled_filters'), lambda before: [
        *before, 'OvercommitFilter', 'SharingDomainFilter'])
    default(('filter_scheduler', 'weight_classes'), lambda before: [
        *before, 'ovc_plugin.nova.weights.OvercommitWeigher'])
    for option, value in ((('ovc_scheduler', 'dry_run'), False), (('ovc_host', 'dry_run'), False),
                          (('ovc_host', 'manage_ratio'), manage_ratio),
                          (('ovc_host', 'state_path'), state), (('ovc_host', 'run_path'), state)):
        default(option, lambda before, value=value: value)


def default(option: tuple[str, str], change: Any) -> None:
    """Change an option's default itself: what tests set is theirs, and goes back to this."""
    import nova.conf
    group, name = option
    found = nova.conf.CONF._get_opt_info(name, group)['opt']
    found.default = change(found.default)


def tests_in(names: list[str]) -> dict[str, unittest.TestCase]:
    found: dict[str, unittest.TestCase] = {}

    def walk(suite: Any) -> None:
        for test in suite:
            if isinstance(test, unittest.TestSuite):
                walk(test)
            else:
                found[test.id()] = test

    loader = unittest.TestLoader()
    for name in names:
        try:
            module, kind, test = name.rsplit('.', 2)
            if kind[:1].isupper():  # one test; by its name unittest does not find those that testtools skips
                found[name] = getattr(importlib.import_module(module), kind)(test)
            else:
                walk(loader.loadTestsFromName(name))
        except Exception:
            print(json.dumps({'test': name, 'result': 'failed', 'seconds': 0.0,
                              'why': f'not loaded: {traceback.format_exc()[-2000:]}'}), file=sys.__stdout__, flush=True)
    return found


class Told(unittest.TestResult):
    """Each result as one line of JSON on the stream that stdout was before the tests took it."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream, self._began = stream, 0.0

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._began, self._result, self._why = time.monotonic(), 'passed', ''

    def _set(self, result: str, why: str) -> None:
        if self._result == 'passed':
            self._result, self._why = result, why

    def addError(self, test: Any, err: Any, details: Any = None) -> None:
        self._set('failed', told(err, details))

    addFailure = addError

    def addSkip(self, test: Any, reason: str = '', details: Any = None) -> None:
        self._set('skipped', reason)

    def addExpectedFailure(self, test: Any, err: Any = None, details: Any = None) -> None:
        self._set('expected failure', '')

    def addUnexpectedSuccess(self, test: Any, details: Any = None) -> None:
        self._set('failed', 'unexpected success')

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        print(json.dumps({'test': test.id(), 'result': self._result, 'why': self._why,
                          'seconds': round(time.monotonic() - self._began, 2)}), file=self._stream, flush=True)


def told(err: Any, details: Any) -> str:
    if details:
        return '\n'.join(d.as_text()[-3000:] for name, d in sorted(details.items()) if 'traceback' in name)[-3000:]
    return ''.join(traceback.format_exception(*err))[-3000:]


@dataclasses.dataclass
class Order:
    """What the parent asks: ``list`` names tests, ``stock`` and ``ours`` run them. ``state`` is a directory for us."""

    mode: str
    names: list[str]
    state: str
    manage_ratio: bool = False


def main() -> int:
    order = Order(**json.load(sys.stdin))
    stream = os.fdopen(os.dup(1), 'w')
    ready_nova()
    if order.mode == 'ours':
        put_us_in_place(order.manage_ratio, order.state)
    tests = tests_in(order.names)
    if order.mode == 'list':
        print(json.dumps(sorted(tests)), file=stream, flush=True)
        os._exit(0)
    result = Told(stream)
    for name in sorted(tests):
        tests[name].run(result)
    stream.flush()
    os._exit(0)  # threads that a failed test left behind must not keep us


if __name__ == '__main__':
    main()
