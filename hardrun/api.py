"""The Python API: the same decisions, plans and executor as the command line.

Safe from many threads at once. A thread may end while its sandbox runs in another's hands; when
the process ends, however it does, every sandbox that it started ends with it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from hardrun.errors import BadInput, ExecutorError
from hardrun.executor import start
from hardrun.executor.protected import Protected, Seen
from hardrun.executor.report import error_of, result_of
from hardrun.executor.result import Result
from hardrun.policy.decision import Decision
from hardrun.request import Request, decide

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]
Verify = Literal[True, False, "strict"]


class Options(TypedDict, total=False):
    """What :func:`prepare` and :func:`explain` take. Every option is that of the flag of its name.

    Sizes are bytes or texts such as ``"512M"``; times are seconds or texts such as ``"10s"``.
    """

    policy: Paths
    """Names of policies or paths of policy files; none: ``untrusted`` and whatever matches."""
    trust: str | None
    labels: Mapping[str, str]
    rootfs: Path | None
    writable: str | None
    ro: Paths
    """Paths to show read-only: texts ``"PATH[:DEST]"``, or path objects, taken as they are."""
    rw: Paths
    tmpfs: str | Sequence[str]
    toolchain: str | Sequence[str]
    workdir: Path | None
    env: Mapping[str, str] | Sequence[str] | None
    """Values to set, or names to take over from this process."""
    user: int | tuple[int, int] | str | None
    userns: str | None
    hostname: str | None
    network: str | None
    min_tier: str | None
    memory: int | str | None
    swap: int | str | None
    cpus: float | str | None
    cpuset: str | None
    """Such as ``"0-3,6"``."""
    pids: int | str | None
    io: int | str | None
    cgroup_parent: str | None
    cpu_time: float | str | None
    stack: int | str | None
    output_limit: int | str | None
    timeout: float | str | None
    terminal: bool


class RunOptions(Options, total=False):
    """What :func:`run` takes: the options and how this one start is to be done."""

    input: bytes | str | None
    """Standard input; None is an empty one, unless ``terminal`` hands over this process's."""
    capture_output: bool
    text: bool
    """``input``, ``stdout`` and ``stderr`` are str, in UTF-8; undecodable bytes are kept
    (surrogateescape)."""
    verify: Verify
    """Compare the live posture with the Decision before the command's first instruction; "strict":
    refuse as well where the kernel does not show what is decided. Else that is ``unverified``."""
    check: bool
    """Raise subprocess.CalledProcessError unless the command exits with 0."""


def run(argv: Sequence[str], **options: Unpack[RunOptions]) -> Result:
    """Run a command in a sandbox and wait for its end.

    Raises BadInput, PolicyError, PolicyRefused or HostUnsupported when it is not granted;
    CommandNotFound, CommandNotExecutable or ExecutorError when it could not be started; never
    because of what the command does, unless ``check``. An exception that arrives meanwhile, such
    as KeyboardInterrupt, ends the sandbox.
    """
    how, what = _divide(options)
    return prepare(argv, **what).run(**how)


async def run_async(argv: Sequence[str], **options: Unpack[RunOptions]) -> Result:
    """As :func:`run`, for asyncio. Cancelling the task ends every process of the sandbox."""
    import asyncio  # 40 ms, and whoever calls this has it

    how, what = _divide(options)
    prepared = await asyncio.to_thread(lambda: prepare(argv, **what))
    return await prepared.run_async(**how)


def prepare(argv: Sequence[str], **options: Unpack[Options]) -> Prepared:
    """Decide once, to run many times. Raises as :func:`run` does before a start."""
    if isinstance(argv, str | bytes):
        raise BadInput(f"argv is one text: {argv!r}", hint="a list: [\"python3\", \"solve.py\"]")
    policies = texts(options.get("policy", ()), "policy", escape=False)
    request = decide([os.fsdecode(word) for word in argv], policies=policies,
                     **flags_of(options))
    return Prepared(request)


def explain(argv: Sequence[str], **options: Unpack[Options]) -> Decision:
    """The Decision under which :func:`run` would run this; nothing is started."""
    return prepare(argv, **options).decision


class Prepared:
    """A request that was granted and can be started any number of times, from any thread."""

    def __init__(self, request: Request) -> None:
        self._argv = request.argv
        self._interactive = request.workload.terminal
        self._program = start.Program.of(request)
        self.decision = request.decision
        self.protected = Protected.of(request.decision, request.workload)

    def run(self, *, input: bytes | str | None = None, capture_output: bool = False,
            text: bool = False, verify: Verify = False, check: bool = False) -> Result:
        """Start it and wait for its end; see :func:`run`."""
        seen, gate = self.protected.existing(), _gate(verify)
        finished = start.run(
            self._program, self._argv[1:], stdin=self._stdin(), input=as_bytes(input),
            capture=capture_output, at_gate=gate)
        return self._result(finished, seen, gate, text=text, check=check)

    async def run_async(self, *, input: bytes | str | None = None,
                        capture_output: bool = False, text: bool = False, verify: Verify = False,
                        check: bool = False) -> Result:
        """As :meth:`run`, for asyncio."""
        seen, gate = self.protected.existing(), _gate(verify)
        finished = await start.run_async(
            self._program, self._argv[1:], stdin=self._stdin(), input=as_bytes(input),
            capture=capture_output, at_gate=gate)
        return self._result(finished, seen, gate, text=text, check=check)

    def _stdin(self) -> int | None:
        return None if self._interactive else subprocess.DEVNULL

    def _result(self, finished: start.Finished, seen: Seen, gate: Gate | None, *,
                text: bool, check: bool) -> Result:
        error = error_of(finished.report, finished.plan)
        if error is not None:
            raise error
        result = result_of(
            finished.report, argv=self._argv, returncode=finished.returncode,
            decision=self.decision, stdout=as_output(finished.stdout, text),
            stderr=as_output(finished.stderr, text), created=self.protected.created(seen),
            unverified=gate.unverified if gate else ())
        if check and result.returncode != 0:
            raise subprocess.CalledProcessError(result.returncode, list(self._argv),
                                                result.stdout, result.stderr)
        return result


class Gate:
    """Verifies a sandbox whose command stands at its exec; what a start calls before it goes on.

    ``unverified`` names then, with the reason, what is decided and enforced here and could not be
    shown. ``strict``: the command is not let go with such a thing either.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.unverified: tuple[str, ...] = ()
        self._strict = strict

    def __call__(self, pid: int) -> None:
        """Raise ExecutorError when something is not in force: then the command must not go on."""
        from hardrun.verify import verify_at_gate

        try:
            found = verify_at_gate(pid)
        except ProcessLookupError:
            raise ExecutorError("the command was gone before it could be verified",
                                hint="was it killed from outside?") from None
        wrong = [f"process {p.pid} ({p.name}): {c.control}: {c.expected} decided, {c.observed} "
                 f"found ({c.evidence})"
                 for p in found.processes for c in p.checks if c.result == "differs"]
        if wrong:
            raise ExecutorError("not let go: " + "; ".join(wrong), hint="the host changed since "
                                "it was probed, or hardrun has a mistake")
        self.unverified = found.unverified
        if self._strict and self.unverified:
            raise ExecutorError("not let go, for it can't be shown: " + "; ".join(self.unverified),
                                hint="--verify lets go what is not known to be different")


def _gate(verify: Verify) -> Gate | None:
    if verify not in (True, False, "strict"):
        raise BadInput(f"verify: {verify!r}", hint='True, False or "strict"')
    return Gate(strict=verify == "strict") if verify else None


def _divide(options: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    names = ("input", "capture_output", "text", "verify", "check")
    how = {name: options[name] for name in names if name in options}
    return how, {name: value for name, value in options.items() if name not in names}


def as_bytes(data: bytes | str | None) -> bytes | None:
    """Standard input as it goes in."""
    return data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data


def as_output(data: bytes | None, text: bool) -> bytes | str | None:
    """What was captured, as it was asked for."""
    return data.decode("utf-8", "surrogateescape") if text and data is not None else data


def texts(value: Any, name: str, *, escape: bool = True) -> list[str]:
    """One path or several as the texts of a flag; a path object has no destination in it."""
    values = [value] if isinstance(value, str | os.PathLike) else value
    try:
        return [_text(v, escape=escape) for v in values]
    except TypeError:
        raise BadInput(f"{name}: not a path or a sequence of paths: {value!r}") from None


def _text(path: Path, *, escape: bool) -> str:
    if isinstance(path, str):
        return path
    text = os.fsdecode(os.fspath(path))
    return text.replace(":", "\\:") if escape else text


def _seconds(value: float | str) -> str:
    return value if isinstance(value, str) else f"{round(value * 1000)}ms"


def _cpus(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


_LIMITS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "memory": ("memory", str), "swap": ("swap", str), "io": ("io", str),
    "cpus": ("cpus", _cpus), "pids": ("pids", str),
    "cpu_time": ("cpu_time", _seconds), "stack": ("stack", str), "output_limit": ("output", str),
    "timeout": ("timeout", _seconds),
}


def flags_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the texts that the flags of the same names take."""
    known = set(Options.__annotations__)
    for name in options:
        if name not in known:
            raise BadInput(f"no such option: {name}", hint=_suggestion(name, known))
    flags: dict[str, Any] = {name: texts(options[name], name) for name in ("ro", "rw")
                             if name in options}
    flags |= {name: texts(options[name], name, escape=False) for name in ("tmpfs", "toolchain")
              if name in options}
    flags |= {name: os.fsdecode(options[name]) for name in ("rootfs", "workdir")
              if options.get(name) is not None}
    for name in ("trust", "writable", "userns", "hostname", "network", "min_tier", "cpuset",
                 "cgroup_parent"):
        flags[name] = options.get(name)
        if not isinstance(flags[name], str | None):
            raise BadInput(f"{name}: not a text: {flags[name]!r}",
                           hint=f"as --{name.replace('_', '-')} takes it")
    flags["terminal"] = bool(options.get("terminal"))
    flags["label"] = [f"{key}={value}" for key, value in options.get("labels", {}).items()]
    env = options.get("env") or ()
    flags["env"] = [f"{k}={v}" for k, v in env.items()] if isinstance(env, Mapping) else list(env)
    user = options.get("user")
    if user is not None:
        flags["user"] = ":".join(map(str, user)) if isinstance(user, tuple) else str(user)
    flags["interactive"] = bool(options.get("terminal"))
    try:
        flags["limits"] = {limit: text(options[name]) for name, (limit, text) in _LIMITS.items()
                           if options.get(name) is not None}
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"a limit is not a number: {error}") from None
    return flags


def _suggestion(name: str, known: set[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else "one of " + ", ".join(sorted(known))
