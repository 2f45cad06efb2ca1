"""Read-backs of limits: files of the cgroup, rlimits of the process, the sizes of the sandbox's own
tmpfs, and what the executor's parent counts by the sealed plan that it carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from hardrun.kernel import cgroups
from hardrun.kernel.mounts import Mount, parse_size
from hardrun.plan.cgroup import disks
from hardrun.plan.confinement import LIMITS, NO_CORE
from hardrun.plan.schema import Operation
from hardrun.posture import limits
from hardrun.posture.control import UNLIMITED, Control
from hardrun.posture.units import parse_cpu_list
from hardrun.verify.check import Answer, ReadBack, Subject, Unreadable, not_bound

_CPU_GRACE = 1  # seconds that the plan leaves between SIGXCPU and SIGKILL
_PERIOD = "cpu.cfs_period_us"
_RATES = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")


def _by_rlimit(control: Control[int], resource: str) -> ReadBack:
    def read_back(subject: Subject) -> Answer:
        wanted = subject.value(control)
        if wanted == UNLIMITED:
            return not_bound("not limited", "/proc/PID/limits")
        if resource == "RLIMIT_CPU":
            wanted = -(-wanted // 1000) + _CPU_GRACE
        if resource == "RLIMIT_CORE":
            wanted = max(wanted, NO_CORE)
        found = subject.read("limits").get(resource)
        if found is None:
            raise Unreadable(f"this kernel does not show {resource}")
        return Answer(found.hard <= wanted, _number(found.hard), f"/proc/PID/limits {resource}")
    return read_back


def _number(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)


def _share(text: str) -> int:
    """Thousandths of a CPU in the text of cpu.max: a quota and a period, or ``max``."""
    quota, _, period = text.partition(" ")
    return UNLIMITED if quota == "max" else int(quota) * 1000 // int(period or 100_000)


def _amount(text: str) -> int:
    return UNLIMITED if text == "max" else int(text)


def _disk_rate(text: str) -> int:
    """The largest rate of any disk of this host: one that io.max does not name has no limit."""
    rates: dict[str, int] = {}
    for disk, *words in map(str.split, text.splitlines()):
        found = [_amount(word.partition("=")[2]) for word in words
                 if word.startswith(("rbps=", "wbps="))]
        rates[disk] = max(found) if len(found) == 2 else UNLIMITED
    return _over_disks(rates)


def _over_disks(rates: Mapping[str, int]) -> int:
    return max((rates.get(disk, UNLIMITED) for disk in disks()), default=0)


def _by_group(control: Control[int], file: str, number: Callable[[str], int], more: int = 0
              ) -> ReadBack:
    def read_back(subject: Subject) -> Answer:
        wanted = subject.value(control)
        found = number(_group_file(subject, file))
        return Answer(found <= wanted + more, _number(found), _place(subject, file))
    return read_back


def _memory(subject: Subject) -> Answer:
    """The limit, and that whatever exceeds it ends the whole sandbox rather than a part of it."""
    answer = _by_group(limits.MEMORY, "memory.max", _amount)(subject)
    if _group_file(subject, "memory.oom.group") == "1":
        return answer
    return Answer(holds=False, observed="memory.oom.group is off",
                  evidence=_place(subject, "memory.oom.group"))


def _with_swap(subject: Subject) -> Answer:
    """Version 1 limits memory and swap together."""
    file = "memory.memsw.limit_in_bytes"
    wanted = subject.value(limits.MEMORY) + subject.value(limits.SWAP)
    found = _amount(_group_file(subject, file))
    return Answer(found <= wanted, _number(found), _place(subject, file))


def _quota(subject: Subject) -> Answer:
    """Version 1 has quota and period in files of their own; a quota of -1 is none."""
    file = "cpu.cfs_quota_us"
    quota = _group_file(subject, file)
    found = _share(f"{'max' if quota == '-1' else quota} {_group_file(subject, _PERIOD)}")
    return Answer(found <= subject.value(limits.CPUS), _number(found), _place(subject, file))


def _disk_rate_v1(subject: Subject) -> Answer:
    """Version 1 has reads and writes in files of their own, a line for each disk with a limit."""
    found = 0
    for file in _RATES:
        lines = (line.split() for line in _group_file(subject, file).splitlines())
        found = max(found, _over_disks({w[0]: int(w[1]) for w in lines if len(w) == 2}))
    return Answer(found <= subject.value(limits.IO), _number(found), _place(subject, _RATES[1]))


def _group_file(subject: Subject, file: str) -> str:
    """A file of the process's group; one without the controller has no limit at all."""
    text: str = subject.read("cgroup").get(file, "max")
    return text


def _place(subject: Subject, file: str) -> str:
    """The path of a file: of version 1 it is in the hierarchy of its controller."""
    groups: Mapping[str, str] = subject.read("cgroup")
    controller = file.split(".")[0]
    return f"{groups.get(controller, groups.get(cgroups.GROUP, ''))}/{file}"


def cpuset(subject: Subject) -> Answer:
    """The CPUs that the group may really use, which are all where none of those asked exists."""
    wanted = subject.value(limits.CPUSET)
    if wanted == limits.CPUSET.loosest:
        return not_bound("not limited", "cpuset.cpus")
    groups = subject.read("cgroup")
    file = "cpuset.effective_cpus" if "cpuset" in groups else "cpuset.cpus.effective"
    text = groups.get(file, "")
    return Answer(bool(text) and parse_cpu_list(text) <= wanted, text or "all CPUs",
                  _place(subject, file))


_BY_RLIMIT: dict[str, ReadBack] = {
    control.id: _by_rlimit(control, resource.name)
    for control in limits.ALL for name, resource in LIMITS if control.id == name
}
_BY_FILE: dict[str, ReadBack] = {
    "memory.max": _memory,
    "memory.limit_in_bytes": _by_group(limits.MEMORY, "memory.limit_in_bytes", _amount),
    "memory.swap.max": _by_group(limits.SWAP, "memory.swap.max", _amount),
    "memory.memsw.limit_in_bytes": _with_swap,
    "pids.max": _by_group(limits.PIDS, "pids.max", _amount, more=1),  # PID 1, the executor's
    "cpu.max": _by_group(limits.CPUS, "cpu.max", _share),
    "cpu.cfs_quota_us": _quota,
    "io.max": _by_group(limits.IO, "io.max", _disk_rate),
    _RATES[1]: _disk_rate_v1,
    "cpuset.cpus": cpuset,
}
_IN_GROUPS = (limits.MEMORY, limits.SWAP, limits.PIDS, limits.CPUS, limits.IO)


def in_group(layers: Iterable[str]) -> bool:
    """Whether files of a cgroup enforce a control."""
    return any(layer.startswith(limits.CGROUP) for layer in layers)


def of_init(layers: Iterable[str]) -> bool:
    """Whether a limit holds for PID 1 as well: the group does, rlimits are the workload's."""
    return _by_file(layers) is not None


def _by_file(layers: Iterable[str]) -> ReadBack | None:
    """The read-back of the file of a group that enforces a control."""
    files = (layer.removeprefix(limits.CGROUP) for layer in layers)
    return next((_BY_FILE[file] for file in files if file in _BY_FILE), None)


def _by_what_enforces(control: Control[int]) -> ReadBack:
    """Read back from the layer that the Decision names: a file of the group, or an rlimit."""
    def read_back(subject: Subject) -> Answer:
        if subject.value(control) == UNLIMITED:
            return not_bound("not limited", "the decision")
        known = _by_file(subject.layers) or _BY_RLIMIT.get(control.id)
        if known is None:
            raise Unreadable("there is no cgroup to read it from")
        return known(subject)
    return read_back


READ_BACK: dict[str, ReadBack] = {
    **{control.id: _by_what_enforces(control) for control in limits.ALL
       if control.id in _BY_RLIMIT or control in _IN_GROUPS},
    limits.CPUSET.id: cpuset,
}


def _own_tmpfs(subject: Subject) -> dict[tuple[int, int], Mount]:
    """The tmpfs of the sandbox that can be written somewhere, each once."""
    host = {m.device for m in subject.observer.mounts}
    found: dict[tuple[int, int], Mount] = {}
    for mount in subject.read("mounts"):
        if mount.type == "tmpfs" and mount.device not in host and not mount.has("ro"):
            found[mount.device] = mount
    return found


def _layer(subject: Subject) -> list[Operation]:
    """The tmpfs that a layer of the root lies in: no mount shows it, the sealed plan has it."""
    return [o for o in subject.evidence.sealed if o.name == "layer"]


def tmpfs(subject: Subject) -> Answer:
    """All of the sandbox's own tmpfs together are no larger than the limit."""
    wanted = subject.value(limits.TMPFS)
    sizes = [mount.super_option("size") for mount in _own_tmpfs(subject).values()]
    sizes += [str(layer.values[2]) for layer in _layer(subject)]
    if None in sizes:
        return Answer(wanted == UNLIMITED, "a tmpfs without a size", "mountinfo")
    total = sum(parse_size(size) for size in sizes if size is not None)
    return Answer(total <= wanted, f"{total} bytes in {len(sizes)} tmpfs", "mountinfo size=")


def inodes(subject: Subject) -> Answer:
    """All of the sandbox's own tmpfs together hold no more files than the limit."""
    wanted = subject.value(limits.INODES)
    numbers = [mount.super_option("nr_inodes") for mount in _own_tmpfs(subject).values()]
    numbers += [str(layer.values[3]) for layer in _layer(subject)]
    if None in numbers:
        return Answer(wanted == UNLIMITED, "a tmpfs without nr_inodes", "mountinfo")
    total = sum(parse_size(number) for number in numbers if number is not None)
    return Answer(total <= wanted, f"{total} in {len(numbers)} tmpfs", "mountinfo nr_inodes=")


def _counted(subject: Subject, control: Control[int], operation: str, place: int) -> Answer:
    wanted = subject.value(control)
    values = subject.sealed(operation).values
    found = int(values[place]) if values else 0  # 0 stands for none
    return Answer(0 < found <= wanted or wanted == UNLIMITED, str(found or "none"),
                  f"the sealed plan: {operation}; the executor counts it")


def timeout(subject: Subject) -> Answer:
    """The wall-clock time after which the executor ends the sandbox."""
    return _counted(subject, limits.TIMEOUT, "timeout", 0)


def output(subject: Subject) -> Answer:
    """The bytes of output after which the executor ends the sandbox."""
    return _counted(subject, limits.OUTPUT, "standard_io", 2)
