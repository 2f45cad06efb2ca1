"""Which files make one project of Compose, and what its services are made of (the Compose
specification: merge, extends, include, interpolation).

A file and its ``compose.override.yaml`` are one; so is what a file such as ``compose.prod.yaml``
leaves out and the file that it is meant to be laid over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hardrun.audit.located import At
from hardrun.audit.tree import NotRead, Tree

_NAME = re.compile(r"((?:docker-|podman-)?compose)(?:[._-]([\w.-]+))?\.ya?ml")
_ENDINGS = (".yaml", ".yml")
_MAXIMUM_EXTENDS = 16
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_]\w*)(?:(:?[-+?])([^${}]*))?\}|\$([A-Za-z_]\w*)")
_MAXIMUM_TEXT = 1 << 16  # of a value that is filled in
_MAXIMUM_VALUE = 1 << 10  # of a variable
_ROUNDS = 8  # of defaults within defaults
_SETTING = re.compile(r"^(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*=[ \t]*(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Project:
    """Files that are merged, the first one below. ``whole``: all services count; else those alone
    that the last file names. ``lacks`` says what of it could not be read."""

    files: tuple[At, ...]
    tree: Tree
    whole: bool = True
    lacks: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The services."""
        files = self.files if self.whole else self.files[-1:]
        gone = {name for document in files for name, service in document.get("services").items()
                if service.tagged("!reset")}
        return list(dict.fromkeys(name for document in files
                                  for name, service in document.get("services").items()
                                  if service and service.is_map and name not in gone))

    def layers(self, name: str) -> tuple[list[At], str]:
        """What a service is made of, its last words first; and why something is missing."""
        found: list[At] = []
        lacks = self.lacks
        for document in reversed(self.files):
            if document.get("services", name).is_map:
                lacks = self._extended(document, name, found) or lacks
        if not lacks and not any(layer.get(key) for layer in found for key in (
                "image", "build", "provider")):
            lacks = "it has no image: another file has the rest of it"
        return found, lacks

    def home(self, name: str) -> At:
        """Where a service is looked for: in the first file, of a part that is laid over in it."""
        files = self.files if self.whole else self.files[-1:]
        return next(service for document in files
                    if (service := document.get("services", name)) and service.is_map)

    def _extended(self, document: At, name: str, found: list[At]) -> str:
        """Append a service of one file and all that it extends."""
        for _ in range(_MAXIMUM_EXTENDS):
            service = document.get("services", name)
            if not service:
                return f"it extends {name} of {document.file}, which is not there"
            found.append(service)
            extends = service.get("extends")
            file = self.filled(extends.get("file").text())
            name = extends.get("service").text() or extends.text()
            if not name:
                return ""
            if file:
                try:
                    document = self.tree.document(_beside(document, file))
                except NotRead as error:
                    return f"it extends a service of {file}, {error}"
        return "it extends more services than can be followed"

    def filled(self, text: str) -> str:
        """Text with what is known of its variables in their places."""
        return filled(text, self.variables)


def _beside(document: At, name: str) -> str:
    return name if "://" in name else os.path.join(os.path.dirname(document.file), name)


def project(document: At, tree: Tree) -> Project:
    """The project that a file belongs to, with what lies beside it."""
    directory, name = os.path.split(document.file)
    match = _NAME.fullmatch(name)
    stem, variant = (match[1], match[2]) if match else ("", None)
    if match and variant is None:
        other = _existing(tree, directory, f"{stem}.override")
        return _merged(tree, other, document=document, last=False, whole=True)
    if variant == "override" or (variant and _is_fragment(document)):
        other = _existing(tree, directory, stem)
        return _merged(tree, other, document=document, last=True, whole=variant == "override")
    return given((document,), tree)


def given(files: tuple[At, ...], tree: Tree, *, whole: bool = True, lacks: str = "") -> Project:
    """The project of these files, in this order."""
    directory = os.path.dirname(files[0].file)
    return Project(files, tree, whole, lacks, _variables(tree, os.path.join(directory, ".env")))


def _merged(tree: Tree, other: str, *, document: At, last: bool, whole: bool) -> Project:
    if not other:
        return given((document,), tree)
    try:
        beside = tree.document(other)
    except NotRead as error:
        return given((document,), tree, lacks=f"it is merged with {other}, {error}")
    return given((beside, document) if last else (document, beside), tree, whole=whole)


def _existing(tree: Tree, directory: str, stem: str) -> str:
    paths = (os.path.join(directory, stem + ending) for ending in _ENDINGS)
    return next((path for path in paths if tree.has(path)), "")


def _is_fragment(document: At) -> bool:
    """Whether it has a service that can't be started from this file alone."""
    services = [service for _, service in document.get("services").items() if service.is_map]
    return not all(any(service.get(key) for key in ("image", "build", "extends", "provider"))
                   for service in services)


def included(document: At) -> Iterator[tuple[At, list[str]]]:
    """Every project that a file includes, as the paths of its files and where that is said."""
    for item in document.get("include").elements():
        paths = [word for word, _ in item.get("path").words()] if item.is_map else [item.text()]
        if any(paths):
            yield item, [_beside(document, path) for path in paths]


# -- interpolation ---------------------------------------------------------------------------------

def _variables(tree: Tree, path: str) -> dict[str, str]:
    """What a .env says; what the caller's environment would say goes before it and isn't known."""
    try:
        text = tree.text(path) if tree.has(path) else ""
    except NotRead:
        return {}
    found = {}
    for name, value in _SETTING.findall(text):
        value = value.strip()
        if value[:1] in ("'", '"'):
            value = value[1:].partition(value[0])[0]
        else:
            value = re.sub(r"\s+#.*", "", value)
        # What refers to others is left alone, lest it grow without a bound.
        if "$" not in value and len(value) <= _MAXIMUM_VALUE:
            found[name] = value
    return found


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Text with variables and their defaults in their places; what isn't known stays as it is."""
    if "$" not in text or len(text) + text.count("$") * _MAXIMUM_VALUE > _MAXIMUM_TEXT:
        return text

    def value(match: re.Match[str]) -> str:
        name, how, word = match[1] or match[4] or "", match[2] or "", match[3] or ""
        known = variables.get(name)
        if known is None or (not known and how.startswith(":")):
            return word if how.endswith("-") else match[0]
        return word if how.endswith("+") else known

    for _ in range(_ROUNDS):
        before = text
        text = _VARIABLE.sub(value, text)
        if text == before:
            break
    return text
