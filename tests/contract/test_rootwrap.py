# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Nova's rootwrap lets our helpers start as they are installed: an operator need not touch sudoers or filters."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest
from oslo_rootwrap import wrapper

from ovc_plugin import privileged


@pytest.mark.parametrize('context', ['context', 'reading'])
def test_novas_own_rootwrap_lets_our_helpers_through(context):
    filters = wrapper.load_filters([str(Path(sys.prefix, 'etc/nova/rootwrap.d'))])
    made = getattr(privileged, context).helper_command('/tmp/x/privsep.sock')
    command = made[made.index('privsep-helper'):]
    found = wrapper.match_filter(filters, command, exec_dirs=[str(Path(sys.prefix, 'bin'))])
    assert found.get_command(command, [str(Path(sys.prefix, 'bin'))])[-4:] == [
        '--privsep_context', f'ovc_plugin.privileged.{context}', '--privsep_sock_path',
        '/tmp/x/privsep.sock']
