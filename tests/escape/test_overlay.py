"""Overlay roots: the tree below is never written, whatever is done above it, and hides no way out.

Most sandboxes here have neither a filter nor a Landlock domain, and where it says so every
capability of their own namespaces, so that the layer alone holds.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from hardrun.errors import PolicyRefused
from hardrun.plan.context import Layer
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.paused import Paused
from tests.escape.probe import AT_FDCWD, Call, Out, Result, call, contents, words_of
from tests.escape.sandbox import Sandbox

pytestmark = pytest.mark.sandbox
NEW = os.O_WRONLY | os.O_CREAT
AT_REMOVEDIR = 0x200
BARE = (LAYERS["seccomp"], LAYERS["Landlock"])
ALL_CAPABILITIES = (*BARE, LAYERS["capability sets"])
WHITEOUT = stat.S_IFCHR | 0o666, os.makedev(0, 0)
REDIRECT, METACOPY, OPAQUE = (f"user.overlay.{name}" for name in ("redirect", "metacopy", "opaque"))


def written(path: str, flags: int = os.O_WRONLY) -> tuple[Call, ...]:
    return (call("openat", AT_FDCWD, path, flags, 0o644), call("write", Result(0), b"hostile", 7))


def opening(path: str) -> tuple[Call, ...]:
    return (call("openat", AT_FDCWD, path, 0, 0),)


HOSTILE = (
    written("/file", os.O_WRONLY | os.O_TRUNC), written("/dir/inner", os.O_WRONLY | os.O_APPEND),
    written("/new", NEW), written("/dir/new", NEW),
    (call("unlinkat", AT_FDCWD, "/gone", 0),),
    (call("renameat2", AT_FDCWD, "/moved", AT_FDCWD, "/dir/moved", 0),),
    (call("renameat2", AT_FDCWD, "/tree", AT_FDCWD, "/tree2", 0),),
    (call("unlinkat", AT_FDCWD, "/tree/leaf", 0), call("unlinkat", AT_FDCWD, "/tree", AT_REMOVEDIR),
     call("mkdirat", AT_FDCWD, "/tree", 0o700)),
    (call("fchmodat", AT_FDCWD, "/mode", 0o6777),), (call("fchmodat", AT_FDCWD, "/dir", 0o777),),
    (call("fchownat", AT_FDCWD, "/mode", 0, 0, 0),),
    (call("utimensat", AT_FDCWD, "/mode", 0, 0),),
    (call("linkat", AT_FDCWD, "/file", AT_FDCWD, "/dir/hard", 0),),
    (call("symlinkat", "/etc/passwd", AT_FDCWD, "/link"),),
    (call("setxattr", "/file", "user.hostile", b"x", 1, 0),),
    (call("setxattr", "/dir", OPAQUE, b"y", 1, 0),),
    (call("setxattr", "/dir", REDIRECT, b"/tree", 5, 0),),
    (call("mknodat", AT_FDCWD, "/dir/white", *WHITEOUT),),
    (call("truncate", "/file", 0),),
)


def fingerprint(tree: Path) -> dict[str, tuple[object, ...]]:
    """All that could be changed of a tree: names, modes, owners, times, content, attributes."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (tree, *sorted(tree.rglob("*"))):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() \
            and not path.is_symlink() else ""
        attributes = {name: os.getxattr(path, name, follow_symlinks=False)
                      for name in os.listxattr(path, follow_symlinks=False)}
        found[str(path.relative_to(tree))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_size,
            status.st_mtime_ns, status.st_ctime_ns, content, tuple(sorted(attributes.items())))
    return found


@pytest.fixture
def tree(image: Path) -> Path:
    for name in ("dir", "tree"):
        (image / name).mkdir()
    for name in ("file", "dir/inner", "gone", "moved", "tree/leaf", "mode"):
        (image / name).write_text("of the image")
    (image / "mode").chmod(0o640)
    return image


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    directory = tmp_path / "layers"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture(params=["ephemeral", "persistent"])
def layered(request: pytest.FixtureRequest, sandbox: Made, tree: Path,
            layers: Path) -> Sandbox:
    layer = Layer(str(layers), 1) if request.param == "persistent" else None
    return sandbox("contained", rootfs=str(tree), writable=request.param, layer=layer)


def kept(sandbox: Made, tree: Path, layers: Path) -> Sandbox:
    return sandbox("contained", rootfs=str(tree), writable="persistent",
                   layer=Layer(str(layers), 1))


def without_layer(planned: Planned) -> Planned:
    """The given tree itself as the root, writable."""
    return planned.drop("layer").change("root_overlay", lambda o: o._replace(name="root_bind"))


def test_the_tree_below_is_never_changed(layered: Sandbox, tree: Path) -> None:
    before = fingerprint(tree)
    answers = layered.removed(*ALL_CAPABILITIES).attack(*HOSTILE)
    worked = [answer.word for answer in answers].count("ok")
    assert worked >= 10, [answer.word for answer in answers]
    assert fingerprint(tree) == before


def test_without_the_layer_it_is(layered: Sandbox, tree: Path) -> None:
    before = fingerprint(tree)
    layered.removed(*ALL_CAPABILITIES, without_layer).attack(*HOSTILE)
    assert fingerprint(tree) != before


def test_what_the_policies_start_writes_and_leaves_the_tree(layered: Sandbox, tree: Path) -> None:
    """With every defence in force a layer is writable: else it would be of no use."""
    before = fingerprint(tree)
    assert layered.one(*written("/new", NEW)).word == "ok"
    assert layered.one(*written("/file"), *contents("/file")[:1],
                       call("read", Result(2), Out(7), 7)).text == "hostile"
    assert fingerprint(tree) == before


def test_nothing_of_the_host_lies_behind_the_root(layered: Sandbox, careless: Careless) -> None:
    outside = opening("/../etc/passwd")
    bare = layered.removed(*BARE)
    assert bare.one(*outside).word != "ok"
    found = bare.by(careless("leaves the layers mounted")).one(*outside)
    assert found.word == "ok"


def test_every_mount_of_a_layered_root_is_one_of_the_plan(layered: Sandbox) -> None:
    answer = layered.one(call("openat", AT_FDCWD, "/proc/self/mountinfo", 0),
                         call("read", Result(0), Out(16384), 16384))
    lines = answer.text.splitlines()
    points = [line.split()[4] for line in lines]
    assert points.count("/") == 1
    root = next(line for line in lines if line.split()[4] == "/")
    assert {"rw", "nosuid", "nodev"} <= set(root.split()[5].split(","))
    assert " overlay " in root
    assert all(p in ("/", "/proc", "/tmp") or p.startswith("/dev") for p in points), points


@pytest.mark.parametrize("careful", ["asks for redirects", "asks for metacopy"])
def test_the_kernel_itself_takes_no_redirects_with_marks_of_a_user(
    layered: Sandbox, careless: Careless, careful: str
) -> None:
    done = layered.by(careless(careful)).start()
    assert done.returncode == 125
    assert b"fsconfig: EINVAL" in done.stderr


def test_redirects_and_metacopies_that_an_image_planted_are_not_followed(
    sandbox: Made, tree: Path, layers: Path, tmp_path: Path
) -> None:
    """In the tree and in the layer alike: an unpacked image may bring any user attribute."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/leaf").write_text("secret")
    made = kept(sandbox, tree, layers).removed(*BARE)
    upper = layers / "1.upper"
    upper.mkdir()
    (upper / "empty").mkdir()
    (upper / "thin").write_bytes(b"")
    for target in (tree / "dir", upper / "empty"):
        os.setxattr(target, REDIRECT, b"/tree")
    for target in (tree / "mode", upper / "thin"):
        os.setxattr(target, METACOPY, b"")
        os.setxattr(target, REDIRECT, str(tmp_path / "secret/leaf").encode())
    before = fingerprint(tree)
    found = made.attack(opening("/empty/leaf"), opening("/dir/leaf"), contents("/thin", 16),
                        contents("/mode", 16))
    assert [answer.word for answer in found[:2]] == ["EPERM", "ENOENT"]
    assert "secret" not in found[2].text + found[3].text
    assert fingerprint(tree) == before


def test_marks_of_overlay_can_not_be_set_from_inside(
    sandbox: Made, tree: Path, layers: Path
) -> None:
    made = kept(sandbox, tree, layers).removed(*ALL_CAPABILITIES)
    made.attack((call("mkdirat", AT_FDCWD, "/own", 0o755),
                 call("setxattr", "/own", REDIRECT, b"/tree", 5, 0)),
                (call("mknodat", AT_FDCWD, "/white", *WHITEOUT),))
    assert REDIRECT not in os.listxattr(layers / "1.upper/own")
    assert not (layers / "1.upper/white").exists()
    assert made.one(*opening("/own/leaf")).word == "ENOENT"


def test_a_whiteout_in_an_image_hides_itself_alone(layered: Sandbox, tree: Path) -> None:
    """Anybody may make one (Linux 5.8): what looks like a removed name shows nothing else."""
    os.mknod(tree / "white", *WHITEOUT)
    before = fingerprint(tree)
    found = layered.removed(*BARE).attack(opening("/white"), written("/white", NEW),
                                          opening("/file"))
    assert [answer.word for answer in found] == ["ENOENT", "ok", "ok"]
    assert fingerprint(tree) == before


@pytest.mark.root
def test_device_nodes_of_an_image_can_not_be_opened(
    sandbox: Made, tree: Path, careless: Careless
) -> None:
    """By the mount's flag, and by the kernel alone: a user namespace has mounted the overlay."""
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    made = sandbox("contained", rootfs=str(tree), writable="ephemeral").removed(*BARE)
    for executor in (None, careless("overlays with devices")):
        tried = made if executor is None else made.by(executor)
        assert tried.one(*opening("/null")).word == "EACCES"
    assert tried.one(*opening("/file")).word == "ok"


def test_set_user_id_bits_of_a_layer_have_no_effect(layered: Sandbox, tree: Path) -> None:
    """nosuid, whatever no_new_privs says: the mount of the layer is the sandbox's own."""
    made = layered.removed(*ALL_CAPABILITIES)
    answer = made.one(call("openat", AT_FDCWD, "/proc/self/mountinfo", 0),
                      call("read", Result(0), Out(16384), 16384))
    root = next(line for line in answer.text.splitlines() if line.split()[4] == "/")
    assert "nosuid" in root.split()[5].split(",")


def test_device_nodes_can_not_be_made_in_a_layer(layered: Sandbox) -> None:
    made = layered.removed(*ALL_CAPABILITIES)
    device = call("mknodat", AT_FDCWD, "/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))
    assert made.one(device).word == "EPERM"


# -- where a layer is kept -------------------------------------------------------------------------


def test_a_kept_layer_is_there_the_next_time_and_no_other(
    sandbox: Made, tree: Path, layers: Path
) -> None:
    made = kept(sandbox, tree, layers)
    assert made.attack(written("/new", NEW), (call("unlinkat", AT_FDCWD, "/gone", 0),))
    assert made.one(*contents("/new", 16)).text == "hostile"
    assert made.one(*opening("/gone")).word == "ENOENT"
    other = sandbox("contained", rootfs=str(tree), writable="persistent",
                    layer=Layer(str(layers), 2))
    assert other.one(*opening("/new")).word == "ENOENT"
    assert other.one(*contents("/gone", 16)).text == "of the image"


def test_a_layer_without_changes_leaves_nothing_behind(
    sandbox: Made, tree: Path, layers: Path
) -> None:
    made = kept(sandbox, tree, layers)
    assert made.one(call("getpid")).word == "ok"
    assert list(layers.iterdir()) == []
    made.one(*written("/new", NEW))
    assert sorted(p.name for p in layers.rglob("*")) == ["1.upper", "new"]


@pytest.mark.parametrize("name", ["layer", "root_overlay", "make_directory", "pivot_root",
                                  "no_new_privs"])
def test_a_start_that_fails_leaves_no_layer(
    sandbox: Made, tree: Path, layers: Path, pausing: Path, tmp_path: Path, name: str
) -> None:
    before = fingerprint(tree)
    made = kept(sandbox, tree, layers).by(pausing)
    with Paused(tmp_path, made.steps.index(name), errno.EXDEV, stop=False) as paused:
        done = made.start(env=paused.environment)
    assert (done.returncode, b"injected: EXDEV" in done.stderr) == (125, True)
    assert list(layers.iterdir()) == []
    assert fingerprint(tree) == before


@pytest.mark.parametrize("name", ["layer", "make_directory", "pivot_root"])
def test_fs_18_a_layer_that_is_exchanged_meanwhile_is_not_followed(
    sandbox: Made, tree: Path, layers: Path, pausing: Path, tmp_path: Path, name: str
) -> None:
    """What was opened is what is used: names on the host are of no account any more."""
    made = kept(sandbox, tree, layers).by(pausing)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    with Paused(tmp_path, made.steps.index(name)) as paused:
        process = subprocess.Popen([made.write(), *words_of([written("/new", NEW)])],
                                   env=paused.environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert paused.wait(process)
        layers.rename(tmp_path / "aside")
        layers.symlink_to(tmp_path / "elsewhere")
        paused.go()
        error = process.communicate(timeout=60)[1]
    assert process.returncode == (125 if name == "layer" else 0), error
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "aside/1.upper/new").exists() is (name != "layer")


def test_an_ephemeral_layer_holds_what_the_limits_say_and_is_gone(
    sandbox: Made, tree: Path
) -> None:
    made = sandbox(rootfs=str(tree), writable="ephemeral").removed(*BARE)
    fill = (call("openat", AT_FDCWD, "/big", NEW, 0o644),
            call("fallocate", Result(0), 0, 0, 300 << 20))
    assert made.one(*fill).word == "ENOSPC"
    layer = next(o for o in made.planned.operations if o.name == "layer")
    assert 0 < int(str(layer.values[2])) <= 256 << 20
    assert made.one(*opening("/big")).word == "ENOENT"


def test_another_users_directory_is_no_place_for_layers(
    sandbox: Made, tree: Path, layers: Path, careless: Careless
) -> None:
    made = kept(sandbox, tree, layers)
    layers.chmod(0o750)
    done = made.start()
    assert done.returncode == 125
    assert b"not a directory of the caller alone: EPERM" in done.stderr
    assert list(layers.iterdir()) == []
    assert made.by(careless("takes any directory for layers")).start().returncode == 0


def test_fs_18_a_link_to_layers_is_not_followed(
    sandbox: Made, tree: Path, layers: Path, tmp_path: Path, careless: Careless
) -> None:
    made = kept(sandbox, tree, layers)
    layers.rename(tmp_path / "aside")
    layers.symlink_to(tmp_path / "aside")
    assert b"openat2: ELOOP" in made.start().stderr
    assert list((tmp_path / "aside").iterdir()) == []
    assert made.by(careless("follows links to layers")).start().returncode == 0


@pytest.mark.parametrize("name", ["upper", "work"])
def test_fs_18_a_link_in_the_place_of_a_layer_is_not_followed(
    sandbox: Made, tree: Path, layers: Path, tmp_path: Path, name: str
) -> None:
    made = kept(sandbox, tree, layers)
    (tmp_path / "elsewhere").mkdir()
    (layers / f"1.{name}").symlink_to(tmp_path / "elsewhere")
    done = made.start()
    assert done.returncode == 125
    assert b"existing file: ELOOP" in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_fs_18_names_that_overlay_would_read_as_options_are_none(
    sandbox: Made, image: Path, tmp_path: Path
) -> None:
    """A colon, a comma or a backslash in a path: nothing of a path is in the options at all."""
    odd = tmp_path / "a:b,lowerdir=\\x"
    image.rename(odd)
    store = tmp_path / "l:a,y\\ers"
    store.mkdir(mode=0o700)
    (odd / "file").write_text("of the image")
    made = sandbox("contained", rootfs=str(odd), writable="persistent", layer=Layer(str(store), 7))
    assert made.one(*contents("/file", 16)).text == "of the image"
    made.one(*written("/file"))
    assert (odd / "file").read_text() == "of the image"
    assert (store / "7.upper/file").read_text().startswith("hostile")


def test_policies_bound_the_layer(sandbox: Made, tree: Path, layers: Path) -> None:
    for policy, writable in (("untrusted", "persistent"), ("judge", "ephemeral")):
        with pytest.raises(PolicyRefused, match=r"filesystem\.overlay"):
            sandbox(policy, rootfs=str(tree), writable=writable)
