"""Read-backs of limits: rlimits of the process, and the sizes of the sandbox's own tmpfs."""

from __future__ import annotations

from hardrun.kernel.mounts import Mount, parse_size
from hardrun.plan.confinement import LIMITS
from hardrun.posture import limits
from hardrun.posture.control import UNLIMITED, Control
from hardrun.verify.check import Answer, ReadBack, Subject, Unreadable, not_bound

_CPU_GRACE = 1  # seconds that the plan leaves between SIGXCPU and SIGKILL


def _by_rlimit(control: Control[int], resource: str) -> ReadBack:
    def read_back(subject: Subject) -> Answer:
        wanted = subject.value(control)
        if wanted == UNLIMITED:
            return not_bound("not limited", "/proc/PID/limits")
        if resource == "RLIMIT_CPU":
            wanted = -(-wanted // 1000) + _CPU_GRACE
        found = subject.read("limits").get(resource)
        if found is None:
            raise Unreadable(f"this kernel does not show {resource}")
        return Answer(found.hard <= wanted, _number(found.hard), f"/proc/PID/limits {resource}")
    return read_back


def _number(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)


BY_RLIMIT: dict[str, ReadBack] = {
    control.id: _by_rlimit(control, resource.name)
    for control in limits.ALL for name, resource in LIMITS if control.id == name
}


def _own_tmpfs(subject: Subject) -> dict[tuple[int, int], Mount]:
    """The tmpfs of the sandbox that can be written somewhere, each once."""
    host = {m.device for m in subject.observer.mounts}
    found: dict[tuple[int, int], Mount] = {}
    for mount in subject.read("mounts"):
        if mount.type == "tmpfs" and mount.device not in host and not mount.has("ro"):
            found[mount.device] = mount
    return found


def tmpfs(subject: Subject) -> Answer:
    """All of the sandbox's own tmpfs together are no larger than the limit."""
    wanted = subject.value(limits.TMPFS)
    sizes = [mount.super_option("size") for mount in _own_tmpfs(subject).values()]
    if None in sizes:
        return Answer(wanted == UNLIMITED, "a tmpfs without a size", "mountinfo")
    total = sum(parse_size(size) for size in sizes if size is not None)
    return Answer(total <= wanted, f"{total} bytes in {len(sizes)} tmpfs", "mountinfo size=")


def inodes(subject: Subject) -> Answer:
    """All of the sandbox's own tmpfs together hold no more files than the limit."""
    wanted = subject.value(limits.INODES)
    numbers = [mount.super_option("nr_inodes") for mount in _own_tmpfs(subject).values()]
    if None in numbers:
        return Answer(wanted == UNLIMITED, "a tmpfs without nr_inodes", "mountinfo")
    total = sum(parse_size(number) for number in numbers if number is not None)
    return Answer(total <= wanted, f"{total} in {len(numbers)} tmpfs", "mountinfo nr_inodes=")
