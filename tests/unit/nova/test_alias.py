# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The finder that every interpreter of the environment imports: light, silent, and for one name only."""
from __future__ import annotations

import pathlib
import subprocess
import sys

CHECKOUT = pathlib.Path(__file__).resolve().parents[3]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True, cwd=CHECKOUT)


def test_it_imports_nothing_that_an_interpreter_has_not_got_anyway():
    done = python('import sys; import importlib.machinery; before = set(sys.modules); import ovc_plugin_nova_alias; '
                  'print(sorted(set(sys.modules) - before))')
    assert done.stdout.strip() == "['ovc_plugin_nova_alias']", done.stderr


def test_it_knows_one_name_and_hands_out_the_driver_itself():
    done = python('''
import sys, types, ovc_plugin_nova_alias as alias, importlib
for name in ('nova', 'nova.virt'):
    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = []
alias.DRIVER = 'json'
assert importlib.import_module('nova.virt.ovc') is importlib.import_module('json')
assert sys.modules['json'].__spec__.name == 'json'
try:
    importlib.import_module('nova.virt.ovcx')
except ModuleNotFoundError as error:
    print(error.name)
''')
    assert done.stdout.strip() == 'nova.virt.ovcx', done.stderr


def test_the_pth_line_says_nothing_when_the_package_is_gone():
    line = (CHECKOUT / 'ovc_plugin.pth').read_text()
    assert line.startswith('import ') and line.count('\n') == 1  # else site takes it for a path
    done = subprocess.run([sys.executable, '-S', '-c', line], capture_output=True, text=True, cwd='/')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_the_package_is_imported_without_nova():
    done = subprocess.run([sys.executable, '-c', '''
import sys
class NoNova:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'nova':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoNova())
import ovc_plugin.nova.host_state, ovc_plugin.nova.admission, ovc_plugin.nova.ratio, ovc_plugin.nova.inventory
'''], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
