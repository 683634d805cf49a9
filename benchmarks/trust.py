# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Whether the kernel merges pages across tenants, read from the guests' own processes. See --help."""
from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox')]

import frames  # noqa: E402
from guest import client  # noqa: E402
from onebox_cloud import cgroup  # noqa: E402
from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.demo import watch  # noqa: E402
from onebox_cloud.errors import finish  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402

MB = 1 << 20
KSM = Path('/sys/kernel/mm/ksm')
TENANTS = ('red', 'blue')
DESCRIPTION = """\
Two tenants start guests of the same image, filled with the same pages, on one host of the real one-machine cloud. Three
times it is looked at which frames of memory the guests' QEMU processes map (/proc/PID/pagemap) and which of them the
kernel has merged (/proc/kpageflags). Two guests share a page if and only if they map the same frame.

  auto          as delivered: pages of the tenant that was first are merged among its guests, and no frame is common to
                guests of two tenants
  all-tenants   ksm = all-tenants-despite-side-channels, and the second tenant's guests are started anew: frames are
                common to both. So the look does find them. The log names the risk
  auto again    guests of both tenants that can merge are on the host, as from before the plugin came: sharing pauses
                and says why, and pages that are filled alike from then on stay apart

Exit status 0: all of that held. Needs what the one-machine cloud needs; it is wiped at the end.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/trust', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('guests', 2, 'guests of each tenant'), ('guest-memory', 192, 'MB'),
                              ('alike', 60, 'MB alike in each guest'), ('more', 20, 'MB alike added at the end'),
                              ('host-memory', 2400, 'MB'), ('patience', 120, 'seconds for the kernel to merge')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    return top


class Scene:
    def __init__(self, cloud: Cloud, options: argparse.Namespace, say: Progress) -> None:
        self.cloud, self.options, self.say = cloud, options, say
        admin = cloud.connect()
        image = cloud.ensure_image('trust', f'console=ttyS0 quiet ovc.touch={options.alike},kind=alike')
        for one in (image.id, image.kernel_id, image.ramdisk_id):
            admin.image.update_image(one, visibility='public')
        self.image, self.flavor = image, cloud.ensure_flavor('trust', options.guest_memory)
        self.tenants = {name: self._tenant(admin, name) for name in TENANTS}
        self.servers: dict[str, str] = {}
        self.watcher = watch.Watcher(cloud, self.servers, None)

    @staticmethod
    def _tenant(admin, name: str):
        """A project of that name, and a connection that acts in it."""
        project = admin.identity.create_project(name=name, domain_id='default')
        role = admin.identity.find_role('admin')
        admin.identity.assign_project_role_to_user(project, admin.current_user_id, role)
        return admin.connect_as_project(project)

    def start(self, tenant: str) -> None:
        compute = self.tenants[tenant].compute
        names = [f'{tenant}{number}' for number in range(1, self.options.guests + 1)]
        for name in names:
            self.servers[name] = compute.create_server(name=name, image_id=self.image.id, flavor_id=self.flavor.id,
                                                       networks='none').id
        for name in names:
            server = compute.wait_for_server(compute.get_server(self.servers[name]), wait=300)
            if server.status != 'ACTIVE':
                raise SystemExit(f'trust: {name} did not start: {server.fault}')
        self.until(lambda: all(self.watcher.touched(name) for name in names), 600, 'the guests to fill')
        self.say(f'{tenant}: {len(names)} guests started and filled')

    def end(self, tenant: str) -> None:
        compute = self.tenants[tenant].compute
        for name in [name for name in self.servers if name.startswith(tenant)]:
            server = compute.get_server(self.servers.pop(name))
            compute.delete_server(server)
            compute.wait_for_delete(server, wait=300)

    def names(self) -> dict[str, str]:
        """libvirt's name of each guest, by ours."""
        compute = self.cloud.connect().compute
        return {name: compute.get_server(uuid).instance_name for name, uuid in self.servers.items()}

    def pids(self) -> dict[str, int]:
        groups = self.cloud.hosts[0].guests()
        return {name: int(cgroup.pids(groups[libvirt])[0]) for name, libvirt in self.names().items()}

    def unmergeable(self) -> set[str]:
        import libvirt
        connection = libvirt.open(self.cloud.hosts[0].uri)
        return {name for name, domain in self.names().items()
                if '<nosharepages' in connection.lookupByName(domain).XMLDesc(0)}

    def tell(self, command: str) -> None:
        """Tell every guest, and wait until all have done it."""
        import libvirt
        connection = libvirt.open(self.cloud.hosts[0].uri)
        for domain in self.names().values():
            found = connection.lookupByName(domain)
            if client.do(found, command) != client.DONE:
                raise SystemExit(f'trust: {domain} did not {command}')

    def reconfigure(self, ksm: str) -> None:
        """Another value of [ovc_host] ksm, and nova-compute started anew with it; guests live on."""
        part = f'compute-{self.cloud.hosts[0].name}'
        if pid := self.cloud.pid(part):
            os.kill(pid, signal.SIGTERM)
            self.until(lambda: self.cloud.pid(part) is None, 60, 'nova-compute to stop')
        options = cloud_options(self.options, ksm)
        self.cloud.state.save(options)
        self.cloud = Cloud(options=options, say=self.say)
        self.cloud.up()
        self.watcher.cloud = self.cloud
        self.until(lambda: self.status(), 60, 'the controller to answer')

    def status(self) -> dict | None:
        answer = self.watcher.ask()[self.cloud.hosts[0].name]
        return answer if isinstance(answer, dict) and answer.get('report') else None

    def log(self) -> str:
        return self.cloud.log(f'compute-{self.cloud.hosts[0].name}').read_text(errors='replace')

    def until(self, look, seconds: float, what: str):
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise SystemExit(f'trust: waited {seconds:g} s in vain for {what}')
            time.sleep(1)
        return found


class Look:
    """Who shares frames with whom, at one time."""

    def __init__(self, pids: dict[str, int]) -> None:
        known = frames.flags()
        self.merged = {name: frames.merged(pid, known) for name, pid in pids.items()}
        self.told = {name: int(Path(f'/proc/{pid}/ksm_merging_pages').read_text()) for name, pid in pids.items()}
        self.run = int((KSM / 'run').read_text())
        self.pairs = {pair: frames.common(*(self.merged[name] for name in pair))
                      for pair in itertools.combinations(sorted(pids), 2)}

    def common(self, *tenants: str) -> int:
        """Frames that guests of these tenants share (one name: among its own), added up over pairs of guests."""
        wanted = sorted((tenants * 2)[:2])
        return sum(count for pair, count in self.pairs.items() if sorted(tenant(name) for name in pair) == wanted)

    def show(self, title: str) -> None:
        print(f'\n{title}   (/sys/kernel/mm/ksm/run = {self.run})')
        print(f'{"frames merged":>16}  {"pages by ksm_merging_pages":>26}  {"frames shared with":<40}')
        for name, found in self.merged.items():
            shared = {other: count for pair, count in self.pairs.items() if name in pair
                      for other in pair if other != name}
            print(f'{name:<6}{len(found):>10}  {self.told[name]:>26}  '
                  + ' '.join(f'{other} {count}' for other, count in shared.items()))


def tenant(name: str) -> str:
    return name.rstrip('0123456789')


def settled(scene: Scene, good) -> Look:
    """The look once the kernel has merged what it will: ``good`` holds, and two full scans later.

    However slowly it scans by then: the controller lets it trickle where there is no more to find.
    """
    deadline = time.monotonic() + scene.options.patience
    look = Look(scene.pids())
    while not good(look) and time.monotonic() < deadline:
        time.sleep(2)
        look = Look(scene.pids())
    scans = int((KSM / 'full_scans').read_text())
    scene.until(lambda: int((KSM / 'full_scans').read_text()) >= scans + 2, 1800, 'two more full scans')
    return Look(scene.pids())


def cloud_options(options: argparse.Namespace, ksm: str) -> Options:
    """The tenants shall meet, so no filter may keep them apart."""
    return Options(hosts=1, host_memory_mb=options.host_memory, settings=(
        ('filter_scheduler', 'enabled_filters', 'ComputeFilter,ComputeCapabilitiesFilter,OvercommitFilter'),
        ('ovc_host', 'ksm', ksm)))


def play(scene: Scene) -> tuple[list[tuple[str, str, bool]], str]:
    enough = scene.options.alike * MB // frames.PAGE // 2
    scene.start('red')
    scene.start('blue')
    scene.say('auto: waiting for the kernel to merge')
    auto = settled(scene, lambda look: look.common('red') >= enough)
    auto.show('auto')
    kept_out = scene.unmergeable()
    scene.reconfigure('all-tenants-despite-side-channels')
    scene.end('blue')
    scene.start('blue')
    scene.say('all-tenants: waiting for the kernel to merge')
    across = settled(scene, lambda look: look.common('red', 'blue') >= enough)
    across.show('all-tenants')
    warned = [line for line in scene.log().splitlines() if 'bit flips' in line]
    scene.reconfigure('auto')
    status = scene.until(lambda: (s := scene.status()) and s['ksm']['run'] == 0 and s, 60, 'sharing to pause')
    paused = next((note for note in status['notes'] if 'paused' in note), '')
    before = Look(scene.pids())
    scene.tell(f'touch {scene.options.more} kind=alike')
    time.sleep(scene.options.patience / 4)
    again = Look(scene.pids())
    again.show(f'auto again, after {scene.options.more} MB more alike in each guest')
    new = again.common('red', 'blue') - before.common('red', 'blue')
    print(f'\nstatus says: {paused}\nlog said:    {warned[0].split("] ", 1)[-1] if warned else "nothing"}\n')
    rows = [('auto: sharing is on, and merges among red', f'{auto.common("red")} frames', auto.run == 1
             and auto.common('red') >= enough),
            ('auto: red and blue share', f'{auto.common("red", "blue")} frames', not auto.common('red', 'blue')),
            ('auto: started unmergeable', ' '.join(sorted(kept_out)) or 'nobody',
             kept_out == {name for name in auto.merged if tenant(name) == 'blue'}),
            ('all-tenants: red and blue share (the look can fail)', f'{across.common("red", "blue")} frames',
             across.common('red', 'blue') >= enough),
            ('all-tenants: the log names the risk', f'{len(warned)} lines', bool(warned)),
            ('auto again: sharing pauses and says why', f'run = {again.run}', again.run == 0 and bool(paused)),
            ('auto again: newly shared by red and blue', f'{new} frames', new <= 0)]
    line = (f'trust: auto_own_frames={auto.common("red")} auto_cross_frames={auto.common("red", "blue")} '
            f'all_tenants_cross_frames={across.common("red", "blue")} paused_run={again.run} paused_new_frames={new} '
            f'told_why={int(bool(paused))} risk_named={int(bool(warned))}')
    return rows, line


def main() -> int:
    options = parser().parse_args()
    say = Progress()
    cloud = Cloud(options=cloud_options(options, 'auto'), say=say)
    with cloud.while_up():
        scene = Scene(cloud, options, say)
        try:
            rows, line = play(scene)
        finally:
            scene.watcher.close()
    for what, figure, held in rows:
        print(f'{what:54}  {figure:24}  {"holds" if held else "FAILS"}')
    print(line)
    return 0 if all(held for *_, held in rows) else 1


if __name__ == '__main__':
    finish('trust', main)
