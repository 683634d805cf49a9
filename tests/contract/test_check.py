# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What ``ovc check`` takes for nova's options is what nova has."""
from __future__ import annotations

import shlex

import pytest
from nova import exception, utils
from nova.scheduler import filters as nova_filters
from nova.tests.functional import integrated_helpers
from nova.virt.libvirt import host as libvirt_host
from oslo_config import cfg

from ovc_plugin.cli import check_host, check_scheduler, findings


@pytest.mark.parametrize('group, name', [(g, o.dest) for g, opts in findings.NOVA_OPTIONS.items() for o in opts])
def test_each_option_is_novas_with_its_type_and_default(group, name):
    import nova.conf
    mine = next(option for option in findings.NOVA_OPTIONS[group] if option.dest == name)
    owner = nova.conf.CONF if group == 'DEFAULT' else nova.conf.CONF._get_group(group)
    theirs = owner._opts[name]['opt']
    assert type(theirs) is type(mine) or isinstance(theirs, type(mine))
    if name != 'host':  # the machine's own name
        assert theirs.default == mine.default or (name == 'connection_uri' and not theirs.default)
    assert isinstance(theirs, cfg.Opt)


def test_the_names_of_our_plugins_are_those_of_their_classes():
    """nova-scheduler does not start with a name that is not there, and with two that vote alike votes count twice."""
    from ovc_plugin.nova import filters, weights
    assert set(check_scheduler.FILTERS) == {f'{filters.__name__}.{one.__name__}' for one in vars(filters).values()
                                     if isinstance(one, type) and issubclass(one, nova_filters.BaseHostFilter)
                                     and not one.__name__.startswith('_')}
    theirs = {f'{weights.__name__}.{name}': one.VOTES for name, one in vars(weights).items()
              if isinstance(one, type) and one.__module__ == weights.__name__}
    assert theirs == check_scheduler.VOTES


class TestFileBackedMemory(integrated_helpers.test.TestCase):

    def test_nova_takes_no_ratio_but_one(self):
        host = object.__new__(libvirt_host.Host)
        self.flags(file_backed_memory=4096, group='libvirt')
        self.flags(reserved_host_memory_mb=0)
        for ratio, starts in ((None, False), (2.0, False), (1.0, True)):
            self.flags(ram_allocation_ratio=ratio)
            if starts:
                self.assertTrue(host._check_file_backed_memory_support())
            else:
                self.assertRaises(exception.InternalError, host._check_file_backed_memory_support)


class TestRootHelper(integrated_helpers.test.TestCase):

    def test_the_check_becomes_root_as_nova_compute_does(self):
        for config, plain in (('/etc/nova/rootwrap.conf', False), ('/opt/my rw.conf', False), ('/opt/rw.conf', True)):
            self.flags(rootwrap_config=config)
            self.flags(disable_rootwrap=plain, group='workarounds')
            self.assertEqual(shlex.split(utils.get_root_helper()), check_host.root_helper(utils.CONF))
