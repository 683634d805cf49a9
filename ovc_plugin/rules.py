# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The door for the ladder's rules: entry points in the namespace ``ovc_plugin.rules``, our own among them.

An entry point names a callable without arguments that gives a :class:`ovc_plugin.decide.rule.Rule`.
"""
from __future__ import annotations

import importlib.metadata
import typing

from stevedore import named

from ovc_plugin.decide.rule import Rule

NAMESPACE = 'ovc_plugin.rules'


class UnknownRule(ValueError):
    """No such rule, or it does not load; the message names those there are."""


def names() -> list[str]:
    """Those that are installed, by name."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=NAMESPACE)})


def load(wanted: typing.Sequence[str]) -> tuple[Rule, ...]:
    """New rules of these names, in this order.

    :raises UnknownRule: one is not installed, fails to load, is named twice, or is no rule.
    """
    failures: dict[str, str] = {}

    def failed(_: object, point: importlib.metadata.EntryPoint, error: BaseException) -> None:
        failures[point.name] = f'{type(error).__name__}: {error}'

    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise UnknownRule(f'rule {twice[0]!r} is named twice: each works once in a pass')
    manager: named.NamedExtensionManager[Rule] = named.NamedExtensionManager(
        NAMESPACE, list(wanted), invoke_on_load=True, name_order=True, on_load_failure_callback=failed,
        warn_on_missing_entrypoint=False)
    found: dict[str, Rule] = {extension.name: extension.obj for extension in manager if extension.obj is not None}
    for name in wanted:
        if name not in found:
            known = ', '.join(names()) or f'none: is ovc-plugin installed with its entry points ({NAMESPACE})?'
            raise UnknownRule(f'rule {name!r} does not load ({failures.get(name, "it is not installed")}); '
                              f'installed are: {known}')
        if not callable(getattr(found[name], 'plan', None)):
            raise UnknownRule(f'rule {name!r} is a {type(found[name]).__name__} without a method plan(situation)')
    return tuple(found[name] for name in wanted)
