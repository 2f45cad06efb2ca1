"""The patterns of .gitignore (gitignore(5)), as far as they say which files of a tree are not in
it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Pattern(NamedTuple):
    """One line: what it matches below ``base``, whether directories alone, whether it takes back
    what others ignore."""

    base: str
    expression: re.Pattern[str]
    directories: bool
    negated: bool


def patterns(text: str, base: str) -> list[Pattern]:
    """The patterns of a file that lies in ``base`` (relative to the tree, empty for its top)."""
    found = []
    for line in text.split("\n"):
        line = line.rstrip()
        if not line or line.startswith("#"):
            continue
        negated = line.startswith("!")
        body = line[1:] if negated else line
        directories = body.endswith("/")
        body = body.rstrip("/")
        anchored = "/" in body
        expression = _translate(body.lstrip("/"))
        prefix = "" if anchored else "(?:.*/)?"
        found.append(Pattern(base, re.compile(prefix + expression), directories, negated))
    return found


def _translate(pattern: str) -> str:
    result = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if pattern.startswith("**/", position):
            result += "(?:.*/)?"
            position += 3
            continue
        if pattern.startswith("**", position):
            result += ".*"
            position += 2
            continue
        closing = pattern.find("]", position + 2) if character == "[" else -1
        if closing > 0:
            inner = pattern[position + 1:closing].replace("\\", "\\\\").replace("[", "\\[")
            result += f"[^{inner[1:]}]" if inner.startswith(("!", "^")) else f"[{inner}]"
            position = closing + 1
            continue
        result += "[^/]*" if character == "*" else "[^/]" if character == "?" \
            else re.escape(character)
        position += 1
    return result


def ignored(path: str, rules: Iterable[Pattern], *, directory: bool) -> bool:
    """Whether a path of the tree is ignored; the last pattern that matches counts."""
    answer = False
    for rule in rules:
        if rule.directories and not directory:
            continue
        if rule.base and not path.startswith(rule.base + "/"):
            continue
        relative = path[len(rule.base) + 1:] if rule.base else path
        if rule.expression.fullmatch(relative):
            answer = not rule.negated
    return answer
