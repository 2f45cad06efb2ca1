"""What /proc and /dev hold, and that both are the sandbox's own."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from hardrun.plan.mounting import MASKED, READ_ONLY
from hardrun.plan.root import DEVICE_NUMBERS
from tests.escape.attacks_filesystem import flags_of
from tests.escape.canary import SECRET
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS, Planned, showing
from tests.escape.outer import command, needs_unshare, on_host
from tests.escape.probe import AT_FDCWD, Answer, Call, Out, Result, answers_of, call, words_of
from tests.escape.sandbox import POLICIES, Sandbox

pytestmark = pytest.mark.sandbox
FULL_PROC = "docker-default"  # a policy of the shipped ones that shows all of proc, masked
PROC_SUPER_MAGIC = 0x9FA0
LISTED = 1 << 14


def listing(path: str) -> tuple[Call, ...]:
    return (call("openat", AT_FDCWD, path, os.O_RDONLY | os.O_DIRECTORY),
            call("getdents64", Result(0), Out(LISTED), LISTED))


def names_of(answer: Answer) -> set[str]:
    """The names in struct linux_dirent64 of the last step."""
    found, at, data = set(), 0, answer.out[:answer.steps[-1].value]
    while at < len(data):
        size = int.from_bytes(data[at + 16:at + 18], "little")
        found.add(data[at + 19:at + size].split(b"\0", 1)[0].decode())
        at += size
    return found - {".", ".."}


def looked_at(path: str) -> tuple[Call, ...]:
    return (call("statx", AT_FDCWD, path, 0, 0x7ff, Out(256)),)


def kind_of(answer: Answer) -> tuple[int, int]:
    """Mode and device number of a struct statx."""
    major, minor = (int.from_bytes(answer.out[at:at + 4], "little") for at in (128, 132))
    return int.from_bytes(answer.out[28:30], "little"), os.makedev(major, minor)


def reading(path: str) -> tuple[Call, ...]:
    return (call("openat", AT_FDCWD, path, os.O_RDONLY), call("read", Result(0), Out(64), 64))


# -- /proc -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_pr_01_proc_is_a_new_one_with_processes_alone(sandbox: Made, policy: str) -> None:
    kind, entries = sandbox(policy).attack([call("statfs", "/proc", Out(120))], listing("/proc"))
    assert int.from_bytes(kind.out[:8], "little") == PROC_SUPER_MAGIC
    names = names_of(entries)
    assert {"self", "thread-self"} <= names
    assert all(name.isdigit() for name in names - {"self", "thread-self"})
    assert str(os.getpid()) not in names


def test_pr_01_a_full_one_has_more(sandbox: Made) -> None:
    entries = sandbox().removed(LAYERS["proc subset=pid"]).one(*listing("/proc"))
    assert {"version", "interrupts", "sys"} <= names_of(entries)


def unmasked(planned: Planned) -> Planned:
    return planned.drop("mask")


def test_pr_02_masked_files_are_empty_and_masked_directories_too(sandbox: Made) -> None:
    """PR-03, PR-04: a file becomes the null device, a directory one empty tmpfs."""
    made = sandbox(FULL_PROC)
    asked = made.attack(*(looked_at(path) for path in MASKED))
    there = {path: kind_of(answer) for path, answer in zip(MASKED, asked, strict=True)
             if answer.word == "ok"}
    assert {"/proc/interrupts", "/proc/keys"} <= set(there)
    for path, (mode, device) in there.items():
        read, listed, making, flags = made.attack(
            reading(path), listing(path), [call("mkdirat", AT_FDCWD, f"{path}/x", 0o755)],
            [call("statfs", path, Out(120))])
        assert flags_of(flags) & 1, f"{path} is writable"
        if stat.S_ISDIR(mode):
            assert names_of(listed) == set()
            assert making.word in ("EROFS", "EACCES")
        else:
            assert (stat.S_ISCHR(mode), device) == (True, os.makedev(1, 3)), path
            assert read.steps[-1] == (0, 0, bytes(64)), path
    read = made.removed(unmasked).one(*reading("/proc/interrupts"))
    assert b"CPU0" in read.out


def test_pr_04_masked_directories_are_one_tmpfs(sandbox: Made) -> None:
    """/proc/fs and /proc/bus stand for what this machine may lack."""
    def masking(planned: Planned) -> Planned:
        mask = next(o for o in planned.operations if o.name == "mask")
        return planned.drop("make_read_only").insert(
            *(mask._replace(values=(path,)) for path in ("/proc/fs", "/proc/bus")), after="mask")

    made = sandbox(FULL_PROC)
    found = made.removed(masking).attack(looked_at("/proc/fs"), looked_at("/proc/bus"),
                                         listing("/proc/fs"), listing("/proc/bus"),
                                         [call("mkdirat", AT_FDCWD, "/proc/fs/x", 0o755)])
    devices = {(answer.out[32:40], answer.out[136:144]) for answer in found[:2]}
    assert len(devices) == 1
    assert names_of(found[2]) == names_of(found[3]) == set()
    assert found[4].word in ("EROFS", "EACCES")
    assert names_of(made.one(*listing("/proc/fs")))


def test_pr_05_read_only_paths_keep_their_other_flags(sandbox: Made) -> None:
    made = sandbox(FULL_PROC)
    there = [path for path in READ_ONLY if os.path.exists(path)]
    asked = [[call("statfs", path, Out(120))] for path in there]
    assert {flags_of(answer) & 15 for answer in made.attack(*asked)} == {15}
    loose = made.removed(lambda planned: planned.drop("make_read_only")).attack(*asked)
    assert {flags_of(answer) & 15 for answer in loose} == {14}


@needs_unshare
def test_cve_2025_31133_pr_03_a_null_device_that_is_none_masks_nothing(
    sandbox: Made, tmp_path: Path, careless: Careless
) -> None:
    (tmp_path / "trap").write_bytes(SECRET)
    scene = f"mount --bind {tmp_path}/trap /dev/null"
    # Its device would be refused first.
    made = sandbox(FULL_PROC).removed(lambda planned: planned.drop("bind_device"))
    words = words_of([reading("/proc/interrupts")])
    done = on_host(scene, command(made, words))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"/dev/null: ENODEV" in done.stderr
    done = on_host(scene, command(made.by(careless("trusts names")), words))
    assert SECRET in answers_of(done.stdout)[0].out


def test_pr_12_only_settings_of_its_own_namespaces_are_written(sandbox: Made) -> None:
    """No option takes others; what is written inside is not what the host has."""
    name = "/proc/sys/user/max_user_namespaces"
    before = Path(name).read_text()
    for policy in POLICIES:
        made = sandbox(policy)
        assert [o.values[0] for o in made.planned.operations if o.name == "write_sysctl"] == [name]
        assert made.removed(LAYERS["proc subset=pid"]).one(*reading(name)).out[:2] == b"0\n"
    bare = sandbox().removed(LAYERS["proc subset=pid"], LAYERS["user.max_user_namespaces"])
    assert bare.one(*reading(name)).out[:2] != b"0\n"
    assert Path(name).read_text() == before


# -- /dev ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_dv_01_dev_has_these_entries_and_each_is_the_device_of_its_name(
    sandbox: Made, policy: str
) -> None:
    made = sandbox(policy)
    names = sorted(DEVICE_NUMBERS)
    entries, shown, *devices = made.attack(listing("/dev"), [call("statfs", "/dev/null", Out(120))],
                                           *(looked_at(f"/dev/{name}") for name in names))
    assert names_of(entries) == {*names, "fd", "stdin", "stdout", "stderr", "shm"}
    for name, answer in zip(names, devices, strict=True):
        mode, number = kind_of(answer)
        assert (stat.S_ISCHR(mode), number) == (True, DEVICE_NUMBERS[name]), name
    assert flags_of(shown) & 15 == 2 | 8, "a device is nosuid, noexec, and can be opened"


@needs_unshare
@pytest.mark.parametrize("trap", ["/dev/zero", "/etc/passwd"])
def test_dv_01_a_device_of_another_number_is_refused(
    sandbox: Made, careless: Careless, trap: str
) -> None:
    scene = f"mount --bind {trap} /dev/full"
    done = on_host(scene, command(sandbox(), words_of([looked_at("/dev/full")])))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"bind device /dev/full on /dev/full: source changed" in done.stderr
    made = sandbox().by(careless("trusts names"))
    done = on_host(scene, command(made, words_of([looked_at("/dev/full")])))
    assert kind_of(answers_of(done.stdout)[0])[1] != DEVICE_NUMBERS["full"]


def found_in_another(made: Sandbox, path: str) -> str:
    """What a second sandbox finds at a path where the first one has made a file."""
    words = words_of([[call("openat", AT_FDCWD, path, os.O_WRONLY | os.O_CREAT, 0o600)],
                      [call("read", 0, Out(1), 1)]])
    with subprocess.Popen([made.write("first"), *words], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert answers_of(first.stdout.readline())[0].word == "ok"
        word = made.one(call("openat", AT_FDCWD, path, os.O_RDONLY)).word
        first.stdin.close()
        first.wait(timeout=60)
    return word


def test_dv_08_shared_memory_is_not_shared_with_another_sandbox(sandbox: Made, tmp_path: Path
                                                                ) -> None:
    name = f"/dev/shm/hardrun-{os.getpid()}"
    assert found_in_another(sandbox(), name) == "ENOENT"
    try:
        assert found_in_another(sandbox().removed(showing("/dev/shm")), name) == "ok"
    finally:
        Path(name).unlink(missing_ok=True)
