"""Landlock and labels (section LM): what each right of a domain is for, when it is entered, and
that a start fails where what was decided on can't be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hardrun.kernel import landlock
from hardrun.plan.schema import Operation, Unsafe
from tests.escape.calls import names, trace, until
from tests.escape.canary import SECRET
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.probe import AT_FDCWD, BAD_ADDRESS, Out, Result, call, words_of
from tests.escape.sandbox import Sandbox

pytestmark = pytest.mark.sandbox
TCGETS = 0x5401
NULL = os.makedev(1, 3)
LABELS = [("apparmor", "exec hardrun-untrusted"),
          ("selinux", "system_u:system_r:hardrun_untrusted_t:s0")]


# -- LM-01: what can't be set starts nothing ------------------------------------------------------


@pytest.mark.skipif(Path("/sys/kernel/security/apparmor").exists()
                    or Path("/sys/fs/selinux/enforce").exists(), reason="this host sets labels")
@pytest.mark.parametrize("module, label", LABELS)
def test_cve_2019_16884_lm_01_a_label_that_this_host_can_not_set_starts_nothing(
    sandbox: Made, module: str, label: str
) -> None:
    def demanding(planned: Planned) -> Planned:
        return planned.insert(Operation("set_exec_label", (module, label), "test"),
                              Operation("expect_label", (module, label), "test"), after="set_limit")

    made = sandbox()
    words = words_of([[call("getpid")]])
    done = made.removed(demanding).start(words)
    assert (done.returncode, done.stdout) == (125, b"")
    assert label.split()[-1].encode() in done.stderr
    assert made.start(words).returncode == 0


# -- LM-04: rights that no other layer stands for -------------------------------------------------


def with_device(planned: Planned) -> Planned:
    """A device in a directory that is granted, as a writable grant of the host's could have."""
    return planned.insert(Operation("make_file", ("/tmp/device", 0o666, b""), "test"),
                          Operation("bind_device", ("/dev/null", "/tmp/device", NULL), "test"),
                          after="writable_directory")


@pytest.mark.skipif(landlock.abi_version() < 5, reason="LANDLOCK_ACCESS_FS_IOCTL_DEV: ABI 5")
def test_lm_04_a_device_in_a_granted_directory_takes_no_ioctl(sandbox: Made) -> None:
    """The null device knows no request at all: ENOTTY says that it was asked."""
    def asked(made: Sandbox) -> str:
        return made.one(call("openat", AT_FDCWD, "/tmp/device", os.O_RDWR, 0),
                        call("ioctl", Result(0), TCGETS, BAD_ADDRESS)).word

    whole = sandbox().removed(with_device)
    assert asked(whole) == "EACCES"
    assert asked(whole.removed(LAYERS["Landlock"])) == "ENOTTY"


@pytest.mark.skipif(landlock.abi_version() < 3, reason="LANDLOCK_ACCESS_FS_TRUNCATE: ABI 3")
def test_lm_04_what_may_be_executed_may_not_be_emptied(sandbox: Made, tmp_path: Path) -> None:
    """A grant to read, made writable as a mount: its rule is what is left."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("kept")

    whole = sandbox(ro=[f"{tmp_path}/data:/data"]).removed(LAYERS["read-only mounts"])
    assert whole.one(call("truncate", "/data/file", 0)).word == "EACCES"
    assert (tmp_path / "data" / "file").read_text() == "kept"
    assert whole.removed(LAYERS["Landlock"]).one(call("truncate", "/data/file", 0)).word == "ok"
    assert (tmp_path / "data" / "file").read_text() == ""


@pytest.mark.skipif(landlock.abi_version() < 6, reason="LANDLOCK_SCOPE_SIGNAL: ABI 6")
def test_lm_04_the_whole_of_what_the_kernel_knows_is_handled(sandbox: Made) -> None:
    """But TCP: that has rules where the network is shared, and here the namespace has none."""
    [ruleset] = [o for o in sandbox().planned.operations if o.name == "landlock_ruleset"]
    abi = landlock.abi_version()
    filesystem, _, scoped = (int(str(value)) for value in ruleset.values)
    assert filesystem == landlock.filesystem_access(abi)
    assert scoped == landlock.scopes(abi)


# -- LM-05: when, and with what -------------------------------------------------------------------


def test_lm_05_the_domain_is_entered_behind_no_new_privs_and_before_the_filter(
    sandbox: Made, tmp_path: Path
) -> None:
    """By PID 1 while it is alone: a thread that were there would stay outside (landlock(7))."""
    start = trace(sandbox().removed(LAYERS["not dumpable"]), words_of([[call("getpid")]]), tmp_path)
    init = names(start.init)
    entered = init.index("landlock_restrict_self")
    [promised] = [i for i, c in enumerate(start.init) if "PR_SET_NO_NEW_PRIVS" in c.arguments]
    assert init.index("pivot_root") < promised < entered
    # Each rule is of a name that is looked up in the new root: nothing that was open before.
    rules = [i for i, name in enumerate(init) if name == "landlock_add_rule"]
    assert promised < min(rules) <= max(rules) < entered
    for i in rules:
        opened = next(c for c in reversed(start.init[:i]) if c.name.startswith("openat"))
        assert (opened.name, opened.arguments.startswith("AT_FDCWD")) == ("openat2", False)
    cloned = [i for i, name in enumerate(init) if name in ("clone", "clone3", "fork", "vfork")]
    # Whoever makes the network namespace was waited for before.
    others = [i for i in cloned if "CLONE_FILES" not in start.init[i].arguments]
    assert entered < min(others)
    assert len(others) == len(cloned) - 1
    assert init.index("wait4") < promised
    workload = names(until(start.workload, "execve"))
    assert "landlock_restrict_self" not in workload
    assert workload[-2:] == ["seccomp", "execve"]


def test_lm_05_without_no_new_privs_the_kernel_takes_no_domain(sandbox: Made) -> None:
    def promising_nothing(planned: Planned) -> Planned:
        return LAYERS["seccomp"](planned).drop("no_new_privs", unsafe=Unsafe.NO_NEW_PRIVS_OFF)

    done = sandbox().removed(promising_nothing).start(words_of([[call("getpid")]]))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"landlock_restrict_self: EPERM" in done.stderr


# -- LM-06: what Landlock does not do -------------------------------------------------------------


def test_lm_06_a_descriptor_that_came_along_is_beyond_landlock(
    sandbox: Made, careless: Careless, tmp_path: Path
) -> None:
    """A domain looks at names, not at what is open already: closing everything is what holds."""
    (tmp_path / "secret").write_bytes(SECRET)
    descriptor = os.open(tmp_path / "secret", os.O_RDONLY)
    reading = call("read", descriptor, Out(len(SECRET)), len(SECRET))
    named = call("openat", AT_FDCWD, str(tmp_path / "secret"), os.O_RDONLY, 0)
    made = sandbox()
    leaking = made.removed(LAYERS["close_range"]).by(careless("leaks descriptors"))
    try:
        assert made.one(reading, pass_fds=[descriptor]).word == "EBADF"
        assert leaking.one(reading, pass_fds=[descriptor]).out == SECRET
        assert leaking.one(named, pass_fds=[descriptor]).word in ("EACCES", "ENOENT")
    finally:
        os.close(descriptor)
