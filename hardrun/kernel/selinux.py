"""SELinux as far as a user can see it: contexts, what selinuxfs answers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from hardrun.kernel import lsm

_FILES = "/sys/fs/selinux"
ENFORCE = f"{_FILES}/enforce"
_LONGEST = len("c1023") + 1  # policies have 1024; a range of any length would fill the memory
_PERMISSIVE = 1  # AVD_FLAGS_PERMISSIVE, security/selinux/include/security.h


class Context(NamedTuple):
    """``user:role:type:range``; the range is empty where the policy knows no levels."""

    user: str
    role: str
    type: str
    range: str = ""

    @classmethod
    def parse(cls, text: str) -> Context | None:
        """A context; None for what is none (another module's label)."""
        words = text.split(":", 3)
        return cls(*words) if len(words) > 2 and all(words) else None

    def __str__(self) -> str:
        return ":".join(word for word in self if word)

    @property
    def sensitivity(self) -> str:
        """The sensitivity of the lower level: ``s0``."""
        return self.range.partition("-")[0].partition(":")[0]

    @property
    def categories(self) -> frozenset[int]:
        """The categories of the upper level: 0 to 1023 for ``s0-s0:c0.c1023``."""
        return categories(self.range.rpartition("-")[2].partition(":")[2])


def categories(text: str) -> frozenset[int]:
    """The numbers of ``c1,c3.c5``. Raises ValueError for what is no such list."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition(".")
        found.update(range(_number(first), _number(last or first) + 1))
    return frozenset(found)


def _number(word: str) -> int:
    if not word.startswith("c") or not word[1:].isdecimal() or len(word) > _LONGEST:
        raise ValueError(f"{word!r} is not a category")
    return int(word[1:])


def file_type(domain: str) -> str:
    """The type of what a sandbox has for itself: ``container_t`` has ``container_file_t``."""
    return f"{domain.removesuffix('_t')}_file_t"


def enforcing() -> bool | None:
    """Whether SELinux enforces; False: it only reports; None: it is not there."""
    state = lsm.read_line(ENFORCE)
    return None if state is None else state == "1"


def context_of(process: int | str = "self") -> Context | None:
    """The context of a process; None without SELinux."""
    text = lsm.read_line(f"/proc/{process}/attr/selinux/current") or lsm.label(process)
    return Context.parse(text or "")


def confining() -> str | None:
    """The caller's context, where SELinux enforces or a domain or container hides whether it does.

    None without SELinux and where it only reports.
    """
    own = context_of()
    return None if own is None or enforcing() is False else str(own)


def clearance() -> int:
    """How many categories the caller has to give."""
    own = context_of() if enforcing() is not None else None
    return len(own.categories) if own is not None else 0


def known_types(candidates: Iterable[str]) -> tuple[str, ...]:
    """Those of ``candidates`` that the loaded policy knows, together with the type of their files.

    The kernel checks a whole context that is written to selinuxfs: user and role are taken from
    the caller's own, as at an exec.
    """
    own = context_of()
    if own is None:
        return ()
    return tuple(name for name in candidates if is_valid(own._replace(type=name)) and is_valid(
        own._replace(role="object_r", type=file_type(name), range=own.sensitivity)))


def is_valid(context: Context) -> bool:
    """Whether the loaded policy has such a context."""
    return _ask("context", str(context)) is not None


def is_permissive(context: Context) -> bool | None:
    """Whether the policy only reports what this type does; None where it does not say."""
    number = lsm.read_line(f"{_FILES}/class/process/index")
    answer = _ask("access", f"{context} {context} {number}")
    return None if answer is None else bool(int(answer.split()[-1], 16) & _PERMISSIVE)


def allows(source: Context, target: str, kind: str, permissions: Iterable[str]) -> bool | None:
    """Whether ``source`` has all of ``permissions`` on an object of class ``kind``.

    ``target`` is the object's context. None where the policy does not say.
    """
    number = lsm.read_line(f"{_FILES}/class/{kind}/index")
    answer = _ask("access", f"{source} {target} {number}")
    if answer is None:
        return None
    allowed = int(answer.split()[0], 16)
    for name in permissions:
        index = lsm.read_line(f"{_FILES}/class/{kind}/perms/{name}")
        if index is not None and not allowed >> (int(index) - 1) & 1:
            return False
    return True


def loosened(context: Context) -> tuple[str, ...]:
    """What the loaded policy lets a sandbox's type do that no such type may: nothing, as a rule.

    Root can load another policy under the same names at any time. Each line names a thing that
    would lead out: secrets of the system, the caller's processes, the policy itself.
    """
    own = context_of()
    if own is None:
        return ()
    level = context.sensitivity
    beyond = (
        (Context("system_u", "object_r", "shadow_t", level), "file", ("read", "write")),
        (own, "process", ("ptrace", "sigkill", "transition")),
        (own, "file", ("write",)),
        (Context("system_u", "object_r", "security_t", level), "security",
         ("load_policy", "setenforce", "setbool")))
    return tuple(f"{kind} {{ {permission} }} of {target.type}"
                 for target, kind, permissions in beyond for permission in permissions
                 if target.type != context.type and _permits(context, target, kind, permission))


def _permits(source: Context, target: Context, kind: str, permission: str) -> bool:
    """Whether the loaded policy has a rule for this one permission; False where it knows it not."""
    known = lsm.read_line(f"{_FILES}/class/{kind}/perms/{permission}")
    return known is not None and allows(source, str(target), kind, [permission]) is True


def label_of(path: str) -> str:
    """The context of a file; empty where it has none to show."""
    try:
        return os.fsdecode(os.getxattr(path, "security.selinux").rstrip(b"\0"))
    except OSError:
        return ""


def _ask(file: str, question: str) -> str | None:
    """Write to a file of selinuxfs and read the answer; None when it is refused."""
    try:
        descriptor = os.open(f"{_FILES}/{file}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(descriptor, os.fsencode(question) + b"\0")
        return os.fsdecode(os.read(descriptor, 4096).rstrip(b"\0"))
    except OSError:  # EINVAL: no such context; EACCES: the caller may not ask
        return None
    finally:
        os.close(descriptor)
