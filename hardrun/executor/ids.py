"""A start that has ids of its own: the range is taken when the plan is about to be executed."""

from __future__ import annotations

from collections.abc import Sequence

from hardrun.plan.late import assign_ids
from hardrun.plan.schema import Operation
from hardrun.state.ranges import Wish, take


def with_ids(operations: Sequence[Operation], wish: Wish) -> tuple[tuple[Operation, ...], int]:
    """Take a range and map it in the plan; also the descriptor that holds it.

    The executor is to inherit the descriptor, and whoever called closes it: so the range is held
    as long as the sandbox can run. Raises HostUnsupported when there is no range.
    """
    lease = take(wish)
    return assign_ids(operations, lease.first_uid, lease.first_gid, lease.size), lease.descriptor
