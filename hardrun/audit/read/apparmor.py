"""AppArmor profiles on their own (apparmor.d(5)): whether they hold, and what they leave open."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hardrun.audit.model import Place, Subject
from hardrun.audit.read.gather import Gather

# Of one line, so that a file without braces is not read to its end from each.
_HEAD = re.compile(r"^[ \t]*(?:profile[ \t]+(?P<name>[^\s{]+)|(?P<path>/[^\s{]+))[^{#\n]*\{",
                   re.MULTILINE)
_ENDS = re.compile(r"^[^#\n]+,[ \t]*$", re.MULTILINE)
_VARIABLE = re.compile(r"@\{\w{1,64}\}|#[^\n]*")
_FLAGS = re.compile(r"flags\s*=\s*\(([^)]*)\)")
_RULE = re.compile(r"^\s*(?:(?:audit|allow|priority=\S+)\s+)*(?P<deny>(?:audit\s+)?deny\s+)?"
                   r"(?P<body>[^#]*?),\s*(?:#.*)?$")
_OFF = frozenset({"complain", "unconfined", "default_allow"})
_BARE = ("mount", "pivot_root", "ptrace", "all")
_EVERY_FILE = re.compile(r"^(?:file|(?:owner\s+)?/(?:\*\*|\{,\*\*\})\s+\S*w\S*)$")
_TREES = {"write /proc": re.compile(r"^(?:owner\s+)?(?:@\{PROC\}|/proc)\S*\s+\S*w"),
          "write /sys": re.compile(r"^(?:owner\s+)?/sys\S*\s+\S*w")}


def is_profile(text: str) -> bool:
    """Whether it has the head of a profile and rules that end as AppArmor's do."""
    head = _HEAD.search(text)
    return head is not None and "}" in text and _ENDS.search(text) is not None


def read(text: str, file: str) -> Iterator[Subject]:
    """Every profile of a file; child profiles are read with the one that they stand in."""
    heads = list(_outermost(text))
    ends = [*(match.start() for match in heads[1:]), len(text)]
    for match, end in zip(heads, ends, strict=False):  # without a head there is an end all the same
        line = text.count("\n", 0, match.start(match.lastgroup or 0)) + 1
        name = match["name"] or match["path"]
        gather = Gather("apparmor", name, "profile", Place(file, line, 1, name, (line,)))
        flags = _FLAGS.search(match[0])
        off = _OFF & set(re.split(r"[\s,]+", flags[1])) if flags else set()
        gather.say("apparmor_mode", "unconfined" if off else "profile", gather.place)
        _rules(gather, text[match.end():end], file, text.count("\n", 0, match.end()) + 1)
        gather.nothing("apparmor_allows")
        yield gather.subject()


def _outermost(text: str) -> Iterator[re.Match[str]]:
    depth = position = 0
    for match in _HEAD.finditer(text):
        between = _VARIABLE.sub("", text[position:match.start()])
        depth += between.count("{") - between.count("}")
        position = match.start()
        if depth == 0:
            yield match


def _rules(gather: Gather, body: str, file: str, first: int) -> None:
    allowed: dict[str, Place] = {}
    denied: set[str] = set()
    for number, line in enumerate(body.split("\n"), first):
        match = _RULE.match(line)
        if match is None:
            continue
        place = Place(file, number, len(line) - len(line.lstrip()) + 1, "rule", (number,))
        for word in _words(match["body"].strip(), denies=match["deny"] is not None):
            if match["deny"]:
                denied.add(word)
            else:
                allowed.setdefault(word, place)
    for word, place in allowed.items():
        if word not in denied:
            gather.add("apparmor_allows", word, place)


def _words(rule: str, *, denies: bool) -> Iterator[str]:
    """What one rule is about, of what rules of an audit speak of. A denial of some paths below
    /proc stands for those that matter: a profile that names them has thought of it."""
    first = rule.partition(" ")[0]
    if first in _BARE and (not denies or rule == first):
        yield first
    if rule == "all" or (_EVERY_FILE.match(rule) and not denies):
        yield from _TREES
    yield from (word for word, expression in _TREES.items() if expression.match(rule))
