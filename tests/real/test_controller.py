# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The host controller over a real libvirt, real guests and the real kernel: each mechanism where it is the right one.

One host of 1,200 MB with 800 MB of swap; the guests own nothing but what these tests give them.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guest import client
from libvirt_host import LibvirtHost
from patience import SECONDS, beat_when, until

from ovc_plugin import assembly
from ovc_plugin.controller import Controller
from ovc_plugin.model import Level, Plan, ReclaimGuest, SetBalloon, TuneKsm
from ovc_plugin.settings import HostSettings, Settings, SharedSettings

MB = 1 << 20
OWNED = '<ovc:guest xmlns:ovc="https://ovc-plugin/xmlns/domain/1.0" trust-domain="tests" reservation="{}"/>'


def own(domain, reservation: str = '25%') -> None:
    """Say in the guest's definition whose it is and what it is owed, as nova's metadata does."""
    import libvirt
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, OWNED.format(reservation).replace('ovc:guest', 'guest')
                       .replace('xmlns:ovc', 'xmlns'), 'ovc', 'https://ovc-plugin/xmlns/domain/1.0',
                       libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG)


@pytest.fixture
def control(host: LibvirtHost, tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    made = []

    def make(**options) -> Controller:
        settings = Settings(
            shared=SharedSettings(default_overhead=64 * MB),
            host=HostSettings(**{'dry_run': False, 'boundary': str(host.group), 'tick': 1.0, 'dwell': 3.0,
                                 'run_path': str(host.root / 'run' / 'qemu'), 'state_path': str(tmp_path),
                                 'ksm': 'leave'} | options))
        made.append(assembly.build(host.name, settings, lambda: host.connection, reserve=0))
        return made[-1]
    yield make
    for controller in made:
        controller.stop()
    for domain in list(host.domains):
        host.discard(domain)


def test_an_idle_guest_is_ballooned_and_gets_its_memory_back(host, guest_images, control):
    domain, console = host.boot('idle', guest_images, memory=512 * MB)
    own(domain)
    console.wait_beats(3)
    wide = control(level_scale=200.0, swap=False)  # the minimum is beyond the host: a shortage that stays
    until(lambda: shrunk(wide, domain), 'the balloon target to be reached')
    beat_when(console, lambda beat: beat.total - beat.available < 512 * MB)
    calm = control(level_scale=0.1)
    until(lambda: (calm.run_pass(), actual(domain) == 512 * MB)[1], 'the memory to be given back')


def shrunk(controller, domain) -> bool:
    controller.run_pass()
    guest = controller.status()['guests'][0]
    assert guest['target'] >= guest['reservation'] == 128 * MB
    return guest['target'] < 400 * MB and actual(domain) <= guest['target'] + 4 * MB


def actual(domain) -> int:
    return domain.memoryStats()['actual'] * 1024


def test_one_guest_is_swapped_and_the_other_is_not(host, guest_images, control):
    """The guest without a balloon driver gives by swap; the one with a full reservation keeps every page."""
    stuck, stuck_console = host.boot('stuck', guest_images, memory=384 * MB, start='ovc.balloon=off ovc.touch=250')
    kept, kept_console = host.boot('kept', guest_images, memory=384 * MB, start='ovc.touch=250')
    own(stuck)
    own(kept, '100%')
    for console in (stuck_console, kept_console):
        until(lambda console=console: console.events('touched'), 'the guests to fill')
    controller = control(level_scale=200.0)
    until(lambda: (controller.run_pass(), swapped(controller, 'stuck') > 100 * MB)[1], 'the guest to be swapped')
    controller.finish(SECONDS)  # what it has begun lowers a limit while it lasts
    assert swapped(controller, 'kept') == 0
    floor = controller.status()['guests']
    assert all(g['resident'] >= g['reservation'] for g in floor), floor
    for domain, console in ((stuck, stuck_console), (kept, kept_console)):
        console.wait_beats(2)
        number = client.tell(domain, 'verify')
        assert client.wait(domain, number) == client.DONE, 'a guest lost data'
    limits = [(host.guest_group(d) / 'memory.limit_in_bytes').read_text().strip() for d in (stuck, kept)]
    assert set(limits) == {'9223372036854771712'}, 'a limit was left behind'


def swapped(controller, name: str) -> int:
    return {g['name']: g['swapped'] for g in controller.status()['guests']}[name]


@pytest.fixture
def no_sharing() -> Iterator[str]:
    """Page sharing off at first, whatever this machine had; what it had is put back."""
    file = Path('/sys/kernel/mm/ksm/run')
    before = file.read_text()
    file.write_text('0')
    yield file.read_text()
    file.write_text(before)


def test_equal_pages_of_one_owner_are_merged_and_sharing_is_put_back(host, guest_images, control, no_sharing):
    for name in ('one', 'two'):
        domain, console = host.boot(name, guest_images, memory=256 * MB, start='ovc.touch=120,kind=alike')
        own(domain)
        until(lambda console=console: console.events('touched'), 'the guests to fill')
    controller = control(ksm='auto', ksm_pages_to_scan=20000)
    until(lambda: any(isinstance(a, TuneKsm) and a.run == 1 for a in controller.run_pass()[0].actions),
          'sharing to be switched on')
    until(lambda: (controller.run_pass(), merged(controller))[1], 'half of what is alike to be merged, half by each')
    controller.stop()
    assert Path('/sys/kernel/mm/ksm/run').read_text() == no_sharing


def merged(controller) -> bool:
    """While the kernel merges, what it saves and each guest's part in it are of different moments."""
    status = controller.status()
    saved, parts = (status['ksm'] or {}).get('saved', 0), [g['saved'] or 0 for g in status['guests']]
    return saved >= 60 * MB and min(parts) > 0.4 * saved >= 0.4 * sum(parts)


def test_a_dry_run_leaves_a_real_host_alone(host, guest_images, control):
    domain, console = host.boot('dry', guest_images, memory=256 * MB)
    own(domain)
    console.wait_beats(2)
    controller = control(level_scale=200.0, dry_run=True, ksm='auto')
    ksm = Path('/sys/kernel/mm/ksm/run').read_text()

    def wants() -> bool:
        """Once the guest has said how much it can do without."""
        plan, outcomes = controller.run_pass()
        assert plan.level > Level.CLEAR and all(o.dry for o in outcomes)
        return any(isinstance(a, (SetBalloon, ReclaimGuest)) for a in plan.actions)
    until(wants, 'a plan that takes memory')
    time.sleep(2)
    assert actual(domain) == 256 * MB and Path('/sys/kernel/mm/ksm/run').read_text() == ksm


def test_a_guest_that_is_gone_in_the_middle_ends_nothing(host, guest_images, control):
    domain, console = host.boot('leaving', guest_images, memory=256 * MB)
    stays, _ = host.boot('staying', guest_images, memory=256 * MB)
    own(domain), own(stays)
    console.wait_beats(2)
    controller = control(level_scale=200.0)
    controller.run_pass()
    host.discard(domain)
    plan: Plan
    plan, _ = controller.run_pass()
    assert [g['name'] for g in controller.status()['guests']] == ['staying']
    assert plan.level > Level.CLEAR
