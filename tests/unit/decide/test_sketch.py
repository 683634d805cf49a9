# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Sketches of page contents: what they estimate, and how they travel."""
from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovc_plugin.decide import learned, sketch
from tests.builders import GIB, a_guest

CHANCE = random.Random(7)
COMMON = [CHANCE.randrange(sketch.SPACE) for _ in range(30000)]
ONE, OTHER = ([CHANCE.randrange(sketch.SPACE) for _ in range(30000)] for _ in range(2))

SKETCH = sketch.of(ONE)

hashes = st.lists(st.integers(0, sketch.SPACE - 1), max_size=80)


@given(hashes)
def test_a_sketch_keeps_the_smallest_and_says_below_what_it_is_complete(found):
    made = sketch.of(found)
    assert list(made.hashes) == sorted(set(found))[:sketch.KEPT]
    assert set(made.hashes) == {h for h in found if h < made.limit}


@given(st.dictionaries(st.text('0123456789abcdef', min_size=6, max_size=6), hashes.map(sketch.of), max_size=8))
def test_what_fits_comes_back_as_it_was(sketches):
    text = sketch.encode(sketch.Contents(images=frozenset(sketches), sketches=sketches), 100000)
    assert sketch.decode(text) == sketch.Contents(images=frozenset(sketches), sketches=sketches)


@given(st.sets(st.integers(0, 10**9), max_size=200), st.integers(0, 900), st.integers(0, 50))
def test_it_never_exceeds_its_room(numbers, most, turn):
    names = [sketch.image_name('p1', str(n)) for n in numbers]
    contents = sketch.Contents(images=frozenset(names), sketches=dict.fromkeys(names, SKETCH))
    text = sketch.encode(contents, most, turn)
    assert len(text) <= most
    assert sketch.decode(text).images <= contents.images


def test_turns_tell_other_sketches_until_all_are_told():
    names = [sketch.image_name('p1', str(n)) for n in range(12)]
    contents = sketch.Contents(images=frozenset(names), sketches=dict.fromkeys(names, SKETCH))
    told = set()
    for turn in range(12):
        told |= set(sketch.decode(sketch.encode(contents, 500, turn)).sketches)
    assert told == set(names)


def test_two_guests_of_which_half_is_equal_are_seen_to_be():
    found = [sketch.held(sketch.of(COMMON + ONE, kept), [sketch.of(COMMON + OTHER, kept)]) for kept in (32, 4096)]
    assert found[0] == pytest.approx(0.5, abs=0.3)
    assert found[1] == pytest.approx(0.5, abs=0.03)


def test_guests_with_nothing_in_common_share_nothing():
    assert sketch.held(sketch.of(ONE), [sketch.of(OTHER)]) == 0.0


@pytest.mark.parametrize('text', ['abcdef;xyz', 'a;bcdefg=', 'a;bcdefg=!!', 'a;bcdefg=gA'])
def test_what_is_no_sketch_is_refused(text):
    with pytest.raises(ValueError, match='is not a sketch'):
        sketch.decode(text)


def test_a_book_expects_nothing_of_images_it_does_not_know():
    book = learned.Book()
    book.learn(sketch.Contents(images=frozenset(('one',)), sketches={'one': sketch.of(COMMON + ONE)}))
    assert book.expected('other', book.there(frozenset(('one',)))) is None
    assert book.expected('one', book.there(frozenset(('other',)))) is None
    assert book.expected('one', book.there(frozenset())) == 0.0


def test_of_a_twin_whose_pages_nobody_has_looked_at_nothing_is_known():
    assert learned.Book().expected('one', learned.Book().there(frozenset(('one', 'other')))) is None


def test_a_first_twin_counts_as_equal_until_something_is_measured():
    book = learned.Book()
    book.learn(sketch.Contents(images=frozenset(('one',)), sketches={'one': SKETCH}), 'h1')
    assert book.expected('one', book.there(frozenset(('one',)))) == 1.0


def test_what_the_kernel_has_merged_of_an_image_overrules_its_sketch():
    book = learned.Book()
    book.learn(sketch.Contents(images=frozenset(('one',)), sketches={'one': SKETCH}, saved={'one': 0.05}))
    assert book.expected('one', book.there(frozenset(('one',)), {'one': 0.05})) == 0.05


def test_what_the_kernel_counts_here_comes_before_what_it_counts_elsewhere():
    book = learned.Book()
    book.learn(sketch.Contents(images=frozenset(('one',)), saved={'one': 0.3}))
    assert book.expected('one', book.there(frozenset(('one',)))) == 0.3
    assert book.expected('one', book.there(frozenset(('one',)), {'one': 0.1})) == 0.1


def test_sketches_of_two_hosts_tell_what_two_guests_of_an_image_share():
    book = learned.Book()
    for host, found in (('h1', COMMON + ONE), ('h2', COMMON + OTHER)):
        book.learn(sketch.Contents(images=frozenset(('one',)), sketches={'one': sketch.of(found)}), host)
    assert 0.2 < book.expected('one', book.there(frozenset(('one',)))) < 0.8


def test_the_same_word_of_the_same_host_is_no_second_guest():
    book = learned.Book()
    for _ in range(2):
        book.learn(sketch.Contents(images=frozenset(('one',)), sketches={'one': SKETCH}), 'h1')
    assert book.expected('one', book.there(frozenset(('one',)))) == 1.0


def merged(*guests):
    return sketch.measured(guests, {g.uuid for g in guests})


def test_guests_of_an_image_save_what_the_kernel_counts_of_them():
    found = merged(a_guest('a', image='debian', saved=GIB // 10), a_guest('b', image='debian', saved=0),
                   a_guest('c', image='fedora', saved=GIB // 2), a_guest('d', image='fedora', saved=GIB // 4))
    assert found == {sketch.image_name('p1', 'debian'): pytest.approx(0.05, rel=1e-6),
                     sketch.image_name('p1', 'fedora'): 0.375}


@pytest.mark.parametrize('count', [2, 3, 10])
def test_one_more_twin_expects_to_save_all_that_is_shared_however_few_have_shared_it_until_now(count):
    alike = 3 * GIB // 4
    twins = [a_guest(str(n), image='debian', saved=alike * (count - 1) // count, merged=alike) for n in range(count)]
    assert merged(*twins) == {sketch.image_name('p1', 'debian'): 0.75}


def test_a_guest_without_a_twin_says_nothing_of_what_a_second_would_save():
    assert merged(a_guest('a', image='debian', saved=0)) == {}


def test_guests_that_the_kernel_has_not_looked_through_or_cannot_merge_are_not_counted():
    twins = [a_guest(name, image='debian', saved=0) for name in ('a', 'b')]
    assert sketch.measured(twins, {'uuid-a'}) == {}
    assert merged(twins[0], a_guest('c', image='debian', saved=0, can_share=False)) == {}
    assert merged(twins[0], a_guest('c', image='debian', saved=None)) == {}


@given(st.dictionaries(st.text('0123456789abcdef', min_size=6, max_size=6), st.integers(0, 100), max_size=60))
def test_what_is_measured_travels_by_the_percent(percents):
    saved = {name: percent / 100 for name, percent in percents.items()}
    text = sketch.encode(sketch.Contents(images=frozenset(saved), saved=saved), 900)
    assert sketch.decode(text).saved == saved


@pytest.mark.parametrize('text', ['abcdef:x', 'abcdef:', 'abcdef:101', 'abcdef:-1', 'abcdef:0.5'])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match='is not a share'):
        sketch.decode(text)


def test_a_book_estimates_from_what_any_host_told():
    book = learned.Book()
    book.learn(sketch.Contents(images=frozenset(('one',)), sketches={'one': sketch.of(COMMON + ONE)}))
    book.learn(sketch.Contents(images=frozenset(('other',)), sketches={'other': sketch.of(COMMON + OTHER)}))
    assert 0.2 < book.expected('one', book.there(frozenset(('other', 'unknown')))) < 0.8


def test_a_book_reads_the_first_sketches_of_an_image_and_then_few():
    book, text = learned.Book(), sketch.encode(sketch.Contents(images=frozenset(('abcdef',)),
                                                              sketches={'abcdef': SKETCH}), 900)
    read = [bool(sketch.decode(text, book.wants).sketches) for _ in range(200)]
    assert all(read[:4]) and 4 < sum(read) < 10


def test_a_book_forgets_the_oldest_when_it_is_full():
    book = learned.Book(most=2)
    for name in ('a', 'b', 'c'):
        book.learn(sketch.Contents(images=frozenset((name,)), sketches={name: SKETCH}))
    assert book.expected('a', book.there(frozenset(('b',)))) is None
    assert book.expected('b', book.there(frozenset(('c',)))) == 1.0
