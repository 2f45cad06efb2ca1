"""What is fuzzed: each reader with the errors that it may end with, and what it is fed at first."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ruamel.yaml import YAML

from hardrun import cache
from hardrun.audit import judge
from hardrun.audit.rules import catalogue
from hardrun.audit.walk import Batch, read_text
from hardrun.errors import (
    BadInput,
    CommandNotExecutable,
    CommandNotFound,
    PlanError,
    PolicyError,
)
from hardrun.executor import report
from hardrun.host import remembered
from hardrun.host.facts import Fact, HostFacts
from hardrun.kernel import cgroups, idmap, lsm, mounts, procfs, selinux
from hardrun.kernel.seccomp import compile as filters
from hardrun.kernel.seccomp import profile, rules
from hardrun.plan import format as plans
from hardrun.plan import lookup, schema, show
from hardrun.plan.view import Entry, Kind, View
from hardrun.policy.decision import Decision
from hardrun.policy.load import check_complete, read_builtin, read_policy
from hardrun.policy.loaded import Catalogue
from hardrun.workload import toolchain
from tests import planning
from tests.audit import examples
from tests.sandbox import raw

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
_KEY = b"fuzzed"


@dataclass(frozen=True)
class Target:
    """A reader. ``read`` ends with one of ``allowed`` or succeeds, whatever it is given.

    ``repair`` puts checksums and sizes right: every input is read as it is and repaired. ``seeds``
    are made anew where a stored file would be one of another version. ``words`` are what it looks
    for, for the mutators; a ``document`` is changed as a tree, too.
    """

    read: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: Callable[[], Iterator[bytes]] = lambda: iter(())
    repair: Callable[[bytes], bytes] = bytes
    words: tuple[str, ...] = ()
    document: bool = False

    def __call__(self, data: bytes) -> str:
        """Feed it; how it ended. Raises what it must not raise."""
        ended = self._feed(data)
        repaired = self.repair(data)
        return ended if repaired == data else f"{ended}; {self._feed(repaired)}"

    def _feed(self, data: bytes) -> str:
        try:
            return str(self.read(data))
        except self.allowed as error:
            return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[Path]:
    descriptor = os.memfd_create("fuzzed", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _files(pattern: str) -> Iterator[bytes]:
    return (path.read_bytes() for path in sorted(ROOT.glob(pattern)))


# -- documents that people write -------------------------------------------------------------------

_BUILTIN = read_builtin(ROOT / "policies")


def _policy(data: bytes) -> None:
    with _file(data) as path:
        policy = read_policy(path, "workload", "fuzzed.yaml")
    resolved = Catalogue([*_BUILTIN, policy]).resolved([policy.name])
    check_complete([p for p in resolved if p.chosen])


def _policies() -> Iterator[bytes]:
    """Those that ship, and each part of each: what is short is read often."""
    for data in _files("policies/*.yaml"):
        yield data
        document = YAML(typ="safe").load(data)
        head = {key: document[key] for key in ("apiVersion", "kind", "metadata")}
        for part in document.keys() - head.keys():
            value = document[part]
            parts = [{k: v} for k, v in value.items()] if isinstance(value, dict) else [value]
            yield from (json.dumps({**head, part: some}).encode() for some in parts)


def _profiles() -> Iterator[bytes]:
    """As policies."""
    yield from _files("profiles/seccomp/**/*.json")
    document = json.loads((ROOT / "profiles/seccomp/docker-default.json").read_bytes())
    kept = [rule for rule in document["syscalls"] if len(rule["names"]) < 20]
    for start in range(0, len(kept), 4):
        yield json.dumps(document | {"syscalls": kept[start:start + 4]}).encode()


def _profile(data: bytes) -> None:
    with _file(data) as path:
        read = profile.load(path)
    context = rules.Context.of("x86_64", frozenset({"CAP_SYS_ADMIN"}), "6.18.0")
    filters.check_needed(rules.resolve([read], context))


def _configurations() -> Iterator[bytes]:
    """One of every source that passes, and what makes each rule fail."""
    for source in examples.NAMES:
        yield examples.text(source).encode()
        for patch in examples.failing(source).values():
            yield examples.text(source, patch).encode()


def _audit(data: bytes) -> None:
    for name in examples.NAMES.values():
        batch = Batch()
        read_text(data, name, batch, named=True)
        for finding in judge.causes(judge.judge(batch.subjects, _RULES).findings):
            assert finding.fingerprint
            assert finding.place.line >= 1


_RULES = catalogue()


# -- what hardrun wrote itself, and somebody else may have since -----------------------------------

def _plan(data: bytes) -> None:
    decoded = plans.decode(data)
    list(show.show(decoded))
    assert plans.decode(plans.encode(decoded.operations, decoded.unsafe)) == decoded


def _repaired_plan(data: bytes) -> bytes:
    if len(data) < plans.HEADER.size:
        return data
    *_, unsafe, _total, count, _pool, _schema, _sum = plans.HEADER.unpack_from(data)
    count = min(count, (len(data) - plans.HEADER.size) // plans.RECORD.size)
    body = data[plans.HEADER.size:]
    values = [plans.MAGIC, plans.VERSION, unsafe, len(data), count,
              len(body) - count * plans.RECORD.size, plans.schema_id()]
    return plans.HEADER.pack(*values, zlib.crc32(plans.HEADER.pack(*values, 0) + body)) + body


def _small_plan() -> bytes:
    return plans.encode(raw.operations(["true"]))


_LEAST: Mapping[schema.Kind, int | str | bytes] = {
    schema.Kind.U32: 0, schema.Kind.U64: 0, schema.Kind.STRING: "", schema.Kind.BLOB: b""}


def _one_of_each() -> bytes:
    """Every operation that there is."""
    return plans.encode((schema.Operation(kind.name, tuple(_LEAST[a.kind] for a in kind.arguments))
                         for kind in schema.OPERATIONS), schema.Unsafe(sum(schema.Unsafe)))


def _plans() -> Iterator[bytes]:
    yield _small_plan()
    yield _one_of_each()
    planned = planning.plan("env", "true")
    yield plans.encode(planned.operations, planned.unsafe)


def _artefact(data: bytes) -> None:
    plans.program_of(data)
    artefact = plans.unpack(data)
    Decision.from_json(artefact.decision)
    show.load_plan(data)


def _repaired_artefact(data: bytes) -> bytes:
    if len(data) < plans.TRAILER.size:
        return data
    body = data[:-plans.TRAILER.size]
    _, decision, fallback, *_ = plans.TRAILER.unpack_from(data, len(body))
    decision = min(decision, len(body))
    fallback = min(fallback, len(body) - decision)
    size = len(body) - decision - fallback
    plan, rest = _repaired_plan(body[:size]), body[size:]
    return plan + rest + plans.TRAILER.pack(size, decision, fallback, 0, zlib.crc32(rest),
                                            plans.TRAILER_MAGIC)


def _decision() -> bytes:
    return planning.decision(planning.workload(), planning.facts()).to_json()


def _decisions() -> Iterator[bytes]:
    yield _decision()
    document = json.loads(_decision())
    for start in range(0, len(document["controls"]), 8):
        some = document["controls"][start:start + 8]
        yield json.dumps(document | {"controls": some}).encode()


def _artefacts() -> Iterator[bytes]:
    yield plans.pack(plans.Artefact(_small_plan(), _decision(), ("hardrun", "run", "--", "true")))
    yield plans.pack(plans.Artefact(_small_plan()))


def _read_decision(data: bytes) -> None:
    decision = Decision.from_json(data)
    assert Decision.from_json(decision.to_json()) == decision
    assert len(decision.posture) <= len(decision.controls)
    assert decision.tier in {"full", "landlock"}


_CACHE = tempfile.TemporaryDirectory(prefix="hardrun-fuzz-")


def _stored(kind: str, data: bytes) -> Path:
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
    directory = Path(cache.plans_directory(kind) or "")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{zlib.crc32(_KEY):08x}.plan"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def _cached(data: bytes) -> str:
    _stored("plans", data)
    found = cache.load(_KEY)
    assert found is None or data.endswith(found)
    return "absent" if found is None else "found"


def _repaired_cache(data: bytes) -> bytes:
    body = _KEY + data[24 + len(_KEY):]
    return struct.pack("<8sIII4x", b"HRCACHE2", len(_KEY), len(body) - len(_KEY),
                       zlib.crc32(body)) + body


def _remembered(data: bytes) -> str:
    _stored("hosts", _repaired_cache(bytes(24 + len(_KEY)) + data))
    return "absent" if remembered.load(_KEY) is None else "found"


def _hosts() -> Iterator[bytes]:
    remembered.store(_KEY, planning.facts(**{f.name: planning.YES for f in fields(HostFacts)
                                             if f.type == Fact.__name__}))
    data = cache.load(_KEY, "hosts")
    assert data is not None
    yield data


def _report(data: bytes) -> None:
    read = report.parse(data)
    decision = Decision(policies=(), controls=())
    report.error_of(read, _REPORTED_PLAN)
    result = report.result_of(read, argv=("true",), returncode=0, decision=decision)
    document = report.result_document(result)
    report.as_json(document)
    report.as_isolate(document)


_REPORTED_PLAN = _small_plan()


# -- what the kernel writes, and names of others stand in ------------------------------------------

def _mountinfo(data: bytes) -> None:
    for mount in mounts.parse(_text(data)):
        size = mount.super_option("size")
        if size:
            mounts.parse_size(size)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _each(*readers: Callable[[str], object]) -> Callable[[bytes], None]:
    """All of them read it, each to its end or its error."""
    def read(data: bytes) -> None:
        text = _text(data)
        for reader in readers:
            with contextlib.suppress(ValueError):
                reader(text)
    return read


def _context(text: str) -> None:
    context = selinux.Context.parse(text)
    if context is not None:
        assert (str(context), context.sensitivity) is not None
        assert len(context.categories) <= 100_000


_LABELS = _each(_context, lsm.profile_of, lsm.is_confined)
_PROC = _each(procfs.parse_status, procfs.parse_limits, procfs.parse_stat, procfs.parse_interfaces,
              procfs.parse_fdinfo, idmap.parse_map,
              lambda text: cgroups.directory_of(text, "/sys/fs/cgroup", "/"))
_SUBORDINATE = _each(lambda text: idmap.usable(idmap.parse_subordinate(text), "tester", 1000))


def _program(data: bytes) -> None:
    path = Path(_CACHE.name) / "program"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755), "wb") as file:
        file.write(data)
    lookup.find_command(_view("/program", path), "/program", "/usr/bin", "/")


def _view(place: str, source: Path) -> View:
    view = View()
    view.add(Entry(Kind.BIND, "/usr", "test", source="/usr"))
    view.add(Entry(Kind.BIND, place, "test", source=str(source)))
    return view


def _environment(data: bytes) -> None:
    programs = Path(_CACHE.name) / "venv/bin"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "program").touch(0o755)
    (programs.parent / "pyvenv.cfg").write_bytes(data)
    lookup.find_command(_view("/venv", programs.parent), "/venv/bin/program", "/usr/bin", "/")
    toolchain.resolve("program", search_path=str(programs), home="/nowhere", directory="/")


_POLICY_WORDS = ("apiVersion: hardrun/v1", "kind: Policy", "metadata:", "within:", "bounds:",
                 "defaults:", "danger:", "tests:", "host:", "match:", "grant:", "reason:",
                 "request:", "refused:", "&a", "*a", "!!", "<<:", "- ", "? ", "|2", "'", "%YAML",
                 "1e999", ".inf", "0x1f", "9" * 5000)

TARGETS: Mapping[str, Target] = {
    "policy": Target(_policy, (PolicyError,), _policies, words=_POLICY_WORDS, document=True),
    "profile": Target(_profile, (BadInput,), _profiles, document=True, words=(
        '"SCMP_ACT_ALLOW"', '"SCMP_ACT_ERRNO"', '"SCMP_CMP_MASKED_EQ"', '"args":', '"names":',
        '"includes":', '"minKernel":', '"errnoRet":', "[[[[", "1e999", "\\ud800", "9" * 5000)),
    "audit": Target(_audit, (), _configurations, document=True, words=(
        "apiVersion", "HostConfig", "services", "<<: *a", "&a ", "privileged", "docker run ",
        "FROM ", "RUN ", "[Service]", "ociVersion", "defaultAction", "capabilities")),
    "plan": Target(_plan, (PlanError,), _plans, _repaired_plan),
    "artefact": Target(_artefact, (PlanError,), _artefacts, _repaired_artefact),
    "decision": Target(_read_decision, (PlanError,), _decisions, document=True, words=(
        "null", "true", "[]", "{}", '"value":', "1e999", "NaN", "[[[[")),
    "cache": Target(_cached, (), _artefacts, _repaired_cache),
    "remembered": Target(_remembered, (), _hosts, document=True, words=(
        "null", "true", "[]", "{}", "[[[[")),
    "report": Target(_report, (), words=("failed_operation ", "failed_errno ", "cgroup.io.stat ",
                                         "rbytes=", "cgroup.cpu.stat ", "outcome ", "total=")),
    "mountinfo": Target(_mountinfo, (ValueError,), words=("\\040", " - ", "size=", "0:1")),
    "proc": Target(_PROC, (), words=("Name:", "Uid:", "Groups:", "CapEff:", "unlimited",
                                     "mnt_id:")),
    "subordinate": Target(_SUBORDINATE, (), words=(":", "tester:", "4294967295", "#")),
    "labels": Target(_LABELS, (), words=("c0.c1023", ":s0-s0:", " (enforce)", "unconfined")),
    "program": Target(_program, (CommandNotFound, CommandNotExecutable, BadInput), words=(
        "#!", "#!/usr/bin/env ", "\x7fELF\x02\x01", "-S", "\0")),
    "environment": Target(_environment, (CommandNotFound, BadInput), words=("home = ", "/usr/bin")),
}
"""The decoder in C is another program: tests.fuzz.decoder."""


def _planted(data: bytes) -> None:
    if data.startswith(b"FUZZ"):
        raise KeyError(data)


READERS = {**TARGETS, "planted": Target(_planted, (), words=("FUZZ",))}
"""With one that fails, to show that fuzzing finds it."""


def stored(kind: str, target: str) -> list[Path]:
    """The inputs of ``corpus`` or ``regression`` for a target."""
    return sorted(path for path in (HERE / kind / target).glob("*") if path.is_file())
