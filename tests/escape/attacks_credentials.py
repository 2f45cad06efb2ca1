"""Capabilities, securebits, ids and groups (sections CP and US)."""

from __future__ import annotations

import struct
from functools import partial

from hardrun.kernel import capabilities
from hardrun.plan.schema import Unsafe
from tests.escape.attacks import Attack
from tests.escape.layers import Planned
from tests.escape.probe import AT_FDCWD, BAD_ADDRESS, Answer, Out, call

EPERM, OK = frozenset({"EPERM"}), frozenset({"ok"})
_HEADER = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, the caller
_CAPBSET_READ, _GET_SECUREBITS, _SET_SECUREBITS = 23, 27, 28
_GET_KEEPCAPS, _SET_KEEPCAPS, _CAP_AMBIENT, _IS_SET = 7, 8, 47, 1
_LOCKED = 0x2F  # NOROOT, NO_SETUID_FIXUP and their locks; KEEP_CAPS locked, off
_EVERY = range(capabilities.LAST + 1)


def _some(answer: Answer, place: int) -> bool:
    """Whether capget(2) shows a set: 0 effective, 1 permitted, 2 inheritable."""
    words = struct.unpack("<6I", answer.out)
    return bool(words[place] or words[place + 3])


def _any(answer: Answer) -> bool:
    return any(step.value == 1 for step in answer.steps)


def _keeping_capabilities(planned: Planned) -> Planned:
    """As "capability sets", with securebits as they are."""
    return planned.drop("drop_bounding", unsafe=Unsafe.KEEPS_CAPABILITIES
                        | Unsafe.NO_BOUNDING_DROP).change(
        "set_capabilities", lambda o: o._replace(values=((1 << len(_EVERY)) - 1,)))


_SETS = (
    *(Attack(property="CP-02" if name == "inheritable" else "CP-01", name=f"the {name} set",
             steps=(call("capget", _HEADER, Out(24)),), layers=("capability sets",), refused=OK,
             works=partial(_some, place=place))
      for place, name in enumerate(("effective", "permitted", "inheritable"))),
    *(Attack(property="CP-01", name=f"the {name} set from {some[0]} on", layers=(layer,),
             steps=tuple(call("prctl", *option, n, 0, 0) for n in some),
             refused=frozenset({"ok", "EINVAL"}), works=_any)
      for name, layer, option in (("bounding", "bounding set", (_CAPBSET_READ,)),
                                  ("ambient", "capability sets", (_CAP_AMBIENT, _IS_SET)))
      for some in (_EVERY[:21], _EVERY[21:])),
)
_SECUREBITS = (
    Attack(property="CP-04", name="read", steps=(call("prctl", _GET_SECUREBITS, 0, 0, 0, 0),),
           layers=("securebits",), refused=OK,
           works=lambda answer: answer.steps[0].value & _LOCKED != _LOCKED),
    Attack(property="CP-04", name="clear", steps=(call("prctl", _SET_SECUREBITS, 0, 0, 0, 0),),
           layers=("securebits", "capability sets"), refused=EPERM,
           also={"capability sets": _keeping_capabilities}),
    Attack(property="CP-07", name="keep capabilities", layers=("securebits",), refused=EPERM,
           steps=(call("prctl", _SET_KEEPCAPS, 1, 0, 0, 0),
                  call("prctl", _GET_KEEPCAPS, 0, 0, 0, 0),
                  call("prctl", _SET_KEEPCAPS, 1, 0, 0, 0))),
)

_NOT_FOUND = frozenset({"EPERM", "EACCES", "ENOENT"})
_IDS = (
    Attack(property="US-04", name="setgroups", steps=(call("setgroups", 0, 0),),
           layers=("capability sets",), refused=EPERM),
    Attack(property="US-05", name="trace PID 1", steps=(call("ptrace", 0x4206, 1, 0, 0),),
           layers=("seccomp", "not dumpable"), refused=EPERM),
    *(Attack(property="US-05", name=f"/proc/1/{name}", layers=("not dumpable",),
             steps=(call("openat", AT_FDCWD, f"/proc/1/{name}", 0, 0),), refused=_NOT_FOUND)
      for name in ("mem", "environ", "maps")),
    Attack(property="US-06", name="unshare", steps=(call("unshare", 0x10000000),),
           layers=("seccomp", "user.max_user_namespaces"), refused=frozenset({"EPERM", "ENOSPC"})),
    Attack(property="US-06", name="clone3", layers=("seccomp",), refused=frozenset({"ENOSYS"}),
           steps=(call("clone3", BAD_ADDRESS, 88),), works=frozenset({"EFAULT"})),
)

ATTACKS: tuple[Attack, ...] = (*_SETS, *_SECUREBITS, *_IDS)
