"""Other namespaces, sockets, keys, signals (section NS)."""

from __future__ import annotations

import os
import socket
import struct

from tests.escape.attacks import Attack
from tests.escape.probe import AT_FDCWD, Answer, Out, Result, call

OK = frozenset({"ok"})
_ADMIN = ("seccomp", "capability sets")


def _hosts(name: str) -> str:
    return os.readlink(f"/proc/self/ns/{name}")


def _shown(name: str, layer: str) -> Attack:
    """A namespace of the host's, told by its number."""
    host = _hosts(name)
    return Attack(property="NS-01", name=f"the host's {name} namespace", layers=(layer,),
                  steps=(call("readlinkat", AT_FDCWD, f"/proc/self/ns/{name}", Out(64), 64),),
                  refused=OK, works=lambda answer: answer.text == host)


# -- the network ----------------------------------------------------------------------------------
_AF_NETLINK, _RTM_GETLINK, _RTM_GETROUTE, _DUMP = 16, 18, 26, 0x301
_LOOPBACK = 1
_IFLA_IFNAME, _RTA_OIF = 3, 4


def _asked(kind: int) -> bytes:
    return struct.pack("=IHHIIBxxxIIII", 36, kind, _DUMP, 1, 0, 0, 0, 0, 0, 0)


def _answers(answer: Answer, kind: int) -> list[bytes]:
    """The messages of one kind in what netlink(7) sent."""
    found, rest = [], answer.out
    while len(rest) >= 16:
        size, message = struct.unpack_from("=IH", rest)
        if size < 16:
            break
        if message == kind:
            found.append(rest[16:size])
        rest = rest[(size + 3) & ~3:]
    return found


def _other_interfaces(answer: Answer) -> bool:
    """struct ifinfomsg: family, type, index."""
    return any(struct.unpack_from("=BxHi", link)[2] != _LOOPBACK
               for link in _answers(answer, _RTM_GETLINK - 2))


def _routes(answer: Answer) -> bool:
    """struct rtmsg: table 255 holds the addresses of the machine itself, which lo has as well."""
    return any(route[4] != 255 for route in _answers(answer, _RTM_GETROUTE - 2))


_ALONE = "" if len(socket.if_nameindex()) > 1 else "this host has no network"
_NETWORK = tuple(
    Attack(property="NS-02", name=name, layers=("network namespace",), inconclusive=_ALONE,
           refused=frozenset({"ok", "EPERM", "EBADF"}), works=works,
           steps=(call("socket", _AF_NETLINK, 3, 0),
                  call("sendto", Result(0), _asked(kind), 36, 0, 0, 0),
                  call("recvfrom", Result(0), Out(16384), 16384, 0, 0, 0)))
    for name, kind, works in (("interfaces", _RTM_GETLINK, _other_interfaces),
                              ("routes", _RTM_GETROUTE, _routes)))

# -- names ----------------------------------------------------------------------------------------
_UTSNAME, _NODE, _DOMAIN = 390, slice(65, 130), slice(325, 390)


def _field(answer: Answer, field: slice) -> str:
    return os.fsdecode(answer.out[field].split(b"\0", 1)[0])


_NAMES = (
    Attack(property="NS-08", name="the host's name", layers=("uts namespace",), refused=OK,
           steps=(call("uname", Out(_UTSNAME)),),
           works=lambda answer: _field(answer, _NODE) == os.uname().nodename),
    Attack(property="NS-08", name="sethostname", layers=_ADMIN,
           steps=(call("sethostname", "taken", 5),)),
    Attack(property="NS-08", name="setdomainname", layers=_ADMIN,
           steps=(call("setdomainname", "taken", 5),)),
)

# -- keys -----------------------------------------------------------------------------------------
_KEYCTL_GET_KEYRING_ID, _SESSION, _DESCRIBE = 0, -3, 6
_KEYS = (
    Attack(property="NS-09", name="describe the session keyring", layers=("seccomp",),
           steps=(call("keyctl", _DESCRIBE, _SESSION, Out(256), 256, 0),)),
    Attack(property="NS-09", name="join another keyring", layers=("seccomp",),
           steps=(call("keyctl", 1, "taken", 0, 0, 0),)),
)

ATTACKS: tuple[Attack, ...] = (
    _shown("net", "network namespace"), _shown("ipc", "ipc namespace"),
    _shown("uts", "uts namespace"), _shown("cgroup", "cgroup namespace"),
    *_NETWORK, *_NAMES, *_KEYS)
