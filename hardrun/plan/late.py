"""A compiled program for the directory that it is called in: ``hardrun compile --rw .``."""

from __future__ import annotations

from collections.abc import Sequence

from hardrun.errors import BadInput
from hardrun.plan.schema import Operation
from hardrun.posture import ways_out
from hardrun.posture.filesystem import below


def bind_caller_directory(operations: Sequence[Operation], directory: str, home: str,
                          control: str) -> tuple[Operation, ...]:
    """Let the grant of ``directory`` be that of wherever the program is called.

    The executor refuses the home, what contains it, and every known way out: what the engine
    refuses of a path that it knows, it must refuse of one that comes later.

    Raises BadInput when something else of the plan lies below the directory.
    """
    refused = [home, *(f"{way.value}/" for way in ways_out.touched(control, "/", home))]
    blob = b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in refused)
    return tuple(_late(operation, directory, blob) for operation in operations)


def _late(operation: Operation, directory: str, refused: bytes) -> Operation:
    name, values = operation.name, operation.values
    if name == "bind" and values[0] == values[1] == directory:
        return operation._replace(name="bind_working_directory", values=(values[2], refused))
    if name in ("landlock_path", "change_directory") and values[0] == directory:
        return operation._replace(values=("", *values[1:]))
    for value in values:
        if name in ("bind", "execute") and isinstance(value, str) and below(value, directory):
            raise BadInput(f"{value} lies in the working directory, which is another one at each "
                           "start of a compiled program", hint="name the directory instead of '.'")
    return operation
