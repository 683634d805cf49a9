# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""A guest with the Python of this machine, for our own code on another kernel: Debian's, with version 2 control groups.

It needs neither libvirt nor root on this machine: QEMU alone, with the test guest's kernel and drivers.
"""
from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path('/usr/bin/python3.11')
NEEDED = ('__init__', 'model', 'placing', 'samples', 'leases', 'squeeze', 'sense/__init__', 'sense/cgroup',
          'sense/glance', 'sense/marks', 'sense/proc', 'sense/psi', 'sense/sleeper')
LEFT_OUT = ('test', 'idlelib', 'ensurepip', 'lib2to3', 'tkinter', 'config-*', '__pycache__', 'distutils', 'pydoc_data',
            'unittest', 'dist-packages', 'asyncio', 'curses', 'sqlite3', 'turtledemo')

INIT = '''#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t tmpfs tmpfs /run
echo 1 >/proc/sys/kernel/printk
exec </dev/null >/dev/ttyS0 2>&1
for module in $(busybox cat /lib/modules.list); do busybox insmod "/lib/$module.ko"; done
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox mkswap /dev/vda >/dev/null
busybox swapon /dev/vda
PYTHONPATH=/ovc PYTHONHOME=/usr /usr/bin/python3.11 -B /script.py
busybox poweroff -f
'''


def overlay(directory: Path, script: str, programs: tuple[Path, ...]) -> None:
    """What is laid over the test guest's initrd: Python, our code, what it is to do, and programs for /bin."""
    (directory / 'init').write_text(INIT)
    (directory / 'init').chmod(0o755)
    (directory / 'script.py').write_text(script)
    for name in NEEDED:
        target = directory / 'ovc' / 'ovc_plugin' / f'{name}.py'
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / 'ovc_plugin' / f'{name}.py', target)
    (directory / 'usr' / 'bin').mkdir(parents=True)
    (directory / 'bin').mkdir()
    (directory / 'run').mkdir()
    shutil.copy(PYTHON, directory / 'usr' / 'bin')
    for program in (ROOT / 'etc' / 'guest' / 'ovc-working-set', *programs):
        shutil.copy(program, directory / 'bin')
    shutil.copytree('/usr/lib/python3.11', directory / 'usr/lib/python3.11', symlinks=False,
                    ignore=shutil.ignore_patterns(*LEFT_OUT), ignore_dangling_symlinks=True)
    libraries = {name for program in (PYTHON, *programs) for name in re.findall(
        r'(/\S+) \(0x', subprocess.run(['ldd', program], capture_output=True, text=True).stdout)}
    for library in libraries:
        target = directory / library.lstrip('/')
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def packed(directory: Path) -> bytes:
    names = subprocess.run(['find', '.'], cwd=directory, capture_output=True, check=True).stdout
    return gzip.compress(subprocess.run(['busybox', 'cpio', '-o', '-H', 'newc'], cwd=directory, input=names,
                                        capture_output=True, check=True).stdout, compresslevel=1)


def start(work: Path, images: Path, script: str, *arguments: object,
          programs: tuple[Path, ...] = ()) -> subprocess.Popen[str]:
    """Boot it; what the script prints comes from the process, which ends with the script."""
    if shutil.which('qemu-system-x86_64') is None or not PYTHON.exists():
        pytest.skip('needs qemu-system-x86_64 and Debian 12\'s Python')
    (work / 'root').mkdir()
    overlay(work / 'root', script, programs)
    (work / 'initrd').write_bytes((images / 'initrd').read_bytes() + packed(work / 'root'))
    subprocess.run(['truncate', '-s', '300M', work / 'swap'], check=True)
    return subprocess.Popen(
        ['qemu-system-x86_64', '-accel', 'tcg', '-m', '512', '-nographic', '-no-reboot', '-nodefaults', '-serial',
         'stdio', '-kernel', images / 'vmlinuz', '-initrd', work / 'initrd', '-append',
         'console=ttyS0 quiet psi=1 panic=-1 cgroup_no_v1=all', '-drive', f'file={work}/swap,if=virtio,format=raw',
         *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
