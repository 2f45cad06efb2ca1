"""Listen, and have requests decided by workers that have everything in memory.

A worker takes on the directory and the environment of whoever asks, decides, and answers with an
image, or with nothing: then the command line decides and says what there is to say. One that takes
too long or breaks is replaced; meanwhile the other one answers.

A sandbox may reach the socket through a grant of the directory. It is told from its user by its
namespaces, and gets no answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from hardrun import cache
from hardrun.errors import HardrunError
from hardrun.executor import image
from hardrun.kernel import peers
from hardrun.serve import peer

WORKERS = 2
PATIENCE = 5
"""Seconds for one decision: the front-end has long gone on without it."""
HEARING = 0.05
"""Seconds for the front-end to say what it understands: it waits no longer for the answer."""
_LOCK = "service.lock"
_MESSAGE = 256  # bytes of what the front-end sends: which plans it understands
_REPLACED = 3  # exit status of a worker that found another hardrun installed
_BACKLOG = 16
_TIME = struct.Struct("d")
_AWAITED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class Decided(NamedTuple):
    """What was decided. ``keep`` is called when the answer is out."""

    artefact: bytes
    keep: Callable[[], object]


class Decider(Protocol):
    """How requests are decided."""

    def decide(self, words: list[str]) -> Decided | None:
        """None for what the command line has to see to."""

    def is_current(self) -> bool:
        """Whether what is remembered was enough for the last decision."""

    def groups_decide(self) -> bool:
        """Whether it matters in which cgroup a sandbox is started."""

    def refresh(self) -> None:
        """Remember anew."""


def _directory() -> str:
    plans = cache.plans_directory()
    if plans is None or not cache.make_directory(plans):
        raise _no_place("not the caller's alone")
    return os.path.dirname(plans)


def _no_place(why: object) -> HardrunError:
    return HardrunError(f"there is no place for the service's socket: {why}",
                        hint="set HOME or XDG_CACHE_HOME to a directory of your own")


def _lock(directory: str) -> int:
    """A lock for the life of this process: a socket that is there does not say who listens."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(os.path.join(directory, _LOCK), flags, 0o600)
    except OSError as error:
        raise _no_place(error.strerror) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise HardrunError("a decision service of this user is running",
                           hint="hardrun serve --stop") from None
    return descriptor


def _address(directory: str) -> tuple[str, int]:
    """The socket's path by a descriptor of its directory: an address has room for 107 bytes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{descriptor}/{cache.SERVICE}", descriptor


def _listen(directory: str) -> socket.socket:
    path, descriptor = _address(directory)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o77)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - takes no keyword
    except OSError as error:
        listener.close()
        raise _no_place(error.strerror) from None
    finally:
        os.close(descriptor)
    return listener


def serve(decider: Decider, identity: bytes, idle: float) -> None:
    """Answer until nobody has asked for ``idle`` seconds, or hardrun was replaced.

    ``identity`` is what a front-end must send to be understood. Raises HardrunError when another
    service runs or there is no place for the socket.
    """
    directory = _directory()
    lock = _lock(directory)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    lifeline, ours = os.pipe()
    workers: set[int] = set()
    try:
        with _listen(directory) as listener, mmap.mmap(-1, _TIME.size) as last:
            _TIME.pack_into(last, 0, time.monotonic())
            work = _Work(listener, lifeline, last, decider, identity)
            while (rest := _TIME.unpack_from(last)[0] + idle - time.monotonic()) > 0:
                while len(workers) < WORKERS:
                    workers.add(_fork(work, (lock, ours)))
                found = signal.sigtimedwait(_AWAITED, rest)
                if (found and found.si_signo != signal.SIGCHLD) or _reap(workers):
                    break
    finally:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, cache.SERVICE))
        os.close(ours)  # the workers end by that, also when this process is killed
        for worker in workers:
            os.waitpid(worker, 0)
        os.close(lifeline)
        os.close(lock)


class _Work(NamedTuple):
    """What workers share; ``last`` is when somebody last asked."""

    listener: socket.socket
    lifeline: int
    last: mmap.mmap
    decider: Decider
    identity: bytes


def _reap(workers: set[int]) -> bool:
    """Forget those that have ended; whether one found that hardrun was replaced."""
    replaced = False
    for worker in tuple(workers):
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            workers.discard(worker)
            replaced = replaced or os.waitstatus_to_exitcode(status) == _REPLACED
    return replaced


def _fork(work: _Work, not_theirs: tuple[int, ...]) -> int:
    worker = os.fork()
    if worker:
        return worker
    status = 1
    try:
        for descriptor in not_theirs:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        gc.disable()  # never while somebody waits
        status = _work(work)
    finally:
        os._exit(status)


def _work(work: _Work) -> int:
    """Answer one after the other; the exit status when the service ends."""
    executor = _trace()
    own = peer.surroundings()
    while True:
        ready = select.select([work.lifeline, work.listener.fileno()], [], [])[0]
        if work.lifeline in ready:
            return 0
        try:
            connection, _ = work.listener.accept()
        except OSError:  # another worker has it, or whoever connected is gone again
            continue
        with connection:
            _TIME.pack_into(work.last, 0, time.monotonic())
            if _trace() != executor:  # a younger hardrun is installed: its own service follows
                return _REPLACED
            signal.alarm(PATIENCE)
            # the command line meets the same obstacle and knows how to explain it
            with contextlib.suppress(OSError, ValueError, HardrunError):
                _answer(connection, work, own)
            gc.collect()
            signal.alarm(0)


def _trace() -> tuple[int, ...]:
    try:
        status = os.stat(image.executor_path())
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _answer(connection: socket.socket, work: _Work, own: tuple[object, ...]) -> None:
    decider = work.decider
    with peers.peer(connection) as (pid, uid):
        if uid != os.geteuid():
            return
        connection.settimeout(HEARING)
        if connection.recv(_MESSAGE) != work.identity:
            return
        words, environment = peer.asked(pid)
        if peer.surroundings(pid) != own or (
                decider.groups_decide() and peer.cgroup(pid) != peer.cgroup()):
            return
        directory = os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(directory)
    finally:
        os.close(directory)
    os.environ.clear()
    os.environ.update(environment)
    try:
        found = decider.decide(words)
        if found is not None:
            descriptor = image.seal(image.read_executor(), found.artefact)
            try:
                socket.send_fds(connection, [os.fsencode(image.executor_path())], [descriptor])
            finally:
                os.close(descriptor)
        connection.close()
        if found is not None:
            found.keep()
        if not decider.is_current():
            decider.refresh()
    finally:
        os.chdir("/")  # not to keep a file system of somebody's mounted


def running() -> int:
    """The pid of this user's service; 0 without one."""
    plans = cache.plans_directory()
    if plans is None:
        return 0
    try:
        path, descriptor = _address(os.path.dirname(plans))
    except OSError:
        return 0
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(path)
            pid, uid = peers.credentials(connection)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return pid if uid == os.geteuid() else 0


def start_apart(command: list[str]) -> None:
    """Start a program that is no child of this process, which is to become a sandbox's parent.

    Its standard descriptors are /dev/null, and it holds no other.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.chdir("/")
            os.execv(command[0], command)
    finally:
        os._exit(0)
