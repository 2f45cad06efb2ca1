"""/proc as kernels write it, and processes that vanish."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hardrun.kernel import procfs

STATUS = """\
Name:\tevil)\\n name
Umask:\t0027
State:\tS (sleeping)
Tgid:\t8358
Pid:\t8358
PPid:\t8000
TracerPid:\t0
Uid:\t1000\t1000\t1000\t1000
Gid:\t100\t100\t100\t100
Groups:\t4 27 65534\x20
NStgid:\t8358\t2
NSpid:\t8358\t2
NSpgid:\t8358\t2
NSsid:\t8358\t2
CapInh:\t0000000000000000
CapPrm:\t000001fffeffffff
CapEff:\t0000000000000001
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
"""
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              60                   61                   seconds
Max file size             unlimited            unlimited            bytes
Max open files            1024                 524288               files
Max nice priority         0                    0
Max future limit          1                    2                    things
"""


def test_status_is_read() -> None:
    status = procfs.parse_status(STATUS)
    assert status.name == "evil)\\n name"
    assert (status.parent, status.pids, status.sessions) == (8000, (8358, 2), (8358, 2))
    assert (status.groups, status.umask) == ((4, 27, 65534), 0o27)
    assert (status.no_new_privs, status.seccomp, status.seccomp_filters) == (True, 2, 3)
    assert status.capabilities == {"CapInh": 0, "CapPrm": 0x1FFFEFFFFFF, "CapEff": 1,
                                   "CapBnd": 0x1FFFFFFFFFF, "CapAmb": 0}


def test_what_an_old_kernel_does_not_show_is_unknown() -> None:
    old = "".join(line + "\n" for line in STATUS.splitlines()
                  if not line.startswith(("NoNewPrivs", "Seccomp", "Umask", "NS")))
    status = procfs.parse_status(old)
    assert (status.no_new_privs, status.seccomp, status.seccomp_filters) == (None, None, None)
    assert (status.umask, status.pids, status.sessions) == (None, (8358,), ())


def test_a_status_that_is_cut_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="CapInh"):
        procfs.parse_status(STATUS.split("CapInh")[0])


def test_limits_are_read_by_their_names() -> None:
    limits = procfs.parse_limits(LIMITS)
    assert limits == {
        "RLIMIT_CPU": procfs.Limit(60, 61),
        "RLIMIT_FSIZE": procfs.Limit(procfs.UNLIMITED, procfs.UNLIMITED),
        "RLIMIT_NOFILE": procfs.Limit(1024, 524288),
        "RLIMIT_NICE": procfs.Limit(0, 0),
    }


def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields() -> None:
    fields = ["S", "1", "7", "7", "34816", *["0"] * 14, "290167", "0"]
    found = procfs.parse_stat("7 (a) b (c)) " + " ".join(fields) + "\n")
    assert found == procfs.Stat(session=7, terminal=34816, start_time=290167)


def test_interfaces_are_read() -> None:
    text = "Inter-|   Receive\n face |bytes\n    lo:     0 0\neth0: 12 3\n"
    assert procfs.parse_interfaces(text) == ("lo", "eth0")


def test_the_mount_of_a_descriptor_is_read() -> None:
    assert procfs.parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t27\nino:\t9\n") == 27
    assert procfs.parse_fdinfo("pos:\t0\n") == 0


def test_this_process_is_read_as_it_is() -> None:
    status = procfs.status()
    assert status.pids[-1] == os.getpid()
    assert status.parent == os.getppid()
    assert set(procfs.namespaces()) <= set(procfs.NAMESPACES)
    assert next(procfs.ancestors(os.getpid())) == os.getpid()
    assert procfs.descriptors("self")[0].mount >= 0


def test_names_of_variables_are_read_and_no_values() -> None:
    child = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env={"TOKEN": "secret", "A": "="})
    assert child.stdout is not None
    child.stdout.readline()
    try:
        assert procfs.environment_names(child.pid) == {"TOKEN", "A"}
    finally:
        child.communicate(b"\n")


def test_children_are_found_below_their_parent() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = procfs.statuses()
        assert child.pid in procfs.descendants(os.getpid(), found)
        assert os.getpid() not in procfs.descendants(os.getpid(), found)
    finally:
        child.communicate(b"\n")


@pytest.mark.parametrize("read", [
    procfs.status, procfs.stat, procfs.limits, procfs.mountinfo, procfs.namespaces,
    procfs.descriptors, procfs.interfaces, procfs.environment_names])
def test_a_process_that_is_gone_is_said_to_be_gone(read: object) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert callable(read)
    with pytest.raises(ProcessLookupError):
        read(child.pid)
