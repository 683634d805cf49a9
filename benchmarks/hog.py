# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Somebody else on a host of the one-machine cloud who takes memory and never gives it back."""
from __future__ import annotations

import subprocess
import sys

from onebox_cloud.hosts import Host

_CODE = '''
import ctypes, mmap, sys, time
area = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ctypes.CDLL(None, use_errno=True).mlockall(3)
for at in range(0, len(area), 4096):
    area[at] = 1
print('locked', flush=True)
time.sleep(3600)
'''


def lock(host: Host, leave: int) -> subprocess.Popen[str]:
    """A process in the host's group that has locked all but ``leave`` bytes of what is there; to be killed."""
    amount = max(1 << 20, host.memory - (host.memory_used() or 0) - leave)
    group = host.cgroup / 'cgroup.procs'
    process = subprocess.Popen(['/bin/sh', '-c', f'echo $$ >{group} && exec "$@"', 'sh', sys.executable, '-c', _CODE,
                                str(amount)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    return process
