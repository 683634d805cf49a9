# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""nova finds our driver, whether either of the two is installed from a wheel or editable, as DevStack does."""
from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(sysconfig.get_path('purelib'))
CACHE = pathlib.Path(os.environ.get('OVC_CACHE') or pathlib.Path(
    os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'ovc')
OURS = ('ovc_plugin', '__editable__')
PACKAGED = ('setup.py', 'setup.cfg', 'pyproject.toml', 'requirements.txt', 'LICENSE', 'README.rst', 'ovc_plugin.pth',
            'ovc_plugin_nova_alias.py')

LOAD = '''
import os, json, sys
os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = '1'
quiet = [name for name in sys.modules if name.partition('.')[0] in ('nova', 'ovc_plugin')]
from nova import monkey_patch; monkey_patch.patch()
import nova.conf, nova.config
nova.config.parse_args(['nova-compute'], default_config_files=[], configure_db=False, init_rpc=False)
from nova.virt import driver
loaded = driver.load_compute_driver(None, 'ovc.OvcLibvirtDriver')
from nova.virt.libvirt.driver import LibvirtDriver
from nova.scheduler import filters, weights
from nova.api.validation.extra_specs import validators
import nova, nova.virt.ovc, ovc_plugin, ovc_plugin.nova.driver
print(json.dumps({
    'quiet': quiet, 'class': f'{type(loaded).__module__}.{type(loaded).__qualname__}',
    'is_libvirt': isinstance(loaded, LibvirtDriver), 'one_module': nova.virt.ovc is ovc_plugin.nova.driver,
    'nova': nova.__file__, 'ovc': ovc_plugin.__file__,
    'filter': [c.__name__ for c in filters.HostFilterHandler().get_matching_classes(
        ['ovc_plugin.nova.filters.OvercommitFilter'])],
    'weigher': [c.__name__ for c in weights.HostWeightHandler().get_matching_classes(
        ['ovc_plugin.nova.weights.OvercommitWeigher'])],
    'validators': sorted(name for name in validators.VALIDATORS if name.startswith('ovc:'))}))
'''


def run(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd='/', **options)
    assert done.returncode == 0, f'{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
    return done.stdout


class Venv:
    """A real environment; all but the named packages are those of the one we run in, by symbolic links."""

    def __init__(self, path: pathlib.Path, without: tuple[str, ...] = OURS) -> None:
        run(sys.executable, '-m', 'venv', '--without-pip', path)
        self.python = path / 'bin' / 'python'
        self.site = next(path.glob('lib/python3*/site-packages'))
        for entry in SHARED.iterdir():
            if not entry.name.startswith(without):
                (self.site / entry.name).symlink_to(entry)

    def pip(self, *arguments: object) -> None:
        run(self.python, '-m', 'pip', '-q', '--disable-pip-version-check', *arguments)

    def load(self) -> dict[str, object]:
        return json.loads(run(self.python, '-c', LOAD).splitlines()[-1])


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of what is packaged: a build must not write into the checkout."""
    copy = tmp_path_factory.mktemp('source')
    for name in PACKAGED:
        if (CHECKOUT / name).exists():
            shutil.copy(CHECKOUT / name, copy)
    shutil.copytree(CHECKOUT / 'ovc_plugin', copy / 'ovc_plugin', ignore=shutil.ignore_patterns('__pycache__'))
    return copy


@pytest.fixture(scope='module')
def with_wheels(source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """nova and we, both from wheels."""
    venv = Venv(tmp_path_factory.mktemp('wheels') / 'venv')
    built = tmp_path_factory.mktemp('built')
    venv.pip('wheel', '--no-deps', '--no-build-isolation', '-w', built, source)
    venv.pip('install', '--no-deps', *built.glob('*.whl'))
    return venv


@pytest.fixture(scope='module')
def nova_checkout(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    pins = (CHECKOUT / 'constraints.txt').read_text().splitlines()
    release = next(pin.partition('==')[2].split()[0] for pin in pins if pin.startswith('nova=='))
    kept, name = CACHE / 'sdist', f'nova-{release}'
    if not (kept / f'{name}.tar.gz').exists():
        run(sys.executable, '-m', 'pip', '-q', 'download', '--no-deps', '--no-binary', 'nova', '-d', kept,
            f'nova=={release}')
    into = tmp_path_factory.mktemp('nova')
    run('tar', '-xzf', kept / f'{name}.tar.gz', '-C', into)
    return into / name


def check(told: dict[str, object], ours_in: pathlib.Path, nova_in: pathlib.Path) -> None:
    assert told['class'] == 'ovc_plugin.nova.driver.OvcLibvirtDriver'
    assert told['is_libvirt'] and told['one_module']
    assert told['quiet'] == [], 'the interpreter start imports more than the finder'
    assert told['filter'] == ['OvercommitFilter'] and told['weigher'] == ['OvercommitWeigher']
    assert told['validators'] == ['ovc:overcommit', 'ovc:reservation', 'ovc:share', 'ovc:weight']
    assert str(told['ovc']).startswith(str(ours_in)), told['ovc']
    assert str(told['nova']).startswith(str(nova_in)), told['nova']


def test_both_from_wheels(with_wheels: Venv) -> None:
    check(with_wheels.load(), with_wheels.site, with_wheels.site)


def test_both_editable_as_devstack_installs_them(
        source: pathlib.Path, nova_checkout: pathlib.Path, tmp_path: pathlib.Path) -> None:
    venv = Venv(tmp_path / 'venv', without=(*OURS, 'nova'))
    assert subprocess.run([venv.python, '-c', 'import nova'], capture_output=True, cwd='/').returncode == 1
    venv.pip('install', '--no-deps', '-e', nova_checkout)
    venv.pip('install', '--no-deps', '--no-build-isolation', '-e', source)
    check(venv.load(), source, nova_checkout)


def test_a_package_that_is_gone_leaves_every_interpreter_silent(with_wheels: Venv) -> None:
    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run([with_wheels.python, '-c', 'import sys; print(sys.meta_path)'], capture_output=True,
                              text=True, cwd='/')

    assert 'AliasFinder' in start().stdout
    finder, aside = with_wheels.site / 'ovc_plugin_nova_alias.py', with_wheels.site / 'aside'
    finder.rename(aside)  # as after an uninstall by hand that forgets the .pth
    assert (start().returncode, start().stderr) == (0, '')
    aside.rename(finder)
    with_wheels.pip('uninstall', '-y', 'ovc-plugin')
    assert not list(with_wheels.site.glob('ovc*'))
    assert (start().returncode, start().stderr) == (0, '')
    assert 'AliasFinder' not in start().stdout
