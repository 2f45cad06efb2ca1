"""YAML and JSON with the place of every value, read lazily: what no reader asks for costs nothing.

An alias is the same node again and is never copied, so ten lines that stand for a billion values
cost ten lines. libyaml parses where it is built in, since an audit reads whole repositories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hardrun.audit.model import Place
from hardrun.errors import BadInput

MAXIMUM_SIZE = 8 << 20
MAXIMUM_DEPTH = 64
_MAXIMUM_VALUES = 500_000  # a node costs half a kilobyte, a line of JSON has forty characters
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_BRACKETS = re.compile(rb"[\[\]{}]")
_INDENTED = re.compile(rb"^[ ]*", re.MULTILINE)
_TRUE, _FALSE = {"true", "yes", "on", "y"}, {"false", "no", "off", "n"}
_MERGE = "tag:yaml.org,2002:merge"


class NotYaml(BadInput):
    """A document that can't be parsed. ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class At:
    """A value in a document, or the lack of one; ``get`` and ``items`` go on from there.

    A value that is missing has the place of what should hold it.
    """

    __slots__ = ("_chain", "_key", "_node", "field", "file")

    def __init__(self, node: Any, file: str, field: str = "", key: Any = None,
                 chain: tuple[int, ...] = ()) -> None:
        self._node = node
        self._key = key
        self.file = file
        self.field = field
        mark = (key if key is not None else node)
        self._chain = chain if mark is None else (*chain, mark.start_mark.line + 1)

    def __bool__(self) -> bool:
        return self._node is not None and self._tag() != "null"

    def tagged(self, tag: str) -> bool:
        """Whether it has a tag of its own, such as ``!reset``."""
        return self._node is not None and str(self._node.tag) == tag

    def _tag(self) -> str:
        return str(self._node.tag).rsplit(":", 1)[-1]

    @property
    def place(self) -> Place:
        """Where it stands: the key, which is where one looks."""
        mark = self._key if self._key is not None else self._node
        if mark is None:
            return Place(self.file, 1, 1, self.field, self._chain)
        start = mark.start_mark
        return Place(self.file, start.line + 1, start.column + 1, self.field, self._chain)

    @property
    def span(self) -> tuple[int, int] | None:
        """Offsets of a plain value in the text, for fixes."""
        node = self._node
        return None if node is None else (node.start_mark.index, node.end_mark.index)

    @property
    def column(self) -> int:
        """The column (from 0) at which the keys of a mapping stand."""
        return int(self._node.start_mark.column) if self._node is not None else 0

    @property
    def block(self) -> bool:
        """Whether it is a mapping in block style with at least one key."""
        return self.is_map and not self._node.flow_style and bool(self._node.value)

    @property
    def flow(self) -> bool:
        """Whether it is written on one line, in brackets."""
        return self._node is not None and bool(self._node.flow_style)

    @property
    def key_offset(self) -> int:
        """The offset of its key in the text."""
        return int((self._key if self._key is not None else self._node).start_mark.index)

    @property
    def is_map(self) -> bool:
        return self._node is not None and self._node.id == "mapping"

    @property
    def is_list(self) -> bool:
        return self._node is not None and self._node.id == "sequence"

    def _child(self, node: Any, name: str, key: Any) -> At:
        return At(node, self.file, f"{self.field}.{name}" if self.field else name, key, self._chain)

    def get(self, *names: str) -> At:
        """The value at a path of keys; a missing one is false."""
        here = self
        for name in names:
            here = here._one(name)
        return here

    def _one(self, name: str) -> At:
        for key, node in _pairs(self._node):
            if key.value == name:
                return self._child(node, name, key)
        holder = self._key if self._key is not None else self._node
        return At(None, self.file, f"{self.field}.{name}" if self.field else name, holder,
                  self._chain[:-1])

    def items(self) -> Iterator[tuple[str, At]]:
        """The members of a mapping; nothing for anything else."""
        for key, node in _pairs(self._node):
            name = str(key.value) if key.id == "scalar" else "?"
            yield name, self._child(node, name, key)

    def elements(self) -> Iterator[At]:
        """The elements of a list; nothing for anything else."""
        if self.is_list:
            for number, node in enumerate(self._node.value):
                yield At(node, self.file, f"{self.field}[{number}]", None, self._chain)

    def text(self) -> str:
        """A scalar as text, empty for anything else."""
        if self._node is None or self._node.id != "scalar" or self._tag() == "null":
            return ""
        return str(self._node.value)

    def truth(self) -> bool | None:
        """A boolean; None when it is none. YAML 1.1's words count, as they do in Go's readers."""
        return truth_of(self.text())

    def template(self) -> At | None:
        """What of it is ``{{ … }}`` of a template that is not rendered, outside of any text: to
        YAML a mapping whose key is one."""
        seen: set[int] = set()
        waiting = [self._node]
        while waiting:
            node = waiting.pop()
            if node is None or id(node) in seen or node.id == "scalar":
                continue
            seen.add(id(node))
            if node.id == "sequence":
                waiting += node.value
                continue
            for key, value in node.value:
                if key.id == "mapping" and node.flow_style:
                    return At(node, self.file)
                waiting += (key, value)
        return None

    def number(self) -> int | None:
        """A whole number; None when it is none."""
        return int(self.text()) if re.fullmatch(r"-?[0-9]{1,19}", self.text()) else None

    def words(self) -> list[tuple[str, At]]:
        """A list of scalars, or one scalar as a list of one."""
        if self.is_list:
            return [(item.text(), item) for item in self.elements() if item.text()]
        return [(self.text(), self)] if self.text() else []


def truth_of(text: str) -> bool | None:
    """A word as a boolean; None when it is none."""
    word = text.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    """The members of a mapping, merge keys (``<<``) resolved, own ones first; the last of a key
    that is said twice counts, as for the engines."""
    if node is None or node.id != "mapping":
        return []
    cached = getattr(node, "hardrun_pairs", None)
    if cached is not None:
        return list(cached)
    node.hardrun_pairs = ()  # a mapping that merges itself
    own = {key.value: (key, value) for key, value in node.value
           if key.id == "scalar" and key.tag != _MERGE}
    for key, value in node.value:
        if key.id == "scalar" and key.tag == _MERGE:
            for merged in (value.value if value.id == "sequence" else [value]):
                for inner in _pairs(merged):
                    own.setdefault(inner[0].value, inner)
    node.hardrun_pairs = tuple(own.values())
    return list(own.values())


def _check(data: bytes) -> None:
    depth = most = 0
    for bracket in _BRACKETS.findall(data):
        depth = depth + 1 if bracket in b"[{" else max(depth - 1, 0)
        most = max(most, depth)
    if data.count(b",") + data.count(b"\n") > _MAXIMUM_VALUES:
        raise NotYaml("more values than any configuration has", 1, 1)
    if most > MAXIMUM_DEPTH or max(map(len, _INDENTED.findall(data)), default=0) > 400:
        raise NotYaml("nested too deeply", 1, 1)


def documents(data: bytes, file: str) -> list[At]:
    """Every document in ``data`` that is not empty. NotYaml says where it is none, BadInput what
    else is wrong with it (size, encoding)."""
    import yaml

    if len(data) > MAXIMUM_SIZE:
        raise BadInput(f"{file}: larger than {MAXIMUM_SIZE >> 20} MiB")
    _check(data)
    # JSON writes what lies beyond the BMP as two escapes, which YAML does not know.
    text = _decoded(_SURROGATE.sub(rb"\\uFFFD", data), file)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return [At(node, file) for node in yaml.compose_all(text, Loader=loader)
                if node is not None and not (node.id == "scalar" and node.value == "")]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(str(error.problem or error.context).split())
        raise NotYaml(f"not YAML: {words}", mark.line + 1 if mark else 1,
                      mark.column + 1 if mark else 1) from None
    except (yaml.YAMLError, ValueError) as error:
        raise NotYaml(f"not YAML: {' '.join(str(error).split())[:200]}", 1, 1) from None
    except RecursionError:
        raise NotYaml("nested too deeply", 1, 1) from None


def _decoded(data: bytes, file: str) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise BadInput(f"{file}: neither UTF-8 nor UTF-16 text") from None
