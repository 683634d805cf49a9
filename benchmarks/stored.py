# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What hosts have reported, as nova-scheduler reads it from nova's database."""
from __future__ import annotations

import contextlib
import json
import subprocess

from onebox_cloud.cloud import Cloud

from ovc_plugin import report
from ovc_plugin.report import HostReport


def reports(cloud: Cloud) -> dict[str, HostReport]:
    """The last report of each host that has sent one."""
    asked = ['mariadb', '--no-defaults', '-uroot', '-S', str(cloud.state / 'mysql.sock'), '-N', '-B', '--raw', '-e',
             'SELECT host, stats FROM nova_cell1.compute_nodes WHERE deleted = 0']
    answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in answer.splitlines():
        host, _, stats = line.partition('\t')
        with contextlib.suppress(KeyError, TypeError, ValueError):  # none yet
            found[host] = report.decode(json.loads(stats)[report.STATS_KEY])
    return found
