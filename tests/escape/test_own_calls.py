"""The executor asks the kernel for what is on a list (own_calls.yaml), and in one order (PL-08).

Twice: in traces of real starts, process by process, and in the objects that it is linked of, where
nothing else can be called at all. Its parent and PID 1 load no filter of their own: a filter is for
life, PID 1's would be the command's too, and one that has to hold what both need refuses little.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.building import copy_sources
from tests.escape import own_calls
from tests.escape.calls import Seen, Start, names, until
from tests.escape.calls import trace as traced
from tests.escape.conftest import Made
from tests.escape.layers import LAYERS, single_id
from tests.escape.own_calls import Asked
from tests.escape.probe import call, words_of
from tests.escape.sandbox import POLICIES, Sandbox
from tests.house.tree import ROOT
from tests.installed import HARDRUN
from tests.sandbox.raw import Program
from tests.sandbox.test_executor_bare import bare

pytestmark = pytest.mark.sandbox
KNOWN = {entry.call: entry for entry in own_calls.read()}
RUNS = {
    "plain": ["--", "/usr/bin/true"],
    "verify": ["--verify", "--", "/usr/bin/true"],
    "report": ["--report", "/dev/null", "--memory", "64M", "--", "/usr/bin/true"],
}
API = ("import hardrun\n"
       "done = hardrun.run(['/usr/bin/cat'], policy='contained', input=b'x' * 300_000,\n"
       "                   capture_output=True)\n"
       "assert len(done.stdout) == 300_000\n")


def of_sandbox(made: Sandbox, directory: Path, *words: str, **options: Any) -> list[Asked]:
    """A program that is a sandbox; whoever is traced gets no id from a helper."""
    path = made.removed(single_id).write()
    return own_calls.trace([path, *words], directory, program=str(path), **options)


class Scenes:
    """Starts of all kinds."""

    def __init__(self, made: Made, image: Path, executor: Path, directory: Path) -> None:
        self.made, self.image, self.executor, self.directory = made, image, executor, directory

    def all(self) -> Iterator[tuple[str, list[Asked]]]:
        """A name, and what the executor's processes asked for."""
        for policy in (*POLICIES, "docker-default"):
            yield policy, of_sandbox(self.made(policy), self.directory)
        (self.directory / "source").mkdir()
        yield "rootfs", of_sandbox(self.made(
            rootfs=str(self.image), ro=[f"{self.directory}/source:/vol/deep"], tmpfs=["/other:1M"]
        ), self.directory)
        yield "rw", of_sandbox(self.made("contained", rw=[f"{self.directory}/source"]),
                               self.directory)
        helped = self.made(userns="auto").write()
        yield "helpers", own_calls.trace([helped], self.directory, program=str(helped))
        yield "time-out", of_sandbox(self.made(limits={"timeout": "300ms"}), self.directory,
                                     *words_of([[call("@hold", 9000)]]))
        yield "signal", self._signalled()
        yield "terminal", self._on_terminal()
        path = Program(self.executor, self.directory).write_plan(
            bare(["sh", "-c", "mkdir -p a/b; touch a/b/c; sleep 99 & exit 3"]))
        yield "without namespaces", own_calls.trace([path], self.directory, program=path)
        for name, words in RUNS.items():
            yield name, self._run("-m", "hardrun", "run", "--policy", "contained", *words)
        yield "front-end", self._run_stored()
        yield "API", self._run("-c", API)

    def _run_stored(self) -> list[Asked]:
        environment = {"HOME": str(self.directory), "PATH": "/usr/bin:/bin"}
        command = [HARDRUN, "run", "--policy", "contained", "--", "/usr/bin/true"]
        subprocess.run(command, env=environment, cwd=self.directory, check=True, timeout=120)
        found = own_calls.trace(command, self.directory, program=HARDRUN, environment=environment,
                                cwd=self.directory)
        assert "readlinkat" in {name for _, name, _ in found}, "not the front-end"
        return found

    def _signalled(self) -> list[Asked]:
        path = self.made().removed(single_id).write()
        script = ('out=$1; shift; "$0" "$@" >"$out" & until [ -s "$out" ]; do sleep 0.01; done; '
                  "kill -TERM $!; sleep 0.1; kill -TERM $!; wait")
        words = words_of([[call("getpid")], [call("@hold", 9000)]])
        return own_calls.trace(["/bin/sh", "-c", script, path, self.directory / "answers", *words],
                               self.directory, program=str(path))

    def _on_terminal(self) -> list[Asked]:
        master, slave = pty.openpty()
        try:
            return of_sandbox(self.made("contained", terminal=True), self.directory, stdin=slave,
                              stdout=slave, stderr=slave)
        finally:
            os.close(slave)
            os.close(master)

    def _run(self, *words: str) -> list[Asked]:
        """The second time: what is tried of the host is known by then."""
        environment = {"HOME": str(self.directory), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8",
                       "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-P", *words]
        subprocess.run(command, env=environment, cwd=self.directory, check=True,
                       capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
        return own_calls.trace(command, self.directory, environment=environment,
                               cwd=self.directory)


def unlisted(asked: Mapping[str, list[Asked]]) -> set[tuple[str, str, str]]:
    """Scene, process and call of what is not on the list."""
    return {(scene, process, name) for scene, calls in asked.items() for process, name, _ in calls
            if name not in KNOWN or process not in KNOWN[name].by}


def test_pl_08_what_the_executor_asks_for_is_a_closed_list(
    sandbox: Made, image: Path, executor: Path, tmp_path: Path
) -> None:
    asked = dict(Scenes(sandbox, image, executor, tmp_path).all())
    assert sorted(unlisted(asked)) == []
    processes = {process for calls in asked.values() for process, *_ in calls}
    assert processes >= {"parent", "init", "workload", "helper"}, "inconclusive: not all were seen"
    seen = {name for calls in asked.values() for _, name, _ in calls}
    assert {name for name, entry in KNOWN.items() if not entry.unseen} == seen


@pytest.mark.usefixtures("groups")
def test_pl_08_a_call_that_is_not_on_the_list_is_found(sandbox: Made, tmp_path: Path) -> None:
    """The control: the command's own calls, taken for the executor's."""
    path = sandbox().removed(single_id).write()
    own_calls.trace([path, *words_of([[call("getpid")]])], tmp_path, program=str(path))
    text = (tmp_path / "own-calls").read_text()
    as_its_own = re.sub(r"^(\d+ +)execve\(0x", r"\1kept(0x", text, flags=re.MULTILINE)
    assert unlisted({"": own_calls.of_executor(as_its_own, str(path))})


# -- what it is linked of -------------------------------------------------------------------------

STATIC = {"errno", "stack_chk_fail", "GLOBAL_OFFSET_TABLE", "TOC"}
COMPUTING = {"cfmakeraw", "memchr", "memcmp", "memcpy", "memmem", "memmove", "memset",
             "sigemptyset", "sigfillset", "strchr", "strcmp", "strcpy", "strcspn",
             "strlen", "strncmp", "strncpy", "strnlen", "strrchr", "strstr"}
"""Functions of the C library that ask the kernel for nothing and allocate nothing."""
CALLS = {"_exit": "exit_group", "alarm": "setitimer", "clock_gettime": "", "fstatat": "newfstatat",
         "getcwd": "getcwd", "isatty": "ioctl", "memfd_create": "memfd_create",
         "recv": "recvfrom", "send": "sendto", "signal": "rt_sigaction",
         "signalfd": "signalfd4", "sigprocmask": "rt_sigprocmask", "sigwaitinfo": "rt_sigtimedwait",
         "sysconf": "", "tcgetattr": "ioctl", "tcsetattr": "ioctl", "waitpid": "wait4",
         "mknod": "mknodat", "syscall": ""}
"""Functions whose call has another name; none where the C library needs no call."""


@pytest.fixture(scope="module")
def objects(executor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executor's own code, compiled and not linked."""
    musl = shutil.which("musl-gcc")
    compiler = [musl] if musl else [sys.executable, "-m", "ziglang", "cc", "-target",
                                    f"{os.uname().machine}-linux-musl"]
    sources = copy_sources(executor, tmp_path_factory.mktemp("objects"))
    for source in sources.glob("*.c"):
        if source.name != "fuzz.c":
            subprocess.run([*compiler, "-std=c11", "-D_GNU_SOURCE", "-Os", "-c", source.name],
                           cwd=sources, check=True)
    return sources


def needed(directory: Path) -> set[str]:
    """What the objects take from the C library."""
    def symbols(which: str) -> set[str]:
        text = subprocess.run(["nm", which, *map(str, directory.glob("*.o"))], check=True,
                              capture_output=True, text=True).stdout
        return {line.split()[-1] for line in text.splitlines() if len(line.split()) > 1}
    return {name for name in symbols("--undefined-only") - symbols("--defined-only")
            if name.strip("_").removesuffix("_location") not in STATIC}


def by_number(directory: Path) -> set[str]:
    """The calls that the sources make without the C library."""
    text = "".join(path.read_text(encoding="utf-8") for path in directory.glob("*.[ch]"))
    used = re.findall(r"(?<!#define )\b(?:SYS|NR)_(\w+)", text)
    return {own_calls.alike(name.lower()) for name in used}


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm(1)")
def test_pl_05_youki_2081_nothing_of_the_c_library_allocates_or_locks(objects: Path) -> None:
    """No malloc, no stdio, no locale, no exit handlers, anywhere: so neither behind the clone."""
    calls = needed(objects) - COMPUTING
    reached = {CALLS.get(name, own_calls.alike(name)) for name in calls} - {""}
    assert reached <= set(KNOWN), "a function that is not known to do one call and nothing else"
    # Whatever is on the list is called by this code; what starts a C program is the rest.
    made_by_start = {"arch_prctl", "set_tid_address", "gettid"}
    assert set(KNOWN) - made_by_start <= reached | by_number(objects)


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm(1)")
def test_pl_05_an_executor_that_allocates_is_found(objects: Path) -> None:
    extra = objects / "extra.o"
    (objects / "extra.s").write_text(".globl extra\nextra:\n\t.quad malloc\n\t.quad fopen\n")
    try:
        subprocess.run(["gcc", "-c", "-o", extra, objects / "extra.s"], check=True)
        assert {"malloc", "fopen"} <= needed(objects) - COMPUTING
    finally:
        extra.unlink(missing_ok=True)


# -- in what order --------------------------------------------------------------------------------


@pytest.fixture
def groups() -> None:
    """Of a user who has none the plan sets none, and what is shown by that shows nothing."""
    if not set(os.getgroups()) - {os.getgid()}:
        pytest.skip("this user has no supplementary groups")


@pytest.fixture
def start(sandbox: Made, tmp_path: Path, groups: None) -> Start:
    """One whose PID 1 can be read to the end, and which has groups to set."""
    return traced(sandbox().removed(LAYERS["not dumpable"]), words_of([[call("getpid")]]), tmp_path)


def place(calls: list[Seen], name: str, argument: str = "", last: bool = False) -> int:
    """Where a call is among others: the first of its kind, or the last."""
    found = [i for i, c in enumerate(calls) if c.name == name and argument in c.arguments]
    assert found, f"no {name} {argument}"
    return found[-1 if last else 0]


def test_pl_08_rights_are_given_up_in_one_order_and_the_exec_comes_behind_all(start: Start
                                                                              ) -> None:
    init, workload = start.init, until(start.workload, "execve")
    order = [place(init, "openat", "uid_map"), place(init, "pivot_root"),
             place(init, "prctl", "PR_CAPBSET_DROP", last=True),
             place(init, "prctl", "PR_SET_SECUREBITS"), place(init, "capset"),
             place(init, "prctl", "PR_SET_NO_NEW_PRIVS"), place(init, "landlock_restrict_self")]
    assert order == sorted(order)
    order = [place(workload, "setsid"), place(workload, "close_range"),
             place(workload, "seccomp"), place(workload, "execve")]
    assert order == sorted(order)
    assert names(workload)[-3:] == ["close_range", "seccomp", "execve"]


@pytest.mark.usefixtures("groups")
def test_pl_08_groups_come_before_what_takes_the_right_to_set_them(sandbox: Made) -> None:
    """They need newgidmap, which is nobody's while it is traced: the plan is what is checked, as
    the executor checks it (test_operations_out_of_order_are_refused)."""
    steps = [step for step in sandbox().steps if step in (
        "become", "set_groups", "drop_bounding", "set_securebits", "set_capabilities",
        "no_new_privs", "landlock_restrict", "close_descriptors", "load_seccomp", "execute")]
    assert steps == ["set_groups", "drop_bounding", "set_securebits", "set_capabilities",
                     "no_new_privs", "landlock_restrict", "close_descriptors", "load_seccomp",
                     "execute"]


def test_pl_08_no_name_of_the_host_is_looked_up_in_the_new_root(start: Start) -> None:
    """Behind pivot_root names start at the new root or, in it, at a descriptor of it."""
    behind = start.init[place(start.init, "pivot_root"):]
    looked_up = [c for c in (*behind, *until(start.workload, "execve"))
                 if c.name in ("openat", "openat2", "execve", "chdir", "open_tree", "mount")]
    assert looked_up
    assert not [c for c in looked_up if any(str(ROOT) in p or p.startswith("/proc/")
                                            for p in c.paths)]

