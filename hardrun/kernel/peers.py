"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7)
_SO_PEERPIDFD = 77  # Linux 6.5


def credentials(connection: socket.socket) -> tuple[int, int]:
    """Pid and effective uid of whoever connected or listens, as the kernel noted it then."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


@contextmanager
def peer(connection: socket.socket) -> Iterator[tuple[int, int]]:
    """The same; whatever the body reads in /proc/PID is of that very process if nothing is raised.

    A sandbox could connect in a process that ends at once, keep the socket in another one, and wait
    until the number is that of a process outside. Raises ProcessLookupError or another OSError when
    it has ended. Before Linux 6.5 the kernel has no way to tell.
    """
    pid, uid = credentials(connection)
    try:
        descriptor = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        yield pid, uid
        return
    try:
        yield pid, uid
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)
