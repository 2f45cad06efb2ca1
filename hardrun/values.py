"""Frozen values and JSON. Inner values are plain dataclasses, which cost nothing to import.

Documents that people write are read by pydantic, at the edges. What hardrun wrote itself is read
back here, just as strictly: no field too many or too few, no value of another type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_ATOMS = frozenset({str, int, float, bool, NoneType})


def freeze(value: Any) -> Any:
    """JSON values that can't be changed: lists become tuples, objects read-only mappings."""
    if isinstance(value, Mapping):
        return MappingProxyType({str(key): freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple | frozenset | set):
        items = sorted(value) if isinstance(value, frozenset | set) else value
        return tuple(freeze(item) for item in items)
    return value


def plain(value: Any) -> Any:
    """A frozen value as JSON has it: dataclasses and mappings become objects, tuples lists."""
    if type(value) in _ATOMS:  # most of what there is
        return value
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        return {key: plain(item) for key, item in opened(value).items()}
    return value


def opened(value: Any) -> dict[str, Any]:
    """One level of :func:`plain`, for ``json.dumps(default=…)``, which sees to all the others.

    Raises TypeError for what is neither a dataclass nor a mapping.
    """
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no value of JSON")


def load(kind: type[T], data: Any) -> T:
    """A dataclass from what ``plain`` made of one.

    It knows the types that frozen values have: dataclasses, ``str``, ``int``, ``bool``, ``Any``,
    ``Literal``, tuples, ``Mapping[str, …]``, and any of these or None. Raises ValueError, naming
    the place, for a field that is missing or unknown and for a value of another type.
    """
    return cast(T, _load(kind, data, kind.__name__))


def _load(kind: Any, data: Any, place: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _load_fields(kind, _expect(dict, data, place), place)
    if origin is UnionType:
        (some,) = (argument for argument in arguments if argument is not NoneType)
        return None if data is None else _load(some, data, place)
    if origin is tuple:
        return _load_tuple(arguments, _expect(list, data, place), place)
    if origin is Mapping:
        return {key: _load(arguments[1], item, f"{place}.{key}")
                for key, item in _expect(dict, data, place).items()}
    if origin is Literal:
        if data not in arguments:
            raise ValueError(f"{place}: {data!r} is none of {', '.join(arguments)}")
        return data
    return _expect(kind, data, place)


def _load_fields(kind: Any, data: dict[str, Any], place: str) -> Any:
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in data:
        if name not in known:
            raise ValueError(f"{place}: unknown field {name!r}")
    for name, field in known.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{place}: no field {name!r}")
    types = get_type_hints(kind)
    return kind(**{name: _load(types[name], item, f"{place}.{name}")
                   for name, item in data.items()})


def _load_tuple(kinds: tuple[Any, ...], items: list[Any], place: str) -> tuple[Any, ...]:
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        raise ValueError(f"{place}: {len(items)} items, not {len(kinds)}")
    return tuple(_load(kind, item, f"{place}[{number}]")
                 for number, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _expect(kind: type[T], data: Any, place: str) -> T:
    if type(data) is not kind:  # not isinstance: to JSON, true is no number
        raise ValueError(f"{place}: {type(data).__name__} instead of {kind.__name__}")
    return data


def printable(text: str) -> str:
    """``text`` with everything escaped that is not a visible character.

    File names, labels and errors come from people we don't trust: an escape sequence could rewrite
    what the terminal shows or answer on the user's behalf, a bidirectional mark could swap words.
    Bytes that are not UTF-8 are shown as ``\\xNN``.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
