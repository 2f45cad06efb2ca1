"""Sandboxes that other processes of the same user find, by a name or by a socket's path.

Whoever started the sandbox listens. It decides about the command that a client names, and hands
over the socket that leads to PID 1; from then on the client speaks with that. No other user gets
in, and no sandbox: the directory is closed to them, and the kernel says who connects (SO_PEERCRED).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hardrun import cache
from hardrun.errors import (
    BadInput,
    CommandNotExecutable,
    CommandNotFound,
    ExecutorError,
    HardrunError,
    HostUnsupported,
    PolicyRefused,
)
from hardrun.kernel.peers import peer

LONGEST_NAME = 64
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_.+-]{{0,{LONGEST_NAME - 1}}}", re.ASCII)
_PACKET = 65536
_PATIENCE = 30.0  # seconds for an answer: the owner may have to read policies
_ERRORS: dict[str, type[HardrunError]] = {
    kind.code: kind for kind in (BadInput, CommandNotFound, CommandNotExecutable, ExecutorError,
                                 PolicyRefused)}


class Place(NamedTuple):
    """Where a sandbox takes commands: ``to``, a socket for this client alone, and the most bytes
    that a command may write (0: any). ``released`` is called when the client is gone.
    """

    to: socket.socket
    launcher: int
    output_limit: int
    ended: Callable[[], dict[str, Any]]
    """Waits until the sandbox has ended; its outcome and status."""
    released: Callable[[], object] = bool


Answer = Callable[[str], Place]
"""What an owner does about a command: a place for it, or a HardrunError."""


def check_name(name: str) -> str:
    """A session's name. Raises BadInput: it becomes a file name, and no number is one."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"no name of a session: {name[:LONGEST_NAME + 1]!r}",
                       hint=f"a letter, then letters, digits and _.+-, at most {LONGEST_NAME}")
    return name


@contextlib.contextmanager
def _directory(*, make: bool, wanted: str = "") -> Iterator[int]:
    path = cache.plans_directory("sessions")
    if path is None:
        raise BadInput("no place for sessions: HOME is no absolute path", hint="set HOME")
    try:
        descriptor = cache.open_private(path, make=make)
    except PermissionError:
        raise BadInput(f"{path}: it is not yours alone", hint=f"chmod go-w {path}, or remove it"
                       ) from None
    except FileNotFoundError as error:
        raise BadInput(f"no sandbox takes commands at {wanted or path}", hint=_why(error)) from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", hint="is there a session?") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Listener:
    """Listens under a name, or at a path, and answers each client in a thread of its own."""

    def __init__(self, name: str = "", path: str = "") -> None:
        """Raises BadInput where the name is taken, or nothing can be there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._name, self._path = name, path
        try:
            if name:
                with _directory(make=True) as directory:
                    self._bind(directory, check_name(name))
            else:
                parent = os.path.dirname(os.path.abspath(path))
                directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._bind(directory, os.path.basename(path))
                finally:
                    os.close(directory)
        except OSError as error:
            self._socket.close()
            raise BadInput(f"{name or path}: can't listen there: {error.strerror or error}",
                           hint="a path in a directory that you may write") from None
        except BaseException:
            self._socket.close()
            raise

    def _bind(self, directory: int, name: str) -> None:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two who find a dead one would remove each other's
        where = f"/proc/self/fd/{directory}/{name}"
        before = os.umask(0o177)
        try:
            try:
                self._socket.bind(where)
            except OSError:
                if not _is_dead(where):
                    raise BadInput(f"{name}: something listens there already",
                                   hint="another name, or end that one first") from None
                os.unlink(name, dir_fd=directory)
                self._socket.bind(where)
        finally:
            os.umask(before)
        self._inode = os.stat(name, dir_fd=directory).st_ino
        self._socket.listen(64)

    def serve(self, answer: Answer) -> None:
        """Answer clients until it is closed; in a thread."""
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=_attend, args=(client, answer), daemon=True).start()

    def close(self) -> None:
        """Stop, and remove the name."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        path = self._path or f"{cache.plans_directory('sessions')}/{self._name}"
        with contextlib.suppress(OSError):
            if os.lstat(path).st_ino == self._inode:
                os.unlink(path)


def _is_dead(where: str) -> bool:
    """Whether it is a socket at which nobody listens any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trial:
        try:
            trial.connect(where)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def session_listens(name: str) -> bool:
    """Whether a session of a name takes commands now."""
    if not _NAME.fullmatch(name):
        return False
    with contextlib.suppress(BadInput), _directory(make=False) as directory:
        where = f"/proc/self/fd/{directory}/{name}"
        return os.path.lexists(where) and not _is_dead(where)
    return False


def _is_own(client: socket.socket) -> bool:
    """Whether the other end is this user's, and in no sandbox: in no other user namespace."""
    try:
        with peer(client) as (pid, uid):
            return uid == os.geteuid() and \
                os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return False


def _attend(client: socket.socket, answer: Answer) -> None:
    with client:
        try:
            if not _is_own(client):
                return
            command = json.loads(client.recv(_PACKET)).get("command", "")
            try:
                place = answer(str(command))
            except HardrunError as error:
                client.send(json.dumps({"code": error.code, "message": error.message,
                                        "hint": error.hint}).encode())
                return
            _hand_over(client, place)
        except (OSError, ValueError, AttributeError):
            return


def _hand_over(client: socket.socket, place: Place) -> None:
    told = {"launcher": place.launcher, "output_limit": place.output_limit}
    try:
        with place.to:
            socket.send_fds(client, [json.dumps(told).encode()], [place.to.fileno()])
        if client.recv(_PACKET):  # its command ended with the sandbox: what ended that?
            client.send(json.dumps(place.ended()).encode())
    finally:
        place.released()


class Connection:
    """A client's side: ``to`` is where the command is sent."""

    def __init__(self, where: str, shown: str, command: str) -> None:
        """Raises BadInput where nobody of this user's listens, and what the owner says."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.settimeout(_PATIENCE)
            self._socket.connect(where)
            if not _is_own(self._socket):
                raise BadInput(f"{shown}: it is not yours", hint="who listens there is another "
                               "user, or in a sandbox")
            self._socket.send(json.dumps({"command": command}).encode())
            data, descriptors, _, _ = socket.recv_fds(self._socket, _PACKET, 1)
            self._take(json.loads(data) if data else {}, descriptors, shown)
        except TimeoutError:
            self.close()
            raise ExecutorError(f"{shown} does not answer: it is stopped", hint="SIGCONT lets it "
                                "go on") from None
        except (OSError, ValueError) as error:
            self.close()
            raise BadInput(f"no sandbox takes commands at {shown}", hint=_why(error)) from None
        except BaseException:
            self.close()
            raise

    def _take(self, told: dict[str, Any], descriptors: list[int], shown: str) -> None:
        if "code" in told:
            kind = _ERRORS.get(told["code"], HardrunError)
            if told["code"] == HostUnsupported.code:
                raise HostUnsupported(told["message"], fact="", hint=told["hint"])
            raise kind(told["message"], hint=told["hint"])
        if len(descriptors) != 1:
            raise BadInput(f"{shown}: it refused this process", hint="is it in a sandbox itself?")
        self.to = socket.socket(fileno=descriptors[0])
        self.launcher, self.output_limit = int(told["launcher"]), int(told["output_limit"])

    def ended(self) -> dict[str, Any]:
        """Wait for the end of the sandbox; its outcome and status."""
        try:
            self._socket.settimeout(_PATIENCE)
            self._socket.send(b"{}")
            return dict(json.loads(self._socket.recv(_PACKET)))
        except (OSError, ValueError):
            return {"outcome": "signaled", "returncode": 137}

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()
        if hasattr(self, "to"):
            self.to.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return "it has ended, or never was: hardrun run --session NAME or hardrun start NAME"
    return str(error)


def connect(path: str, command: str) -> Connection:
    """To whoever listens at a path."""
    where = os.path.abspath(path)
    directory = os.open(os.path.dirname(where), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) \
        if os.path.isdir(os.path.dirname(where)) else -1
    if directory < 0:
        raise BadInput(f"{path}: no such directory", hint="the SOCKET of hardrun pool")
    try:
        return Connection(f"/proc/self/fd/{directory}/{os.path.basename(where)}", path, command)
    finally:
        os.close(directory)


def connect_session(name: str, command: str) -> Connection:
    """To the session of a name, or in which the process of a number is.

    Raises BadInput where there is none.
    """
    if name.isascii() and name.isdigit():
        return _connect_pid(int(name), command)
    shown = f"session {check_name(name)}"
    with _directory(make=False, wanted=shown) as directory:
        return Connection(f"/proc/self/fd/{directory}/{name}", shown, command)


def _connect_pid(pid: int, command: str) -> Connection:
    from hardrun.verify import find_sandbox

    launcher = find_sandbox(pid).launcher
    with _directory(make=False) as directory:
        for name in os.listdir(directory):
            with contextlib.suppress(HardrunError):
                connection = Connection(f"/proc/self/fd/{directory}/{name}", name, command)
                if connection.launcher == launcher:
                    return connection
                connection.close()
    raise BadInput(f"process {pid} is in a sandbox that takes no commands",
                   hint="hardrun run --session NAME starts one that does")
