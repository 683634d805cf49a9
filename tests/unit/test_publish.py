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


@pytest.fixture
def run(tmp_path):
    """What a libvirt that is at work keeps of its guests."""
    directory = tmp_path / 'qemu'
    directory.mkdir()
    (directory / 'driver.pid').write_text('1')
    return directory


def test_a_libvirt_is_taken_once_under_whatever_name_and_wherever_that_is_kept(tmp_path, run):
    """nova-compute goes by the full host name, ovc-agent by the short one."""
    nova = Store(str(tmp_path / 'nova'), 'h1.example.org', str(run))
    agent = Store(str(tmp_path / 'ovc'), 'h1', str(run))
    assert agent.free() and nova.claim() and nova.held and nova.claim() and nova.free()
    assert not agent.free() and not agent.claim() and not agent.held
    assert Store(str(tmp_path / 'ovc'), 'h1').claim(), 'what could not be taken whole is let go'
    nova.give_up()
    assert not nova.held and agent.free() is False  # the name, by the one above


def test_several_libvirts_on_one_machine_are_taken_each(tmp_path, run):
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'driver.pid').write_text('2')
    stores = [Store(str(tmp_path / 'ovc'), host, str(path)) for host, path in (('h1', run), ('h2', other))]
    assert all(store.claim() for store in stores) and all(store.held for store in stores)


def test_a_libvirt_that_comes_later_is_taken_then_by_one_alone(tmp_path, run):
    (run / 'driver.pid').unlink()
    first, second = (Store(str(tmp_path / 'ovc'), host, str(run)) for host in ('h1', 'h2'))
    assert first.claim() and first.held and second.claim() and second.held
    (run / 'driver.pid').write_text('1')
    assert not first.held and first.claim() and first.held
    assert not second.held and not second.claim() and not second.held
    (run / 'driver.pid').unlink()  # libvirt is restarted
    assert first.held and first.claim()
    (run / 'driver.pid').write_text('2')
    assert first.held and not second.claim()


def test_who_may_not_look_at_libvirts_directory_takes_the_name_alone(tmp_path, run, monkeypatch):
    opened = os.open

    def refuse(path, *arguments, **more):
        if path == run:
            raise PermissionError(13, 'Permission denied', str(path))
        return opened(path, *arguments, **more)
    monkeypatch.setattr(os, 'open', refuse)
    store = Store(str(tmp_path / 'ovc'), 'h1', str(run))
    assert store.free() and store.claim() and not Store(str(tmp_path / 'ovc'), 'h1', str(run)).claim()
    store.give_up()
    assert Store(str(tmp_path / 'ovc'), 'h1', str(run)).free()
