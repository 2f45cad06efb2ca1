"""The same for everybody: one root file system, one program in it, one writable directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hardrun.errors import BadInput, HostUnsupported
from hardrun.plan.ctable import header

PROBE = "/bin/probe"
WRITABLE = "/work"
DATA = "/data"
DATA_SIZE = 8 << 20
_SOURCES = Path(__file__).parent
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-static", "-Os", "-s", "-I",
          str(_SOURCES.parent / "executor"))


@dataclass(frozen=True)
class Scene:
    """What every contender gets. ``command`` is what is started; ``rootfs`` its root.

    ``host`` are directories of the host that are shown read-only in it, for a command of the
    caller's own. ``directory`` is where state of any kind goes, and is removed at the end.
    """

    directory: Path
    rootfs: Path
    command: tuple[str, ...] = (PROBE,)
    policies: tuple[str, ...] = ("untrusted",)
    host: tuple[str, ...] = ()
    floor: Path | None = None

    @property
    def writable(self) -> Path:
        """The one directory that may be written, ``/work`` inside."""
        return self.directory / "work"

    @property
    def probed(self) -> bool:
        """Whether the program is ours, and can do more than end."""
        return self.command[0] == PROBE

    def outside(self, command: tuple[str, ...]) -> list[str]:
        """The same command without any sandbox: the same files by their names outside."""
        if not self.probed:
            return list(command)
        names = {PROBE: f"{self.rootfs}{PROBE}", DATA: f"{self.rootfs}{DATA}"}
        return [names.get(word, f"{self.writable}{word[len(WRITABLE):]}"
                          if word.startswith(WRITABLE + "/") else word) for word in command]


def compilers() -> Iterator[list[str]]:
    """C compilers that may make a static program, the best first."""
    for name in ("musl-gcc", "cc", "gcc", "clang"):
        if shutil.which(name):
            yield [name]
    yield [sys.executable, "-m", "ziglang", "cc", "-target", f"{os.uname().machine}-linux-musl"]


def build(name: str, target: Path) -> None:
    """Compile ``NAME.c`` of this directory. Raises HostUnsupported without a C compiler."""
    with tempfile.TemporaryDirectory() as headers:
        (Path(headers) / "operations.h").write_text(header())  # which no wheel has
        for compiler in compilers():
            done = subprocess.run([*compiler, *_FLAGS, "-I", headers, "-o", str(target),
                                   str(_SOURCES / f"{name}.c")], capture_output=True, check=False)
            if done.returncode == 0:
                return
    raise HostUnsupported("no C compiler that makes static programs", fact="compiler",
                          hint="apt-get install musl-tools, or pip install ziglang; a command of "
                               "your own needs none: hardrun bench startup -- /bin/true")


def _make_rootfs(rootfs: Path) -> None:
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp", "work", "root", "usr"):
        (rootfs / name).mkdir(parents=True)
    build("probe", rootfs / PROBE[1:])
    (rootfs / DATA[1:]).write_bytes(bytes(range(256)) * (DATA_SIZE // 256))


def _host_root(rootfs: Path) -> tuple[str, ...]:
    """A root that shows /usr and /etc of the host, for a command that lies there."""
    for name in ("proc", "dev", "sys", "tmp", "work", "root", "usr", "etc"):
        (rootfs / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink(f"/{name}"):
            (rootfs / name).symlink_to(os.readlink(f"/{name}"))
    return ("/usr", "/etc")


@contextmanager
def scene(*, policies: tuple[str, ...] = (), rootfs: str | None = None,
          command: tuple[str, ...] = ()) -> Iterator[Scene]:
    """A scene below /var/tmp (a disk, where /tmp may be memory), removed at the end.

    Raises BadInput for a root or command that can't be, HostUnsupported without a C compiler.
    """
    with tempfile.TemporaryDirectory(prefix="hardrun-bench-", dir=_disk(),
                                     ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        directory.chmod(0o755)  # a container whose root is another id walks through it
        (directory / "work").mkdir()
        kept = policies or ("untrusted",)
        if rootfs is not None:
            if not Path(rootfs).is_dir():
                raise BadInput(f"--rootfs {rootfs}: not a directory", hint="name an unpacked root")
            yield Scene(directory, Path(rootfs).resolve(), command or ("/bin/true",), kept)
        elif command:
            if not command[0].startswith("/"):
                found = shutil.which(command[0])
                if found is None:
                    raise BadInput(f"{command[0]}: not found", hint="name a program of the host")
                command = (found, *command[1:])
            yield Scene(directory, directory / "rootfs", command, kept,
                        host=_host_root(directory / "rootfs"))
        else:
            _make_rootfs(directory / "rootfs")
            build("floor", directory / "floor")
            yield Scene(directory, directory / "rootfs", (PROBE,), kept, floor=directory / "floor")


def _disk() -> str | None:
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else None  # nosec B108 - mkdtemp, 0700
