"""YAML with the line of every value. Small on purpose: no anchors, no tags, no repeated keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hardrun.errors import PolicyError

Path = tuple[str | int, ...]
MAXIMUM_SIZE = 256 << 10
MAXIMUM_DEPTH = 16
_MAXIMUM_BRACKETS = 64  # open at once, be some of them in quotes
_INTEGER = re.compile(r"[-+]?[0-9]{1,20}")  # longer ones stay text, which no control reads


class Tree(NamedTuple):
    """A document as plain values, and the line on which the value at each path stands."""

    value: Any
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """The line of a path, or of what it lies in."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def knows(self, location: Path, part: str | int) -> bool:
        """Whether the location up to ``part`` is a path of the document (pydantic adds others)."""
        return location[:location.index(part) + 1] in self.lines


def read_yaml(text: bytes, file: str) -> Tree:
    """The one document in ``text``. PolicyError with the line when it isn't one."""
    from ruamel.yaml import YAML  # 60 ms that policies parsed ahead don't need
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > MAXIMUM_SIZE:
        raise PolicyError(f"larger than {MAXIMUM_SIZE} bytes", file=file)
    if _brackets(text) > _MAXIMUM_BRACKETS:  # the scanner takes seconds for a thousand
        raise PolicyError("nested too deeply", file=file)
    try:
        root = YAML(typ="safe", pure=True).compose(text.decode("utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PolicyError(f"not YAML: {error.problem or error.context}", file=file,
                          line=mark.line + 1 if mark else None) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"not YAML: {' '.join(str(error).split())}", file=file) from None
    except RecursionError:  # before the depth of anything can be counted
        raise PolicyError("nested too deeply", file=file) from None
    if root is None:
        raise PolicyError("empty", file=file, hint="hardrun policy show untrusted is an example")
    return _Builder(file).build(root)


def _brackets(text: bytes) -> int:
    """How many are open at once, at most."""
    most = depth = 0
    for bracket in re.findall(rb"[\[\]{}]", text):
        depth = depth + 1 if bracket in b"[{" else max(depth - 1, 0)
        most = max(most, depth)
    return most


class _Builder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.seen: set[int] = set()

    def build(self, root: Any) -> Tree:
        return Tree(self.node(root, ()), self.lines)

    def fail(self, message: str, node: Any, path: Path) -> PolicyError:
        return PolicyError(message, file=self.file, line=node.start_mark.line + 1,
                           field=".".join(map(str, path)) or None)

    def node(self, node: Any, path: Path) -> Any:
        # An alias is the same node again: ten lines of them can stand for a billion values.
        if id(node) in self.seen:
            raise self.fail("anchors and aliases are not part of the language", node, path)
        self.seen.add(id(node))
        if len(path) > MAXIMUM_DEPTH:
            raise self.fail("nested too deeply", node, path[:3])
        self.lines[path] = node.start_mark.line + 1
        kind = str(node.tag).rsplit(":", 1)[-1]
        if node.id == "mapping" and kind == "map":
            return self.mapping(node, path)
        if node.id == "sequence" and kind == "seq":
            return [self.node(item, (*path, i)) for i, item in enumerate(node.value)]
        if node.id == "scalar" and kind in ("str", "int", "float", "bool", "null", "timestamp"):
            return self.scalar(kind, node.value)
        raise self.fail(f"the tag {node.tag} is not part of the language", node, path)

    def mapping(self, node: Any, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise self.fail("a key must be a word", key_node, path)
            if key in result:
                raise self.fail("said twice", key_node, (*path, key))
            result[key] = self.node(value_node, (*path, key))
            # The key's line, not the first line of the block below it, is where one looks.
            self.lines[*path, key] = key_node.start_mark.line + 1
        return result

    def scalar(self, kind: str, text: str) -> Any:
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if kind == "float":
            try:
                return float(text)
            except ValueError:
                return text
        if kind == "bool":
            return text.lower() == "true"
        # The language has no nulls, but it has a device of that name.
        return None if kind == "null" and text.lower() != "null" else text
