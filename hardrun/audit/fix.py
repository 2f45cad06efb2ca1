"""Fixes: the least change of the text that makes a finding go away.

Single lines are replaced or added at the places that the parser tells; everything else (comments,
order, quotes, indentation) stays byte for byte. The result is audited again: an edit stays only if
something passes that did not and nothing fails that passed. Of YAML ruamel.yaml must find the same
document but for what was set. What could break a workload (a read-only root, a user, dropped
capabilities) is done only when asked for.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hardrun.audit import lines, located
from hardrun.audit.judge import judge
from hardrun.audit.located import At
from hardrun.audit.model import Finding, Subject
from hardrun.audit.rules import Rule
from hardrun.audit.tree import around
from hardrun.audit.walk import Batch, read_text

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.=/-]*(:[A-Za-z0-9_.=/-]+)*")
_MARK = "\ufeff"
_STEP = 2  # columns of a block that is new


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the text between two offsets."""

    start: int
    end: int
    text: str


# Where the settings of a fix belong, from a container (kubernetes) or a service (compose).
_OF_POD = frozenset({"automountServiceAccountToken"})
_COMPOSE: Mapping[str, tuple[str, Any]] = {
    "privileged": ("privileged", False), "allowPrivilegeEscalation": (
        "security_opt", ["no-new-privileges:true"]),
    "readOnlyRootFilesystem": ("read_only", True), "capabilities": ("cap_drop", ["ALL"]),
    "runAsUser": ("user", f"{lines.USER}:{lines.USER}")}
_YAML = frozenset({"kubernetes", "compose"})
SOURCES = _YAML | lines.SOURCES
"""Where anything can be mended."""


def settings(rule: Rule, *, unsafe: bool) -> Mapping[str, Any]:
    """What a fix of this rule sets; nothing where there is none."""
    return {**rule.safe, **(rule.unsafe if unsafe else {})}


class Mended(NamedTuple):
    """What fixes come to: of each file that differs the old and the new text, what is left, and
    links, through which nothing is written: they may lead out of what is audited."""

    texts: Mapping[str, tuple[str, str]]
    left: tuple[Finding, ...]
    links: tuple[str, ...]


def mended(findings: Sequence[Finding], rules: Mapping[str, Rule], *, unsafe: bool) -> Mended:
    """Mend every finding that can be, in the file of its cause or else in that of the workload."""
    texts: dict[str, _Text] = {}
    left: list[Finding] = []
    links: list[str] = []
    for finding in findings:
        wanted = [name for rule in (finding.rule.id, *finding.also) if rule in rules
                  for name in settings(rules[rule], unsafe=unsafe).items()]
        for file in dict.fromkeys((finding.place.file, *finding.homes)):
            if os.path.islink(file):
                links.append(file)
            elif file not in texts and os.path.isfile(file):
                texts[file] = _Text(file, tuple(rules.values()))
        done = [any(texts[file].mend(finding, subject, wanted)
                    for file in dict.fromkeys((finding.place.file, home)) if file in texts)
                for home, subject in finding.workloads]
        if not all(done):
            left.append(finding)
    return Mended({file: (text.as_it_was(text.old), text.as_it_was(text.new))
                   for file, text in texts.items() if text.new != text.old},
                  tuple(left), tuple(dict.fromkeys(links)))


class _Text:
    """One file while it is mended: without the mark that it may begin with, and lines that all end
    in CRLF end in LF."""

    def __init__(self, file: str, rules: Sequence[Rule]) -> None:
        with open(file, "rb") as stream:
            text = stream.read().decode("utf-8", "surrogateescape")
        self._mark = _MARK if text.startswith(_MARK) else ""
        self._end = "\r\n" if 0 < text.count("\n") == text.count("\r\n") else "\n"
        self.old = self.new = text.removeprefix(_MARK).replace(self._end, "\n")
        self.file = file
        self._rules = rules
        self._audited = self._audit(self.new)

    def as_it_was(self, text: str) -> str:
        """A text with the mark and the ends of lines that the file has."""
        return self._mark + text.replace("\n", self._end)

    def _audit(self, text: str) -> _Audited:
        batch = Batch(tree=around(self.file))
        read_text(text.encode("utf-8", "surrogateescape"), self.file, batch, named=True)
        found = judge(batch.subjects, self._rules).findings
        return _Audited(batch.subjects, {(f.rule.id, name) for f in found for name in f.subjects},
                        found, bool(batch.problems))

    def mend(self, finding: Finding, subject: str, wanted: Sequence[tuple[str, Any]]) -> bool:
        """Try settings for one workload; whether the finding was here and is gone."""
        there = (finding.rule.id, subject) in self._audited.failing
        for name, value in wanted if there else ():
            self._try(finding, subject, name, value)
        return there and (finding.rule.id, subject) not in self._audited.failing

    def _try(self, finding: Finding, subject: str, name: str, value: Any) -> None:
        if finding.source in _YAML:
            new = _applied(self.new, self.file, finding, subject, name, value)
        else:
            workload = next((s for s in self._audited.subjects if s.name == subject), None)
            found = next((f.place for f in self._audited.findings if f.rule.id == finding.rule.id
                          and subject in f.subjects), finding.place)
            new = self.new if workload is None else lines.edited(
                finding.source, self.new, name, found, workload.place)
        if new == self.new:
            return
        after = self._audit(new)
        if after.failing < self._audited.failing and not after.problems:
            self.new, self._audited = new, after


class _Audited(NamedTuple):
    subjects: list[Subject]
    failing: set[tuple[str, str]]
    findings: Sequence[Finding]
    problems: bool


def _applied(text: str, file: str, finding: Finding, subject: str, name: str, value: Any) -> str:
    """One setting for one workload, found anew: earlier edits have moved the lines."""
    for document in located.documents(text.encode("utf-8", "surrogateescape"), file):
        holder, key, wanted = _target(document, finding, subject, name, value)
        if holder is None:
            continue
        edit = _edit(text, holder, key, wanted)
        if edit is None:
            return text
        result = text[:edit.start] + edit.text + text[edit.end:]
        return result if _only_sets(text, result) else text
    return text


def _target(document: At, finding: Finding, subject: str, name: str,
            value: Any) -> tuple[At | None, str, Any]:
    """The mapping that a setting belongs into, its key there, and the value."""
    if finding.source == "compose":
        service = document.get("services", subject)
        if not service or name not in _COMPOSE:
            return None, "", None
        return service, *_COMPOSE[name]
    if finding.source != "kubernetes":
        return None, "", None
    from hardrun.audit.read import kubernetes

    found = kubernetes.locate(document, subject)
    if found is None:
        return None, "", None
    pod, container = found
    if name in _OF_POD:
        return pod, name, value
    if not container.get("securityContext"):
        return container, "securityContext", {name: _kubernetes(name, value)}
    if name == "capabilities" and container.get("securityContext", name):
        return container.get("securityContext", name), "drop", value
    return container.get("securityContext"), name, _kubernetes(name, value)


def _kubernetes(name: str, value: Any) -> Any:
    return {"drop": value} if name == "capabilities" else value


def _edit(text: str, holder: At, key: str, value: Any) -> Edit | None:
    there = holder.get(key)
    span = there.span
    if span is not None and there.text():  # a scalar: its own text alone
        return Edit(*span, _flow(value))
    if span is not None:
        if not isinstance(value, list) or not there.is_list:
            return None
        present = [word for word, _ in there.words()]
        if all(word in present for word in value):
            return None
        if there.flow:
            return Edit(span[0], _without_space(text, span),
                        _flow(value if key == "drop" else present + value))
        return _one_more(text, there, value[0])
    if holder.block:
        return _added(text, holder, key, value)
    inner = holder.span
    if holder.is_map and inner is not None and text[inner[0]:inner[0] + 1] == "{":
        rest = text[inner[0] + 1:inner[1]].strip()
        comma = "" if rest == "}" else ", "
        return Edit(inner[0] + 1, inner[0] + 1, f"{key}: {_flow(value)}{comma}")
    return None


def _one_more(text: str, there: At, word: str) -> Edit | None:
    """One more element before the first of a list that has a line for each."""
    first = next(there.elements(), None)
    if first is None or first.span is None:
        return None
    start = text.rfind("\n", 0, first.span[0]) + 1
    return Edit(start, start, f"{text[start:first.span[0]]}{_flow(word)}\n")


def _without_space(text: str, span: tuple[int, int]) -> int:
    end = span[1]
    while end > span[0] and text[end - 1].isspace():
        end -= 1
    return end


def _added(text: str, holder: At, key: str, value: Any) -> Edit:
    """A line of its own before the second key, or after the only one: the first may stand behind a
    dash."""
    members = list(holder.items())
    indent = " " * holder.column
    block = "".join(f"{line}\n" for line in _block(key, value, indent))
    if len(members) > 1:
        offset = members[1][1].key_offset
        start = text.rfind("\n", 0, offset) + 1
        # Comments above the second key belong to it.
        while (before := text.rfind("\n", 0, start - 1) + 1) < start and \
                text[before:start].lstrip().startswith("#"):
            start = before
        return Edit(start, start, block)
    span = holder.span
    end = _without_space(text, span) if span else len(text)
    after = text.find("\n", end)
    if after < 0:
        return Edit(len(text), len(text), "\n" + block.rstrip("\n"))
    return Edit(after + 1, after + 1, block)


def _block(key: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield f"{indent}{key}:"
        for inner, item in value.items():
            yield from _block(inner, item, indent + " " * _STEP)
    else:
        yield f"{indent}{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    """A value on one line, as people write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value) if _PLAIN.fullmatch(str(value)) else json.dumps(str(value))


def _only_sets(old: str, new: str) -> bool:
    """Whether the new text is YAML in which nothing is lost: every value of the old is in it, or
    stands where another was set."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        before = list(YAML(typ="safe", pure=True).load_all(old))
        after = list(YAML(typ="safe", pure=True).load_all(new))
    except (YAMLError, RecursionError, ValueError):
        return False
    return len(before) == len(after) and all(
        _covers(a, b) for a, b in zip(before, after, strict=True))


def _covers(old: Any, new: Any) -> bool:
    if isinstance(old, dict):
        return isinstance(new, dict) and all(
            key in new and _covers(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        if all(isinstance(item, str) for item in (*old, *new)):
            return True
        return len(old) == len(new) and all(_covers(a, b) for a, b in zip(old, new, strict=True))
    return type(old) is type(new) or old is None


def difference(old: str, new: str, file: str) -> Iterator[str]:
    """A patch, as ``patch -p1`` takes it."""
    yield from (line.rstrip("\n") for line in difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{file.lstrip('/')}",
        f"b/{file.lstrip('/')}"))
