"""What a verifier asks of PID 1, and the memory in which it asks: the executor's table has both.

Some of a sandbox shows only from inside. PID 1 forks a **probe**, which tries in turn what it is
asked and ends. The questions lie in memory that the executor's parent and PID 1 share; a verifier
opens it as /proc/PID/fd/N of the parent. This module imports nothing outside the standard library.
"""

from __future__ import annotations

import enum
import struct

MEMORY = "hardrun-shared"  # the name of the memory file
OFFSET = 4096  # what lies before it is the executor's own
REACHED = struct.Struct("<264xI")
"""Of that, whether an exec was asked for: in a sandbox for a single command nothing ran before."""
# asked, answered: numbers of requests; PID 1 starts a probe when they differ
HEADER = struct.Struct("<III4x")
# kind, answer, errno or signal, value (in: an argument; out: the result), text (likewise)
QUESTION = struct.Struct("<HHiQ240s")
TEXT_SIZE = 240
MOST = 63
FILTERED = 0x100
"""Bit of a kind: the workload's filter is loaded before the attempt."""


class Ask(enum.IntEnum):
    """What a probe tries."""

    OPEN = 1  # the path in text with the flags in value; nothing is created, nothing kept
    DEVICE = 2  # make a device node at text, which the kernel refuses in any case
    INODE = 3  # the inode that text leads to
    SECUREBITS = 4
    KEYRING = 5  # the session keyring's description in text, the size of its content in value
    NAMESPACES = 6  # unshare the CLONE_NEW* in value
    CONNECT = 7  # to the abstract socket named in text
    SIGNAL = 8  # whether process number value may be signalled
    DESCRIPTORS = 9  # how many PID 1 has open


class Answered(enum.IntEnum):
    """What came of a question."""

    NOT = 0
    TRIED = 1  # errno 0: it worked
    UNFILTERED = 2  # the filter could not be loaded: nothing was tried
    KILLED = 3  # by the signal in errno
