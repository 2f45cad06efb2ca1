"""Plants the canaries: things of the user's that a hostile script would like to have.

Real ones would do as well, but reading somebody's true ~/.ssh for a demonstration is not nice.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from hardrun.executor import image

_SYSTEM_CALLS = {"x86_64": (248, 250), "aarch64": (217, 219)}  # add_key, keyctl
_KEYRING_USER = -4
_KEYCTL_SETPERM, _KEYCTL_UNLINK = 5, 9
_KEY_PERMISSIONS = 0x3F3F0000  # everything for possessor and user
_IPC_PRIVATE, _IPC_RMID = 0, 0


@dataclasses.dataclass
class Canaries:
    """As hostile/system.py's Scene has them; -1 where this host has no such thing."""

    secret: str
    key_file: str
    startup_file: str
    agent_socket: str
    abstract_socket: str
    tcp_port: int
    victim: int
    shared_memory: int
    keyring_key: int
    executor: str
    project: str
    rude: bool


class Scene:
    """A directory with a home, a project and what listens around them; for ``with``."""

    def __init__(self, *, rude: bool) -> None:
        self._rude = rude
        self._stack = ExitStack()
        self.directory = Path()
        self.canaries: Canaries

    def __enter__(self) -> Scene:
        with self._stack as stack:
            self._plant(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()

    def _plant(self, stack: ExitStack) -> None:
        # Resolved, for what is granted is what a path really names.
        self.directory = Path(tempfile.mkdtemp(prefix="hardrun-demo-")).resolve()
        stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        secret = f"canary-{secrets.token_hex(8)}"
        home, project = self.directory / "home", self.directory / "project"
        (home / ".ssh").mkdir(parents=True)
        project.mkdir()
        key, startup = home / ".ssh" / "id_ed25519", home / ".bashrc"
        key.write_text(f"{secret}\n")
        key.chmod(0o600)
        startup.write_text("# the user's own\n")
        program = project / "program"
        shutil.copytree(Path(__file__).parent / "hostile", program / "hostile",
                        ignore=shutil.ignore_patterns("__pycache__"))
        (program / "__main__.py").write_text("from hostile.main import main\nmain()\n")
        self.canaries = Canaries(
            secret=secret, key_file=str(key), startup_file=str(startup),
            agent_socket=_listen(stack, socket.AF_UNIX, str(home / "agent"), secret),
            abstract_socket=_listen(stack, socket.AF_UNIX, f"\0hardrun-{secret}", secret)[1:],
            tcp_port=int(_listen(stack, socket.AF_INET, ("127.0.0.1", 0), secret)),
            victim=_victim(stack, secret), shared_memory=_shared_memory(stack, secret),
            keyring_key=_key(stack, secret), executor=image.executor_path(),
            project=str(project), rude=self._rude)
        (project / "scene.json").write_text(json.dumps(dataclasses.asdict(self.canaries)))


def _listen(stack: ExitStack, family: int, address: Any, secret: str) -> str:
    """A service that tells its secret to whoever connects; returns its address or port."""
    server = socket.socket(family, socket.SOCK_STREAM)
    stack.callback(server.close)
    server.bind(address)
    server.listen()

    def serve() -> None:
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return  # closed: the scene is over
            with connection:
                connection.sendall(secret.encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.shutdown, socket.SHUT_RDWR)
    return str(server.getsockname()[1]) if family == socket.AF_INET else str(address)


def _victim(stack: ExitStack, secret: str) -> int:
    """Some other process of the user's, with a token in its environment; it ignores SIGUSR1."""
    program = "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); print(flush=True); " \
              "signal.pause()"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", program],
                               stdout=subprocess.PIPE, env={**os.environ, "API_TOKEN": secret})
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGKILL)
    return process.pid


def _shared_memory(stack: ExitStack, secret: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    segment = int(libc.shmget(_IPC_PRIVATE, 4096, 0o600))
    if segment < 0:
        return -1
    stack.callback(libc.shmctl, segment, _IPC_RMID, None)
    address = libc.shmat(segment, None, 0)
    ctypes.memmove(address, secret.encode(), len(secret))
    libc.shmdt(ctypes.c_void_p(address))
    return segment


def _key(stack: ExitStack, secret: str) -> int:
    numbers = _SYSTEM_CALLS.get(os.uname().machine)
    if numbers is None:
        return -1
    libc = ctypes.CDLL(None, use_errno=True)
    add_key, keyctl = numbers
    key = int(libc.syscall(add_key, b"user", b"hardrun-demo", secret.encode(), len(secret),
                           ctypes.c_long(_KEYRING_USER)))
    if key < 0:
        return -1
    libc.syscall(keyctl, _KEYCTL_SETPERM, key, _KEY_PERMISSIONS)
    stack.callback(libc.syscall, keyctl, _KEYCTL_UNLINK, key, ctypes.c_long(_KEYRING_USER))
    return key
