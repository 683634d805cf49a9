# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""nova's own tests, unmodified, from the installed nova: as they are, and with our driver, filters and weigher."""
from __future__ import annotations

import argparse
import collections
import concurrent.futures
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Tests of one process, whose start costs some four seconds: functional ones take as much each, unit tests next to none.
BATCH = {'libvirt': 12, 'scheduler': 12, 'unit-scheduler': 200, 'unit-driver': 200}
STALL = 240.0  # seconds without a result after which a process is taken for hung
KEPT = ('passed', 'skipped', 'expected failure')
SUITES = {
    'libvirt': ('nova.tests.functional.libvirt',),
    'scheduler': tuple(f'nova.tests.functional.test_{name}' for name in (
        'scheduler', 'server_group', 'aggregates', 'availability_zones', 'json_filter', 'cold_migrate',
        'servers_provider_tree', 'servers_resource_request', 'routed_networks', 'servers')),
    'unit-scheduler': ('nova.tests.unit.scheduler',),
    'unit-driver': ('nova.tests.unit.virt.libvirt.test_driver',),
}
# Tests that say what nova's own class or nova's own defaults are, and so must differ with others in their place.
EXPECTED: dict[str, str] = {}

DESCRIPTION = f"""\
Runs nova's own tests from the installed nova: as they are, and again with our driver class in place of LibvirtDriver
and our filters and weigher among the enabled ones. Nothing of nova is changed on disk: benchmarks/nova_suite_child.py
says how we come in place before the tests are imported. Suites: {', '.join(SUITES)}.

Results are kept (--results), so that a run can be ended by --minutes and continued later; tests that have both results
are not run again. --every N takes each N-th test of a suite, in the order of their names. All of it takes hours on two
cores. Prints counts, every test that passes as it is and not with us, with its reason where one is known, and one line
of figures. Exit status 0: tests were chosen, all of them run both ways, and no difference is unexplained.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog='benchmarks/nova-suite', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument('--suites', nargs='+', choices=sorted(SUITES), default=list(SUITES), help='default: all')
    top.add_argument('--every', type=int, default=1, metavar='N', help='each N-th test only (default 1: all)')
    top.add_argument('--only', default='', metavar='REGEX', help='tests whose name has it')
    top.add_argument('--jobs', type=int, default=max(1, (os.cpu_count() or 2) // 2),
                     help='processes at a time (default: half as many as processors)')
    top.add_argument('--minutes', type=float, default=0, help='begin no more tests after so long (default: no end)')
    top.add_argument('--manage-ratio', action='store_true', help='let the driver set placement\'s ratio too, which '
                     'nova\'s tests know as a constant')
    cache = os.environ.get('OVC_CACHE') or os.path.expanduser('~/.cache/ovc')
    top.add_argument('--results', type=Path, default=Path(cache) / 'nova-suite.jsonl',
                     help='file of results, appended to (default %(default)s)')
    top.add_argument('--fresh', action='store_true', help='forget kept results first')
    return top


def modules(package: str) -> list[str]:
    """Test modules of a package, or the module itself."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return [package]
    root = Path(next(iter(spec.submodule_search_locations)))
    return sorted('.'.join((package, *path.relative_to(root).with_suffix('').parts))
                  for path in root.rglob('test_*.py'))


def child(order: dict[str, Any], on_result: Any = None) -> str:
    """Run one process; its last words when it did not end well, else ''."""
    with tempfile.TemporaryFile('w+') as errors, tempfile.TemporaryDirectory(prefix='ovc-nova-suite-') as state:
        process = subprocess.Popen([sys.executable, '-W', 'ignore', str(HERE / 'nova_suite_child.py')], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd='/')
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(order | {'state': state}))
        process.stdin.close()
        heard = [time.monotonic()]

        def watch() -> None:
            while process.poll() is None:
                if time.monotonic() - heard[0] > STALL:
                    process.kill()
                time.sleep(1)

        threading.Thread(target=watch, daemon=True).start()
        for line in process.stdout:
            heard[0] = time.monotonic()
            if line.startswith(('{', '[')) and on_result is not None:
                on_result(json.loads(line))
        if process.wait() == 0:
            return ''
        errors.seek(0)
        return f'ended with {process.returncode}: {errors.read()[-500:]}'


def tests_of(suite: str) -> list[str]:
    found: list[str] = []
    names = [name for package in SUITES[suite] for name in modules(package)]

    def take(line: Any) -> None:
        if isinstance(line, list):
            found.extend(line)
        else:
            raise SystemExit(f'nova-suite: {line["test"]} could not be loaded: {line["why"]}')

    if why := child({'mode': 'list', 'names': names}, take):
        raise SystemExit(f'nova-suite: the tests of {suite} could not be listed: {why}')
    return sorted(found)


class Results:
    """(mode, test) -> result, in memory and in a file."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self._lock, self._path = threading.Lock(), path
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.of = {(line['mode'], line['test']): line for line in map(json.loads, lines)}

    def add(self, mode: str, line: dict[str, Any]) -> None:
        with self._lock, self._path.open('a') as out:
            self.of[mode, line['test']] = line | {'mode': mode}
            out.write(json.dumps(line | {'mode': mode}) + '\n')


def run(wanted: dict[str, list[str]], results: Results, options: argparse.Namespace, ours: str) -> None:
    began = time.monotonic()
    todo: list[tuple[str, list[str]]] = []
    for suite, tests in wanted.items():
        # Both ways of a batch one after the other: a run that is ended early has pairs.
        for first in range(0, len(tests), BATCH[suite]):
            for mode in ('stock', ours):
                left = [t for t in tests[first:first + BATCH[suite]] if (mode, t) not in results.of]
                if left:
                    todo.append((mode, left))

    def one(work: tuple[str, list[str]]) -> None:
        mode, left = work
        while left and not (options.minutes and time.monotonic() - began > options.minutes * 60):
            why = child({'mode': 'stock' if mode == 'stock' else 'ours', 'names': left,
                         'manage_ratio': options.manage_ratio}, lambda line: results.add(mode, line))
            left = [t for t in left if (mode, t) not in results.of]
            if left:  # the process died or hung in the first of these
                results.add(mode, {'test': left[0], 'result': 'failed', 'why': f'the process {why}', 'seconds': 0.0})
                left = left[1:]

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for count, _ in enumerate(pool.map(one, todo), 1):
            if count % 10 == 0:
                print(f'{count} of {len(todo)} batches, {time.monotonic() - began:.0f} s', file=sys.stderr)


def reason(test: str) -> str:
    return next((why for pattern, why in EXPECTED.items() if re.search(pattern, test)), '')


def main() -> int:
    options = parser().parse_args()
    os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = '1'  # nova's test packages choose as they are imported
    ours = 'ours-ratio' if options.manage_ratio else 'ours'
    results = Results(options.results, options.fresh)
    wanted = {suite: [t for t in tests_of(suite)[::options.every] if re.search(options.only, t)]
              for suite in options.suites}
    run(wanted, results, options, ours)
    totals: collections.Counter[str] = collections.Counter()
    print(f'{"suite":16} {"chosen":>7} {"run both":>9} {"as they are":>22} {"with us":>22} {"differ":>7}')
    differences: list[tuple[str, str]] = []
    for suite, tests in wanted.items():
        both = [t for t in tests if ('stock', t) in results.of and (ours, t) in results.of]
        counts = {mode: collections.Counter(results.of[mode, t]['result'] for t in both) for mode in ('stock', ours)}
        differ = [t for t in both if results.of['stock', t]['result'] in KEPT
                  and results.of[ours, t]['result'] != results.of['stock', t]['result']]
        differences += [(t, results.of[ours, t]['why']) for t in differ]
        told = {mode: f'{c["passed"]} pass {c["skipped"] + c["expected failure"]} skip {c["failed"]} fail'
                for mode, c in counts.items()}
        print(f'{suite:16} {len(tests):7} {len(both):9} {told["stock"]:>22} {told[ours]:>22} {len(differ):7}')
        totals.update(chosen=len(tests), run=len(both), stock_passed=counts['stock']['passed'],
                      stock_failed=counts['stock']['failed'], ours_passed=counts[ours]['passed'],
                      ours_failed=counts[ours]['failed'], differ=len(differ))
    unexplained = 0
    for test, why in differences:
        unexplained += not reason(test)
        print(f'\n{test}\n    {reason(test) or "UNEXPLAINED: " + (why.strip().splitlines() or ["?"])[-1][-400:]}')
    release = importlib.metadata.version('nova')
    print(f'nova-suite: nova={release} suites={",".join(wanted)} every={options.every} chosen={totals["chosen"]} '
          f'run_both={totals["run"]} stock_passed={totals["stock_passed"]} stock_failed={totals["stock_failed"]} '
          f'ours_passed={totals["ours_passed"]} ours_failed={totals["ours_failed"]} differ={totals["differ"]} '
          f'unexplained={unexplained}')
    return 0 if totals['chosen'] and totals['run'] == totals['chosen'] and not unexplained else 1


if __name__ == '__main__':
    sys.exit(main())
