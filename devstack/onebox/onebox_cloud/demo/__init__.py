# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The accident: more memory asked for than the hosts have. Stock nova at two ratios, and the plugin, on fresh hosts."""
from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from ovc_plugin.decide import guarantee

from ..errors import OneboxError
from ..options import Options
from ..progress import Progress
from ..state import cache_dir

DESCRIPTION = """\
Brings the one-machine cloud up three times on fresh hosts: stock nova with ram_allocation_ratio 1.0, stock nova with
4.0, and with the plugin in charge. Each time the same guests are asked for at once, and each fills its memory with
data of its own. Shows what happens, and ends with a table, a picture and one line of figures.

Exit status 0: the accident happened at the high ratio, and with the plugin nobody was killed, every placed guest is
alive and none was short of memory within, they were seen throughout and nobody is below its reservation, and the hosts
calmed down in time. 1: one of these did not hold (it is named).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accident:
    """What is asked for. Sizes in MB, times in seconds; ``reservation`` is the flavor's ovc:reservation."""

    hosts: int = 2
    host_memory: int = 1500
    host_swap: int = 1280
    guests: int = 12
    guest_memory: int = 512
    fill: int = 400
    rate: int = 20
    reservation: str = '25%'
    settle: int = 60
    pause: int = 1
    limit: int = 600
    high_ratio: float = 4.0

    def options(self, ratio: float | None) -> Options:
        return Options(hosts=self.hosts, host_memory_mb=self.host_memory, host_swap_mb=self.host_swap, ratio=ratio)

    def is_default(self) -> bool:
        return self == Accident(rate=self.rate, settle=self.settle, pause=self.pause, limit=self.limit)


def parser() -> argparse.ArgumentParser:
    default = Accident()
    top = argparse.ArgumentParser(prog='onebox demo', description=DESCRIPTION,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, unit, help in (
            ('hosts', 'N', 'hypervisors'), ('host-memory', 'MB', 'RAM of each host'),
            ('host-swap', 'MB', 'swap of each host'), ('guests', 'N', 'guests asked for'),
            ('guest-memory', 'MB', 'memory of each guest'), ('fill', 'MB', 'what each guest fills with unique data'),
            ('rate', 'MB/s', 'how fast each guest fills; 0: as fast as it can'),
            ('pause', 'S', 'seconds between two requests; 0: all at once'),
            ('settle', 'S', 'seconds watched after the last guest has filled its memory'),
            ('limit', 'S', 'longest time for one run')):
        value = getattr(default, name.replace('-', '_'))
        top.add_argument(f'--{name}', type=int, default=value, metavar=unit, help=f'{help} (default {value})')
    top.add_argument('--reservation', default=default.reservation,
                     help='what each guest is guaranteed, in percent or MB (default 25 percent)')
    top.add_argument('--high-ratio', type=float, default=default.high_ratio, metavar='R',
                     help=f'the careless ram_allocation_ratio (default {default.high_ratio:g})')
    top.add_argument('--only', choices=('ratio1', 'ratio4', 'ovc'), action='append',
                     help='run only this part; may be repeated (no verdict then)')
    top.add_argument('--out', type=Path, default=None, metavar='DIR',
                     help='where picture, samples and logs go (default: a new directory in the cache)')
    top.add_argument('--keep', action='store_true', help='leave the cloud of the last run up')
    return top


def check(accident: Accident) -> None:
    """Raises OneboxError or ValueError for sizes that cannot work."""
    if accident.fill >= accident.guest_memory - 60:
        raise OneboxError(f'--fill {accident.fill} does not fit a guest of {accident.guest_memory} MB: its kernel '
                          f'needs some 60 MB itself; use at most {accident.guest_memory - 64}')
    if accident.guest_memory > accident.host_memory:
        raise OneboxError(f'--guest-memory {accident.guest_memory} is more than a host has ({accident.host_memory} MB)')
    if accident.guests < 1 or accident.limit < 60:
        raise OneboxError('--guests must be at least 1 and --limit at least 60')
    accident.options(None)
    guarantee.reservation(accident.reservation, accident.guest_memory << 20)


def main(argv: list[str]) -> int:
    """Run the demo; its exit status. Raises OneboxError, KeyboardInterrupt."""
    top = parser()
    arguments = vars(top.parse_args(argv))
    only, out, keep = arguments.pop('only'), arguments.pop('out'), arguments.pop('keep')
    accident = Accident(**arguments)
    try:
        check(accident)
    except ValueError as error:
        top.error(str(error))
    out = out or cache_dir() / 'demo' / time.strftime('%Y%m%d-%H%M%S')
    out.mkdir(parents=True, exist_ok=True)
    return _play(accident, only or ['ratio1', 'ratio4', 'ovc'], out, keep)


def _play(accident: Accident, parts: list[str], out: Path, keep: bool) -> int:
    from . import outcome, picture, run

    say = Progress()
    ratios = {'ratio1': 1.0, 'ratio4': accident.high_ratio, 'ovc': None}
    runs: dict[str, run.Run] = {}
    for part in parts:
        runs[part] = run.play(part, accident, ratios[part], out, say, keep=keep and part == parts[-1])
        (out / 'samples.json').write_text(json.dumps(
            {'accident': dataclasses.asdict(accident), 'runs': {p: dataclasses.asdict(r) for p, r in runs.items()}}))
    picture.draw(accident, runs, out / 'demo.png')
    print(outcome.table(accident, runs))
    print(f'picture: {out / "demo.png"}\nsamples: {out / "samples.json"}')
    failures = outcome.failures(accident, runs)
    for failure in failures:
        print(f'FAILED: {failure}')
    print(outcome.last_line(accident, runs, say.seconds), flush=True)
    return 1 if failures else 0
