# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The house rules, as tests: who may know whom, exact types, style, licence, generated sample, optional parts."""
from __future__ import annotations

import ast
import importlib.metadata
import io
import pathlib
import re
import subprocess
import sys

import pytest
from docutils import core

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
HEADER = ('SPDX-License-Identifier: Apache-2.0', 'Copyright ovc_plugin contributors')


def tracked() -> list[pathlib.Path]:
    """The files of this checkout that are under version control; all but caches where there is no git."""
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return [path for name in listed.stdout.split('\0') if name and (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob('*') if path.is_file() and not any(
        part.startswith('.') or part in ('build', '__pycache__') for part in path.relative_to(ROOT).parts)]


def python_files() -> list[pathlib.Path]:
    return [path for path in tracked() if path.suffix == '.py']


def shell_files() -> list[pathlib.Path]:
    return [path for path in tracked() if path.suffix == '.sh' or (
        not path.suffix and path.read_bytes()[:64].startswith((b'#!/bin/bash', b'#!/bin/sh', b'#!/usr/bin/env bash')))]


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f'{command[0]} failed\n{done.stdout}\n{done.stderr}'


def test_every_part_knows_only_whom_it_may():
    run(BIN / 'lint-imports', '--no-cache')


def test_types_of_the_pure_part_are_exact():
    run(sys.executable, '-m', 'mypy')


def test_style():
    run(sys.executable, '-m', 'ruff', 'check', '--output-format', 'concise', *python_files())


def test_shell_scripts():
    scripts = shell_files()
    assert ROOT / 'tools' / 'test' in scripts
    run(BIN / 'shellcheck', '-x', '--severity=warning', *scripts)


@pytest.mark.parametrize('path', [path for path in tracked() if path.suffix == '.rst'], ids=lambda path: path.name)
def test_documents_can_be_rendered(path):
    said = io.StringIO()
    core.publish_string(path.read_text(), writer='html', settings_overrides={
        'report_level': 2, 'halt_level': 5, 'warning_stream': said, 'syntax_highlight': 'none'})
    assert not said.getvalue()


def test_every_source_file_says_whose_it_is():
    files = python_files() + shell_files()
    assert len(files) > 50
    bare = [str(path.relative_to(ROOT)) for path in files
            if path.stat().st_size and not all(line in path.read_text()[:300] for line in HEADER)]
    assert not bare


def test_the_sample_configuration_is_what_the_settings_generate(tmp_path):
    fresh = tmp_path / 'ovc.conf.sample'
    run(BIN / 'oslo-config-generator', '--config-file', 'etc/ovc/config-generator.conf', '--output-file', fresh)
    assert fresh.read_text() == (ROOT / 'etc/ovc/ovc.conf.sample').read_text(), (
        'the sample is out of date; run: oslo-config-generator --config-file etc/ovc/config-generator.conf')


def test_whatever_is_imported_is_required():
    """Where nova is not, nothing else brings it. nova's own parts and libvirt are for those who have them."""
    imported = {name.partition('.')[0] for path in (ROOT / 'ovc_plugin').rglob('*.py')
                for node in ast.walk(ast.parse(path.read_text()))
                for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                             [node.module or ''] if isinstance(node, ast.ImportFrom) and not node.level else [])}
    imported -= {*sys.stdlib_module_names, 'ovc_plugin', 'nova', 'oslo_db', 'libvirt', 'libvirt_qemu'}
    owners = importlib.metadata.packages_distributions()
    required = {re.match(r'[\w.-]+', line)[0].lower() for line in (ROOT / 'requirements.txt').read_text().splitlines()
                if not line.startswith('#')}
    assert len(imported) > 5
    assert not {name for name in imported if not required & {owner.lower() for owner in owners[name]}}


def test_a_source_package_has_every_file(tmp_path):
    """Whoever packages from it needs the samples, units, documents and tests as well."""
    run(sys.executable, '-W', 'ignore', 'setup.py', '-q', 'egg_info', '--egg-base', tmp_path)
    packed = set((tmp_path / 'ovc_plugin.egg-info' / 'SOURCES.txt').read_text().splitlines())
    assert not {str(path.relative_to(ROOT)) for path in tracked()} - packed
    assert not [name for name in packed if '__pycache__' in name]


def test_files_and_functions_fit_a_screen_or_few():
    long = []
    for path in (ROOT / 'ovc_plugin').rglob('*.py'):
        text = path.read_text()
        if text.count('\n') > 250:
            long.append(f'{path.name}: {text.count(chr(10))} lines')
        long += [f'{path.name}: {node.name} has {node.end_lineno - node.lineno + 1} lines'
                 for node in ast.walk(ast.parse(text))
                 if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 40]
    assert not long


WITHOUT = '''
import importlib, pkgutil, sys
blocked = set(sys.argv[1].split(','))

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition('.')[0] in blocked:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Absent)
import ovc_plugin
names = [m.name for m in pkgutil.walk_packages(ovc_plugin.__path__, 'ovc_plugin.')]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not (name.startswith('ovc_plugin.nova.') and error.name.partition('.')[0] == 'nova'):
            raise
print(len(names), sorted(blocked & set(sys.modules)))
'''


@pytest.mark.parametrize('absent', ['nova,libvirt', 'libvirt'])
def test_every_module_but_novas_imports_where_others_are_absent(absent):
    done = subprocess.run([sys.executable, '-c', WITHOUT, absent], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, loaded = done.stdout.split(maxsplit=1)
    assert int(count) > 30 and loaded.strip() == '[]'
