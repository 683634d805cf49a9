# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Each kind of untouchable guest (promise 7) in a shortage: what is taken from it, and from others. See --help."""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / 'devstack' / 'onebox'), str(CHECKOUT / 'tests' / 'real')]

from guest import direct  # noqa: E402
from guest.client import Console  # noqa: E402
from libvirt_host import LibvirtHost, libvirt_host  # noqa: E402
from onebox_cloud.progress import Progress  # noqa: E402

from ovc_plugin import assembly  # noqa: E402
from ovc_plugin.settings import HostSettings, Settings, SharedSettings  # noqa: E402
from tests import untouchable  # noqa: E402

MB = 1 << 20
HUGE = Path('/proc/sys/vm/nr_hugepages')
DESCRIPTION = """\
Guests of every kind from which nothing may be taken are on a host that is short of memory, beside ordinary ones that do
give: by balloon, by swap, by page sharing. Kinds that this machine can start run for real, in QEMU under libvirt, under
the real host controller: their size, their swap, their merged pages and their limits are read before and afterwards.
Every kind that nova can order is moreover ordered from nova's own API over its functional fixtures; the definition that
nova's libvirt driver has written for it is then judged by the same rules on a modelled host in deep shortage.

Exit status 0: each kind was recognised, lost nothing, and is counted at its maximum; and each of the three mechanisms
has taken from ordinary guests meanwhile, without which it would prove nothing. Hugepages are given back at the end.
"""
BACKED = '<memoryBacking>{}</memoryBacking>'
ALONE = '<nosharepages/>'  # which our driver adds
NAMED = ('<metadata><ovc:guest xmlns:ovc="https://ovc-plugin/xmlns/domain/1.0" trust-domain="one" reservation="25%" '
         'overcommit="{}"/></metadata>')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """``xml`` is what makes a guest of this kind; ``why`` is how the product must call it (``None``: ordinary)."""

    name: str
    why: str | None
    xml: str = ''
    overcommit: str = 'yes'
    start: str = ''


def kinds(memory: int) -> list[Kind]:
    cell = f'<cpu><numa><cell id="0" cpus="0" memory="{memory // 1024}" unit="KiB" memAccess="shared"/></numa></cpu>'
    return [
        Kind(name='ordinary', why=None),
        Kind(name='ordinary too', why=None),
        Kind(name='no balloon driver', why=None, start='ovc.balloon=off'),
        Kind(name='hugepages', why='hugepages', xml=BACKED.format(f'{ALONE}<hugepages/>')),
        Kind(name='locked', why='locked memory', xml=BACKED.format(f'{ALONE}<locked/>')),
        Kind(name='memfd-backed', why='memfd-backed memory',
             xml=BACKED.format(f'{ALONE}<source type="memfd"/><access mode="shared"/>')),
        Kind(name='file-backed', why='file-backed memory',
             xml=BACKED.format(f'{ALONE}<source type="file"/><access mode="shared"/>')),
        Kind(name='shared NUMA cell', why='file-backed memory',
             xml=BACKED.format(f'{ALONE}<source type="memfd"/>') + cell),
        Kind(name='pinned NUMA', why='pinned NUMA memory', xml=BACKED.format(ALONE)
             + '<cputune><vcpupin vcpu="0" cpuset="0"/></cputune>'
             + '<numatune><memory mode="strict" nodeset="0"/></numatune>'),
        Kind(name='realtime', why='realtime', xml=BACKED.format(f'{ALONE}<locked/>')
             + '<cputune><vcpusched vcpus="0" scheduler="fifo" priority="1"/></cputune>'),
        Kind(name='opted out', why='opted out by ovc:overcommit', xml=BACKED.format(ALONE), overcommit='no')]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/untouchables', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, help in (('guest-memory', 192, 'MB'), ('fill', 60, 'MB alike in each guest'),
                              ('patience', 400, 'most seconds for the shortage to take from ordinary guests')):
        top.add_argument(f'--{name}', type=int, default=value, help=f'{help} (default {value})')
    top.add_argument('--only', choices=('real', 'nova'), help='one half of the table')
    return top


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """One guest at one time: balloon, swap and backed memory in bytes, merged pages, limits that stand on its group."""

    size: int
    swapped: int
    backed: int
    merged: int
    limits: tuple[str, ...]


def look(host: LibvirtHost, domain) -> Look:
    group, pid = host.guest_group(domain), host.pid(domain)
    stat = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
    rolled = dict(line.split()[:2] for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()[1:])
    huge = sum(int(rolled.get(name, 0)) for name in ('Shared_Hugetlb:', 'Private_Hugetlb:')) * 1024
    limit = (group / 'memory.limit_in_bytes').read_text().strip()
    return Look(size=domain.memoryStats()['actual'] * 1024, swapped=int(stat['total_swap']),
                backed=int(rolled['Rss:']) * 1024 + huge,
                merged=int(Path(f'/proc/{pid}/ksm_merging_pages').read_text()),
                limits=() if limit == '9223372036854771712' else (limit,))


def worst(looks: list[Look]) -> Look:
    """The least that a guest had and the most that was taken from it at any of these looks."""
    return Look(size=min(one.size for one in looks), swapped=max(one.swapped for one in looks),
                backed=min(one.backed for one in looks),
                merged=max(one.merged for one in looks), limits=tuple(sorted({x for one in looks for x in one.limits})))


def in_pool() -> int:
    """Bytes of the machine's huge pages that somebody has, or has been promised before he touches them."""
    told = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    pages, free, promised = (int(told[f'HugePages_{name}']) for name in ('Total', 'Free', 'Rsvd'))
    return (pages - free + promised) * int(told['Hugepagesize'].split()[0]) * 1024


@contextlib.contextmanager
def hugepages(count: int):
    """So many hugepages and a place for them, given back afterwards; says so where the machine has none."""
    before = HUGE.read_text()
    with tempfile.TemporaryDirectory(prefix='ovc-huge-') as place:
        mounted = False
        try:
            HUGE.write_text(str(int(before) + count))
            mounted = subprocess.run(['mount', '-t', 'hugetlbfs', 'none', place], check=False).returncode == 0
            yield
        finally:
            try:
                if mounted:  # lazily: a QEMU that has yet to end would keep it busy
                    subprocess.run(['umount', '-l', place], check=True)
            finally:
                HUGE.write_text(before)


def boot(host: LibvirtHost, kind: Kind, images: Path, options: argparse.Namespace) -> tuple[object, Console]:
    """Start a guest of this kind.

    :raises libvirt.libvirtError: this machine cannot.
    """
    name = kind.name.replace(' ', '-')
    text = direct.definition(name, images, host.root / f'{name}.log', memory=options.guest_memory * MB,
                             start=f'ovc.touch={options.fill},kind=alike {kind.start}')
    text = text.replace('<features>', NAMED.format(kind.overcommit) + kind.xml + '<features>')
    domain = host.connection.defineXML(text)
    host.domains.append(domain)
    try:
        domain.create()
    except BaseException:
        host.discard(domain)
        raise
    return domain, Console(host.root / f'{name}.log')


def real(options: argparse.Namespace, say: Progress) -> list[dict]:
    """The rows of the kinds that run here."""
    import libvirt
    rows, memory = [], options.guest_memory * MB
    with hugepages(options.guest_memory // 2 + 8), tempfile.TemporaryDirectory() as folder, \
            libvirt_host(memory=5000 * MB, swap=1500 * MB) as host:
        images, started, pooled = direct.build(Path(folder)), {}, -in_pool()
        for kind in kinds(memory):
            try:
                started[kind.name] = (kind, *boot(host, kind, images, options))
            except libvirt.libvirtError as error:
                rows.append({'kind': kind.name, 'how': f'cannot be started here: {error}', 'ok': None})
        for kind, _, console in started.values():
            wait(lambda console=console: console.events('touched'), 600, f'{kind.name} to fill')
        say(f'{len(started)} guests run and are filled')
        pooled += in_pool()
        before = {name: look(host, domain) for name, (_, domain, _) in started.items()}
        status, looks = shortage(host, options, {name: domain for name, (_, domain, _) in started.items()}, say)
        # What was taken meanwhile and given back at the stop was taken all the same.
        after = {name: worst([*looks[name], look(host, domain)]) for name, (_, domain, _) in started.items()}
        told = {g['name']: g for g in status['guests']}
        for name, (kind, domain, _) in started.items():
            rows.append(row(kind, before[name], after[name], told[domain.name()]))
        # The group that bounds these guests holds no huge pages: they come from the machine's pool, and are owed there.
        owed = sum((g['maximum'] if g['untouchable'] else g['reservation']) + g['overhead'] for g in told.values())
        owed -= pooled
        if owed != status['report']['reserved']:
            raise SystemExit(f'untouchables: the report says {status["report"]["reserved"]} bytes are owed, not {owed}')
    return rows


def given(looks: dict[str, Look], options: argparse.Namespace) -> dict[str, bool]:
    """Which mechanism has taken something from the ordinary guest that can give by it."""
    return {'balloon': looks['ordinary'].size < 0.85 * options.guest_memory * MB,
            'swap': looks['no balloon driver'].swapped > 10 * MB,
            'sharing': min(looks[name].merged for name in ('ordinary', 'ordinary too')) > options.fill * MB // 8192}


def shortage(host: LibvirtHost, options: argparse.Namespace, domains: dict,
             say: Progress) -> tuple[dict, dict[str, list[Look]]]:
    """Let the controller believe that far too little is available, until all mechanisms have taken something.

    It swaps only once pages are shared: what is in swap cannot be, and soon all is. Gives the status,
    and by guest the looks after each pass. Exits where one mechanism took nothing: what untouchable guests have kept
    then proves nothing.
    """
    with tempfile.TemporaryDirectory() as state:
        settings = Settings(shared=SharedSettings(default_overhead=64 * MB), host=HostSettings(
            dry_run=False, boundary=str(host.group), tick=1.0, run_path=str(host.root / 'run' / 'qemu'),
            state_path=state, level_scale=200.0))
        controller = assembly.build(host.name, settings, lambda: host.connection, reserve=0)
        began, seen, taken = time.monotonic(), {name: [] for name in domains}, {}
        try:
            while True:
                controller.settings = dataclasses.replace(
                    settings, host=dataclasses.replace(settings.host, swap=taken.get('sharing', False)))
                controller.run_pass()
                for name, domain in domains.items():
                    seen[name].append(look(host, domain))
                took = time.monotonic() - began
                taken = given({name: worst(looks) for name, looks in seen.items()}, options)
                if all(taken.values()) and took > 20:
                    say(f'balloon, swap and sharing have all taken something after {took:.0f} s of shortage')
                    return controller.status(), seen
                if took > options.patience:
                    nothing = ', '.join(name for name, some in taken.items() if not some)
                    raise SystemExit(f'untouchables: in {took:.0f} s of shortage nothing was taken by: {nothing}')
                time.sleep(0.5)
        finally:
            controller.stop()


def row(kind: Kind, before: Look, after: Look, told: dict) -> dict:
    most = told['maximum'] + told['overhead']
    owed = (told['maximum'] if told['untouchable'] else told['reservation']) + told['overhead']
    untouched = (before.size == after.size == told['maximum'] and not after.swapped and not after.merged
                 and not after.limits and after.backed >= before.backed - MB)
    gave = after.size < before.size or after.swapped > before.swapped or after.merged > before.merged
    return {'kind': kind.name, 'how': 'QEMU, real controller',
            'balloon': f'{before.size // MB} -> {after.size // MB} MB',
            'swap': f'{before.swapped // MB} -> {after.swapped // MB} MB',
            'ksm': f'{before.merged} -> {after.merged} pages',
            'counted': f'{"yes" if owed == most else "no"}: {owed // MB} of {most // MB} MB',
            'why': told['untouchable'] or '', 'ordinary': kind.why is None,
            'ok': told['untouchable'] == kind.why and (gave and owed < most if kind.why is None
                                                       else untouched and owed == most)}


def nova(say: Progress) -> list[dict]:
    """The rows of the kinds that nova defines."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:warnings', '-p', 'no:cacheprovider',
                   'tests/contract/test_untouchables.py']
        done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | {'OVC_DEFINITIONS': folder}, capture_output=True,
                              text=True, check=False)
        said = (done.stdout + done.stderr).strip()
        say(f'nova has defined its guests: {said.splitlines()[-1] if said else "without a word"}')
        for path in sorted(Path(folder).glob('*.xml')):
            found = untouchable.judge(path.read_text())
            rows.append({'kind': path.stem, 'how': "nova's own definition, modelled host",
                         'balloon': 'asked' if found.ballooned else 'never asked',
                         'swap': 'taken' if found.swapped else 'never taken',
                         'ksm': 'mergeable' if found.mergeable else 'not mergeable',
                         'counted': 'yes' if found.at_maximum else 'no', 'why': found.why or '', 'ordinary': False,
                         'ok': found.untouched and done.returncode == 0})
    if not rows:  # of pytest that fails before a definition is written, and of one that skips them all
        raise SystemExit(f'untouchables: nova has defined no guest:\n{said[-3000:]}')
    return rows


def wait(look_for, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not look_for():
        if time.monotonic() > deadline:
            raise SystemExit(f'untouchables: waited {seconds:g} s in vain for {what}')
        time.sleep(0.5)


def main() -> int:
    options, say = parser().parse_args(), Progress()
    rows = real(options, say) if options.only != 'nova' else []
    rows += nova(say) if options.only != 'real' else []
    print(f'{"kind":<18}{"how tested":<38}{"balloon":<18}{"swap":<15}{"KSM":<20}{"counted at maximum":<22}'
          f'{"recognised as":<28}')
    for one in rows:
        if one['ok'] is None:
            print(f'{one["kind"]:<18}{one["how"]}')
            continue
        print(f'{one["kind"]:<18}{one["how"]:<38}{one["balloon"]:<18}{one["swap"]:<15}{one["ksm"]:<20}'
              f'{one["counted"]:<22}{one["why"]:<28}'
              + ('FAILS' if not one['ok'] else 'gives' if one['ordinary'] else 'untouched'))
    judged = [one for one in rows if one['ok'] is not None]
    kept = [one for one in judged if not one['ordinary']]
    line = (f'untouchables: kinds={len({one["kind"] for one in kept})} '
            f'real={sum(one["how"].startswith("QEMU") for one in kept)} '
            f'nova={sum(one["how"].startswith("nova") for one in kept)} untouched={sum(one["ok"] for one in kept)} '
            f'touched={sum(not one["ok"] for one in kept)} '
            f'others_gave={sum(one["ordinary"] and one["ok"] for one in judged)} '
            f'not_startable={len(rows) - len(judged)}')
    print(line)
    return 0 if kept and all(one['ok'] for one in judged) else 1


if __name__ == '__main__':
    sys.exit(main())
