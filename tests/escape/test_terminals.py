"""Terminals: the caller's can't be reached or typed into, and a private one is nobody else's."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape.attacks_filesystem import TIOCLINUX, TIOCSTI
from tests.escape.conftest import Made
from tests.escape.layers import LAYERS, showing
from tests.escape.probe import AT_FDCWD, Answer, Call, Out, Result, answers_of, call, words_of
from tests.escape.sandbox import Sandbox
from tests.escape.test_proc_and_devices import kind_of, listing, looked_at, names_of

pytestmark = pytest.mark.sandbox
HIGH = 0x123 << 32
TIOCGPTN, TIOCGSID = 0x80045430, 0x5429
AT_EMPTY_PATH = 0x1000
TYPED = b"typed by the sandbox"


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """The caller's terminal: what its user sees, and what programs have."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def pending(descriptor: int) -> bytes:
    """What could be read now."""
    ready = select.select([descriptor], [], [], 0.1)[0]
    return os.read(descriptor, 4096) if ready else b""


def on_terminal(made: Sandbox, *programs: tuple[Call, ...]) -> tuple[list[Answer], bytes]:
    """Start a sandbox in a session whose terminal is the test's: answers, and what the terminal's
    next reader (a shell) would get as typed."""
    with terminal() as (master, slave):
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", made.write(), *words_of(programs)], stdin=slave,
            stdout=slave, stderr=slave, close_fds=True)
        output = b""
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            if select.select([master], [], [], 0.05)[0]:
                output += os.read(master, 65536)
        typed = pending(slave)
    begin = b'{"signal"'  # what is typed inside is echoed before it
    lines = [line[line.index(begin):] for line in output.splitlines() if begin in line]
    answers = answers_of(b"\n".join(lines))
    assert len(answers) == len(programs), output
    return answers, typed


OPEN = call("openat", AT_FDCWD, "/dev/tty", os.O_RDWR)
TYPING = (OPEN, *(call("ioctl", Result(0), TIOCSTI, bytes([byte])) for byte in TYPED))


def test_cve_2017_5226_dv_05_dv_06_the_callers_terminal_is_neither_opened_nor_typed_into(
    sandbox: Made
) -> None:
    answers, typed = on_terminal(sandbox(), (OPEN,), TYPING)
    assert answers[0].word == "ENXIO"
    assert typed == b""


def test_dv_05_the_filter_alone_keeps_it_from_being_typed_into(sandbox: Made) -> None:
    """Where the session is the caller's the terminal can be opened."""
    high = (OPEN, call("ioctl", Result(0), HIGH | TIOCSTI, TYPED[:1]))
    console = (OPEN, call("ioctl", Result(0), TIOCLINUX, b"\3"))
    answers, typed = on_terminal(sandbox().removed(LAYERS["setsid"]), TYPING, high, console)
    for answer in answers:
        assert [step.word for step in answer.steps[:2]] == ["ok", "EPERM"]
    assert typed == b""


def test_dv_06_the_session_alone_keeps_it_from_being_opened(sandbox: Made) -> None:
    answers, typed = on_terminal(sandbox().removed(LAYERS["seccomp"]), TYPING)
    assert answers[0].steps[0].word == "ENXIO"
    assert typed == b""


def test_dv_05_dv_06_without_both_it_is_typed_into(sandbox: Made) -> None:
    made = sandbox().removed(LAYERS["setsid"], LAYERS["seccomp"])
    answers, typed = on_terminal(made, TYPING)
    assert answers[0].steps[0].word == "ok"
    legacy = Path("/proc/sys/dev/tty/legacy_tiocsti")
    if legacy.exists() and legacy.read_text() == "0\n":
        assert answers[0].steps[1].word == "EIO"  # this kernel lets nobody do it
    else:
        assert typed == TYPED


def test_dv_06_no_descriptor_is_the_callers_terminal(sandbox: Made) -> None:
    """Each is a pipe or the null device: asked for its session, it says that it is no terminal."""
    asked = [(call("ioctl", fd, TIOCGSID, Out(4)),) for fd in range(3)]
    answers, _ = on_terminal(sandbox().removed(LAYERS["setsid"], LAYERS["seccomp"]), *asked)
    assert [answer.word for answer in answers] == ["ENOTTY"] * 3


def test_dv_03_a_private_terminal_is_the_first_of_an_instance_of_its_own(sandbox: Made) -> None:
    made = sandbox(terminal=True)
    another = (call("openat", AT_FDCWD, "/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
               call("ioctl", Result(0), TIOCGPTN, Out(4)))
    link = (call("readlinkat", AT_FDCWD, "/dev/ptmx", Out(16), 16),)
    with terminal():
        before = set(os.listdir("/dev/pts"))
        answers, _ = on_terminal(made, listing("/dev/pts"), looked_at("/dev/pts/0"),
                                 looked_at("/dev/pts/ptmx"), link, another)
        assert set(os.listdir("/dev/pts")) >= before
    assert names_of(answers[0]) == {"0", "ptmx"}
    assert kind_of(answers[1])[0] & 0o777 == 0o620
    assert (kind_of(answers[2])[0] & 0o777, kind_of(answers[2])[1]) == (0o666, os.makedev(5, 2))
    assert answers[3].out.rstrip(b"\0") == b"pts/ptmx"
    assert int.from_bytes(answers[4].out, "little") == 1


def test_dv_03_the_hosts_own_would_show_its_terminals(sandbox: Made) -> None:
    with terminal() as (_, slave):
        number = os.path.basename(os.ttyname(slave))
        made = sandbox().removed(showing("/dev/pts"))
        assert number in names_of(made.one(*listing("/dev/pts")))
        assert sandbox().one(*listing("/dev/pts")).word in ("ENOENT", "EBADF")


def test_dv_04_a_private_terminal_is_relayed_and_the_callers_stays_out(sandbox: Made) -> None:
    """CVE-2025-52565: its other end comes from the descriptor of the instance, by no name."""
    made = sandbox(terminal=True)
    asked = [(call("statx", fd, "", AT_EMPTY_PATH, 0x7ff, Out(256)),) for fd in range(3)]
    answers, _ = on_terminal(made, (OPEN,), *asked)
    assert answers[0].word == "ok"
    devices = {kind_of(answer)[1] for answer in answers[1:]}
    assert {os.major(device) for device in devices} <= set(range(136, 144))
    assert len(devices) == 1
    typing = (call("ioctl", 0, TIOCSTI, TYPED[:1]),)
    assert on_terminal(made, typing)[0][0].word == "EPERM"
    alone, typed = on_terminal(made.removed(LAYERS["seccomp"]), typing)
    assert alone[0].word in ("ok", "EIO")
    assert typed == b"", "what is typed into the private one does not reach the caller's"


def test_dv_06_the_callers_settings_are_as_before(sandbox: Made) -> None:
    with terminal() as (_, slave):
        before = termios.tcgetattr(slave)
        subprocess.run([sandbox(terminal=True).write(), *words_of([[OPEN]])], stdin=slave,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        assert termios.tcgetattr(slave) == before
