"""What a running sandbox is asked to start, and what it answers: the executor's table has both.

A **request** is one packet of a SOCK_SEQPACKET socket whose other end only PID 1 has. Four
descriptors come with it: the channel, a socket of the same kind that belongs to this command alone,
and what the command gets as 0, 1 and 2. Everything else that the command has is PID 1's, and so the
same for all of them.

    request  header | directory | argv … | NAME=VALUE …       each a NUL-terminated string
    channel  replies come; signal numbers, four bytes each, go; its end ends the command

This module imports nothing outside the standard library.
"""

from __future__ import annotations

import enum
import struct

MAGIC = b"HRCMD\r\n\0"
# magic, flags, words of argv, variables
REQUEST = struct.Struct("<8sIII4x")
MOST_BYTES = 128 << 10
MOST_WORDS = 4096
"""Of argv and variables together."""
MOST_COMMANDS = 128
"""At a time in one sandbox."""
# kind, status of wait(2), errno, largest resident set in KiB, user and system time in µs, site
REPLY = struct.Struct("<IiiIQQ32s")
SIGNAL = struct.Struct("<I")


class ServeMode(enum.IntEnum):
    """What PID 1 does with commands that come."""

    BESIDE = 0  # the plan's own command is started, and others beside it until it ends
    ALONE = 1  # no command of the plan's own: until the socket is closed
    ONCE = 2  # the first command that comes, and the sandbox ends with it


class Flag(enum.IntFlag):
    """How a command is to be started."""

    TELL_START = 1  # a reply when it has been executed; not with ServeMode.ONCE


class Told(enum.IntEnum):
    """What a reply says."""

    STARTED = 1
    ENDED = 2
    FAILED = 3  # it was not executed: errno, and the system call that failed
    REFUSED = 4  # the request is malformed, or there are too many commands
    READY = 5  # to a packet with a channel and nothing else: commands are taken


def request(argv: list[bytes], directory: bytes, variables: list[bytes], flags: int) -> bytes:
    """The bytes of a request.

    Raises ValueError where a word holds a NUL byte, or they are too many or too long.
    """
    words = [directory, *argv, *variables]
    if any(b"\0" in word for word in words):
        raise ValueError("a word holds a NUL byte")
    data = REQUEST.pack(MAGIC, flags, len(argv), len(variables)) + b"".join(
        word + b"\0" for word in words)
    if len(data) > MOST_BYTES or len(argv) + len(variables) > MOST_WORDS:
        raise ValueError(f"more than {MOST_BYTES} bytes or {MOST_WORDS} words")
    return data
