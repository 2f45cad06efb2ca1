"""Executors that lack a check of the real one's: the negative control of what its C code does.

A plan can leave out a defence that is an operation of its own. What an operation looks at before it
does its work can only be taken out of the source: here it is, in a copy, and the same attack works.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Edit(NamedTuple):
    """One piece of a source file, which must be there exactly once, and what replaces it."""

    file: str
    old: str
    new: str


CARELESS: Mapping[str, tuple[Edit, ...]] = {
    # Names in the root are resolved as anybody's, from a string (CVE-2021-30465, CVE-2024-45310).
    "follows links": (
        Edit("tree.c", "openat2(sandbox->root_fd, path,",
             'openat2(sandbox->root_fd, path[1] ? path + 1 : ".",'),
        Edit("tree.c", "RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS", "0"),
        Edit("tree.c", "if ((status.st_mode & S_IFMT) == type)", "if ((void)type, 1)"),
        Edit("mounts.c", "open_in_root(sandbox, destination, O_PATH | O_NOFOLLOW)",
             "open_in_root(sandbox, destination, O_PATH)"),
        Edit("mounts.c", "target_fd < 0 ? -1 : move_mount(tree_fd, target_fd);",
             "target_fd < 0 ? -1 : (int)syscall(NR_MOVE_MOUNT, tree_fd, \"\", sandbox->root_fd,"
             " destination + 1, MOVE_MOUNT_F_EMPTY_PATH | 0x10 /* through links */);"),
    ),
    # What is opened is taken for what was decided on (CVE-2024-1753, CVE-2025-31133).
    "trusts names": (
        Edit("mounts.c", "RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS", "0"),
        Edit("mounts.c", "if ((status.st_mode & S_IFMT) != source.type ||",
             "if ((0 && (status.st_mode & S_IFMT) != source.type) ||"),
        Edit("mounts.c", "((source.flags & FLAG_PINNED) &&",
             "(0 && (source.flags & FLAG_PINNED) &&"),
        Edit("mounts.c", "(source.type == S_IFCHR && source.rdev &&",
             "(0 && source.type == S_IFCHR && source.rdev &&"),
        Edit("mounts.c", "if (tree_fd < 0 || owner == ANY_OWNER)",
             "if (tree_fd < 0 || owner == ANY_OWNER || 1)"),
        Edit("filesystems.c", "!S_ISCHR(status.st_mode) || status.st_rdev != makedev(1, 3)",
             "(0 && (!S_ISCHR(status.st_mode) || status.st_rdev != makedev(1, 3)))"),
        Edit("init.c", "if (null_fd >= 0 && is_null(null_fd))", "if (null_fd >= 0)"),
    ),
    "changes its root by chroot": (
        Edit("mounts.c", 'CHECK(syscall(SYS_pivot_root, ".", "."), "pivot_root");\n'
                         '\tCHECK(syscall(SYS_umount2, ".", MNT_DETACH), "umount2");',
             'CHECK(chroot("."), "chroot");'),
    ),
    "leaves mounts as they are": (
        Edit("mounts.c", ".propagation = MS_PRIVATE", ".propagation = 0"),
        Edit("mounts.c", "mount_setattr(tree_fd, AT_EMPTY_PATH | recursive, &set)",
             "mount_setattr(tree_fd, AT_EMPTY_PATH, &set)"),
        Edit("mounts.c", 'CHECK(syscall(SYS_mount, NULL, "/", NULL, MS_PRIVATE, NULL), "mount");',
             "(void)sandbox;"),
    ),
    # Its file, wherever it lies, is taken for one that the command can't reach (CVE-2019-5736).
    "runs from any file": (
        Edit("entry.c", "else if (is_out_of_reach(&sandbox->plan, image.fd))", "else if (1)"),
    ),
    "leaks descriptors": (
        Edit("init.c", "\tunsigned next;\n\tdo {\n", "\tunsigned next;\n\treturn 0;\n\tdo {\n"),
        Edit("relay.c", "if (!S_ISREG(status.st_mode) && (!labelled", "if ((!labelled"),
    ),
    # A command that comes later can be reached into until it is executed (CVE-2016-9962).
    "joins open": (
        Edit("workload.c", "\tint moved[3];\n",
             "\tint moved[3];\n\tprctl(PR_SET_DUMPABLE, 1, 0, 0, 0);\n"),
    ),
    "joins unfiltered": (
        Edit("workload.c", "\t/* There is one thread. Were there another,",
             "\tif (sandbox->served)\n\t\treturn 0;\n"
             "\t/* There is one thread. Were there another,"),
    ),
    "takes any descriptor": (
        Edit("serve.c", "\tif (is_free(fd))\n", "\tif (is_free(fd) || 1)\n"),
    ),
    # What held the layers stays over the old root and is what the pivot's umount takes away.
    "leaves the layers mounted": (
        Edit("layer.c", 'CHECK(syscall(SYS_umount2, ".", MNT_DETACH), "umount2");',
             "(void)status;"),
    ),
    "takes any directory for layers": (
        Edit("layer.c", "status.st_uid == getuid() && !(status.st_mode & 077)", "1"),
    ),
    "follows links to layers": (
        Edit("layer.c", 'RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), "openat2");',
             '0), "openat2");'),
    ),
    "overlays with devices": (
        Edit("layer.c", '"overlay", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV',
             '"overlay", options, 0'),
    ),
    "asks for redirects": (
        Edit("layer.c", '{"userxattr", NULL}', '{"redirect_dir", "on"}, {"userxattr", NULL}'),
    ),
    "asks for metacopy": (
        Edit("layer.c", '{"userxattr", NULL}', '{"metacopy", "on"}, {"userxattr", NULL}'),
    ),
    "overlooks a failure": (
        Edit("credentials.c", "errno == EINVAL && prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0",
             "errno == EINVAL"),
    ),
    "stays where it is": (
        Edit("workload.c", "|| current[0] != '/')", "|| !current[0])"),
    ),
}


def edit(sources: Path, *names: str) -> None:
    """Take these checks out of a copy of the sources."""
    for name in names:
        for file, old, new in CARELESS[name]:
            text = (sources / file).read_text(encoding="utf-8")
            assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
            (sources / file).write_text(text.replace(old, new), encoding="utf-8")

