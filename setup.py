# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What setup.cfg cannot say: the .pth file by which nova finds our driver goes beside the packages."""
import os

from setuptools import Command, setup
from setuptools.command.build import build

PTH = 'ovc_plugin.pth'


class BuildPth(Command):
    """Puts the file at the root of the wheel; an editable wheel takes it directly, for it skips the build tree."""

    editable_mode = False  # Set by setuptools, see its SubCommand protocol.
    build_lib = None
    user_options = []

    def initialize_options(self):
        pass

    def finalize_options(self):
        self.set_undefined_options('build', ('build_lib', 'build_lib'))

    def run(self):
        root = self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib
        self.mkpath(root)
        self.copy_file(PTH, os.path.join(root, PTH), preserve_mode=False)

    def get_source_files(self):
        return [PTH]

    def get_outputs(self):
        return [] if self.editable_mode else [os.path.join(self.build_lib, PTH)]

    def get_output_mapping(self):
        return {}


class Build(build):
    sub_commands = [*build.sub_commands, ('build_pth', None)]


setup(py_modules=['ovc_plugin_nova_alias'], cmdclass={'build': Build, 'build_pth': BuildPth})
