"""What is measured: one static program that does nothing, started in every way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """
int main(int argc, char **argv) {
    char byte;
    (void)argv;
    if (argc > 1) { /* hold: until standard input ends */
        extern long read(int, void *, unsigned long);
        while (read(0, &byte, 1) > 0) {}
    }
    return 0;
}
"""


class Contender(NamedTuple):
    """One way to start the program. ``prepare`` is called before each start, outside the clock."""

    name: str
    note: str
    argv: Callable[[int], list[str]]
    prepare: Callable[[], None] = lambda: None
    version: str = ""


def _quietly(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{argv[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _version(*argv: str) -> str:
    return _quietly(*argv).splitlines()[0].split()[-1]


def build_true(directory: Path) -> Path:
    """A static program, by the compiler that the executor is built with."""
    source, program = directory / "true.c", directory / "true"
    source.write_text(SOURCE)
    musl = shutil.which("musl-gcc")
    compiler = [musl] if musl else [sys.executable, "-m", "ziglang", "cc", "-target",
                                    f"{os.uname().machine}-linux-musl"]
    _quietly(*compiler, "-static", "-Os", "-s", "-o", str(program), str(source))
    return program


def compile_plan(hardrun: str, program: Path, output: Path) -> Path:
    """What ``hardrun compile`` makes of the program under the policy untrusted."""
    _quietly(hardrun, "compile", "--policy", "untrusted", "--ro", str(program), "-o", str(output),
             "--", str(program), cwd=output.parent)
    return output


def _bwrap(program: Path) -> list[str]:
    """All the namespaces that untrusted has, a private /proc, /dev and /tmp, no filter."""
    return ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc",
            "--unshare-uts", "--unshare-cgroup", "--die-with-parent", "--new-session",
            "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib",
            "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "--dir", "/etc",
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(program),
            "/true", "/true"]


def _bundle(directory: Path, program: Path) -> Path:
    """``runc spec --rootless`` with what it leaves out: a network namespace."""
    bundle = directory / "bundle"
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp"):
        (bundle / "rootfs" / name).mkdir(parents=True)
    shutil.copy2(program, bundle / "rootfs" / "bin" / "true")
    _quietly("runc", "spec", "--rootless", cwd=bundle)
    document = json.loads((bundle / "config.json").read_text())
    document["process"] |= {"terminal": False, "args": ["/bin/true"]}
    document["linux"]["namespaces"] += [{"type": "network"}, {"type": "cgroup"}]
    # A cgroup that an ordinary user can't write would fail the start and measures nothing here.
    document["mounts"] = [m for m in document["mounts"] if m["type"] != "cgroup"]
    (bundle / "config.json").write_text(json.dumps(document))
    return bundle


def _runtime(name: str, bundle: Path) -> Callable[[int], list[str]]:
    state = bundle.parent / f"state-{name}"
    # crun gives up on hosts with both cgroup versions unless it is told to make no cgroup.
    flags = ["--cgroup-manager=disabled"] if name == "crun" else []
    return lambda n: [name, *flags, "--root", str(state), "run", "--bundle", str(bundle),
                      f"bench-{os.getpid()}-{n}"]


def _hardrun_run(hardrun: str, program: Path) -> list[str]:
    return [hardrun, "run", "--policy", "untrusted", "--ro", str(program), "--", str(program)]


def all_contenders(directory: Path, hardrun: str) -> list[Contender]:
    """Every way that this host has. Raises SystemExit when the preparation fails."""
    program = build_true(directory)
    plan = compile_plan(hardrun, program, directory / "compiled")
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "hardrun"
    run = _hardrun_run(hardrun, program)
    found = [
        Contender("plain", "fork and exec", lambda _: [str(program)]),
        Contender("compiled plan", "policy untrusted: all namespaces, seccomp, capabilities, "
                  "Landlock, mounts, PID 1", lambda _: [str(plan)]),
        Contender("hardrun run, cached", "policy untrusted, the plan is in the cache",
                  lambda _: run),
        Contender("hardrun run, cold", "policy untrusted, no cached plan", lambda _: run,
                  lambda: shutil.rmtree(cache, ignore_errors=True)),
    ]
    if shutil.which("unshare"):
        found.append(Contender(
            "unshare", "the same namespaces, proc mounted, nothing else", lambda _: [
                "unshare", "--map-root-user", "--mount", "--pid", "--fork", "--net", "--ipc",
                "--uts", "--cgroup", "--mount-proc", str(program)],
            version=_version("unshare", "--version")))
    if shutil.which("bwrap"):
        argv = _bwrap(program)
        found.append(Contender("bwrap", "the same namespaces, no seccomp, no Landlock",
                               lambda _: argv, version=_version("bwrap", "--version")))
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where Debian has runc
    if shutil.which("runc"):
        bundle = _bundle(directory, program)
        for name in filter(shutil.which, ("runc", "crun")):
            found.append(Contender(
                name, "`spec --rootless` with a network and a cgroup namespace, no seccomp",
                _runtime(name, bundle), version=_version(name, "--version")))
    return found
