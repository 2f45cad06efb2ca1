"""Mounts: what lies around the sandbox, what its own are like, and that there is no way back."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from hardrun.errors import HardrunError, PolicyRefused
from hardrun.kernel.mounts import Mount, parse_line
from hardrun.request import decide
from tests.escape.attacks_filesystem import flags_of
from tests.escape.canary import SECRET, Canary
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS, changed
from tests.escape.outer import attack, command, needs_unshare, on_host
from tests.escape.probe import AT_FDCWD, Call, Out, Result, answers_of, call, words_of
from tests.escape.sandbox import POLICIES, Sandbox

pytestmark = pytest.mark.sandbox
BARE = (LAYERS["seccomp"], LAYERS["Landlock"], LAYERS["capability sets"])
CREATE = os.O_WRONLY | os.O_CREAT
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8


def mounts_of(made: Sandbox) -> list[Mount]:
    """As the sandbox itself sees them."""
    size = 1 << 15
    text = made.one(call("openat", AT_FDCWD, "/proc/self/mountinfo", os.O_RDONLY),
                    *(call("read", Result(0), Out(size // 4), size // 4) for _ in range(4)))
    return [parse_line(line) for line in
            b"".join(step.out.rstrip(b"\0") for step in text.steps).decode().splitlines()]


# -- what is granted -------------------------------------------------------------------------------


def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    for name in (".ssh", ".local/state/hardrun", ".cache/hardrun/plans", ".config/hardrun",
                 ".docker/run", ".local/share/containers/storage", ".gnupg", "project"):
        (home / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    return home


def test_fs_10_what_is_known_to_lead_out_is_not_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By contained, within which all the others are."""
    home = _home(tmp_path, monkeypatch)
    names = (".ssh", ".docker/run", ".gnupg", ".local/share/containers", ".local/share")
    refused = ["/", "/proc/self", "/sys", "/dev", "/run", str(home), str(home.parent),
               *(str(home / name) for name in names)]
    written = [str(home / name) for name in (".local/state", ".cache/hardrun/plans", ".config")]
    for flag, path in [("ro", p) for p in refused] + [("rw", p) for p in refused + written]:
        with pytest.raises(PolicyRefused):
            decide(["/usr/bin/true"], policies=["contained"], **{flag: [path]})
    for flag in ("ro", "rw"):
        decide(["/usr/bin/true"], policies=["contained"], **{flag: [str(home / "project")]})


# -- around the sandbox ----------------------------------------------------------------------------


PROPAGATED = """\
mount --make-shared --bind {vol} {vol}
mkfifo {vol}/../fifo
{command} <{vol}/../fifo >{vol}/../out 2>&1 &
exec 3>{vol}/../fifo
until [ -s {vol}/../out ]; do sleep 0.01; done
cat /proc/self/mountinfo >{vol}/../during
mount -t tmpfs none {vol}/sub
echo secret >{vol}/sub/file
echo >&3
wait
cat {vol}/../out
"""


def propagated(made: Sandbox, vol: Path) -> str:
    """What a file comes to that was mounted after the sandbox was there, below a grant of it."""
    words = words_of([[call("getpid")], [call("read", 0, Out(1), 1), call(
        "openat", AT_FDCWD, f"{vol}/sub/file", os.O_RDONLY)]])
    made = made.removed(LAYERS["seccomp"])
    done = on_host("", PROPAGATED.format(vol=vol, command=command(made, words)))
    assert len(answers_of(done.stdout)) == 2, done
    return answers_of(done.stdout)[1].word


@pytest.fixture
def vol(tmp_path: Path) -> Path:
    (tmp_path / "vol/sub").mkdir(parents=True)
    return tmp_path / "vol"


@needs_unshare
def test_fs_11_what_is_mounted_later_outside_is_not_seen(sandbox: Made, vol: Path) -> None:
    assert propagated(sandbox(ro=[str(vol)]), vol) == "ENOENT"
    during = (vol.parent / "during").read_text()
    assert str(vol) in during
    assert "hidepid=invisible" not in during, "a mount of the sandbox's is seen outside"


@needs_unshare
def test_fs_11_it_is_where_mounts_are_left_as_they_are(
    sandbox: Made, vol: Path, careless: Careless
) -> None:
    made = sandbox(ro=[str(vol)]).by(careless("leaves mounts as they are"))
    assert propagated(made, vol) == "ok"


LOCKED = """\
mount --bind {vol} {vol}
mount -o remount,bind,ro,noexec {vol}
mount -t tmpfs -o noexec none {vol}/sub
mount -o remount,bind,ro,noexec {vol}/sub
"""


def _unlocked(path: str) -> tuple[Call, ...]:
    cleared = struct.pack("=QQQQ", 0, RDONLY | NOEXEC, 0, 0)
    return (call("mount_setattr", AT_FDCWD, path, 0, cleared, 32),)


@needs_unshare
def test_fs_13_flags_of_the_hosts_mounts_stay_and_can_not_be_cleared(
    sandbox: Made, vol: Path
) -> None:
    """With every capability and without a filter: the kernel locks what came from outside."""
    made = sandbox(rw=[str(vol)]).removed(*BARE)
    paths = (str(vol), f"{vol}/sub")
    words = words_of([*([call("statfs", path, Out(120))] for path in paths),
                      *(_unlocked(path) for path in paths)])
    found = attack(made, LOCKED.format(vol=vol), words)
    for answer in found[:2]:
        assert flags_of(answer) & (RDONLY | NOSUID | NODEV | NOEXEC) == 15
    assert [answer.word for answer in found[2:]] == ["EPERM", "EPERM"]


@needs_unshare
def test_fs_13_flags_of_ones_own_can(sandbox: Made, vol: Path) -> None:
    made = sandbox(ro=[str(vol)]).removed(*BARE)
    words = words_of([[call("statfs", str(vol), Out(120))], _unlocked(str(vol))])
    found = attack(made, "", words)
    assert flags_of(found[0]) & RDONLY
    assert found[1].word == "ok"


def _write_below(made: Sandbox, vol: Path) -> str:
    scene = f"mount -t tmpfs -o mode=777 none {vol}/sub"
    making = call("openat", AT_FDCWD, "/data/sub/x", CREATE, 0o600)
    return attack(made, scene, words_of([[making]]))[0].word


@needs_unshare
def test_fs_14_what_is_mounted_below_a_read_only_grant_is_read_only(
    sandbox: Made, vol: Path, careless: Careless
) -> None:
    made = sandbox(ro=[f"{vol}:/data"])  # below /tmp Landlock would allow what /tmp does
    assert _write_below(made, vol) in ("EROFS", "EACCES")
    assert _write_below(made.removed(LAYERS["Landlock"]), vol) == "EROFS"
    flat = made.by(careless("leaves mounts as they are"))
    assert _write_below(flat, vol) == "EACCES"
    assert _write_below(flat.removed(LAYERS["Landlock"]), vol) == "ok"


@needs_unshare
@pytest.mark.parametrize("kind", ["net", "mount"])
def test_fs_23_a_namespace_among_the_mounts_of_a_grant_changes_nothing(
    sandbox: Made, vol: Path, kind: str
) -> None:
    """snapd keeps namespaces so; the tree is the one that was granted, or nothing is started."""
    (vol / "file").write_bytes(SECRET)
    (vol / "ns").touch()
    scene = f"mount --make-private --bind {vol} {vol}; unshare --{kind}={vol}/ns true"
    words = words_of([[call("openat", AT_FDCWD, f"{vol}/file", os.O_RDONLY),
                       call("read", Result(0), Out(len(SECRET)), len(SECRET))]])
    done = on_host(scene, command(sandbox(ro=[str(vol)]), words))
    if done.returncode:
        assert (done.returncode, done.stdout) == (125, b"")
        assert b"open_tree: " in done.stderr
    else:
        assert answers_of(done.stdout)[0].out == SECRET


# -- the sandbox's own mounts ----------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_every_mount_has_its_flags_its_size_and_no_way_to_the_hosts(
    sandbox: Made, tmp_path: Path, policy: str
) -> None:
    """FS-11, FS-12, FS-15, FS-20, PR-01: as the kernel lists them."""
    made = sandbox(policy, rw=[str(tmp_path)], tmpfs=["/scratch:1M"])
    found = mounts_of(made)
    paths = {mount.mount_point for mount in found}
    assert {"/", "/proc", "/tmp", "/scratch", "/dev/shm", "/usr", str(tmp_path)} <= paths
    ids = {mount.id for mount in found}
    outer = [mount.mount_point for mount in found if mount.parent not in ids]
    assert outer == ["/"]
    for mount in found:
        device = mount.mount_point.startswith("/dev/") and mount.mount_point != "/dev/shm"
        assert mount.has("nosuid"), mount
        assert mount.has("nodev") is not device, mount
        assert mount.propagation == (), mount
        if mount.type == "tmpfs":
            assert mount.super_option("size"), mount
            assert mount.super_option("nr_inodes"), mount
    options = {mount.mount_point: mount for mount in found}
    assert options["/proc"].type == "proc"
    assert options["/proc"].has("noexec")
    assert options["/proc"].super_option("subset") == "pid"
    assert options["/proc"].super_option("hidepid") == "invisible"
    assert options["/dev/shm"].has("noexec")


def test_fs_20_a_tmpfs_holds_no_more_files_than_was_granted(sandbox: Made) -> None:
    making = [[call("mkdirat", AT_FDCWD, f"/tmp/{program}-{n}", 0o700) for n in range(24)]
              for program in range(6)]
    assert sandbox().removed(changed("root_tmpfs", 1, 128)).attack(*making)[-1].word == "ENOSPC"
    assert sandbox().attack(*making)[-1].word == "ok"


@pytest.mark.parametrize("size", ["0", "", "-1", "1X", str(2**63 + 1), str(2**64 + 4096)])
def test_fs_20_a_size_that_is_none_is_refused(sandbox: Made, size: str) -> None:
    """The kernel would take some of them for no limit at all."""
    with pytest.raises(HardrunError):
        sandbox(tmpfs=[f"/scratch:{size}"])


def _ways_back(canary: Canary) -> list[tuple[Call, ...]]:
    secret = call("openat", AT_FDCWD, str(canary.path / "all"), os.O_RDONLY)
    return [
        (call("mkdirat", AT_FDCWD, "/tmp/d", 0o700), call("openat", AT_FDCWD, "/", os.O_DIRECTORY),
         call("chroot", "/tmp/d"), call("fchdir", Result(1)), call("chdir", "../" * 30),
         call("chroot", "."), secret),
        (call("openat", AT_FDCWD, "/proc/self/ns/mnt", os.O_RDONLY), call("umount2", "/", 2),
         call("setns", Result(0), 0x20000), secret),
    ]


def test_cve_2019_18837_fs_12_whoever_has_every_right_finds_no_way_back(
    sandbox: Made, canary: Canary
) -> None:
    """Without filter and Landlock, with all capabilities: the old root is gone."""
    found = sandbox().removed(*BARE).attack(*_ways_back(canary))
    assert [answer.word for answer in found] == ["ENOENT", "ENOENT"]
    assert [step.word for step in found[0].steps[:-1]] == ["ok"] * 6
    assert found[1].steps[2].word == "ok"


def test_fs_12_after_a_chroot_there_is_one(
    sandbox: Made, canary: Canary, careless: Careless
) -> None:
    made = sandbox().removed(*BARE).by(careless("changes its root by chroot"))
    assert "ok" in [answer.word for answer in made.attack(*_ways_back(canary))]


def test_fs_15_nothing_becomes_set_user_id_on_a_volume(sandbox: Made, tmp_path: Path) -> None:
    made = sandbox(rw=[str(tmp_path)])
    making = (call("openat", AT_FDCWD, str(tmp_path / "x"), CREATE, 0o755),
              call("fchmod", Result(0), 0o4755))
    assert made.one(*making).word == "EPERM"
    assert made.removed(LAYERS["seccomp"]).one(*making).word == "ok"
