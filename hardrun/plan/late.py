"""What a plan holds only when it starts.

The directory that a compiled program is called in (``hardrun compile --rw .``), and the range of
ids that one sandbox has to itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from hardrun.errors import BadInput
from hardrun.plan.isolation import id_map
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
    late = [_late(operation, directory, blob) for operation in operations]
    if not any(operation.name == "bind_working_directory" for operation in late):
        # the landlock tier has no binds: the check is made all the same
        at = next(i for i, operation in enumerate(late) if operation.name == "set_capabilities")
        late.insert(at, Operation("bind_working_directory", (0, blob), control))
    return tuple(late)


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


def assign_ids(operations: Sequence[Operation], first_uid: int, first_gid: int,
               size: int) -> tuple[Operation, ...]:
    """Map a range that was taken for one start: the workload's own id is its first one."""
    [inside] = [o.values for o in operations if o.name == "become"]
    maps = iter([id_map(int(inside[n]), first, ((first + 1, size - 1),))
                 for n, first in enumerate((first_uid, first_gid))])
    return tuple(o._replace(values=(o.values[0], next(maps))) if o.name == "write_id_map_helper"
                 else o for o in operations)
