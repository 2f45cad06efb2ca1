"""Compile step: the label that AppArmor or SELinux puts on the workload."""

from __future__ import annotations

import os
from typing import NamedTuple

from hardrun.errors import HostUnsupported, PolicyRefused
from hardrun.kernel import lsm
from hardrun.kernel.lsm import is_confined, profile_of
from hardrun.kernel.selinux import (
    ENFORCE,
    allows,
    context_of,
    file_type,
    is_valid,
    label_of,
)
from hardrun.plan.context import Context, Program
from hardrun.plan.isolation import dependency_of
from hardrun.plan.root import system_directories
from hardrun.posture.filesystem import below
from hardrun.posture.mandatory import available, resolve

STACK = "//&"
_READING = {"dir": ("open", "read", "search"), "file": ("open", "read")}
_WRITING = {"dir": ("add_name", "remove_name", "write"), "file": ("write",)}


class Label(NamedTuple):
    """``write`` goes to attr/exec before the exec, attr/current has to show ``shows`` after it.

    Of SELinux both are the type: the executor takes user and role of whoever starts it, and draws
    the categories, at each start.
    """

    module: str
    write: str
    shows: str


def add_label(program: Program) -> None:
    """Set the label that the Decision chose, and have it read back from outside (LM-02)."""
    label = exec_label(program.context)
    if label is None:
        return
    if label.module == "selinux":
        required = int(program.context.facts.selinux_categories > 1)
        _check_host_labels(program.context, label.write)
        program.add("mandatory", "draw_label", label.write, file_type(label.write), required)
    if label.module == "apparmor":
        _check_grants(program.context, label)
    program.add("mandatory", "set_exec_label", label.module, label.write)
    program.add("mandatory", "expect_label", label.module, label.shows)


def _check_grants(context: Context, label: Label) -> None:
    """Profiles of ours keep the system's directories read-only, wherever the source of a grant is.

    Raises PolicyRefused for a writable grant there, which would fail inside without a word.
    """
    system = system_directories(context.names("filesystem.visible"))
    for mount in context.workload.mounts:
        top = next((d for d in system if below(mount.destination, d)), None)
        if mount.access != "ro" and top is not None and "hardrun-" in label.write:
            raise PolicyRefused(
                f"mandatory: {mount.origin} {mount.destination} asked, and the AppArmor profile "
                f"{label.write.split()[1]} lets nothing be written below {top}",
                hint="choose another destination")


def add_label_conditions(program: Program) -> None:
    """A stored plan is stale when another choice of labels became possible, or its own impossible.

    The kernel is asked at each start: what is loaded changes without any file of ours changing.
    """
    context = program.context
    facts = context.facts
    wanted = {a for clause in context.clauses("mandatory") for a in clause}
    _add_selinux_conditions(program, wanted)
    names = sorted(a.removeprefix("apparmor:") for a in wanted if a.startswith("apparmor:"))
    if not facts.apparmor.available or not names:
        return
    if facts.apparmor_label == "unconfined" or is_confined(facts.apparmor_label):
        # it decides between exec and stack; one that is as good as unconfined comes and goes
        program.add("mandatory", "require_content", lsm.apparmor_label_file(),
                    facts.apparmor_label)
    directories = lsm.apparmor_directories() or {}
    for name in names:
        if name in facts.apparmor_complaining:
            mode = f"{directories.get(name, '')}/mode"
            program.add("mandatory", "require_content", mode, lsm.read_line(mode) or "")
        else:
            accepted = int(available(f"apparmor:{name}", facts))
            program.add("mandatory", "require_label", "apparmor", _verb(context) + name, accepted)


def exec_label(context: Context) -> Label | None:
    """The label of the workload, or None where no clause asks for one.

    Several AppArmor profiles are stacked: the kernel then enforces all of them (apparmor.d(5)).
    Raises HostUnsupported where a clause can't be fulfilled and the Decision does not accept it.
    """
    chosen = resolve(context.clauses("mandatory"), context.facts)
    if chosen is None and "mandatory" not in context.degraded:
        raise HostUnsupported("mandatory: this host has none of what the policy names",
                              fact="mandatory access control", hint="hardrun doctor")
    names: dict[str, list[str]] = {}
    for alternative in chosen or ():
        module, _, name = alternative.partition(":")
        names.setdefault(module, []).append(name)
    if "apparmor" in names:
        return _apparmor(names["apparmor"], context)
    if "selinux" in names:
        return Label("selinux", names["selinux"][0], names["selinux"][0])
    return None


def _verb(context: Context) -> str:
    return "stack " if is_confined(context.facts.apparmor_label) else "exec "


def _apparmor(names: list[str], context: Context) -> Label:
    """A confined caller can only add to its own label: with no_new_privs the kernel refuses an
    exec into another profile (EPERM) and takes a stack.

    Raises HostUnsupported below a profile that only complains: of such a stack the kernel shows
    that modes differ and not whose, so that nothing could be verified.
    """
    profiles = set(names)
    if is_confined(context.facts.apparmor_label):
        own, mode = profile_of(context.facts.apparmor_label)
        if mode != "enforce":
            raise HostUnsupported(
                f"mandatory: the caller's own AppArmor profile, {own}, is in {mode} mode, below "
                "which no label can be verified", fact="apparmor",
                hint=f"as root: aa-enforce {own}, or start hardrun outside of it")
        profiles |= set(own.split(STACK))
    # the kernel sorts the profiles of a stack by their names, as bytes
    shown = STACK.join(sorted(profiles, key=os.fsencode))
    return Label("apparmor", _verb(context) + STACK.join(sorted(names)), f"{shown} (enforce)")


def _check_host_labels(context: Context, domain: str) -> None:
    """A grant that the type can't use is refused: labels of host files are left as they are.

    Raises HostUnsupported. What lies deeper may be labelled otherwise and then answers EACCES.
    """
    own = context_of()
    if own is None:
        return
    source = own._replace(type=domain, range=own.sensitivity)
    for mount in context.workload.mounts:
        target = label_of(mount.source) if mount.source else ""
        if not mount.source or not target:
            continue
        kind = "dir" if os.path.isdir(mount.source) else "file"
        needed = [*_READING[kind], *(_WRITING[kind] if mount.access == "rw" else ())]
        if os.path.exists(mount.source) and allows(source, target, kind, needed) is False:
            verb = "write" if mount.access == "rw" else "read"
            raise HostUnsupported(
                f"{mount.origin} {mount.source}: SELinux does not let {domain} {verb} what is "
                f"labelled {target}", fact="selinux",
                hint=f"chcon -R -t user_home_t {mount.source}, or a copy below the home")


def _add_selinux_conditions(program: Program, wanted: set[str]) -> None:
    """A policy is loaded, or enforced, without any file of ours changing either."""
    if not any(alternative.startswith("selinux:") for alternative in wanted):
        return
    state = lsm.read_line(ENFORCE)
    if state is None:
        program.add("mandatory", "require_path", *dependency_of(ENFORCE))
        return
    program.add("mandatory", "require_content", ENFORCE, state)
    own = context_of()
    for name in sorted(a.removeprefix("selinux:") for a in wanted if a.startswith("selinux:")):
        known = own is not None and is_valid(own._replace(type=name, range=own.sensitivity))
        program.add("mandatory", "require_label", "selinux", name, int(known))
