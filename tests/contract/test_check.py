# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What ``ovc check`` takes for nova's options is what nova has."""
from __future__ import annotations

import shlex

import pytest
from nova import utils
from nova.tests.functional import integrated_helpers
from oslo_config import cfg

from ovc_plugin.cli import check_host, findings


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


class TestRootHelper(integrated_helpers.test.TestCase):

    def test_the_check_becomes_root_as_nova_compute_does(self):
        for config, plain in (('/etc/nova/rootwrap.conf', False), ('/opt/my rw.conf', False), ('/opt/rw.conf', True)):
            self.flags(rootwrap_config=config)
            self.flags(disable_rootwrap=plain, group='workarounds')
            self.assertEqual(shlex.split(utils.get_root_helper()), check_host.root_helper(utils.CONF))
