# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The plugin turned off on the one-machine cloud, and what is left of it after each step."""
from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox'), str(CHECKOUT / 'benchmarks')]

import hog  # noqa: E402
from onebox_cloud import hosts as hosts_of  # noqa: E402
from onebox_cloud import parts  # noqa: E402
from onebox_cloud.cloud import Cloud  # noqa: E402
from onebox_cloud.config import VENV, nova_arguments  # noqa: E402
from onebox_cloud.demo import watch  # noqa: E402
from onebox_cloud.errors import finish  # noqa: E402
from onebox_cloud.options import Options  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402

MB = 1 << 20
KSM = Path('/sys/kernel/mm/ksm/run')
UNLIMITED = '9223372036854771712'
RESERVED = 64  # MB, as the cloud's nova.conf has it
STOCK = '# Stock nova: no line of the plugin.\n'
DESCRIPTION = """\
One host of the one-machine cloud; guests fill it until the controller balloons them. Then, as the README says:
somebody else takes what memory is left; nova-compute is stopped; "ovc release" is run while there is no room (it
refuses, with the numbers), and again when guests have left; the plugin's lines are removed and nova is started without
them; a guest is booted; "ovc check" looks. After each step: placement's ratio, the guests' sizes, limits, page sharing.
With --kill nova-compute is not stopped but killed with signal 9, and the lines are removed before "ovc release" is run:
that alone then has to undo everything.
Exit status 0: there was something to undo (the ratio above nova's, sharing on, guests below their full size, also when
"ovc release" found no room); and in the end placement has nova's ratio, every guest its full size, no limit is lowered,
page sharing is as it was found, nova without us boots a guest, and "ovc check" says that nothing is left on
the host and that the controller is off.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/turnoff', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('host-memory', 1500, 'MB'), ('host-swap', 1280, 'MB'), ('guests', 4, 'guests'),
                              ('guest-memory', 512, 'MB'), ('fill', 330, 'MB each guest fills'),
                              ('leave', 2, 'guests that leave to make room')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--kill', action='store_true', help='kill nova-compute instead of stopping it')
    return top


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What the plugin has changed, as it is now."""

    step: str
    ratio: float
    sizes: dict[str, int]
    limits: int
    ksm: str

    def row(self, full: int) -> tuple[str, ...]:
        small = [size for size in self.sizes.values() if size < full]
        return (self.step, f'{self.ratio:g}', f'{len(small)} of {len(self.sizes)}',
                f'{self.lacking(full) // MB}', str(self.limits), self.ksm)

    def lacking(self, full: int) -> int:
        """Bytes that guests lack of their full size."""
        return sum(full - size for size in self.sizes.values())

    def all_full(self, guests: int, full: int) -> bool:
        """Whether so many guests run, and each has its full size: it holds for nobody's guests only where none run."""
        return len(self.sizes) == guests and all(size == full for size in self.sizes.values())


class Scene:
    def __init__(self, cloud: Cloud, options: argparse.Namespace, say: Progress) -> None:
        self.cloud, self.options, self.say = cloud, options, say
        self.host = cloud.hosts[0]
        self.full = options.guest_memory * MB
        self.ksm_before = '0'
        self.kills_before = watch.kernel_kills()
        # Where this cloud's controller keeps its state is nobody's default: the commands are told.
        self.where = cloud.state.etc / 'ovc-where.conf'
        self.where.write_text(f'[ovc_host]\nstate_path = {cloud.state / "ovc"}\nboundary = /sys/fs/cgroup/memory\n')

    def look(self, step: str) -> Look:
        found = Look(step=step, ratio=self.ratio(), sizes=self.sizes(), limits=self.limits(),
                     ksm=KSM.read_text().strip())
        self.say(' | '.join(found.row(self.full)))
        return found

    def sizes(self, patience: float = 60.0) -> dict[str, int]:
        """Of every guest whose QEMU runs: libvirt leaves out those that are busy, and is asked again; then as it is."""
        deadline = time.monotonic() + patience
        while True:
            found, running = watch._balloons(self.host), self.host.guests()
            if set(found) >= set(running) or time.monotonic() > deadline:
                return {name: size for name, size in found.items() if name in running}
            time.sleep(1)

    def ratio(self) -> float:
        """As placement has it, asked by its own API."""
        client = self.cloud.connect().placement
        provider = next(iter(client.resource_providers()))
        inventory = client.get(f'/resource_providers/{provider.id}/inventories/MEMORY_MB', microversion='1.36').json()
        return float(inventory['allocation_ratio'])

    def limits(self) -> int:
        return sum((group / 'memory.limit_in_bytes').read_text().strip() != UNLIMITED
                   for group in self.host.guests().values())

    def boot(self, name: str, start: str) -> str:
        image = self.cloud.ensure_image(f'image-{name}', f'console=ttyS0 quiet {start}')
        flavor = self.cloud.ensure_flavor('turnoff', self.options.guest_memory, {})
        return self.cloud.connect().compute.create_server(name=name, image_id=image.id, flavor_id=flavor.id,
                                                          networks='none').id

    def inside(self, *command: str) -> tuple[int, str]:
        """Run an ``ovc`` command as one would on the host, with nova-compute's files."""
        pid = self.cloud.runner.pid(hosts_of.part_name(self.host.name))
        done = subprocess.run(['nsenter', '-t', str(pid), '-u', '-m', f'{VENV}/bin/ovc', *command,
                               *nova_arguments(self.cloud.state, self.host.name), '--config-file',
                               str(self.where)], capture_output=True, text=True,
                              timeout=180, env={'PATH': f'{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'LANG': 'C.UTF-8'})
        return self._told(command[0], done)

    def outside(self, *command: str) -> tuple[int, str]:
        """Run an ``ovc`` command as on a controller."""
        return self._told(command[0], subprocess.run(
            [f'{VENV}/bin/ovc', *command, *nova_arguments(self.cloud.state, 'control')], capture_output=True, text=True,
            timeout=180))

    def _told(self, command: str, done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
        text = '\n'.join(line for line in (done.stdout + done.stderr).splitlines() if 'privsep' not in line)
        self.say(f'ovc {command}: exit status {done.returncode}\n' + '\n'.join(f'      {line}' for line in
                                                                               text.splitlines()[:25]))
        return done.returncode, text

    def until(self, look, seconds: float, what: str):
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise SystemExit(f'turnoff: waited {seconds:g} s in vain for {what}')
            time.sleep(1)
        return found

    def small(self) -> bool:
        """Whether the controller has taken enough to be given back."""
        sizes = watch._balloons(self.host).values()
        return sum(self.full - size for size in sizes) > 100 * MB

    def remove_lines(self) -> None:
        (self.cloud.state.etc / 'nova-mode.conf').write_text(STOCK)

    def restart_without(self) -> None:
        """Remove the plugin's lines, and start nova's services again."""
        runner, options = self.cloud.runner, self.cloud.options
        self.remove_lines()
        changed = [parts.scheduler(runner, options), parts.compute(runner, self.host.name)]
        runner.stop(changed)
        for part in changed:
            runner.start(part)
        for part in changed:
            runner.wait(part)


def play(scene: Scene) -> tuple[list[Look], dict[str, bool], str]:
    cloud, options, looks, held = scene.cloud, scene.options, [], {}
    servers = {f'vm{number}': scene.boot(f'vm{number}', f'ovc.touch={options.fill}')
               for number in range(options.guests)}
    scene.until(scene.small, 600, 'guests to be ballooned')
    scene.until(lambda: 'BUILD' not in states(scene, servers), 600, 'nova to be done with all guests')
    time.sleep(10)
    looks.append(scene.look('at work'))
    held['ovc check finds no error on the host at work'] = scene.inside('check', '--service-user', 'root')[0] == 0
    code, _ = scene.outside('check', '--role', 'controller', '--probe')
    held['ovc check finds no error on the controller'] = code == 0
    scene.inside('explain', 'vm0', '--host', scene.host.name)
    there = states(scene, servers).count('ACTIVE')  # one that the host has no room for is not placed
    held['all guests are there'] = len(looks[0].sizes) == there > options.leave
    held['there is something to undo'] = (
        looks[0].ratio > 1.0 and looks[0].ksm == '1' != scene.ksm_before and looks[0].lacking(scene.full) > 0)
    # Somebody else takes what a clean stop could give back, and what the controller frees until it is stopped: but for
    # less than guests lack.
    taken = hog.lock(scene.host, min(60 * MB, looks[0].lacking(scene.full) // 3), go_on=True)
    try:
        held |= killed(scene, looks) if options.kill else stopped(scene, looks)
        crowded, text = scene.inside('release', '--wait', '4')
        looks.append(scene.look('ovc release, no room'))
    finally:
        taken.kill()
        taken.wait()
    held['without room it says what is missing'] = (
        crowded == 1 and 'move guests away' in text and looks[-1].lacking(scene.full) > 0)
    leave(scene, servers)
    roomy, text = scene.inside('release', '--wait', '60')
    time.sleep(5)
    looks.append(scene.look(f'ovc release, {options.leave} left'))
    held['with room everybody has its full size'] = roomy == 0 and looks[-1].all_full(
        there - options.leave, scene.full)
    held['ovc release leaves nothing of ours'] = (
        looks[-1].ratio, looks[-1].limits, looks[-1].ksm) == (1.0, 0, scene.ksm_before)
    scene.restart_without()
    delete(scene, list(servers)[:options.leave + 1])
    fresh = scene.boot('fresh', 'ovc.touch=50')
    status = scene.until(lambda: (s := cloud.connect().compute.get_server(fresh).status) != 'BUILD' and s, 300,
                         'nova without the plugin to boot a guest')
    watcher = watch.Watcher(cloud, {'fresh': fresh}, None)
    scene.until(lambda: watcher.beating('fresh'), 600, 'the fresh guest\'s heartbeat')
    looks.append(scene.look('without the plugin'))
    code, text = scene.inside('check', '--role', 'compute', '--service-user', 'root')
    said = 'nothing: guests have their full size' in ' '.join(text.split())
    above, text = scene.outside('check', '--role', 'controller')
    off = 'the plugin is off here' in ' '.join(text.split())
    last = looks[-1]
    held |= {'nova without us boots a guest': status == 'ACTIVE',
             'ovc check says that nothing is left': code == 0 and said,
             'and that the controller is off': above == 0 and off,
             'the kernel has killed nobody': watch.kernel_kills() == scene.kills_before,
             'ratio, limits and page sharing stay so': (last.ratio, last.limits, last.ksm) == (
                 1.0, 0, scene.ksm_before)}
    line = (f'turnoff: by={"kill" if options.kill else "stop"} guests={len(servers)} '
            f'ratio={looks[0].ratio:g}->{last.ratio:g} '
            f'lacked_mb={looks[0].lacking(scene.full) // MB}->{last.lacking(scene.full) // MB} limits={last.limits} '
            f'ksm={looks[0].ksm}->{last.ksm} fresh={status} check={max(code, above)}')
    return looks, held, line


def stopped(scene: Scene, looks: list[Look]) -> dict[str, bool]:
    scene.cloud.runner.stop([parts.compute(scene.cloud.runner, scene.host.name)])
    looks.append(scene.look('nova-compute stopped'))
    return {'a clean stop restores placement\'s ratio': looks[-1].ratio == 1.0,
            'a clean stop restores page sharing': looks[-1].ksm == scene.ksm_before}


def killed(scene: Scene, looks: list[Look]) -> dict[str, bool]:
    """Nothing is given back, and the lines are gone before anybody cleans up."""
    os.kill(scene.cloud.pid(f'compute-{scene.host.name}'), signal.SIGKILL)
    scene.cloud.runner.stop([parts.compute(scene.cloud.runner, scene.host.name)])  # the runner has yet to notice
    scene.remove_lines()
    looks.append(scene.look('nova-compute killed'))
    return {'a kill leaves all to ovc release': (looks[-1].ratio, looks[-1].ksm) == (looks[0].ratio, looks[0].ksm)}


def states(scene: Scene, servers: dict[str, str]) -> list[str]:
    """Nova's word on each guest."""
    compute = scene.cloud.connect().compute
    return [compute.get_server(uuid).status for uuid in servers.values()]


def leave(scene: Scene, servers: dict[str, str]) -> None:
    """Some guests go: their domains end, as nova-compute is stopped and cannot be asked."""
    import libvirt
    connection = libvirt.open(scene.host.uri)
    for domain in connection.listAllDomains()[:scene.options.leave]:
        domain.destroy()
    connection.close()


def delete(scene: Scene, names: list[str]) -> None:
    """Nova's own ratio has no room for all of them and one more."""
    compute = scene.cloud.connect().compute
    for server in [server for server in compute.servers() if server.name in names]:
        compute.delete_server(server.id)
    scene.until(lambda: not any(server.name in names for server in compute.servers()), 300, 'guests to be deleted')


def main() -> int:
    options = parser().parse_args()
    say = Progress()
    cloud = Cloud(options=Options(hosts=1, host_memory_mb=options.host_memory, host_swap_mb=options.host_swap,
                                  settings=(('ovc_host', 'ksm', 'auto'),)), say=say)
    ksm_before = KSM.read_text().strip()
    KSM.write_text('0')  # so that it shows whether the plugin leaves it as it was
    try:
        with cloud.while_up():
            looks, held, line = play(Scene(cloud, options, say))
    finally:
        KSM.write_text(ksm_before)
    rows = [('step', 'ratio', 'too small', 'MB lacking', 'limits', 'ksm run'),
            *(one.row(options.guest_memory * MB) for one in looks)]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, (26, 6, 10, 11, 7, 7), strict=True)).rstrip())
    for what, kept in held.items():
        print(f'{what:42}  {"holds" if kept else "FAILS"}')
    print(line)
    return 0 if all(held.values()) else 1


if __name__ == '__main__':
    finish('turnoff', main)
