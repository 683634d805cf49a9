# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A pytest plugin for tools/test, which runs pytest more than once: writes the counts of one run to $OVC_TALLY."""
from __future__ import annotations

import os
import pathlib
import typing


def pytest_terminal_summary(terminalreporter: typing.Any) -> None:
    counts = [sum(len(terminalreporter.stats.get(name, ())) for name in names)
              for names in (('passed', 'xpassed'), ('failed', 'error'), ('skipped', 'xfailed'))]
    pathlib.Path(os.environ['OVC_TALLY']).write_text(' '.join(map(str, counts)) + '\n')
