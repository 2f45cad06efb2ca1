"""What comes on a command's channel, when its two ends do not take turns."""

from __future__ import annotations

import os
import signal
import socket

from hardrun.executor.serve import Asked, Command
from hardrun.plan import serve
from hardrun.plan.serve import Told


def test_a_signal_that_came_too_late_hides_no_reply() -> None:
    """The kernel tells of it before it gives what the other end had sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = Command(ours, Asked(("true",)))
        _, descriptors, _, _ = socket.recv_fds(theirs, serve.MOST_BYTES, 4)
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        command.signal(signal.SIGKILL)
        with socket.socket(fileno=descriptors[0]) as channel:
            channel.send(serve.REPLY.pack(Told.ENDED, 7 << 8, 0, 0, 0, 0, b""))
        reply = command.reply(5)
        assert reply is not None
        assert (reply.kind, reply.status) == (Told.ENDED, 7 << 8)
        assert command.reply(5) is None
        command.close()
