"""JSON with the line of every value, so that an error or an explanation can say where."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from json import decoder, scanner
from typing import Any, NamedTuple

from hardrun.errors import PolicyError

# Far above any real profile (Docker's has 850 lines): what is refused is a bomb.
MAXIMUM_SIZE = 1 << 20

Location = tuple[str | int, ...]


class _Value(NamedTuple):
    value: Any
    offset: int


class _Pairs(NamedTuple):
    pairs: Sequence[tuple[str, _Value]]


class Document(NamedTuple):
    """A parsed document and the line (from 1) of each value by its path."""

    value: Any
    lines: Mapping[Location, int]

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the value at ``path``, or of the nearest thing that encloses it."""
        place = tuple(path)
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


class _Decoder(json.JSONDecoder):
    """The standard decoder, its pure-Python form, with each member's offset kept."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_Pairs)
        self.parse_object = self._object
        self.parse_array = self._array
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    @staticmethod
    def _keeping_offset(scan: Callable[..., Any]) -> Callable[[str, int], tuple[_Value, int]]:
        def scan_once(text: str, offset: int) -> tuple[_Value, int]:
            value, end = scan(text, offset)
            return _Value(value, offset), end

        return scan_once

    def _object(self, state: Any, strict: Any, scan: Any, *hooks: Any) -> Any:
        inner = self._keeping_offset(scan)
        return decoder.JSONObject(state, strict, inner, *hooks)  # type: ignore[attr-defined]

    def _array(self, state: Any, scan: Any, *rest: Any) -> Any:
        return decoder.JSONArray(state, self._keeping_offset(scan), *rest)  # type: ignore[attr-defined]


def check_size(size: int, file: str) -> None:
    """PolicyError for a document that is too large to be one."""
    if size > MAXIMUM_SIZE:
        raise PolicyError(f"larger than {MAXIMUM_SIZE >> 20} MiB", file=file)


def parse(text: str, file: str) -> Document:
    """Parse one JSON document; PolicyError names the file and line of what is wrong with it."""
    starts = [0, *(index + 1 for index, character in enumerate(text) if character == "\n")]
    lines: dict[Location, int] = {}

    def plain(item: _Value, path: Location) -> Any:
        lines[path] = bisect_right(starts, item.offset)
        if isinstance(item.value, _Pairs):
            members: dict[str, Any] = {}
            for key, member in item.value.pairs:
                if key in members:
                    # Parsers differ in which of the two counts: a reviewer would see the other.
                    line = bisect_right(starts, member.offset)
                    raise PolicyError("given twice in one object", file=file, line=line, field=key)
                members[key] = plain(member, (*path, key))
            return members
        if isinstance(item.value, list):
            return [plain(member, (*path, index)) for index, member in enumerate(item.value)]
        return item.value

    check_size(len(text), file)
    try:
        start = len(text) - len(text.lstrip(" \t\r\n"))
        value = _Decoder().decode(text)
        return Document(plain(_Value(value, start), ()), lines)
    except json.JSONDecodeError as error:
        raise PolicyError(f"not JSON: {error.msg}", file=file, line=error.lineno) from None
    except ValueError:  # int() of more than 4300 digits
        raise PolicyError("not JSON: a number of too many digits", file=file) from None
    except RecursionError:
        raise PolicyError("nested too deeply", file=file) from None
