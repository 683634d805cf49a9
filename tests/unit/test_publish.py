# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The file of a host's state: root writes it too ("ovc release"), in a directory that is the service's own."""
import os

import pytest

from ovc_plugin.publish import Store


def test_no_file_is_written_that_a_link_in_the_directory_names(tmp_path):
    """Whoever may write the directory must not have root overwrite what it likes."""
    shadow = tmp_path / 'shadow'
    shadow.write_text('root')
    store = Store(str(tmp_path / 'state'), 'h1')
    store.path.parent.mkdir()
    store.path.with_suffix(f'.{os.getpid()}.tmp').symlink_to(shadow)
    store.path.symlink_to(shadow)
    store.save({'a': 1})
    assert shadow.read_text() == 'root' and store.load() == {'a': 1} and not store.path.is_symlink()


def test_no_file_is_made_that_a_link_in_place_of_the_lock_names(tmp_path):
    store = Store(str(tmp_path), 'h1')
    store.path.with_suffix('.lock').symlink_to(tmp_path / 'made')
    with pytest.raises(OSError):
        store.claim()
    with pytest.raises(OSError):
        store.free()
    assert not (tmp_path / 'made').exists()


def test_a_state_that_nobody_could_have_written_is_an_empty_one(tmp_path):
    store = Store(str(tmp_path), 'h1')
    for text in (b'[' * 100000, b'\xff', b'', b'[1]', b'1' * 10000):
        store.path.write_bytes(text)
        assert store.load() == {}


def test_what_was_saved_before_another_process_wrote_is_saved_again(tmp_path):
    mine, other = Store(str(tmp_path), 'h1'), Store(str(tmp_path), 'h1')
    mine.save({'a': 1})
    other.save({'a': 2})
    assert mine.load() == {'a': 2}
    mine.save({'a': 1})
    assert other.load() == {'a': 1}
