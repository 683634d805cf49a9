# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The door for predictors: entry points in the namespace ``ovc_plugin.predictors``, our own among them.

An entry point names a callable without arguments that gives a :class:`ovc_plugin.decide.predict.Predictor`.
"""
from __future__ import annotations

import importlib.metadata

from stevedore import driver

from ovc_plugin.decide.predict import Predictor

NAMESPACE = 'ovc_plugin.predictors'
DEFAULT = 'calibrated'


class UnknownPredictor(ValueError):
    """No such predictor, or it does not load; the message names those there are."""


def names() -> list[str]:
    """Those that are installed, by name."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=NAMESPACE)})


def load(name: str = DEFAULT) -> Predictor:
    """A new predictor of that name.

    :raises UnknownPredictor: not installed, or it failed to load.
    """
    try:
        manager: driver.DriverManager = driver.DriverManager(NAMESPACE, name, invoke_on_load=True)
    except Exception as error:  # whoever wrote it: without a prediction everything else goes on
        known = ', '.join(names()) or f'none: is ovc-plugin installed with its entry points ({NAMESPACE})?'
        raise UnknownPredictor(f'predictor {name!r} does not load ({error}); there are: {known}') from error
    found: Predictor = manager.driver
    return found
