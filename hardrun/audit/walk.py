"""Files and directories to subjects: formats detected, what can't be read told, the rest read.

Links to directories are not followed, so no loop is; no file is read beyond its bound, nothing but
regular files is opened.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hardrun.audit import located, suppress
from hardrun.audit.ignored import Pattern, ignored, patterns
from hardrun.audit.located import At, NotYaml
from hardrun.audit.model import Place, Problem, Subject
from hardrun.audit.read import (
    apparmor,
    command,
    compose,
    dockerfile,
    inspect,
    kubernetes,
    oci,
    project,
    seccomp,
    systemd,
)
from hardrun.audit.tree import NotRead, Tree, around
from hardrun.errors import BadInput
from hardrun.posture.filesystem import below

_YAML = (".yaml", ".yml", ".json")
_TEXT = (".sh", ".bash", ".service", ".mk")
# Where pipelines are written, whose steps are lines of a shell.
_PIPELINE = re.compile(r"(?:^|/)(?:\.github/(?:workflows|actions)/|\.gitlab-ci|\.circleci/|\.gitea/"
                       r"|\.forgejo/|\.travis|azure-pipelines|bitbucket-pipelines)[^\0]*\.ya?ml$")
_NEVER = frozenset({".git", ".hg", ".svn", "node_modules", ".venv", "__pycache__", ".tox"})
_MAXIMUM_TEXT = 512 << 10  # scripts and the like, which are searched for patterns
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_TEMPLATE = (b"{{", b"{%")
_OURS = (b"apiVersion", b"HostConfig", b"ociVersion", b"defaultAction", b"services")

Reader = Callable[[At], Iterator[Subject]]
_DOCUMENTS: tuple[tuple[Callable[[At], bool], Reader], ...] = (
    (kubernetes.is_manifest, kubernetes.read), (oci.is_bundle, oci.read),
    (inspect.is_inspect, inspect.read), (seccomp.is_profile, seccomp.read))


@dataclass(slots=True)
class Batch:
    """What was read: subjects, what could not be read, suppressions, and how many files."""

    subjects: list[Subject] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[suppress.Note] = field(default_factory=list)
    files: int = 0
    documents: int = 0
    tree: Tree = field(default_factory=Tree)
    joined: set[object] = field(default_factory=set)  # what is put together from several files

    def problem(self, message: str, file: str, line: int = 1, column: int = 1, *,
                template: bool = False) -> None:
        """Tell one thing that can't be audited."""
        self.problems.append(Problem(Place(file, line, column), message, template=template))


def read_paths(paths: Sequence[str], exclude: Sequence[str] = (),
               progress: Callable[[int, int], None] = lambda number, total: None) -> Batch:
    """Read files, directories and ``-`` (standard input). ``progress`` is told how many files are
    read, of how many."""
    batch = Batch()
    excluded = patterns("\n".join(exclude), "")
    for path in paths:
        batch.tree = Tree() if path == "-" else around(path)
        if path == "-":
            batch.files += 1
            read_text(sys.stdin.buffer.read(located.MAXIMUM_SIZE + 1), "<stdin>", batch, named=True)
        elif os.path.isdir(path):
            found = list(_tree(path, excluded, batch))
            total = batch.files + len(found)
            for file in found:
                _file(file, batch, named=False)
                progress(batch.files, total)
        elif ":" in path and not os.path.lexists(path):
            _merged(path.split(":"), batch)
        else:
            _file(os.path.normpath(path), batch, named=True)
            progress(batch.files, max(batch.files, len(paths)))
        batch.notes = list(dict.fromkeys((*batch.notes, *batch.tree.notes)))
    return batch


def _merged(paths: Sequence[str], batch: Batch) -> None:
    """Compose files that are merged in this order, written as in COMPOSE_FILE."""
    batch.tree = around(paths[0])
    found = []
    for path in paths:
        batch.files += 1
        try:
            found.append(batch.tree.document(path))
        except NotRead as error:
            batch.problem(str(error), path)
    if len(found) == len(paths):
        _project(project.given(tuple(found), batch.tree), batch)


def _project(first: project.Project, batch: Batch) -> None:
    """The services of a project of Compose and of those that it includes, each of them once."""
    waiting = [first]
    while waiting:
        merged = waiting.pop()
        key = tuple((os.path.realpath(d.file), d.place.line) for d in merged.files)
        if key in batch.joined and merged.tree.top:
            continue
        batch.joined.add(key)
        batch.subjects += compose.read(merged)
        waiting += [found for document in merged.files
                    for found in _included(merged, document, batch)]


def _included(merged: project.Project, document: At, batch: Batch) -> Iterator[project.Project]:
    for item, paths in project.included(document):
        try:
            files = [merged.tree.document(merged.filled(path)) for path in paths]
        except NotRead as error:
            batch.problem(f"includes {', '.join(paths)}: {error}", item.place.file, item.place.line,
                          item.place.column, template=any("://" in path for path in paths))
            continue
        yield project.project(files[0], merged.tree) if len(files) == 1 \
            else project.given(tuple(files), merged.tree)


def _tree(top: str, excluded: list[Pattern], batch: Batch) -> Iterator[str]:
    rules: list[Pattern] = list(excluded)

    def failed(error: OSError) -> None:
        batch.problem(f"can't be read: {error.strerror}", str(error.filename))

    for directory, names, files in os.walk(top, onerror=failed):
        base = os.path.relpath(directory, top)
        base = "" if base == "." else base
        if ".gitignore" in files:
            rules += patterns(_ignore_file(os.path.join(directory, ".gitignore")), base)
        names[:] = sorted(name for name in names if name not in _NEVER and not ignored(
            f"{base}/{name}".lstrip("/"), rules, directory=True))
        for name in sorted(files):
            wanted = _candidate(name) or "apparmor" in directory or (
                name.endswith(".conf") and directory.endswith("service.d"))
            if wanted and not ignored(f"{base}/{name}".lstrip("/"), rules, directory=False):
                path = os.path.normpath(os.path.join(directory, name))
                # A repository must not have a file of the auditor's told, or mended (--fix).
                if below(os.path.realpath(path), os.path.realpath(top)):
                    yield path
                else:
                    batch.problem("a symlink that leads out of the directory, not audited", path)


def _read_regular(path: str, most: int) -> bytes:
    """At most ``most`` bytes. Raises OSError, for what is no regular file as well: a device or a
    pipe might never end, and not even open (O_NONBLOCK)."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "neither a regular file nor a directory")
        return file.read(most)


def _ignore_file(path: str) -> str:
    try:
        return _read_regular(path, 1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""


def _is_apparmor(path: str, text: str) -> bool:
    # The only format without a name of its own; a program with braces and commas is none.
    return not path.lower().endswith(_YAML + _TEXT) and apparmor.is_profile(text)


def _candidate(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(_YAML + _TEXT) or "dockerfile" in lower or "containerfile" in lower \
        or lower in ("makefile", "gnumakefile", "justfile")


def _file(path: str, batch: Batch, *, named: bool) -> None:
    batch.files += 1
    try:
        # Devices are not even opened; what takes a file's place meanwhile is not waited for.
        if not stat.S_ISREG(os.stat(path).st_mode):
            batch.problem("neither a regular file nor a directory", path)
            return
        data = _read_regular(path, located.MAXIMUM_SIZE + 1)
    except OSError as error:
        batch.problem(f"can't be read: {error.strerror}", path)
        return
    read_text(data, path, batch, named=named)


def _text(data: bytes) -> str:
    """What can be read of it as text; a mark at its beginning says how, and is no part of it."""
    if data[:2] in _UTF_16:
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def read_text(data: bytes, file: str, batch: Batch, *, named: bool) -> None:
    """Read one file's content. ``named``: somebody asked for it, so that a format which is not
    known is a problem rather than another file."""
    if len(data) > located.MAXIMUM_SIZE:
        batch.problem(f"larger than {located.MAXIMUM_SIZE >> 20} MiB, not audited", file)
        return
    if b"\0" in data[:4096] and data[:2] not in _UTF_16:
        batch.problem("binary, not audited", file)
        return
    before = len(batch.subjects)
    known = False
    text = _text(data)
    if len(data) > _MAXIMUM_TEXT and not file.lower().endswith(_YAML):
        if named or _candidate(file):
            batch.problem(f"larger than {_MAXIMUM_TEXT >> 10} KiB, not audited", file)
        return
    if systemd.is_unit(file, text):
        _unit(text, file, batch)
        return
    for matches, reader in ((dockerfile.is_dockerfile, dockerfile.read),
                            (_is_apparmor, apparmor.read)):
        if matches(file, text):
            batch.subjects += reader(text, file)
            batch.notes += suppress.comments(text, file)
            return
    lower = file.lower()
    script = _PIPELINE.search(file) is not None or not (
        lower.endswith(_YAML) or text.lstrip().startswith(("{", "[")))
    if lower.endswith(_TEXT) or (script and command.is_script(text)):
        batch.subjects += command.read(text, file)
        batch.notes += suppress.comments(text, file)
        return
    if lower.endswith(_YAML) or named:
        known = _documents(data, text, file, batch, named=named)
    if named and not known and len(batch.subjects) == before and not batch.problems:
        batch.problem("nothing in it that runs: no format that is known", file)


def _unit(text: str, file: str, batch: Batch) -> None:
    """A unit of systemd with its drop-ins, once, whichever of its files comes first."""
    batch.notes += suppress.comments(text, file)
    found = systemd.unit(text, file, batch.tree)
    key = os.path.realpath(found.path)
    if key not in batch.joined or not batch.tree.top:
        batch.joined.add(key)
        batch.subjects += systemd.read(found)


def _documents(data: bytes, text: str, file: str, batch: Batch, *, named: bool) -> bool:
    """Read what YAML there is; whether a project of Compose, which may have been read before."""
    try:
        found = located.documents(data, file)
    except NotYaml as error:
        if any(mark in data for mark in _TEMPLATE):
            batch.problem("a template that is not rendered", file, error.line, error.column,
                          template=True)
        elif named or not file.lower().endswith(".json") or any(m in data for m in _OURS):
            # JSON with comments is common (tsconfig.json); what has no key of ours is no mistake
            batch.problem(error.message, file, error.line, error.column)
        return False
    except BadInput as error:
        batch.problem(error.message.removeprefix(f"{file}: "), file)
        return False
    audited = composed = False
    for document in found if b"{{" in data else ():
        if (template := document.template()) is not None:
            place = template.place
            batch.problem("a template that is not rendered", file, place.line, place.column,
                          template=True)
            return False
    for document in found:
        if compose.is_compose(document):
            batch.documents += 1
            audited = composed = True
            _project(project.project(document, batch.tree), batch)
            continue
        for matches, reader in _DOCUMENTS:
            if matches(document):
                batch.documents += 1
                audited = True
                batch.subjects += reader(document)
                batch.notes += suppress.of_annotations(document)
                break
    if audited:
        batch.notes += suppress.comments(text, file)
    return composed


def ignore_notes(directories: Iterable[str]) -> list[suppress.Note]:
    """The suppressions of every .trivyignore in these directories."""
    notes = []
    for directory in dict.fromkeys(directories):
        path = os.path.join(directory, ".trivyignore")
        notes += suppress.trivy_file(_ignore_file(path), os.path.normpath(path))
    return notes
