"""Other processes and the network: seeing, signalling, reading, connecting, typing."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .system import Scene, call, expect, first_success

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
AF_VSOCK, AF_PACKET = 40, 17
SHM_RDONLY = 0o10000


def environment_secret(scene: Scene) -> str:
    found = [name for name, value in os.environ.items() if scene.secret in value]
    if found:
        return f"read ${found[0]}"
    return first_success(*(
        partial(lambda p: expect(scene.secret, Path(p).read_bytes(), p), f"/proc/{pid}/environ")
        for pid in ("self", "1", os.getppid())))


def see_processes(scene: Scene) -> str:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if scene.victim not in pids:
        raise OSError(2, f"only {len(pids)} processes, all of this sandbox")
    return f"{len(pids)} processes, the victim among them"


def read_process(scene: Scene) -> str:
    """The environment of another process of the same user: where tokens are."""
    path = f"/proc/{scene.victim}/environ"
    return expect(scene.secret, Path(path).read_bytes(), path)


def signal_process(scene: Scene) -> str:
    os.kill(scene.victim, signal.SIGUSR1)
    return "sent SIGUSR1 to the victim"


def kill_init(scene: Scene) -> str:
    """The process that watches over the sandbox, or whatever is our parent's parent."""
    os.kill(1, signal.SIGKILL if scene.rude else 0)
    time.sleep(0.2)
    os.kill(1, 0)
    if scene.rude:
        raise OSError(1, "PID 1 ignores SIGKILL from inside")
    return "may signal PID 1"


def trace_process(scene: Scene) -> str:
    def attach(pid: int) -> str:
        call("ptrace", PTRACE_ATTACH, pid, 0, 0)
        os.waitpid(pid, 0x40000000)  # __WALL
        call("ptrace", PTRACE_DETACH, pid, 0, 0)
        return f"attached to process {pid}"

    def read_memory(pid: int) -> str:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
        return f"opened the memory of process {pid}"

    return first_success(partial(attach, scene.victim), partial(read_memory, scene.victim),
                         partial(attach, 1), partial(read_memory, 1))


def setuid_program(scene: Scene) -> str:
    """Does a program that is setuid root get root's id? passwd(1) waits for a password."""
    with subprocess.Popen(["/usr/bin/passwd"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.2)
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        finally:
            process.kill()
    ids = status.split("Uid:")[1].split()
    if ids[1] != "0" or ids[0] == "0":
        raise OSError(1, f"passwd runs with effective uid {ids[1]}")
    return "passwd got effective uid 0"


def tcp_connect(scene: Scene) -> str:
    with socket.create_connection(("127.0.0.1", scene.tcp_port), 2) as connection:
        return expect(scene.secret, connection.recv(256), f"127.0.0.1:{scene.tcp_port}")


def udp_send(scene: Scene) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("192.0.2.1", 53))  # TEST-NET-1: a route is all that is asked for
        return "has a route to other hosts"


def unix_connect(scene: Scene) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(scene.agent_socket)
        return expect(scene.secret, connection.recv(256), "an agent's socket")


def abstract_connect(scene: Scene) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + scene.abstract_socket)
        return expect(scene.secret, connection.recv(256), "an abstract socket")


def _open_socket(family: int, kind: int, what: str) -> str:
    socket.socket(family, kind, 0).close()
    return f"opened a {what} socket"


def raw_socket(scene: Scene) -> str:
    return first_success(partial(_open_socket, socket.AF_INET, socket.SOCK_RAW, "raw"),
                         partial(_open_socket, AF_PACKET, socket.SOCK_RAW, "packet"))


def vsock_socket(scene: Scene) -> str:
    return _open_socket(AF_VSOCK, socket.SOCK_STREAM, "vsock")


def list_interfaces(scene: Scene) -> str:
    """The host's network as rtnetlink(7) tells it."""
    names = [name for _, name in socket.if_nameindex()]
    if not [name for name in names if name != "lo"]:
        raise OSError(19, f"only {', '.join(names) or 'nothing'}")
    return f"interfaces {', '.join(names)}"


def type_into_terminal(scene: Scene) -> str:
    """TIOCSTI: characters that the shell reads after we have ended (CVE-2016-2779)."""
    def push(path: str) -> str:
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        try:
            for character in b"#\n":
                fcntl.ioctl(descriptor, termios.TIOCSTI, bytes([character]))
        finally:
            os.close(descriptor)
        return f"typed into {path}"

    return first_success(*(partial(push, f"/proc/self/fd/{n}") for n in range(3)
                           if os.isatty(n)), partial(push, "/dev/tty"))


def shared_memory(scene: Scene) -> str:
    size = 64
    address = call("shmat", scene.shared_memory, 0, SHM_RDONLY)
    return expect(scene.secret, ctypes.string_at(address, size), "System V shared memory")


ATTEMPTS: dict[str, Callable[[Scene], str]] = {
    "environment-secret": environment_secret,
    "see-processes": see_processes,
    "read-process": read_process,
    "signal-process": signal_process,
    "kill-init": kill_init,
    "trace-process": trace_process,
    "setuid-program": setuid_program,
    "tcp-connect": tcp_connect,
    "udp-route": udp_send,
    "unix-connect": unix_connect,
    "abstract-connect": abstract_connect,
    "raw-socket": raw_socket,
    "vsock-socket": vsock_socket,
    "list-interfaces": list_interfaces,
    "type-into-terminal": type_into_terminal,
    "shared-memory": shared_memory,
}
