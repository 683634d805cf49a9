# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Sampling what guests hold: one guest of an image at a time, by small pieces, and no harm when it fails."""
from __future__ import annotations

import ctypes
import mmap
import os
import random
from pathlib import Path

import pytest

from ovc_plugin import pages, privileged, report
from ovc_plugin.contents import AGAIN, Sampler
from ovc_plugin.decide import sketch
from ovc_plugin.model import KsmState
from tests.builders import GIB, NOW, a_guest, a_host

CHANCE = random.Random(3)
COMMON = [CHANCE.randrange(sketch.SPACE) for _ in range(3000)]


class Memory:
    """Guests' pages by process id; a page is its own hash."""

    def __init__(self, **guests: list[int]) -> None:
        self.guests = list(guests.values())
        self.names = list(guests)
        self.calls: list[tuple[int, int]] = []

    def pid_of(self, name: str) -> int:
        return self.names.index(name)

    def read(self, pid, size, first, count, salt, below):
        self.calls.append((pid, first))
        held, last = self.guests[pid], first + count
        return (0 if last >= len(held) else last), sorted(h for h in held[first:last] if h < below)


def sampler(memory: Memory, count: int = 500) -> Sampler:
    return Sampler(memory.read, memory.pid_of, count)


def told(one: Sampler, host) -> sketch.Contents:
    return sketch.decode(one.told(host, report.LONGEST_SKETCH))


def test_a_guest_is_seen_piece_by_piece_and_told_of_when_it_is_whole():
    memory = Memory(a=COMMON)
    one, host = sampler(memory), a_host(a_guest('a', image='debian'))
    for number in range(5):
        one.look(host, NOW + number)
    assert not told(one, host).sketches
    one.look(host, NOW + 6)
    assert told(one, host).sketches == {sketch.image_name('p1', 'debian'): sketch.of(COMMON)}


def test_one_guest_of_an_image_is_enough_for_a_day():
    memory = Memory(a=COMMON[:400], b=COMMON[:400])
    one, host = sampler(memory), a_host(a_guest('a', image='debian'), a_guest('b', image='debian'))
    for number in range(9):
        one.look(host, NOW + number)
    assert memory.calls == [(0, 0)]
    one.look(host, NOW + AGAIN + 1)
    assert len(memory.calls) == 2


def test_images_that_are_gone_are_forgotten_after_a_day():
    memory = Memory(a=COMMON[:400])
    one = sampler(memory)
    for number in range(50):
        one.look(a_host(a_guest('a', image=f'snapshot-{number}')), NOW + number)
    assert len(one._sketches) == 50
    one.look(a_host(), NOW + AGAIN + 60)
    assert not one._sketches and not one._due


def test_a_clock_that_was_set_back_keeps_no_image_from_being_looked_at_anew():
    memory = Memory(a=COMMON[:400])
    one, host = sampler(memory), a_host(a_guest('a', image='debian'))
    one.look(host, NOW + 10 * AGAIN)
    one.look(host, NOW)
    assert len(memory.calls) == 2


def test_guests_that_do_not_share_or_must_not_be_touched_are_not_read():
    memory = Memory(a=COMMON, b=COMMON, c=COMMON)
    host = a_host(a_guest("a", image="debian", can_share=False),
                  a_guest("b", image="debian", untouchable="locked memory"),
                  a_guest('c', image=''))
    sampler(memory).look(host, NOW)
    assert memory.calls == []


def test_a_guest_that_leaves_half_seen_is_forgotten():
    memory = Memory(a=COMMON, b=COMMON)
    one = sampler(memory)
    one.look(a_host(a_guest('a', image='debian')), NOW)
    one.look(a_host(a_guest('b', image='debian')), NOW + 5)
    assert memory.calls == [(0, 0), (1, 0)]


def test_a_guest_that_cannot_be_read_is_left_alone_for_a_while(caplog):
    def refuse(*_):
        raise PermissionError('no')
    one, host = Sampler(refuse, lambda name: 1, 500), a_host(a_guest('a', image='debian'))
    for number in range(5):
        one.look(host, NOW + number)
    assert [r.message for r in caplog.records] == [
        'pages of a cannot be sampled (PermissionError: no); its image is looked at again in 600 s']


def test_projects_are_told_apart():
    memory = Memory(a=COMMON[:100], b=COMMON[:100])
    one = sampler(memory)
    host = a_host(a_guest('a', image='debian'), a_guest('b', image='debian', trust_domain='p2'))
    one.look(host, NOW)
    one.look(host, NOW)
    assert len(told(one, host).sketches) == 2


def scanned(rounds: int | None, saved: int, **changes):
    """A host with two guests of one image after so many rounds of the kernel's scanner."""
    return a_host(*(a_guest(name, image='debian', saved=saved) for name in 'ab'), **changes,
                  ksm=KsmState(run=1, saved=2 * saved, shared=saved, pages_to_scan=100, full_scans=rounds))


def test_what_guests_save_is_told_once_the_kernel_has_looked_through_them():
    one, name = Sampler(), sketch.image_name('p1', 'debian')
    assert [told(one, scanned(rounds, 0)).saved for rounds in (7, 9)] == [{}, {}]
    assert told(one, scanned(10, GIB // 20)).saved == {name: 0.05}
    assert told(one, scanned(11, 0)).saved == {name: 0.0}


def test_rounds_that_begin_anew_are_counted_anew():
    one = Sampler()
    told(one, scanned(700, GIB // 4))
    assert told(one, scanned(1, 0)).saved == {}
    assert told(one, scanned(4, GIB // 4)).saved


def test_where_rounds_are_not_counted_only_what_was_saved_tells_of_a_look():
    assert told(Sampler(), scanned(None, 0)).saved == {}
    assert told(Sampler(), scanned(None, GIB // 4)).saved


def test_a_host_that_samples_nothing_reads_nothing_and_tells_what_the_kernel_counts():
    one = Sampler()
    one.look(scanned(None, 0), NOW)
    assert one.told(scanned(None, 0), report.LONGEST_SKETCH) == ''
    assert one.told(scanned(None, GIB // 4), report.LONGEST_SKETCH) == f'{sketch.image_name("p1", "debian")}:25'


@pytest.fixture
def held():
    """Memory of this process: 64 pages, of which 40 hold something, 8 are zeros, and the rest was never touched."""
    size = 64 * pages.PAGE
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    for number in range(40):
        area[number * pages.PAGE:(number + 1) * pages.PAGE] = bytes([number + 1]) * pages.PAGE
    area[40 * pages.PAGE:48 * pages.PAGE] = bytes(8 * pages.PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    yield start, size


def test_what_is_in_memory_is_hashed_and_nothing_else_is_touched(held, monkeypatch):
    start, size = held
    monkeypatch.setattr(pages, 'memory_of', lambda maps, wanted: (start, start + size))
    root = Path('/proc') / str(os.getpid())
    first, found = pages.hashes(root, size, 0, 30, b'p1', sketch.SPACE)
    assert (first, len(found)) == (30, 30)
    last, rest = pages.hashes(root, size, 30, 30000, b'p1', sketch.SPACE)
    assert (last, len(rest)) == (0, 10)
    assert not set(found) & set(rest)
    assert set(pages.hashes(root, size, 0, 30, b'p2', sketch.SPACE)[1]).isdisjoint(found)
    assert pages.hashes(root, size, 0, 30, b'p1', found[5])[1] == found[:5]
    with open(root / 'pagemap', 'rb') as pagemap:
        present = [int.from_bytes(os.pread(pagemap.fileno(), 8, (start // 4096 + n) * 8), 'little') >> 63
                   for n in range(48, 64)]
    assert not any(present)


def test_a_process_that_is_no_guest_is_refused():
    with pytest.raises(ValueError, match='not a guest'):
        pages.checked(Path('/proc') / str(os.getpid()))


def test_who_a_process_is_is_asked_once_its_memory_is_open(held, monkeypatch):
    """Asked before, another program may have taken its place, or its number, when its memory is read."""
    start, size = held
    monkeypatch.setattr(pages, 'memory_of', lambda maps, wanted: (start, start + size))
    opened = []

    def check():
        opened.extend(os.path.basename(os.readlink(f'/proc/self/fd/{number}')) for number in os.listdir('/proc/self/fd')
                      if os.path.exists(f'/proc/self/fd/{number}'))
        raise ValueError('not a guest')
    with pages.pinned(os.getpid(), Path('/proc')) as root, pytest.raises(ValueError, match='not a guest'):
        pages.hashes(root, size, 0, 30, b'p1', sketch.SPACE, check)
    assert {'maps', 'pagemap', 'mem'} <= set(opened)


def test_the_root_helper_reads_no_page_of_a_process_that_is_no_guest_or_before_its_memory():
    with pytest.raises(ValueError, match='not a guest'):
        privileged.page_hashes_of(Path('/proc'), os.getpid(), 4096, 0, 1, 'p1', sketch.SPACE)
    for size, first in ((0, 0), (-4096, 0), (4096, -1)):
        with pytest.raises(ValueError, match='cannot be'):
            privileged.page_hashes_of(Path('/proc'), os.getpid(), size, first, 1, 'p1', sketch.SPACE)


def test_the_smallest_mapping_that_is_large_enough_is_the_guests_memory():
    maps = ('7f0000000000-7f0040000000 rw-p 00000000 00:00 0\n7e0000000000-7e0020000000 rw-p 00000000 00:00 0\n'
            '7d0000000000-7d0080000000 r--p 00000000 00:00 0\n')
    assert pages.memory_of(maps, 1 << 29) == (0x7e0000000000, 0x7e0020000000)
    with pytest.raises(ValueError, match='no mapping'):
        pages.memory_of(maps, 1 << 31)
