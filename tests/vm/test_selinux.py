"""SELinux enforcing: the types of the policies, what they deny alone, and one sandbox from another.

The modules of profiles/selinux are in the machine's policy. Where a denial is asserted, Landlock
and seccomp are left out or the sandbox is only a label, so that nothing else can be the reason.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hardrun
from hardrun.host import labels
from hardrun.host.probe import EXECUTOR, probe
from hardrun.kernel import selinux as kernel
from hardrun.kernel.selinux import Context, file_type
from hardrun.plan.schema import Operation, Unsafe
from hardrun.profile import selinux, selinux_host
from tests.sandbox.raw import Program, bind, operation
from tests.vm.guest import as_root, kernel_log

pytestmark = pytest.mark.vm("selinux")
JUDGE, UNTRUSTED = "hardrun_judge_t", "hardrun_untrusted_t"
LANDLOCK = ("landlock_ruleset", "landlock_path", "landlock_restrict")
KEYCTL, GET_SECURITY = 250, 17  # the call's number on x86-64
PERMISSIVE = "init_t"  # in this rig
WORK = """
import mmap, os, socket, subprocess, tempfile, threading
one, other = socket.socketpair()
thread = threading.Thread(target=print); thread.start(); thread.join()
mmap.mmap(-1, 4096, prot=7)
script = os.path.join(tempfile.mkdtemp(), "s"); open(script, "w").write("#!/bin/sh\\necho $1\\n")
os.chmod(script, 0o755)
print(subprocess.run([script, "ran"], capture_output=True, text=True).stdout.strip(), flush=True)
server = socket.socket(socket.AF_UNIX); server.bind("/tmp/u"); server.listen()
socket.socket(socket.AF_UNIX).connect("/tmp/u")
os.write(os.open("/dev/stdout", os.O_WRONLY), b"reopened\\n")
os.read(os.open("/dev/urandom", os.O_RDONLY), 1)
open("made", "w").write("by a sandbox"); os.mkdir("directory"); os.symlink("made", "link")
print(open("/proc/self/attr/current").read().strip("\\0\\n"))
"""


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def _labelled(domain: str, files: str = "", required: int = 1) -> list[Operation]:
    return [operation("draw_label", domain, files or file_type(domain), required),
            operation("set_exec_label", "selinux", domain),
            operation("expect_label", "selinux", domain)]


def _raw(program: Program, argv: Sequence[str], *extra: Operation, domain: str = UNTRUSTED,
         **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A sandbox without Landlock, with a filter that allows everything, under a type."""
    return program.run(argv, [*_labelled(domain), *extra], LANDLOCK, Unsafe.NO_LANDLOCK, **options)


def _contexts(program: Program, count: int) -> set[str]:
    return {_raw(program, ["cat", "/proc/self/attr/current"]).stdout.decode().strip("\0\n")
            for _ in range(count)}


def _denials(since: int) -> list[str]:
    return [line for line in kernel_log()[since:] if "avc:  denied" in line]


# -- what a type allows ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", selinux.SHIPPED)
def test_a_workload_runs_under_the_type_of_its_policy(policy: str, tmp_path: Path) -> None:
    before = len(kernel_log())
    done = hardrun.run([sys.executable if policy == "agent" else "python3", "-c", WORK],
                       policy=policy, rw=[str(tmp_path)], workdir=str(tmp_path),
                       ro=[sys.prefix], capture_output=True, text=True, cpu_time=30, timeout=60)
    assert done.stderr == ""
    *words, label = done.stdout.split()
    assert words == ["ran", "reopened"]
    context = Context.parse(label)
    assert context is not None
    assert context.type == selinux.type_of(policy)
    assert len(context.categories) == 2
    mandatory = next(c for c in done.decision.controls if c.control == "mandatory")
    assert (mandatory.enforcement.kind, mandatory.enforcement.by) == (
        "enforced", (f"selinux:{selinux.type_of(policy)}",))
    # the next sandbox, with other categories, can use what this one made
    assert {kernel.label_of(str(path)).split(":", 3)[3] for path in tmp_path.iterdir()} == {"s0"}
    assert not _denials(before)


def test_verify_finds_type_and_categories_in_force() -> None:
    done = subprocess.run(["hardrun", "run", "--verify", "--", "true"], check=False,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_tmpfs_terminals_and_keyring_have_the_categories_of_the_sandbox(program: Program) -> None:
    show = ("import os; print(open('/proc/self/attr/current').read().strip('\\0\\n'));"
            "open('/tmp/f', 'w'); os.mkfifo('/tmp/p');"
            "[print(os.getxattr(p, 'security.selinux').decode().strip('\\0'))"
            " for p in ('/', '/tmp', '/tmp/f', '/tmp/p', '/dev/pts/ptmx')];"
            "os.sys.stdout.flush(); os.read(0, 1)")
    view = [operation("make_directory", "/dev/pts", 0o755), operation("mount_devpts", "/dev/pts")]
    path = program.write(["python3", "-c", show], [*_labelled(UNTRUSTED), *view], LANDLOCK,
                         Unsafe.NO_LANDLOCK)
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(6)]
        own, *files = (Context.parse(line) for line in lines)
        keyring = _security_of_key(f"hardrun-test:{own}")
        process.stdin.close()
    assert own is not None
    assert {(f.type, f.range) for f in files if f} == {(file_type(UNTRUSTED), own.range)}
    assert len(files) == 5
    assert keyring == str(own)


def _security_of_key(name: str) -> str:
    """The label of a key of this user, by its name in /proc/keys."""
    [line] = [key for key in Path("/proc/keys").read_text().splitlines() if f" {name}: " in key]
    text = ctypes.create_string_buffer(256)
    size = ctypes.CDLL(None).syscall(KEYCTL, GET_SECURITY, int(line.split()[0], 16), text, 256)
    assert size > 0
    return text.value.decode()


def test_every_start_draws_anew(program: Program) -> None:
    """A compiled program too: what it holds is the type."""
    assert len(_contexts(program, 8)) == 8


# -- what it denies --------------------------------------------------------------------------------


@pytest.mark.parametrize("source, kind", [("/etc/selinux", "dir"), ("/boot", "dir")])
def test_a_file_of_another_kind_is_eacces_inside_and_an_avc_in_the_log(
        program: Program, source: str, kind: str) -> None:
    since = len(kernel_log())
    read = ["python3", "-c", "import os; os.listdir('/etc/there')"]
    view = [operation("make_directory", "/etc/there", 0o755), bind(source, "/etc/there")]
    done = _raw(program, read, *view)
    assert b"PermissionError: [Errno 13]" in done.stderr
    denial = next(line for line in _denials(since) if f":{UNTRUSTED}:" in line)
    assert f"tclass={kind} permissive=0" in denial
    # the control: without a label the same sandbox reads it
    assert program.run(read, view, LANDLOCK, Unsafe.NO_LANDLOCK).returncode == 0


@pytest.mark.parametrize("domain, code, allowed", [
    (JUDGE, "import socket; socket.socket()", False),
    (UNTRUSTED, "import socket; socket.socket()", True),
    (UNTRUSTED, "import socket; socket.socket(17, 3)", False),
    (UNTRUSTED, "import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(16, 1, 0, 0) != 0)", False),
    (UNTRUSTED, "import os; os.write(os.open('/proc/self/attr/exec', 1), b'u:r:bin_t:s0')", False),
    (UNTRUSTED, "import os; os.kill(1, 0)", False),
])
def test_the_type_alone_denies_what_the_policy_does(
        program: Program, domain: str, code: str, allowed: bool) -> None:
    assert (_raw(program, ["python3", "-c", code], domain=domain).returncode == 0) == allowed


# -- one sandbox from another: nothing but labels, in the same namespaces --------------------------

NEIGHBOUR = """
import json, os, socket, sys, ctypes, errno
pid, directory, keyring = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "through"
libc = ctypes.CDLL(None, use_errno=True)
def view_key():
    if libc.syscall(250, 6, keyring, None, 0) < 0:
        raise OSError(ctypes.get_errno(), "")
def datagram(): socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", directory + "/dgram")
print(json.dumps({name: attempt(action) for name, action in {
    "signal": lambda: os.kill(pid, 0),
    "status": lambda: open(f"/proc/{pid}/status").read(),
    "memory": lambda: open(f"/proc/{pid}/maps").read(),
    "descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
    "scheduling": lambda: os.sched_getaffinity(pid),
    "stream": lambda: socket.socket(socket.AF_UNIX).connect(directory + "/stream"),
    "datagram": datagram,
    "shared memory": lambda: open(f"/proc/{pid}/fd/9").read(),
    "key": view_key,
}.items()}))
"""
RESIDENT = """
import os, socket, sys, ctypes
directory = sys.argv[1]
stream = socket.socket(socket.AF_UNIX); stream.bind(directory + "/stream"); stream.listen()
datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); datagram.bind(directory + "/dgram")
os.dup2(os.memfd_create("shared"), 9)
libc = ctypes.CDLL(None)
print(libc.syscall(250, 1, None), flush=True)
sys.stdin.read()
"""


def _context(domain: str, categories: str) -> str:
    own = kernel.context_of()
    assert own is not None
    return str(own._replace(type=domain, range=f"s0:{categories}"))


def _under(context: str, code: str, *arguments: str) -> list[str]:
    return ["runcon", context, "python3", "-c", code, *arguments]


@contextmanager
def _resident(context: str, directory: Path) -> Iterator[tuple[int, str]]:
    with subprocess.Popen(_under(context, RESIDENT, str(directory)), text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        keyring = process.stdout.readline().strip()
        try:
            yield process.pid, keyring
        finally:
            process.stdin.close()


@pytest.mark.parametrize("domain", [UNTRUSTED, "hardrun_contained_t"])
def test_two_sandboxes_of_one_type_can_not_touch_each_other(domain: str, tmp_path: Path) -> None:
    """The control is a third one with the same categories: everything goes through."""
    with _resident(_context(domain, "c1,c2"), tmp_path) as (pid, keyring):
        def tried(categories: str) -> dict[str, str]:
            argv = _under(_context(domain, categories), NEIGHBOUR, str(pid), str(tmp_path), keyring)
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            answers: dict[str, str] = json.loads(done.stdout)
            return answers

        same = tried("c1,c2")
        assert same.pop("key") == "EACCES"  # no policy that ships lets add_key(2) through
        assert set(same.values()) == {"through"}, same
        for other in ("c1,c3", "c3,c4"):  # pairs, as they are drawn
            assert "through" not in tried(other).values(), other


# -- drawing ---------------------------------------------------------------------------------------


def _within(level: str, argv: Sequence[str]) -> list[str]:
    own = kernel.context_of()
    assert own is not None
    return ["runcon", str(own._replace(range=level)), *argv]


def test_a_pair_in_use_is_not_drawn_again(program: Program) -> None:
    path = program.write(["cat"], _labelled(UNTRUSTED), LANDLOCK, Unsafe.NO_LANDLOCK)
    # through a shell: a temporary file is no way to start a process at another level
    start = _within("s0-s0:c5,c9", ["sh", "-c", 'exec "$0"', path])
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write(b"up\n")
        first.stdin.flush()
        assert first.stdout.readline() == b"up\n"
        second = subprocess.run(start, input=b"", capture_output=True, check=False)
        assert second.returncode == 125
        assert b"draw the categories of hardrun_untrusted_t: bind: EADDRINUSE" in second.stderr
        first.stdin.close()
    third = subprocess.run(start, input=b"again", capture_output=True, check=False)
    assert (third.returncode, third.stdout) == (0, b"again")


def test_a_caller_without_categories_has_a_type_and_that_is_told() -> None:
    script = ("import hardrun; d = hardrun.run(['cat', '/proc/self/attr/current'], text=True,"
              " capture_output=True); m = next(c for c in d.decision.controls if c.control =="
              " 'mandatory'); print(d.stdout.strip(chr(0) + chr(10)), m.enforcement.kind)")
    done = subprocess.run(_within("s0", [sys.executable, "-c", script]), check=True,
                          capture_output=True, text=True)
    assert done.stdout.split()[0].endswith(f":{UNTRUSTED}:s0")
    assert done.stdout.split()[1] == "degraded"


# -- what can't be had -----------------------------------------------------------------------------


@pytest.mark.parametrize("domain, files", [
    ("hardrun_nosuch_t", "hardrun_untrusted_file_t"),  # not loaded
    (UNTRUSTED, "hardrun_nosuch_file_t"),
    ("user_t", "hardrun_untrusted_file_t"),  # not with this role
    ("sshd_t", "hardrun_untrusted_file_t"),
])
def test_a_label_that_selinux_refuses_ends_the_start_in_one_line(
        program: Program, domain: str, files: str) -> None:
    done = program.run(["echo", "RAN"], _labelled(domain, files), LANDLOCK, Unsafe.NO_LANDLOCK)
    assert (done.returncode in (125, 126), done.stdout) == (True, b"")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(b"hardrun: ")


def test_types_are_found_by_trying() -> None:
    facts = labels.with_labels(probe(), ["selinux:user_t", "selinux:nosuch_t"], EXECUTOR)
    assert set(facts.selinux_types) == {selinux.type_of(policy) for policy in selinux.SHIPPED}
    assert facts.selinux_refused["nosuch_t"] == "is not loaded"
    assert "user_t" in facts.selinux_refused
    assert facts.selinux_categories == 1024


def test_a_type_that_only_reports_is_seen_as_that() -> None:
    own = kernel.context_of()
    assert own is not None
    assert kernel.is_permissive(Context("system_u", "system_r", PERMISSIVE, "s0"))
    assert kernel.is_permissive(own._replace(type=UNTRUSTED)) is False


def test_the_policy_says_what_happens_without_a_type(tmp_path: Path) -> None:
    def policy(last: str) -> list[str]:
        file = tmp_path / f"{last}.yaml"
        file.write_text("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: mine}\n"
                        "within: [contained]\n"
                        f"bounds: {{mandatory: [{{selinux: hardrun_nosuch_t}}, {last}]}}\n"
                        "host: {mandatory: weaker}\n")
        return [str(file)]

    decision = hardrun.explain(["true"], policy=policy("landlock"))
    mandatory = next(c for c in decision.controls if c.control == "mandatory")
    assert (mandatory.enforcement.kind, mandatory.enforcement.by) == (
        "replaced", ("landlock", "selinux:hardrun_contained_t"))
    assert "SELinux: hardrun_nosuch_t is not loaded" in mandatory.enforcement.because
    with pytest.raises(hardrun.HardrunError, match="hardrun_nosuch_t is not loaded"):
        hardrun.explain(["true"], policy=policy("refuse"))


def test_a_host_that_only_reports_falls_back_and_says_so() -> None:
    as_root("setenforce", "0")
    try:
        decision = hardrun.explain(["true"])
        mandatory = next(c for c in decision.controls if c.control == "mandatory")
    finally:
        as_root("setenforce", "1")
    assert (mandatory.enforcement.kind, mandatory.enforcement.by) == ("replaced", ("landlock",))


def test_a_grant_that_the_type_can_not_use_is_refused() -> None:
    done = subprocess.run(["hardrun", "run", "--ro", "/etc/selinux", "--", "true"], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 125
    assert "SELinux does not let hardrun_untrusted_t read" in done.stderr
    assert "chcon" in done.stderr


# -- the modules -----------------------------------------------------------------------------------


def test_the_modules_are_listed_as_loaded() -> None:
    states = selinux_host.states()
    assert {state.name for state in states} == set(selinux_host.names())
    assert {(state.installed, state.loaded) for state in states} == {(True, "enforce")}
    listed = as_root("hardrun", "profile", "list", "--json")
    stale = {p["stale"] for p in json.loads(listed)["profiles"] if p["module"] == "selinux"}
    assert stale == {False}


def test_who_is_not_root_is_told_the_command() -> None:
    done = subprocess.run(["hardrun", "profile", "install", "--module", "selinux"], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stdout.startswith("semodule -i /")
    assert all(os.path.isfile(word) for word in done.stdout.split()[2:])
