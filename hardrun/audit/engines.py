"""What engines tell of their containers: their clients are asked, nothing is started."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace

from hardrun.audit.model import Seen
from hardrun.audit.walk import Batch, read_text
from hardrun.errors import BadInput

# How to ask whether ids inside are other ones outside, and a word of the answer if they are.
_OTHER_IDS: Mapping[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "docker": (("info", "--format", "{{range .SecurityOptions}}{{println .}}{{end}}"),
               frozenset({"name=userns", "name=rootless"})),
    "podman": (("info", "--format", "{{.Host.Security.Rootless}}"), frozenset({"true"})),
}
ENGINES = tuple(_OTHER_IDS)


def read(engine: str, batch: Batch) -> None:
    """Every container of ``docker`` or ``podman``, running or not. BadInput says why not."""
    told = _every(engine)
    if not told:
        return
    question, words = _OTHER_IDS[engine]
    other_ids = words & set(_asked(engine, *question).decode("utf-8", "replace").split())
    before = len(batch.subjects)
    read_text(told, f"<{engine}>", batch, named=True)
    for number, subject in enumerate(batch.subjects[before:] if other_ids else [], before):
        if "user_namespace" in subject.unknown:
            unknown = {name: why for name, why in subject.unknown.items()
                       if name != "user_namespace"}
            values = {**subject.values, "user_namespace": Seen("own", subject.place)}
            batch.subjects[number] = replace(subject, values=values, unknown=unknown)


def _every(engine: str, tries: int = 3) -> bytes:
    """What it says of every container; nothing where it has none."""
    names = _asked(engine, "ps", "--all", "--quiet").decode().split()
    try:
        return _asked(engine, "inspect", *names) if names else b""
    except BadInput:
        if tries == 1:
            raise
    return _every(engine, tries - 1)  # one has ended meanwhile, and was removed


def _asked(engine: str, *words: str) -> bytes:
    try:
        return subprocess.run([engine, *words], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise BadInput(f"--{engine}: {engine} is not installed") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode("utf-8", "replace").split())
        raise BadInput(f"--{engine}: {said[:200]}") from None
