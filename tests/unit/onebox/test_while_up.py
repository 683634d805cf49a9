# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A cloud for a block: gone afterwards whatever ended it, and never somebody else's."""
from __future__ import annotations

import pytest
from onebox_cloud import cloud as module
from onebox_cloud.cloud import Cloud
from onebox_cloud.errors import OneboxError
from onebox_cloud.options import Options


@pytest.fixture
def one(cache, tmp_path, monkeypatch):
    """A cloud whose parts are all pretended; ``done`` is what was done to the machine."""
    cloud, done = Cloud(tmp_path / 'run', Options(hosts=1), say=lambda text: None), []
    monkeypatch.setattr(module.ending, 'as_interrupted', lambda: None)
    for name in ('check_machine', 'check_ports', 'prepare_machine', 'start_hosts', 'start_services'):
        monkeypatch.setattr(module.steps, name, lambda *_, name=name: done.append(name))
    monkeypatch.setattr(module.wipe, 'give_back', lambda *_: done.append('given back'))
    return cloud, done


def test_it_is_gone_afterwards_and_what_is_last_comes_before(one):
    cloud, done = one
    with cloud.while_up(last=lambda: done.append('logs kept')):
        assert (cloud.state / 'cloud.json').exists() and done[-1] == 'start_services'
    assert done[-2:] == ['logs kept', 'given back'] and not cloud.state.dir.exists()


def test_it_stays_where_that_is_wanted(one):
    cloud, done = one
    with cloud.while_up(keep=True, last=lambda: done.append('logs kept')):
        pass
    assert done[-1] == 'logs kept' and cloud.state.dir.exists()


@pytest.mark.parametrize('step', ['prepare_machine', 'start_hosts', 'start_services'])
def test_a_start_that_is_interrupted_leaves_nothing(one, step, monkeypatch):
    cloud, done = one

    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(module.steps, step, interrupted)
    with pytest.raises(KeyboardInterrupt), cloud.while_up():
        pytest.fail('it is not up')
    assert done[-1] == 'given back' and not cloud.state.dir.exists()


def test_logs_that_cannot_be_kept_leave_nothing_behind(one):
    cloud, done = one

    def full():
        raise OSError('no space left')
    with pytest.raises(OSError, match='no space'), cloud.while_up(last=full):
        pass
    assert done[-1] == 'given back' and not cloud.state.dir.exists()


def test_a_cloud_that_is_there_is_refused_and_stays(one):
    cloud, done = one
    cloud.up()  # somebody's, with the same options
    done.clear()
    mine = Cloud(cloud.state.dir, Options(hosts=1), say=cloud.say)
    with pytest.raises(OneboxError, match="run 'onebox wipe' first"), mine.while_up(last=lambda: done.append('logs')):
        pytest.fail('it is not ours')
    assert not done and (cloud.state / 'cloud.json').exists()


def test_a_machine_that_is_not_fit_is_left_as_it_is(one, monkeypatch):
    cloud, done = one

    def unfit(*_):
        raise OneboxError('not enough memory')
    monkeypatch.setattr(module.steps, 'check_machine', unfit)
    with pytest.raises(OneboxError, match='not enough memory'), cloud.while_up():
        pytest.fail('it is not up')
    assert not done and not cloud.state.dir.exists()
