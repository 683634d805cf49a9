# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Limits that are lowered for a moment, and what puts them back whatever becomes of the process that lowered them.

What a limit was is written down before it is lowered: a lease, kept outside the process. Three put it back: who lowered
it; the :class:`Watchdog`, a moment after that process has died of whatever cause, or when it has hung for too long; and
:func:`lift` at the next start, should both have been killed. A lease is forgotten only when its limit is back.
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import select
import signal
import stat
import typing

LOG = logging.getLogger(__name__)
V1_LIMIT, HIGH = 'memory.limit_in_bytes', 'memory.high'
# Seconds without a word after which a helper hangs. Each of its calls is announced, and lasts half a second and one
# chunk more, which takes that long only on a device that moves half a MB a second; a limit put back early does no harm.
DEADLINE = 30.0
GUEST = re.compile(r'(machine-qemu|qemu-\d)')  # as libvirt names them; a partition may begin with qemu-, too
_PIPE = 3  # the watchdog's only file but the standard ones
_held: set[pathlib.Path] = set()  # leases of limits that this process keeps lowered
Check = typing.Callable[[str], pathlib.Path]


def checked(group: str) -> pathlib.Path:
    """:raises ValueError: not the memory group of one guest."""
    path = pathlib.Path(group)
    inside = path.is_absolute() and '..' not in path.parts and str(path).startswith('/sys/fs/cgroup/')
    guest = any(map(GUEST.match, path.parts[4:]))
    if not inside or not guest or not (path / 'memory.stat').exists():
        raise ValueError(f'{group} is not the memory control group of one guest')
    return path


def write(file: pathlib.Path, text: str) -> bool:
    """Write; false when the kernel found less to reclaim than asked for."""
    try:
        file.write_text(text)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
            return False
        raise
    return True


@contextlib.contextmanager
def lowered(file: pathlib.Path, limit: int, directory: pathlib.Path) -> typing.Iterator[bool]:
    """A limit that is lowered while this is held, and put back whatever happens. Yields whether the kernel took it.

    Within another one of the same file it goes back to what that one has set.

    :raises PermissionError: the directory of leases belongs to somebody else.
    """
    before = file.read_text().strip()
    if before != 'max' and limit >= int(before):
        yield True
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not own(directory):
        raise PermissionError(f'{directory} belongs to somebody else: remove it')
    lease = directory / hashlib.sha256(str(file).encode()).hexdigest()[:16]
    within = lease in _held
    if not within:
        if told := _told(lease):
            before = told[2]  # a killed process left its limit: what it found is what goes back
        else:
            lease.write_text(json.dumps({'group': str(file.parent), 'file': file.name, 'limit': before}))
        _held.add(lease)
    try:
        yield write(file, str(max(0, limit)))
    finally:
        if not within:
            _held.discard(lease)
        put_back(file, before)
        if not within:
            lease.unlink(missing_ok=True)


def put_back(file: pathlib.Path, before: str) -> None:
    """Restore a limit; the kernel shows "none" as a page-rounded maximum, which it takes back as it is."""
    with contextlib.suppress(FileNotFoundError):  # the guest ended meanwhile, and its group with it
        file.write_text(before)


def own(directory: pathlib.Path) -> bool:
    """Whether the directory is ours alone: what it says is acted on as root."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _told(lease: pathlib.Path) -> tuple[str, str, str] | None:
    """(group, file, limit) of a lease; ``None`` where there is none that can be read."""
    try:
        told = json.loads(lease.read_text())
        name, limit = str(told.get('file', V1_LIMIT)), str(told['limit'])
        if name not in (V1_LIMIT, HIGH):
            return None
        return str(told['group']), name, limit if limit == 'max' else str(int(limit))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def lift(directory: pathlib.Path, check: Check = checked, *, forget: bool = True) -> list[str]:
    """Put back every limit that was left lowered; returns the groups.

    A lease whose limit cannot be put back now stays. Without ``forget`` all stay: who holds them may yet go on.
    """
    lifted = []
    for lease in sorted(directory.glob('*')) if own(directory) else ():
        if told := _told(lease):
            with contextlib.suppress(ValueError):  # the guest, and its group with it, has ended; or it is none of ours
                file = check(told[0]) / told[1]
                try:
                    if file.exists():
                        put_back(file, told[2])
                        lifted.append(told[0])
                except OSError as error:
                    LOG.warning('%s cannot be put back to %s now: %s', file, told[2], error)
                    continue
        if forget:
            lease.unlink(missing_ok=True)
    return lifted


class Watchdog:
    """A process that puts limits back when this one dies, or has said nothing for ``deadline`` seconds.

    There is one for each root helper, made once. It hangs on a pipe, whose end the kernel tells when the helper is
    gone, however it went; after a clean end it finds no lease, and is gone as soon.

    It is forked and not started as a command: oslo.privsep passes no capability on, so where the helper is not root
    (``etc/systemd/ovc-agent.service``) a command could write no limit, and where it is it would have more of them than
    the helper. As the helper has threads, the child does nothing but wait, and read and write files.
    """

    def __init__(self, directory: pathlib.Path, check: Check = checked, deadline: float = DEADLINE) -> None:
        self._directory, self._check, self._deadline = directory, check, deadline
        self._pipe: int | None = None

    def rouse(self) -> None:
        """To be called before limits are lowered, once in a while: see that it is there, and has time anew."""
        try:
            if self._pipe is not None and self._said():
                return
            self._pipe = self._start()
            self._said()
        except OSError as error:  # swapping is more urgent than what may follow a death during it
            LOG.warning('nobody would lift limits, should this process die now: %s', error)

    def _said(self) -> bool:
        """False when it is gone, killed by somebody."""
        assert self._pipe is not None
        try:
            os.write(self._pipe, b'.')
        except BlockingIOError:
            return True  # it was stopped: what it has not read yet will do
        except BrokenPipeError:
            os.close(self._pipe)
            self._pipe = None
            return False
        return True

    def _start(self) -> int:
        mouth, end = os.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(mouth)
            os.close(end)
            raise
        if child == 0:
            self._run(mouth)
        os.close(mouth)
        os.set_blocking(end, False)  # a stopped watchdog must not stop its helper
        os.waitpid(child, 0)
        return end

    def _run(self, pipe: int) -> typing.NoReturn:
        """In the child, and never back into the code of its parent."""
        try:
            if os.fork() == 0:  # nobody's child, that nobody has to wait for
                _detach(pipe)
                self._watch()
        finally:
            os._exit(0)

    def _watch(self) -> None:
        seconds: float | None = None
        while True:
            if not select.select([_PIPE], [], [], seconds)[0]:
                lift(self._directory, self._check, forget=False)
                seconds = None
            elif os.read(_PIPE, 4096):
                seconds = self._deadline
            else:
                break
        lift(self._directory, self._check)


def _detach(pipe: int) -> None:
    """Leave everything of the parent's but the pipe: its session, files and signals; a file that stays open would tell
    others that it still lives."""
    os.setsid()
    os.chdir('/')
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(pipe, _PIPE)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(_PIPE):
        os.dup2(nothing, standard)
    os.closerange(_PIPE + 1, os.sysconf('SC_OPEN_MAX'))
    logging.disable()
    with contextlib.suppress(OSError):
        pathlib.Path('/proc/self/comm').write_text('ovc-watchdog')
