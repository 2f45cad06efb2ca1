"""Other files that a configuration names: read where they belong to what is audited, else said.

What is audited is written by others. A file that names ``/root/.env``, ``../../secrets.yaml`` or a
link that leads there must not bring what stands in it into a report that others read.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from hardrun.audit import located
from hardrun.audit.located import At, NotYaml
from hardrun.audit.suppress import Note, comments
from hardrun.errors import BadInput

_MAXIMUM = 32 << 20  # of all the files that others name


class NotRead(BadInput):
    """Why a file that another one names is not read, in words that end a sentence."""


@dataclass(slots=True)
class Tree:
    """Where other files may be read: below ``top``, nowhere when it is empty."""

    top: str = ""
    notes: list[Note] = field(default_factory=list)  # suppressions in what was read
    _documents: dict[str, At] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)
    _left: int = _MAXIMUM

    def has(self, path: str) -> bool:
        """Whether a regular file of that name can be read here."""
        try:
            self._within(path)
        except NotRead:
            return False
        return os.path.isfile(path)

    def names(self, directory: str) -> list[str]:
        """The names in a directory, sorted. NotRead where it lies outside or can't be read."""
        if not self.top or not os.path.isdir(directory):
            return []
        try:
            return sorted(os.listdir(self._within(directory)))
        except OSError as error:
            raise NotRead((error.strerror or "unreadable").lower()) from None

    def text(self, path: str) -> str:
        """What stands in a file. NotRead says why that can't be known."""
        real = self._within(path)
        try:
            if not stat.S_ISREG(os.stat(real).st_mode):
                raise NotRead("no regular file")
            with open(real, "rb") as file:
                data = file.read(located.MAXIMUM_SIZE + 1)
        except OSError as error:
            raise NotRead((error.strerror or "unreadable").lower()) from None
        if len(data) > located.MAXIMUM_SIZE or len(data) > self._left:
            raise NotRead("too large")
        self._left -= len(data)
        text = data.decode("utf-8", "surrogateescape")
        if path not in self._noted:
            self._noted.add(path)
            self.notes += comments(text, path)
        return text

    def document(self, path: str) -> At:
        """The first document of a file of YAML. NotRead says why there is none."""
        path = path if "://" in path else os.path.normpath(path)
        if path not in self._documents:
            data = self.text(path).encode("utf-8", "surrogateescape")
            try:
                found = located.documents(data, path)
            except NotYaml as error:
                raise NotRead(f"{error.message}, line {error.line}") from None
            except BadInput as error:
                raise NotRead(error.message.removeprefix(f"{path}: ")) from None
            if not found:
                raise NotRead("empty")
            self._documents[path] = found[0]
        return self._documents[path]

    def _within(self, path: str) -> str:
        if not self.top or "://" in path:
            raise NotRead("not read")
        try:
            real = os.path.realpath(path)
        except ValueError:  # a NUL
            raise NotRead("no name of a file") from None
        if real != self.top and not real.startswith(self.top.rstrip("/") + "/"):
            raise NotRead("outside of what is audited")
        return real


def around(path: str) -> Tree:
    """The tree that a path of the command line stands for: the directory itself; of a file the
    current directory, or its own where it is named from elsewhere."""
    if os.path.isdir(path):
        return Tree(os.path.realpath(path))
    if os.path.isabs(path) or os.path.normpath(path).startswith(".."):
        return Tree(os.path.realpath(os.path.dirname(path) or "."))
    return Tree(os.path.realpath("."))
