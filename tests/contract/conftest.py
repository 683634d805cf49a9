# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Our plugins inside nova's own code: its functional fixtures, its scheduler, its API, in one process.

Three things keep nova's fixtures from running under pytest; each is put right here.
"""
from __future__ import annotations

import importlib.util
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
HAVE_NOVA = importlib.util.find_spec('nova') is not None
collect_ignore_glob = [] if HAVE_NOVA else ['test_*.py']


def pytest_report_header() -> str | None:
    return None if HAVE_NOVA else 'contract tests are left out: nova is not installed in this environment'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if str(item.path).startswith(HERE + os.sep):
            item.add_marker(pytest.mark.contract)


def _choose_threads() -> None:
    """nova decides between threads and eventlet before all else; too late, and it refuses to start."""
    if 'eventlet' in sys.modules:
        raise pytest.UsageError('the tests in tests/contract must be collected first, before anything imports '
                                'eventlet: run them alone, or run all of tests/')
    os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', '1')
    from nova import monkey_patch
    monkey_patch.patch()


def _find_api_paste() -> None:
    """The fixtures look for the file as in a checkout of nova; a wheel installs it elsewhere."""
    from nova.tests.fixtures import conf
    original = conf.paths.state_path_def

    def state_path_def(*parts: str) -> str:
        path: str = original(*parts)
        return path if os.path.exists(path) else os.path.join(sys.prefix, *parts)

    conf.paths.state_path_def = state_path_def


def _keep_the_test_method() -> None:
    """nova's base class removes what pytest sets on each test, and pytest fails as it removes it again."""
    from nova import test
    original = test.TestCase._clear_attrs

    def clear_attrs(case: test.TestCase) -> None:
        kept = case.__dict__.get(case._testMethodName)
        original(case)
        if kept is not None:
            case.__dict__[case._testMethodName] = kept

    test.TestCase._clear_attrs = clear_attrs


if HAVE_NOVA:
    _choose_threads()
    _find_api_paste()
    _keep_the_test_method()
