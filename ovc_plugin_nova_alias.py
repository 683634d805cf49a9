# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Lets nova load ``compute_driver = ovc.OvcLibvirtDriver``, though it looks below ``nova.virt`` only.

``ovc_plugin.pth`` imports this at the start of every interpreter of the environment. So it must import nothing that
is not loaded anyway, and nothing happens until someone asks for ``nova.virt.ovc``.
"""
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

ALIAS = 'nova.virt.ovc'
DRIVER = 'ovc_plugin.nova.driver'


class AliasFinder:
    """Asked last, for names that nobody else has; knows one."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return ModuleSpec(ALIAS, AliasFinder) if name == ALIAS else None

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        # The module itself, not a copy: one class, whichever name it is imported by.
        sys.modules[ALIAS] = import_module(DRIVER)


if AliasFinder not in sys.meta_path:
    sys.meta_path.append(AliasFinder)
