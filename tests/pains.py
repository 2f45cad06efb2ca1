"""What users of other sandboxes reported, by its number, and what doctor says of such a host.

The numbers are those of the project's collection of complaints about bubblewrap, nsjail, podman,
runc and agents' sandboxes; the issue is named where it is best known. A pain that doctor is to tell
is either a scene of tests/sandbox/scenes.py, or the failure as it was reported together with what
stood around it, where an ordinary user of this kernel can't make such a host.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from hardrun.host import places
from hardrun.host.attempt import Failure
from hardrun.host.causes import Diagnosis
from hardrun.host.cgroup import Candidate, verdict
from hardrun.host.diagnose import diagnose
from hardrun.host.distribution import Distribution
from hardrun.host.facts import Fact
from hardrun.host.surroundings import Surroundings
from hardrun.kernel.mounts import parse

UBUNTU = Surroundings(apparmor_restrict_userns="1", apparmor_label="unconfined",
                      distribution=Distribution("ubuntu", "debian", "24.04"))
# 26.04: a profile in the mode unconfined alone gives no namespaces any more
UBUNTU_26 = UBUNTU._replace(apparmor_restrict_unconfined="1")
DOCKER = Surroundings(apparmor_label="docker-default (enforce)", seccomp=2, nested=True)
NFS = parse("20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
            "21 20 0:50 / /home rw,nosuid - nfs4 server:/home rw,vers=4.2\n")
SCOPE = Candidate("a scope of systemd", "/sys/fs/cgroup/.", "/run/user/1000/bus",
                  ("cpu", "memory", "pids", "swap"))


# What people are told elsewhere: to take a protection away. Unmasking is none where the pod's root
# is not the host's.
BYPASS = re.compile(
    r"unconfined|--privileged|privileged: true|label[=:]disable|setenforce 0|(apparmor|selinux)=0"
    r"|aa-(disable|complain|teardown)|restrict_unprivileged_\w+ ?= ?0|remount,suid|--cap-add"
    r"|no-?new-?priv\w*[=:] ?(no|false)|without no.new.priv|SYS_ADMIN|dangerously|--no-sandbox"
    r"|unmask(?!ed' together with 'hostUsers: false')", re.IGNORECASE)


class Reported(NamedTuple):
    """``cause`` is what ``found``, made from a report, has to be."""

    cause: str
    found: Diagnosis | Fact


def _reported(cause: str, operation: str, number: int, around: Surroundings) -> Reported:
    return Reported(cause, diagnose(Failure(operation, number), around))


# The namespace is made, and then its map, or the first mount in it, or the next one is refused.
RESTRICTED = tuple(_reported("apparmor-restricts-userns", operation, number, around)
                   for around in (UBUNTU, UBUNTU_26)
                   for operation, number in (("write_id_map", errno.EPERM),
                                             ("make_private", errno.EACCES)))
NOT_MOUNTED = _reported("apparmor-profile", "make_private", errno.EACCES,
                        DOCKER._replace(filtered=()))
BOTH = _reported("outer-seccomp", "clone", errno.EPERM,
                 DOCKER._replace(filtered=("unshare", "mount")))
NOT_DELEGATED = (
    Reported("cgroup-not-delegated", verdict(SCOPE, None).delegation),
    Reported("cgroup-not-delegated",
             verdict(SCOPE, Failure("cgroup_limit", errno.EACCES, "write")).fact))

OTHERWISE = "not a question about the host: "
FILTERS = OTHERWISE + "hardrun's own filters (tests/unit/test_seccomp_pitfalls.py)"
LATER = OTHERWISE + "audits of other people's configurations, which come later"
VERIFY = OTHERWISE + "verification reads it back (tests/sandbox/test_verify.py)"
POLICY = OTHERWISE + "the engine refuses or says it in the Decision (tests/unit/test_engine.py)"

# The scenes and reports of each, or why it is not doctor's business.
PAINS: Mapping[int, tuple[str | Reported, ...] | str] = MappingProxyType({
    1: ("docker's filter", "chroot", "covered proc", "read-only proc", NOT_MOUNTED),  # bwrap #505
    2: RESTRICTED,  # junest #355
    3: RESTRICTED,  # an errno that was told two layers up
    4: RESTRICTED,  # ai-jail #34: a code for programs
    5: FILTERS,  # moby #42680
    6: FILTERS, 7: FILTERS, 8: FILTERS, 9: FILTERS, 10: FILTERS, 11: FILTERS,
    12: ("no newuidmap",),  # podman #9271
    13: ("newuidmap without setuid", "nosuid", "newuidmap that others write"),  # podman #2788
    14: ("no range", "a range that others have", "a range that is not in the namespace",
         "one id"),  # podman #3421: a checklist
    15: FILTERS, 16: FILTERS, 17: LATER, 18: FILTERS, 19: FILTERS,
    20: ("no cgroup file system", "read-only cgroups", *NOT_DELEGATED),  # crun #223, #1083
    21: (Reported("home-in-network", places.home("/home/anna", NFS)),),  # podman #20551
    22: OTHERWISE + "hardrun why shows every layer that gates a capability",
    23: FILTERS,
    24: POLICY,  # agents' sandboxes that were not there
    25: ("/proc/sys/user/max_user_namespaces", "kernel without seccomp",
         "Landlock switched off"),  # by doing it, not by --version
    26: OTHERWISE + "filters are built ahead (benchmarks/)",
    27: OTHERWISE + "mitigations are the policy's, and reported by none yet",
    28: RESTRICTED,  # nsjail #236: refused at the mount
    29: ("/proc/sys/user/max_user_namespaces", "kernel without user namespaces",
         "no more below a namespace",
         _reported("unprivileged-userns-clone", "clone", errno.EPERM,
                   Surroundings(unprivileged_userns_clone="0"))),  # nsjail #78
    30: VERIFY, 31: VERIFY,
    32: OTHERWISE + "there is no adapter for other runtimes yet",
    33: ("empty executor",),  # no prerequisites but itself
    34: ("Linux 5.4 in a pod", "Landlock switched off", "docker's filter"),  # codex #35547
    35: POLICY,
    36: ("Landlock that stops nothing",),  # OpenShell #803
    37: POLICY,
    38: ("Landlock switched off",),  # nono #416: and not where securityfs is missing, see below
    39: (*RESTRICTED, "no more below a namespace"),  # claude-code #93130
    40: (NOT_MOUNTED, BOTH, *RESTRICTED),  # typeclaw #1441: each way out leads to another refusal
    41: ("covered proc",),  # sandbox-runtime #214
    42: ("docker's filter",),  # FluidFramework: a profile with what is missing
    43: ("WSL 1", "Linux 5.11"),  # codex #1039
    44: ("no cgroup file system", *NOT_DELEGATED),  # judge0 #543
    45: ("read-only cgroups",),  # nsjail #196
    46: OTHERWISE + "images are not unpacked yet",
    47: OTHERWISE + "hardrun why names the rule that denies a path",
    48: LATER,
    49: VERIFY,
    50: POLICY,
})
