"""Dockerfiles and Containerfiles: what the image that they build would bring with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from hardrun.audit.model import Place, Subject
from hardrun.audit.read.gather import Gather, image_level

_INSTRUCTION = re.compile(
    r"\s*(ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|RUN|SHELL"
    r"|STOPSIGNAL|USER|VOLUME|WORKDIR)\b[ \t]*(.*)", re.IGNORECASE | re.DOTALL)
_HEREDOC = re.compile(r"<<-?[\"']?([A-Za-z_]\w*)[\"']?")
_PIPED = re.compile(r"\b(?:curl|wget)\b[^|;&\n]{0,2000}\|\s*(?:sudo\s+(?:-\S+\s+)*)?(?:/bin/)?"
                    r"(?:ba|da|z|k)?sh\b"
                    r"|\b(?:ba|da|z)?sh\b\s+(?:-c\s+)?[\"']?(?:<\(|\$\(|`)\s*(?:curl|wget)\b")
# 1777 is sticky alone.
_SETUID = re.compile(
    r"\bchmod\s+(?:-\S+\s+)*(?:0?[2-7][0-7]{3}|[ugoa]*[+=][rwx]*s[rwx]*)\s+(\S+)")
_SECRET_FILE = re.compile(
    r"(?:^|/)(?:id_(?:rsa|dsa|ecdsa|ed25519)|\.netrc|\.pgpass|\.git-credentials|\.aws(?:/credentials)?"
    r"|\.ssh|\.kube(?:/config)?|\.env|\.npmrc|\.pypirc|[^/]*\.(?:pem|key|p12|pfx|jks))/?$")
_PUBLIC = re.compile(r"(?:pub|public|cert|certs|chain|ca|root|bundle)[^/]*\.(?:pem|key)$|\.pub$",
                     re.IGNORECASE)


class _Step(NamedTuple):
    name: str
    text: str
    place: Place


def is_dockerfile(path: str, text: str) -> bool:
    """Whether the name says so and the first instruction is one that may come first."""
    name = path.rpartition("/")[2].lower()
    if not (name in ("dockerfile", "containerfile") or name.endswith((".dockerfile",
            ".containerfile")) or name.startswith(("dockerfile.", "containerfile."))):
        return False
    first = next(_steps(text, path), None)
    return first is not None and first.name in ("FROM", "ARG")


def _steps(text: str, file: str) -> Iterator[_Step]:
    """Every instruction, continued lines and here-documents together."""
    lines = text.replace("\r\n", "\n").split("\n")
    number = 0
    while number < len(lines):
        start = number
        line = lines[number]
        number += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [line]
        while parts[-1].rstrip().endswith("\\") and number < len(lines):
            parts[-1] = parts[-1].rstrip()[:-1]
            if not lines[number].lstrip().startswith("#"):  # comments may stand between
                parts.append(lines[number])
            else:
                parts.append("\\")
            number += 1
        body = " ".join(parts)
        for end in _HEREDOC.findall(body):
            while number < len(lines) and lines[number].strip() != end:
                body += "\n" + lines[number]
                number += 1
            number += 1
        match = _INSTRUCTION.match(body)
        if match:
            column = len(line) - len(line.lstrip()) + 1
            yield _Step(match[1].upper(), match[2].strip(),
                        Place(file, start + 1, column, match[1].upper(), (start + 1,)))


def read(text: str, file: str) -> Iterator[Subject]:
    """The image that the last stage builds, with what the stages before it bring in."""
    steps = list(_steps(text, file))
    if not steps:
        return
    gather = Gather("dockerfile", file.rpartition("/")[2], "image", steps[0].place)
    stages: set[str] = set()
    user: _Step | None = None
    for step in steps:
        if step.name == "FROM":
            _base(gather, step, stages)
            user = None
        elif step.name == "USER":
            user = step
        elif step.name in _EACH:
            _EACH[step.name](gather, step)
    _user(gather, user, steps[-1].place)
    gather.default("healthcheck", value=False)
    gather.nothing("literal_secrets", "remote_downloads", "piped_scripts", "copied_secrets",
                   "setuid_files")
    yield gather.subject()


def _base(gather: Gather, step: _Step, stages: set[str]) -> None:
    words = [word for word in step.text.split() if not word.startswith("--")]
    if not words:
        return
    base = words[0]
    if base.lower() not in stages and base != "scratch":
        level = image_level(base)
        if level is None:
            gather.unknown("image_reference", "an argument of the build decides")
        else:
            gather.loosest("image_reference", level, step.place)
    if len(words) >= 3 and words[1].lower() == "as":
        stages.add(words[2].lower())


def _user(gather: Gather, user: _Step | None, last: Place) -> None:
    if user is None:
        gather.default("ids.user", "root", last)  # few bases set one, and none has to
    elif user.text.startswith("$"):
        gather.unknown("ids.user", "an argument of the build decides")
    else:
        name = user.text.split(":")[0].strip()
        gather.say("ids.user", "root" if name in ("0", "root") else "self", user.place)


def _environment(gather: Gather, step: _Step) -> None:
    pairs = re.findall(r"([A-Za-z_]\w*)=(\"(?:\\.|[^\"])*\"|'[^']*'|\S*)", step.text)
    if not pairs and step.name == "ENV":
        name, _, value = step.text.partition(" ")
        pairs = [(name, value.strip())]
    for name, value in pairs:
        gather.variable(name, value.strip("\"'"), step.place)


def _copied(gather: Gather, step: _Step) -> None:
    words = re.findall(r"[^\s\[\],\"]+", step.text)
    options = [word for word in words if word.startswith("--")]
    sources = [word for word in words if not word.startswith("--")][:-1]
    for source in sources:
        if step.name == "ADD" and re.match(r"https?://", source) \
                and not any(word.startswith("--checksum=") for word in options):
            gather.add("remote_downloads", source, step.place)
        from_stage = any(word.startswith("--from=") for word in options)
        if not from_stage and _SECRET_FILE.search(source) and not _PUBLIC.search(source):
            gather.add("copied_secrets", source, step.place)


def _run(gather: Gather, step: _Step) -> None:
    for match in _PIPED.finditer(step.text):
        gather.add("piped_scripts", " ".join(match[0].split())[:80], step.place)
    for match in _SETUID.finditer(step.text):
        gather.add("setuid_files", match[1], step.place)


def _health(gather: Gather, step: _Step) -> None:
    gather.say("healthcheck", step.text.upper() != "NONE", step.place)


_EACH: Mapping[str, Callable[[Gather, _Step], None]] = {
    "ENV": _environment, "ARG": _environment, "ADD": _copied, "COPY": _copied, "RUN": _run,
    "HEALTHCHECK": _health}
