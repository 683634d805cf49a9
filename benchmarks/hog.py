# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Somebody else on a host of the one-machine cloud who takes memory and never gives it back."""
from __future__ import annotations

import subprocess
import sys

from onebox_cloud.hosts import Host

_CODE = '''
import ctypes, mmap, sys, time
amount, group, leave = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ctypes.CDLL(None, use_errno=True).mlockall(3)
areas = []

def take(amount):
    area = mmap.mmap(-1, amount, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(area), 4096):
        area[at] = 1
    areas.append(area)

def available():
    limit, used = (int(open(f'{group}/memory.{name}_in_bytes').read()) for name in ('limit', 'usage'))
    stat = dict(line.split() for line in open(f'{group}/memory.stat'))
    return limit - used + int(stat['total_active_file']) + int(stat['total_inactive_file'])

take(amount)
print('locked', flush=True)
while True:
    time.sleep(0.1)
    if leave and (over := available() - leave) > 4 << 20:
        take(over)
'''


def lock(host: Host, leave: int, *, go_on: bool = False) -> subprocess.Popen[str]:
    """A process in the host's group that has locked all but ``leave`` bytes of what is there; to be killed. With
    ``go_on`` it takes whatever comes free later, too, and what of the host's files is kept in memory."""
    amount = max(1 << 20, host.memory - (host.memory_used() or 0) - leave)
    group = host.cgroup / 'cgroup.procs'
    process = subprocess.Popen(['/bin/sh', '-c', f'echo $$ >{group} && exec "$@"', 'sh', sys.executable, '-c', _CODE,
                                str(amount), str(host.cgroup), str(leave if go_on else 0)],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    return process
