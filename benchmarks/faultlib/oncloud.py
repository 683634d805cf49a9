# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Faults of the cloud around a host: the message bus and placement are killed under a controller at work."""
from __future__ import annotations

import json
import os
import signal
import time
import typing

from guest.client import GuestError, tell
from onebox_cloud import parts
from onebox_cloud.cloud import Cloud
from onebox_cloud.demo import watch
from onebox_cloud.demo.run import refusals
from onebox_cloud.options import Options
from onebox_cloud.process import Part
from onebox_cloud.progress import Progress

from benchmarks import stored
from ovc_plugin import codec, record
from ovc_plugin.decide.replay import Pass
from ovc_plugin.model import Level

from .scene import MB, UNLIMITED, Row

AWAY = 62.0  # the log has a pass a minute where nothing is done
MORE = 35    # MB that each guest fills in each fault: twice that leaves it enough


class World:
    """One host, two guests that fill up, and how to look at them without the message bus."""

    def __init__(self, cloud: Cloud, say: typing.Callable[[str], None]) -> None:
        self.cloud, self.say, self.host = cloud, say, cloud.hosts[0]
        self.kills = watch.kernel_kills()
        self.servers: dict[str, str] = {}
        for name in ('one', 'two', 'three'):
            self.boot(name, 'ovc.touch=330')
        self.watcher = watch.Watcher(cloud, self.servers, 512 * MB // 4)
        self.until(lambda: all(self.watcher.touched(name) for name in self.servers), 600, 'guests to fill')

    def boot(self, name: str, start: str) -> None:
        image = self.cloud.ensure_image(f'image-{name}', f'console=ttyS0 quiet {start}')
        flavor = self.cloud.ensure_flavor('faults', 512, {'ovc:reservation': '25%'})
        self.servers[name] = self.cloud.connect().compute.create_server(
            name=name, image_id=image.id, flavor_id=flavor.id, networks='none').id

    def fill_more(self) -> list[str]:
        """Tell each guest to fill more, which makes work for the controller; who was told. One that does not answer in
        time is not told again: it might have heard."""
        import libvirt
        told = []
        connection = libvirt.open(self.host.uri)
        try:
            for name, uuid in self.servers.items():
                try:
                    tell(connection.lookupByUUIDString(uuid), f'touch {MORE} rate=2')
                    told.append(name)
                except (GuestError, libvirt.libvirtError) as error:
                    self.say(f'{name} could not be told to fill more: {error}')
        finally:
            connection.close()
        return told

    def delete(self, name: str) -> None:
        """And wait until it is gone: the next fault must not meet nova in the middle of it."""
        compute = self.cloud.connect().compute
        server = self.servers.pop(name)
        compute.delete_server(server)
        self.until(lambda: compute.find_server(server) is None, 300, f'{name} to be deleted')

    def booted(self, name: str) -> bool:
        """:raises RuntimeError: nova has given it up; with its word, and ours."""
        server = self.cloud.connect().compute.get_server(self.servers[name])
        if server.status == 'ERROR':
            said = refusals(self.cloud, self.watcher) or {'ours': 'nothing of why, so that placement offered no host'}
            raise RuntimeError(f'nova: {(server.fault or {}).get("message", "no word of why")}; '
                               + '; '.join(f'{where}: {what}' for where, what in said.items()))
        return self.watcher.beating(name)

    def until(self, look: typing.Callable[[], typing.Any], seconds: float, what: str) -> float:
        began = time.monotonic()
        while not look():
            if time.monotonic() - began > seconds:
                raise TimeoutError(f'waited {seconds:g} s in vain for {what}')
            time.sleep(1)
        return time.monotonic() - began

    def passes(self, since: float) -> list[Pass]:
        """What the controller has recorded since; its log needs neither bus nor placement."""
        found = []
        for path in record.files(self.cloud.state / 'ovc' / 'record', self.host.name):
            found += [codec.read(Pass, line['pass']) for line in record.Lines(path) if 'pass' in line]
        return [one for one in found if one.at >= since]

    def status(self) -> dict[str, typing.Any] | None:
        answer = self.watcher.ask()[self.host.name]
        return answer if isinstance(answer, dict) and answer.get('report') else None

    def takes_guests(self, since: float) -> bool:
        """Whether nova-scheduler reads a report of the host taken since, by which it is not short of memory. One that
        is takes nobody, and guests that fill bring it there and back: with a server that is gone or not."""
        report = stored.reports(self.cloud).get(self.host.name)
        return report is not None and report.taken_at >= since and report.level < Level.HARD

    def lost(self) -> list[str]:
        found = [f'{name} does not beat' for name in self.servers if not self.watcher.beating(name)]
        if killed := watch.kernel_kills() - self.kills:
            found.append(f'{killed} processes killed by the kernel')
        for name, group in self.host.guests().items():
            text = (group / 'memory.limit_in_bytes').read_text().strip()
            if text != UNLIMITED:
                time.sleep(2)  # a chunk of a swap under way is the limit of a moment
                if (group / 'memory.limit_in_bytes').read_text().strip() == text:
                    found.append(f'limit {text} left on {name}')
        for _ in range(30):  # libvirt may be busy with one of them
            below, guests, seen = self.watcher.below([self.host])
            if seen == guests:
                break
            time.sleep(1)
        else:
            found.append(f'{guests - seen} of {guests} guests could not be looked at')
        return found + below


def acted(passes: list[Pass]) -> int:
    """How many actions these passes have done."""
    return sum(outcome.done for one in passes for outcome in one.outcomes)


def without(world: World, part: Part, word: str) -> Row:
    """Kill a server, let the controller go on without it, start it again, and boot a guest."""
    began = time.time()
    os.kill(world.cloud.pid(part.name) or 0, signal.SIGKILL)
    # Guests that go on filling make work for the controller meanwhile.
    told = world.fill_more()
    time.sleep(AWAY)
    try:
        world.until(lambda: acted(world.passes(began)), 180, 'an action without it')
    except TimeoutError:
        pass  # said below
    alone = world.passes(began)
    saved = json.loads((world.cloud.state / 'ovc' / f'{world.host.name}.json').read_text())
    running = len(world.host.guests())
    world.cloud.up()
    answers = world.until(world.status, 90, 'the host to answer')
    fresh = world.until(lambda: (s := world.status()) and s['tick']['age'] < 15, 60, 'a fresh report')
    back = time.time()
    calm = world.until(lambda: world.takes_guests(back), 180, 'nova to read a report of a host below HARD')
    name = f'after-{part.name}'
    world.boot(name, 'ovc.touch=20')
    booted = world.until(lambda: world.booted(name), 600, 'a guest to boot')
    errors = {o.error for one in alone for o in one.outcomes if o.error}
    lost = [f'an action failed: {error}' for error in sorted(errors)[:1]]
    if not told:
        lost.append('no guest could be told to fill more')
    if not acted(alone):
        lost.append('nothing was done without it')
    if not alone:
        lost.append('no pass was recorded without it')
    if running != len(world.servers) - 1:
        lost.append(f'{running} of {len(world.servers) - 1} guests ran')
    world.delete(name)
    level = alone[-1].plan.level.name if alone else '-'
    return Row(fault=f'{word} killed for {AWAY:.0f} s', kind='real (cloud)', lost=tuple(lost + world.lost()),
               happened=f'{len(alone)} passes recorded meanwhile with {acted(alone)} actions done (level {level}, '
                        f'state kept: {saved["ladder"]["level"]}); status again {answers + fresh:.0f} s after its '
                        f'return, nova reads a host below HARD {calm:.0f} s later, a new guest beats after '
                        f'{booted:.0f} s more')


def run(wanted: list[str], say: typing.Callable[[str], None]) -> list[Row]:
    """On a fresh one-machine cloud, which is gone afterwards."""
    cloud = Cloud(options=Options(hosts=1, host_memory_mb=1500, host_swap_mb=1280), say=Progress())
    known = {'rabbitmq': (parts.rabbit, 'RabbitMQ'), 'placement': (
        lambda runner: next(part for part in parts.web_services(runner) if part.name == 'placement'), 'placement')}
    rows = []
    with cloud.while_up():
        world = World(cloud, say)
        for name in wanted:
            find, word = known[name]
            try:
                rows.append(without(world, find(cloud.runner), word))
            except Exception as error:
                rows.append(Row(fault=name, kind='?', happened='not shown', lost=(f'{type(error).__name__}: {error}',)))
            say(f'{name}: {"; ".join(rows[-1].lost) or "nothing lost"}')
        world.watcher.close()
    return rows
