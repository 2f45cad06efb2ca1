"""The kinds of order that controls have.

    Flag         one of two values is the stricter one
    Level        names from strict to loose
    Amount       a number, smaller is stricter
    Mask         a bit mask, more bits are stricter
    Names        a set of known names, a subset is stricter
    Covering     a set of elements that may cover others (paths, name patterns): narrower
    Obligations  a set of things that must hold, a superset is stricter
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from hardrun.posture.control import UNLIMITED, Control

E = TypeVar("E")


def texts(raw: object) -> list[str]:
    """A list of strings, or one string as a list of one; ValueError otherwise."""
    if isinstance(raw, str):
        return [raw]
    if isinstance(raw, list) and all(isinstance(item, str) for item in raw):
        return list(raw)
    if raw is None or (isinstance(raw, list) and None in raw):
        raise ValueError("must be a list of strings; a bare ~ is null in YAML, write $HOME")
    raise ValueError("must be a list of strings")


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean …?)`` for a misspelt word, or nothing."""
    import difflib  # only where there is an error to explain

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Flag(Control[bool]):
    """A control that is on or off; ``default`` is the strict value, ``loosest`` the other."""

    def at_most(self, a: bool, b: bool) -> bool:
        return a == b or b == self.loosest

    def meet(self, a: bool, b: bool) -> bool:
        return a if a == b else not self.loosest

    def join(self, a: bool, b: bool) -> bool:
        return a if a == b else self.loosest

    def parse(self, raw: object) -> bool:
        if not isinstance(raw, bool):
            raise ValueError(f"must be true or false, not {raw!r}")
        return raw

    def show(self, value: bool) -> str:
        return "yes" if value else "no"

    def spell(self, value: bool) -> str:
        return "true" if value else "false"

    def dump(self, value: bool) -> bool:
        return value

    def load(self, data: Any) -> bool:
        return self.parse(data)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Level(Control[str]):
    """A control whose values form a chain; ``levels`` go from strict to loose."""

    levels: tuple[str, ...]

    def at_most(self, a: str, b: str) -> bool:
        return self.levels.index(a) <= self.levels.index(b)

    def meet(self, a: str, b: str) -> str:
        return a if self.at_most(a, b) else b

    def join(self, a: str, b: str) -> str:
        return b if self.at_most(a, b) else a

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str) or raw not in self.levels:
            known = ", ".join(self.levels)
            raise ValueError(f"must be one of {known}, not {raw!r}{nearest(str(raw), self.levels)}")
        return raw

    def show(self, value: str) -> str:
        return value

    def dump(self, value: str) -> str:
        return value

    def load(self, data: Any) -> str:
        return self.parse(data)

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.levels)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Amount(Control[int]):
    """A limit. ``UNLIMITED`` is no limit; ``least`` is the smallest value with which a program can
    start at all; the four functions turn a number into text and back."""

    least: int = 0
    example: str = ""
    read: Callable[[str], int]
    tell: Callable[[int], str]
    write: Callable[[int], str]
    plain_numbers: bool = True

    def at_most(self, a: int, b: int) -> bool:
        return a <= b

    def meet(self, a: int, b: int) -> int:
        return min(a, b)

    def join(self, a: int, b: int) -> int:
        return max(a, b)

    def parse(self, raw: object) -> int:
        if raw == "unlimited":
            return UNLIMITED
        number = isinstance(raw, int | float) and not isinstance(raw, bool)
        if not isinstance(raw, str) and not (number and (self.plain_numbers or raw == 0)):
            raise ValueError(f"must be a value such as {self.example}, not {raw!r}")
        value = 0 if raw == 0 else self.read(str(raw))
        if value < self.least:
            raise ValueError(f"{raw} is too small; the least is {self.write(self.least)}")
        return value

    def show(self, value: int) -> str:
        return "unlimited" if value == UNLIMITED else self.tell(value)

    def spell(self, value: int) -> str:
        return "unlimited" if value == UNLIMITED else self.write(value)

    def dump(self, value: int) -> int | None:
        return None if value == UNLIMITED else value

    def load(self, data: Any) -> int:
        if data is None:
            return UNLIMITED
        if isinstance(data, bool) or not isinstance(data, int) or not 0 <= data < UNLIMITED:
            raise ValueError(f"{data!r} is not a limit")
        return data

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}],
                "examples": [self.example]}


class Mask(Control[int]):
    """Permission bits that are taken away."""

    def at_most(self, a: int, b: int) -> bool:
        return a & b == b

    def meet(self, a: int, b: int) -> int:
        return a | b

    def join(self, a: int, b: int) -> int:
        return a & b

    def parse(self, raw: object) -> int:
        # 022 without quotes is twenty-two in YAML 1.2 and eighteen in 1.1.
        if not isinstance(raw, str) or not 1 <= len(raw) <= 4 or set(raw) - set("01234567"):
            raise ValueError(f"must be octal digits in quotes such as '022', not {raw!r}")
        return self.load(int(raw, 8))

    def show(self, value: int) -> str:
        return f"{value:03o}"

    def dump(self, value: int) -> int:
        return value

    def load(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int) or not 0 <= data <= 0o777:
            raise ValueError(f"{data!r} is not a mask of permission bits")
        return data

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-7]{1,4}$"}


class _Set(Control[frozenset[E]]):
    """What the controls whose values are sets have in common."""

    def show(self, value: frozenset[E]) -> str:
        return ", ".join(map(str, self.dump(value))) or "none"

    def dump(self, value: frozenset[E]) -> list[Any]:
        return sorted(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Names(_Set[str]):
    """A set of names out of ``loosest``, which is all there are."""

    prefix: str = ""

    def at_most(self, a: frozenset[str], b: frozenset[str]) -> bool:
        return a <= b

    def meet(self, a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return a & b

    def join(self, a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return a | b

    def parse(self, raw: object) -> frozenset[str]:
        names: set[str] = set()
        for word in texts(raw):
            if word == "any":
                return self.loosest
            name = word if word.startswith(self.prefix) else self.prefix + word
            if name not in self.loosest:
                raise ValueError(f"{word!r} is not known{nearest(name, self.loosest)}")
            names.add(name)
        return frozenset(names)

    def show(self, value: frozenset[str]) -> str:
        if value == self.loosest:
            return "any"
        return ", ".join(sorted(n.removeprefix(self.prefix) for n in value)) or "none"

    def load(self, data: Any) -> frozenset[str]:
        value = frozenset(texts(data))
        if unknown := value - self.loosest:
            raise ValueError(f"{min(unknown)!r} is not known")
        return value

    def schema(self) -> dict[str, Any]:
        known = ["any", *sorted(n.removeprefix(self.prefix) for n in self.loosest)]
        return {"type": "array", "items": {"enum": known}}


class Covering(_Set[E]):
    """A set whose elements may cover one another. Any two are nested or disjoint, so that the meet
    of two sets is made of elements of both. Values are antichains: no element covers another."""

    @abstractmethod
    def covers(self, wide: E, narrow: E) -> bool:
        """Whether all that ``narrow`` stands for belongs to ``wide``."""

    def normal(self, elements: Iterable[E]) -> frozenset[E]:
        """The same set without elements that others cover."""
        every = frozenset(elements)
        return frozenset(
            e for e in every if not any(o != e and self.covers(o, e) for o in every))

    def reaches(self, value: frozenset[E], element: E) -> bool:
        """Whether an element belongs to the set."""
        return any(self.covers(wide, element) for wide in value)

    def at_most(self, a: frozenset[E], b: frozenset[E]) -> bool:
        return all(self.reaches(b, element) for element in a)

    def meet(self, a: frozenset[E], b: frozenset[E]) -> frozenset[E]:
        return self.normal([e for e in a if self.reaches(b, e)]
                           + [e for e in b if self.reaches(a, e)])

    def join(self, a: frozenset[E], b: frozenset[E]) -> frozenset[E]:
        return self.normal(a | b)

    def show(self, value: frozenset[E]) -> str:
        return "any" if value == self.loosest else super().show(value)


class Obligations(_Set[E]):
    """A set of things that must all hold. Values hold no element that another implies."""

    def implies(self, strict: E, weak: E) -> bool:
        """Whether whatever fulfils ``strict`` fulfils ``weak``."""
        return strict == weak

    def normal(self, elements: Iterable[E]) -> frozenset[E]:
        """The same obligations without those that others imply; of equivalent ones the first."""
        every = sorted(frozenset(elements))  # type: ignore[type-var]
        return frozenset(
            e for i, e in enumerate(every)
            if not any(self.implies(o, e) and (not self.implies(e, o) or j < i)
                       for j, o in enumerate(every) if j != i))

    def at_most(self, a: frozenset[E], b: frozenset[E]) -> bool:
        return all(any(self.implies(mine, theirs) for mine in a) for theirs in b)

    def meet(self, a: frozenset[E], b: frozenset[E]) -> frozenset[E]:
        return self.normal(a | b)

    def join(self, a: frozenset[E], b: frozenset[E]) -> frozenset[E]:
        return self.normal([e for e in a if self.at_most(b, frozenset([e]))]
                           + [e for e in b if self.at_most(a, frozenset([e]))])
