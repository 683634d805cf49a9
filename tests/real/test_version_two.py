# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Version 2 control groups and the kernel's pressure alarm, on a kernel that has them: Debian's, booted in a guest.

Our own code runs there, with the Python of this machine: it swaps a group, brakes it, looks at it, and is woken.
"""
from __future__ import annotations

import re
from pathlib import Path

import pytest
import python_guest
from patience import SECONDS

SCRIPT = '''
import os, pathlib, subprocess, sys, threading, time
from ovc_plugin import squeeze
from ovc_plugin.leases import checked
from ovc_plugin.sense import cgroup, glance, proc, psi, sleeper

MB, leases = 1 << 20, pathlib.Path('/run/leases')
root = pathlib.Path('/sys/fs/cgroup')
(root / 'cgroup.subtree_control').write_text('+memory')
machine = root / 'machine.slice'
machine.mkdir()
(machine / 'cgroup.subtree_control').write_text('+memory')
group = machine / 'machine-qemu-1-one.scope'
group.mkdir()

def say(name, **fields):
    print('\\ntwo', name, *(f'{key}={value}' for key, value in fields.items()), flush=True)

def guest(code):
    """A process in the group; told when it has run the code."""
    join = f'import os\\nopen("{group}/cgroup.procs", "w").write(str(os.getpid()))\\n'
    one = subprocess.Popen([sys.executable, '-c', join + code], stdout=subprocess.PIPE)
    one.stdout.readline()
    return one

def working_set():
    subprocess.run([sys.executable, '/bin/ovc-working-set', '--once', '--file', '/run/ovc/working-set'], check=True)
    return int(pathlib.Path('/run/ovc/working-set').read_text().split()[0]) // MB

def rings(trigger, seconds):
    sleeps, end = sleeper.Sleeper(trigger), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if sleeps.sleep(left, threading.Event()).stall:
            return True
    return False

def stalled(path):
    """Seconds in which some task has waited for memory: a slow machine comes to them later, and to no more."""
    return int(path.read_text().split('total=')[1].split()[0]) / 1e6

first = working_set()
holds = guest('held = bytearray(os.urandom(1 << 20) * 120)\\nprint("ready", flush=True)\\nimport time\\n'
              'time.sleep(600)')
look = glance.Glance(machine, lambda: cgroup.boundary(machine, proc.memory(pathlib.Path('/proc'))))
before = look.look()
say('published', more=working_set() - first, first=first)

def swapped():
    return int((group / 'memory.swap.current').read_text()) // MB

def once(name, **options):
    first, began = swapped(), time.monotonic()
    (freed, error), = squeeze.reclaim([(checked(str(group)), 30 * MB, 0)], 120, leases, **options)
    say(name, freed=freed // MB, swapped=swapped() - first, error=error,
        high=(group / 'memory.high').read_text().strip(), leases=len(list(leases.glob('*'))),
        seconds=round(time.monotonic() - began, 2))

once('asked')
say('spelling', left=len(squeeze._ANON_ONLY))
once('braked', brake=True)
original = squeeze.Group.__init__
def without(self, *args):
    original(self, *args)
    self._asks = False
squeeze.Group.__init__ = without
once('squeezed')
after = look.look()
say('look', available=(after.available - before.available) // MB, demand=(after.demand - before.demand) // MB)
sample = cgroup.group(group)
say('group', usage=sample.usage // MB, swapped=sample.swapped // MB, can=sample.can_reclaim, pressure=sample.pressure)

for name, path in (('machine', pathlib.Path('/proc/pressure/memory')), ('group', group / 'memory.pressure')):
    trigger, means = psi.trigger(path)
    say('alarm', of=name, granted=trigger is not None, means=means.replace(' ', '_'))
    if trigger is None:
        continue
    say('calm', of=name, rang=rings(trigger, 1.5))
    before = stalled(path)
    (group / 'memory.high').write_text(str(40 * MB))
    busy = guest('print("ready", flush=True)\\nheld = bytearray(90 << 20)\\nwhile True:\\n'
                 '    for at in range(0, len(held), 4096): held[at] = 1')
    rang = rings(trigger, 120)
    say('rang', of=name, rang=rang, seconds=round(stalled(path) - before, 2))
    busy.kill()
    busy.wait()
    (group / 'memory.high').write_text('max')
    trigger.close()
holds.kill()
say('end')
'''


@pytest.fixture(scope='module')
def told(tmp_path_factory: pytest.TempPathFactory, guest_images: Path) -> dict[str, dict[str, str]]:
    """What the script said, by the first word (and by whom it was of)."""
    process = python_guest.start(tmp_path_factory.mktemp('two'), guest_images, SCRIPT)
    try:
        text, _ = process.communicate(timeout=2 * SECONDS)
    finally:
        process.kill()
    found = {}
    for name, rest in re.findall(r'^two (\w+) ?(.*?)\r?$', text, re.MULTILINE):
        fields = dict(field.split('=', 1) for field in rest.split())
        found[f'{name} {fields["of"]}' if 'of' in fields else name] = fields
    assert 'end' in found, text[-3000:]
    print(found)
    return found


@pytest.mark.parametrize('way', ['asked', 'braked', 'squeezed'])
def test_a_version_two_group_is_swapped_by_each_way_and_nothing_is_left_lowered(told, way):
    fields = told[way]
    assert 25 <= int(fields['swapped']) <= 60 and int(fields['freed']) >= 25, fields
    assert (fields['error'], fields['high'], fields['leases']) == ('None', 'max', '0'), fields


def test_a_look_at_the_boundary_sees_what_was_freed_and_no_new_demand(told):
    assert int(told['look']['available']) >= 75 and abs(int(told['look']['demand'])) <= 15, told['look']
    assert told['group']['can'] == 'True' and told['group']['pressure'] != 'None'


def test_what_a_real_guest_publishes_follows_what_it_uses(told):
    found = told['published']
    assert 110 <= int(found['more']) <= 140 and 20 < int(found['first']) < 250, found


@pytest.mark.parametrize('of', ['machine', 'group'])
def test_the_kernels_alarm_is_silent_in_calm_and_rings_within_a_second_or_two_of_stall(told, of):
    assert told[f'alarm {of}']['granted'] == 'True', told[f'alarm {of}']
    assert told[f'calm {of}']['rang'] == 'False' and told[f'rang {of}']['rang'] == 'True', told
    assert float(told[f'rang {of}']['seconds']) < 5, told[f'rang {of}']
