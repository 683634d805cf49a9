# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What others than guests use of memory and swap: counted once, and no less than it is (promises 1 and 2)."""
from __future__ import annotations

import dataclasses

import hypothesis
from hypothesis import strategies as st

from ovc_plugin import codec, report
from ovc_plugin.decide import placement
from ovc_plugin.model import MIB, HostSnapshot, InFlight, Level, Plan, Request
from ovc_plugin.samples import GuestSample, MemorySample
from ovc_plugin.sense.derive import derive
from ovc_plugin.settings import SchedulerSettings, Settings, SharedSettings
from tests.builders import GIB, NOW, a_sample, facts, sampled

SETTINGS = Settings()
OVERHEAD = 128 * MIB


def seen(*guests, reserve=GIB, **memory):
    fields = dict(total=16 * GIB, available=8 * GIB, swap_total=8 * GIB, swap_free=8 * GIB) | memory
    return derive(None, a_sample(*guests, memory=MemorySample(**fields)), {}, reserve, SETTINGS)


def told(found: HostSnapshot) -> report.HostReport:
    return report.of(found, Plan(level=Level.CLEAR, actions=(), reason=''), reclaimable=0,
                     swap_usable=found.swap_usable, backed=True, dry_run=False)


def admitted(found: HostSnapshot, memory: int) -> bool:
    asked = Request(memory=memory, reservation=memory // 4)
    return placement.fits(told(found), asked, InFlight(), SchedulerSettings(), SharedSettings(), NOW).ok


# -- memory of which nobody says whose it is --------------------------------------------------------------------------
def test_a_hypervisor_that_does_not_answer_frees_nothing_of_what_others_use():
    """Promise 1: for one pass, a host of which others use half seemed to be whole."""
    there = a_sample(sampled(), memory=MemorySample(total=28 * GIB, available=15 * GIB, swap_total=0, swap_free=0))
    silent = dataclasses.replace(there, guests=None, taken_at=NOW + 5)
    answered = derive(None, there, {}, GIB, SETTINGS)
    assert answered.others == 12 * GIB
    found = derive(there, silent, {}, GIB, SETTINGS)
    assert found.others == 12 * GIB and told(found).total == told(answered).total
    assert not any('used by others' in note for note in found.notes), 'of a pass that does not know'


def test_what_a_guest_of_unknown_size_has_is_not_promised_to_others():
    unread = GuestSample(facts=facts('g2', rss=None))
    known, unknown = seen(sampled(), sampled('g2')), seen(sampled(), unread)
    assert unknown.others == known.others + GIB and not any('used by others' in note for note in unknown.notes)
    assert any('have in memory cannot be read (g2)' in note for note in unknown.notes)


# -- swap ------------------------------------------------------------------------------------------------------------
def test_swap_that_daemons_hold_backs_no_guest():
    """16 GB of memory, 1 GB of reserve, 8 GB of swap of which daemons hold 6: 17 GB are there for guests."""
    found = seen(sampled(maximum=8 * GIB, actual=8 * GIB, usable=4 * GIB, usage=GIB), available=14 * GIB,
                 swap_free=2 * GIB)
    assert (found.swap_others, found.swap_usable) == (6 * GIB, 2 * GIB)
    report = told(found)
    assert (report.swap_usable, report.swap_used) == (2 * GIB, 0)
    assert admitted(found, 8 * GIB) and not admitted(found, 11 * GIB)


def test_what_guests_have_in_swap_is_not_others():
    found = seen(sampled(swapped=2 * GIB), sampled('g2', swapped=GIB), swap_free=4 * GIB)
    assert (found.swap_others, told(found).swap_used, told(found).swap_usable) == (GIB, 3 * GIB, 7 * GIB)


def test_others_have_never_less_than_nothing_in_swap():
    found = seen(sampled(swapped=2 * GIB), swap_free=7 * GIB)  # it came back between two readings
    assert found.swap_others == 0 and told(found).swap_usable == 8 * GIB


def test_swap_that_is_not_known_to_be_a_guests_backs_nothing():
    unread = GuestSample(facts=facts('g2', rss=GIB))
    found = seen(sampled(swapped=GIB), unread, swap_free=5 * GIB)
    assert found.swap_others == 2 * GIB - found.guests[1].overhead


def test_a_guest_whose_swap_cannot_be_read_may_have_there_what_it_does_not_have_in_memory():
    """Else a host that tells no guest's swap (swapaccount=0) would seem to have none for them."""
    unread = GuestSample(facts=facts('g2', rss=GIB // 4))
    found = seen(sampled(swapped=GIB), unread, swap_free=5 * GIB)
    assert found.swap_others == 2 * GIB - (GIB - GIB // 4) - found.guests[1].overhead


def test_what_guests_may_have_in_compressed_memory_is_not_taken_for_swap():
    found = seen(sampled(swapped=3 * GIB), swap_free=4 * GIB, zram=2 * GIB)
    assert found.swap_others == 3 * GIB
    assert seen(sampled(swapped=GIB), swap_free=4 * GIB, zram=2 * GIB).swap_others == 4 * GIB


def test_a_record_of_before_is_read_as_it_was():
    found = seen(sampled(swapped=GIB), swap_free=4 * GIB)
    data = codec.write(HostSnapshot, found)
    assert codec.read(HostSnapshot, data) == found
    del data['swap_others']
    old = codec.read(HostSnapshot, data)
    assert old.swap_usable == old.swap_total and old.guests[0].committed == found.guests[0].committed


def test_a_report_of_a_host_of_before_is_understood():
    found = told(seen(sampled(swapped=GIB), swap_free=4 * GIB))
    assert report.decode(report.encode(found)) == found
    assert report.encode(found).count('others') == 0, 'no field that a scheduler of the same version does not know'


# -- huge pages ------------------------------------------------------------------------------------------------------
def on_huge(name='h1', size=32 * GIB, usage=500 * MIB, **changes):
    fields = dict(maximum=size, actual=size, usable=size // 2, untouchable='hugepages', huge=size) | changes
    return sampled(name, usage=usage, **fields)


def test_a_guest_on_huge_pages_is_counted_once():
    """64 GB, of which one guest has 32 in huge pages and others 3.3: about 28 are left."""
    available = 64 * GIB - 32 * GIB - 500 * MIB - 3 * GIB
    for pools in (None, 32 * GIB):
        found = seen(on_huge(), total=64 * GIB, available=available, huge=pools, reserve=4 * GIB)
        assert found.others == 3 * GIB and not any('reserve_mb' in note for note in found.notes)
        assert (told(found).total, told(found).committed) == (64 * GIB, 32 * GIB + 500 * MIB)
        assert admitted(found, 4 * GIB) and not admitted(found, 40 * GIB)


def test_huge_pages_that_no_guest_has_are_others():
    available = 64 * GIB - 40 * GIB - 500 * MIB - 3 * GIB
    assert seen(on_huge(), total=64 * GIB, available=available, huge=40 * GIB).others == 11 * GIB


def test_a_guest_whose_huge_pages_are_not_there_does_not_hide_what_others_use():
    found = seen(on_huge(), total=64 * GIB, available=30 * GIB, huge=0)
    assert found.others == 34 * GIB - 500 * MIB


def test_a_guest_that_will_find_its_huge_pages_in_the_pool_when_it_starts_is_counted_once_too():
    stopped = on_huge(running=False)
    stopped = dataclasses.replace(stopped, group=None)
    found = seen(stopped, total=64 * GIB, available=29 * GIB, huge=32 * GIB)
    assert found.others == 3 * GIB and told(found).committed == 32 * GIB + OVERHEAD
    assert seen(stopped, total=64 * GIB, available=61 * GIB, huge=0).others == 3 * GIB
    assert seen(stopped, total=64 * GIB, available=29 * GIB, huge=None).others == 35 * GIB


def test_a_group_that_does_not_hold_huge_pages_counts_them_in_no_sum():
    found = seen(on_huge(), sampled('g2'), total=16 * GIB, available=14 * GIB, group=True)
    assert found.others == 2 * GIB - GIB - 500 * MIB
    assert told(found).committed == 500 * MIB + GIB + OVERHEAD and told(found).claimed == 33 * GIB
    assert found.guests[0].guaranteed == found.guests[0].committed
    stopped = dataclasses.replace(on_huge(running=False), group=None)
    assert told(seen(stopped, group=True)).committed == 32 * GIB + OVERHEAD, 'nobody knows where it will be charged'


def test_where_the_kernel_charges_huge_pages_to_groups_they_are_counted_there():
    charged = on_huge(usage=32 * GIB + 500 * MIB)
    for group in (False, True):
        found = seen(charged, total=64 * GIB, available=28 * GIB, huge=32 * GIB, group=group)
        assert found.others == 36 * GIB - 32 * GIB - 500 * MIB
        assert told(found).committed == 32 * GIB + 500 * MIB


_SIZES = st.integers(1, 8 * 1024).map(lambda mb: mb * MIB)
_PARTS = st.floats(0, 1)


@hypothesis.settings(max_examples=400)
@hypothesis.given(
    huge=st.lists(st.tuples(_SIZES, _PARTS, st.booleans()), max_size=4), plain=st.lists(st.tuples(_SIZES, _PARTS)),
    free_pool=_SIZES, others=_SIZES, room=_SIZES, swap_others=_SIZES, swapped=_PARTS, group=st.booleans(),
    charged=st.booleans(), told_pools=st.booleans())
def test_guests_are_never_promised_what_others_use(huge, plain, free_pool, others, room, swap_others, swapped, group,
                                                   charged, told_pools):
    """Whatever is in huge pages, wholly or in part, charged or not: what a host has left after all that is committed is
    never more than it is in truth, and just that where all is known. In truth ordinary memory is what no pool holds,
    and a guest's huge pages come from the pools as far as those go."""
    guests, in_pools, to_come, resident, in_swap, clear = [], 0, 0, 0, 0, not charged
    for number, (size, part, running) in enumerate(huge):
        pages = int(size * part)
        own = size - pages + 50 * MIB
        clear &= own < pages or not running
        made = on_huge(f'h{number}', size, own + pages * charged, huge=pages, running=running)
        guests.append(made if running else dataclasses.replace(made, group=None))
        if running:
            in_pools, resident = in_pools + pages, resident + made.group.usage
        else:
            to_come += pages
    for number, (size, part) in enumerate(plain):
        out = int(size * part * swapped)
        resident, in_swap = resident + size - out, in_swap + out
        guests.append(sampled(f'p{number}', usage=size - out, swapped=out, maximum=size, actual=size, usable=size // 2))
    pools = 0 if group else in_pools + free_pool
    total = resident + others + room + pools - (0 if group else in_pools * charged)
    found = seen(*guests, total=total, available=room, swap_total=in_swap + swap_others + GIB, swap_free=GIB,
                 group=group, huge=pools if told_pools and not group else None, reserve=0)
    committed = sum(g.maximum + g.overhead for g in found.guests)
    ordinary = total - pools - others + in_swap + GIB
    elsewhere = (0 if charged else in_pools) if group else min(in_pools + to_come, pools)
    left = found.total - found.others + found.swap_usable - sum(g.committed for g in found.guests)
    assert left <= ordinary - (committed - elsewhere)
    if clear and (group or told_pools or not to_come):
        assert left == ordinary - (committed - elsewhere)
    assert told(found).reserved <= told(found).committed
