"""Fixes of what has a line for each setting: Dockerfiles, units of systemd, run lines.

One line or one option is added, replaced or taken out at the place of the workload; what comes of
it is audited again by whoever asks, so none of these has to know every way to write a thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hardrun.audit.model import Place

USER = 65532  # "nonroot" of distroless images, and in no distribution's /etc/passwd
_RUN = re.compile(r"(?:docker|podman|nerdctl)[ \t]+(?:container[ \t]+)?(?:run|create)(?=[ \t])")
_PRIVILEGED = re.compile(r"--privileged(?:=\S+)?[ \t]*")
_OPTIONS: Mapping[str, str] = {
    "allowPrivilegeEscalation": "--security-opt no-new-privileges",
    "readOnlyRootFilesystem": "--read-only", "capabilities": "--cap-drop ALL",
    "runAsUser": f"--user {USER}:{USER}"}
_SETTINGS: Mapping[str, str] = {
    "allowPrivilegeEscalation": "NoNewPrivileges=yes", "readOnlyRootFilesystem":
    "ProtectSystem=strict", "capabilities": "CapabilityBoundingSet="}
_FROM = re.compile(r"^[ \t]*FROM[ \t]", re.IGNORECASE | re.MULTILINE)
_STEP = re.compile(r"^[ \t]*(?:ADD|COPY|RUN|WORKDIR|ONBUILD|SHELL)[ \t]", re.IGNORECASE
                   | re.MULTILINE)
_START = re.compile(r"^[ \t]*(?:CMD|ENTRYPOINT|HEALTHCHECK)[ \t]", re.IGNORECASE | re.MULTILINE)
_USER = re.compile(r"^([ \t]*USER[ \t]+)\S.*$", re.IGNORECASE | re.MULTILINE)


def edited(source: str, text: str, name: str, found: Place, workload: Place) -> str:
    """The text with one setting; as it was where there is no such edit. ``found`` is where the
    finding stands, ``workload`` where what it concerns does."""
    edit = _EDITS.get(source)
    return edit(text, name, found, workload) if edit else text


def _offset(text: str, place: Place) -> int:
    """Where a place is in the text."""
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[:place.line - 1]) + place.column - 1


def _option(text: str, name: str, found: Place, workload: Place) -> str:
    if name == "privileged":
        match = _PRIVILEGED.match(text, _offset(text, found))
        return text if match is None else text[:match.start()] + text[match.end():]
    match = _RUN.match(text, _offset(text, workload))
    if match is None or name not in _OPTIONS:
        return text
    return f"{text[:match.end()]} {_OPTIONS[name]}{text[match.end():]}"


def _setting(text: str, name: str, found: Place, workload: Place) -> str:
    if name not in _SETTINGS:
        return text
    key = _SETTINGS[name].partition("=")[0]
    there = re.compile(rf"^[ \t]*{key}[ \t]*=[^\n]*$", re.MULTILINE)
    if key != "CapabilityBoundingSet" and there.search(text):
        return there.sub(_SETTINGS[name], text)
    return re.sub(r"^\[Service\][ \t]*$", f"[Service]\n{_SETTINGS[name]}", text, count=1,
                  flags=re.MULTILINE)


def _instruction(text: str, name: str, found: Place, workload: Place) -> str:
    if name != "runAsUser":
        return text
    stage = max((match.start() for match in _FROM.finditer(text)), default=0)
    users = list(_USER.finditer(text, stage))
    if users:  # the last one counts
        last = users[-1]
        return f"{text[:last.start()]}{last[1]}{USER}:{USER}{text[last.end():]}"
    done = max((match.end() for match in _STEP.finditer(text, stage)), default=stage)
    start = _START.search(text, done)
    line = f"USER {USER}:{USER}\n"
    if start is None:
        return text + ("" if text.endswith("\n") else "\n") + line
    return text[:start.start()] + line + text[start.start():]


_EDITS: Mapping[str, Callable[[str, str, Place, Place], str]] = {
    "command": _option, "systemd": _setting, "dockerfile": _instruction}
SOURCES = frozenset(_EDITS)
