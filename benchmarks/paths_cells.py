# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Each way of placing a guest, gone in one state, and where the guest may land: a part of benchmarks/paths."""
from __future__ import annotations

import concurrent.futures
import dataclasses
import time
import typing

from benchmarks.paths_cloud import THIRD, Stage
from benchmarks.paths_watch import MB

PATHS = ('boot', 'multi-create of 5', 'resize up', 'live migrate', 'evacuate', 'unshelve', 'forced host',
         'two schedulers, 20 boots', 'server group')


@dataclasses.dataclass
class Cell:
    """What became of one way in one state. ``good``: as it may be."""

    told: str
    good: bool


def landed(stage: Stage, state: str, places: list[str]) -> Cell:
    """Guests that must be on a host: not on the third one where that is stale or HARD; none where none fits."""
    counts = ', '.join(f'{places.count(place)} {place}' if len(places) > 1 else place for place in sorted(set(places)))
    nowhere = [p for p in places if p.startswith('no host')]
    if state == 'does not fit':
        return Cell(counts, len(nowhere) == len(places))
    return Cell(counts, not nowhere and (state == 'fits' or THIRD not in places))


def stayed(stage: Stage, state: str, before: str, after: str) -> Cell:
    """A guest that moves: away, or where no other host may have it, not at all."""
    if state == 'does not fit':
        return Cell(f'stayed on {after}' if after == before else f'{before} -> {after}', after == before)
    good = after != before and not after.startswith('no host') and (state == 'fits' or after != THIRD)
    return Cell(f'{before} -> {after}', good)


def boot(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.small
    servers = [stage.boot(kind)]
    cell = landed(stage, state, [stage.where(s) for s in servers])
    stage.delete(servers)
    return cell


def multi_create(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.small
    before = {s.id for s in stage.compute.servers(details=False)}
    # With min_count alone openstacksdk returns the first; the others are found by what is new.
    stage.boot(kind, wait=False, min_count=5, max_count=5)
    servers = [s.id for s in stage.compute.servers(details=False) if s.id not in before]
    for server in servers:
        stage.owe(server, kind)
    stage.settle(servers)
    cell = landed(stage, state, [stage.where(s) for s in servers])
    cell.good = cell.good and len(servers) == 5
    stage.delete(servers)
    return cell


def resize(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.mid
    server = stage.boot(stage.small)
    before = stage.where(server)
    stage.owe(server, kind)
    if state == 'does not fit':  # it keeps its old size, and is owed that
        stage.owed[server] = int(stage.small.mb * MB * stage.small.share)
    stage.compute.resize_server(server, stage.flavors[kind.name].id)
    stage.settle([server], 90)
    after = stage.where(server)
    if stage.compute.get_server(server).status == 'VERIFY_RESIZE':
        stage.compute.confirm_server_resize(server)
        # A guest that is deleted before that has ended is confirmed twice by nova, and the second time fails.
        stage.settle([server], until=('ACTIVE', 'ERROR'))
    cell = stayed(stage, state, before, after)
    stage.delete([server])
    return cell


def live_migrate(stage: Stage, state: str) -> Cell:
    return moved(stage, state, lambda server: stage.compute.live_migrate_server(server, host=None,
                                                                                block_migration='auto'))


def evacuate(stage: Stage, state: str) -> Cell:
    crashed: list[str] = []

    def away(server: str) -> None:
        crashed.append(stage.where(server))
        stage.crash(crashed[0])
        stage.compute.evacuate_server(server)

    try:
        return moved(stage, state, away)
    finally:
        for name in crashed:
            stage.revive(name)
            if state == 'does not fit':  # it died with its host: another one takes its place
                stage.delete([s.id for s in stage.compute.servers() if s.compute_host == name])
                stage.boot(stage.half)


def moved(stage: Stage, state: str, move: typing.Callable[[str], None]) -> Cell:
    """A guest made to leave its host: one that holds half of it where it must not fit elsewhere."""
    if state == 'does not fit':
        server = next(s.id for s in stage.compute.servers() if s.compute_host in ('node1', 'node2')
                      and s.status == 'ACTIVE')
    else:
        server = stage.boot(stage.small)
    before = stage.where(server)
    try:
        move(server)
    except Exception as error:  # of a live migration nova may say so at once, and by no state of the guest
        if state != 'does not fit' or 'No valid host was found' not in str(error):
            raise
    for _ in range(2):  # nova ends an evacuated guest's task before it names the new host
        time.sleep(4)
        stage.settle([server], 90)
    if stage.compute.get_server(server).status == 'SHUTOFF':  # nova leaves evacuated guests shut off
        stage.compute.start_server(server)
        time.sleep(2)
        stage.settle([server])
    found = stage.compute.get_server(server)
    after = str(found.compute_host)
    cell = stayed(stage, state, before, after)
    if state != 'does not fit':
        cell.good = cell.good and found.status == 'ACTIVE'
        stage.delete([server])
    return cell


def unshelve(stage: Stage, state: str) -> Cell:
    """Shelved and offloaded while there was room. In the second state its place is taken meanwhile."""
    if state == 'does not fit':
        server = next(s.id for s in stage.compute.servers() if s.compute_host == 'node1' and s.status == 'ACTIVE')
    else:
        server = stage.boot(stage.small)
    stage.compute.shelve_server(server)
    stage.settle([server], 120, until=('SHELVED_OFFLOADED', 'ERROR'))
    stage.fresh()
    if state == 'does not fit':
        stage.boot(stage.half)
        stage.fresh()
    stage.compute.unshelve_server(server)
    time.sleep(3)
    stage.settle([server], 90)
    cell = landed(stage, state, [stage.where(server)])
    stage.delete([server])  # in the second state, the other has its place now
    return cell


def forced(stage: Stage, state: str) -> Cell:
    """The administrator names the third host: no filter is asked, only the host itself."""
    kind = stage.half if state == 'does not fit' else stage.small
    server = stage.boot(kind, wait=False, availability_zone=f'nova:{THIRD}')
    if state == 'stale':
        time.sleep(8)
        waiting = stage.compute.get_server(server).status
        stage.go_on(THIRD)
        stage.settle([server])
        cell = Cell(f'waited ({waiting}) for {THIRD}, which then judged it itself: {stage.where(server)}',
                    waiting == 'BUILD')
    else:
        stage.settle([server])
        place = stage.where(server)
        refused = place.startswith('no host')
        cell = Cell(f'{THIRD} itself refused it' if refused else place, refused == (state != 'fits'))
    stage.delete([server])
    if state == 'stale':
        stage.halt(THIRD)
    return cell


def race(stage: Stage, state: str) -> Cell:
    kind = stage.half if state == 'does not fit' else stage.mid
    before = stage.answers()
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        servers = list(pool.map(lambda _: stage.boot(kind, wait=False), range(20)))
    stage.settle(servers, 240)
    stage.watch.look('two schedulers')
    places = [stage.where(s) for s in servers]
    served = {name: count - before[name] for name, count in stage.answers().items()}
    counts = ', '.join(f'{places.count(place)} {place}' for place in sorted(set(places)))
    on = [p for p in places if not p.startswith('no host')]
    good = (not on if state == 'does not fit' else bool(on) and (state == 'fits' or THIRD not in on))
    stage.delete(servers)
    return Cell(f'{counts}; served {served["nova-scheduler"]} + {served["nova-scheduler-2"]}',
                good and all(served.values()))


def group(stage: Stage, state: str) -> Cell:
    """Anti-affinity of three guests; where none fits, affinity to a guest on a full host."""
    if state == 'does not fit':
        made = stage.compute.create_server_group(name=f'g{time.time():.0f}', policy='affinity')
        first = stage.boot(stage.small, scheduler_hints={'group': made.id})
        second = stage.boot(stage.half, scheduler_hints={'group': made.id})
        places = [stage.where(first), stage.where(second)]
        cell = Cell(f'first {places[0]}, second {places[1]}',
                    not places[0].startswith('no host') and places[1].startswith('no host'))
        servers = [first, second]
    else:
        made = stage.compute.create_server_group(name=f'g{time.time():.0f}', policy='anti-affinity')
        servers = [stage.boot(stage.small, scheduler_hints={'group': made.id}) for _ in range(3)]
        places = [stage.where(s) for s in servers]
        on = [p for p in places if not p.startswith('no host')]
        good = len(set(on)) == len(on) == (3 if state == 'fits' else 2) and (state == 'fits' or THIRD not in on)
        cell = Cell(', '.join(places), good)
    stage.delete(servers)
    stage.compute.delete_server_group(made.id)
    return cell


GO = dict(zip(PATHS, (boot, multi_create, resize, live_migrate, evacuate, unshelve, forced, race, group), strict=True))
