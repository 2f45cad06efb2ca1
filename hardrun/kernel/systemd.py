"""What is said to systemd so that it makes a scope: bytes, sent by the executor at each start.

A scope is the one way out of a login session's group, which belongs to root, into one that is
delegated to its user (systemd.resource-control(5)). The messages differ from start to start in the
scope's name and two process numbers alone, so they are marshalled once, when a plan is made: no
start waits for a D-Bus library.
"""

from __future__ import annotations

import os
import stat
from typing import Any, NamedTuple

_NAME = "hardrun-" + "0" * 16  # the digits are replaced by random ones
_PIDS = (0xFFFFFFFE, 0xFFFFFFFD)  # these too, by those of the executor and of PID 1
_BUS, _SYSTEMD = "org.freedesktop.DBus", "org.freedesktop.systemd1"
_MANAGER = f"{_SYSTEMD}.Manager"


class Messages(NamedTuple):
    """``request`` is the offset of StartTransientUnit; ``name`` and ``pids`` count from there."""

    data: bytes
    request: int
    name: int
    pids: int


def bus_socket(uid: int, environment: dict[str, str] | os._Environ[str]) -> str:
    """The socket of the bus that a user's systemd listens on; empty where there is none.

    Root's is the system's own. Without a login session XDG_RUNTIME_DIR is not set, but a lingering
    user has a manager all the same. Only ``unix:path=`` is known.
    """
    if uid == 0:
        addresses = [environment.get("DBUS_SYSTEM_BUS_ADDRESS", ""),
                     "unix:path=/run/dbus/system_bus_socket"]
    else:
        addresses = [environment.get("DBUS_SESSION_BUS_ADDRESS", ""),
                     f"unix:path=/run/user/{uid}/bus"]
    for address in ";".join(addresses).split(";"):
        kind, _, path = address.split(",")[0].partition("=")
        if kind == "unix:path" and path.startswith("/") and _is_trusted_socket(path, uid):
            return path
    return ""


def _is_trusted_socket(path: str, uid: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid in (0, uid)


def scope_messages(uid: int) -> Messages:
    """The messages that ask for a scope with its group delegated, for the user ``uid``."""
    from dbus_fast.message import Message
    from dbus_fast.signature import Variant

    def marshal(serial: int, destination: str, path: str, interface: str, member: str,
                signature: str = "", body: list[Any] | None = None) -> bytes:
        message = Message(destination=destination, path=path, interface=interface, member=member,
                          signature=signature, body=body or [], serial=serial)
        return bytes(message._marshall(negotiate_unix_fd=False))

    manager = (_SYSTEMD, "/org/freedesktop/systemd1", _MANAGER)
    properties = [["Description", Variant("s", "sandbox of hardrun")],
                  ["Delegate", Variant(signature="b", value=True)],
                  ["CollectMode", Variant("s", "inactive-or-failed")],
                  ["PIDs", Variant("au", list(_PIDS))]]
    request = marshal(4, *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))",
                      [f"{_NAME}.scope", "fail", properties, []])
    before = b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\nBEGIN\r\n" + b"".join((
        marshal(1, _BUS, "/org/freedesktop/DBus", _BUS, "Hello"),
        marshal(2, _BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", [
            f"type='signal',sender='{_SYSTEMD}',interface='{_MANAGER}',member='JobRemoved'"]),
        marshal(3, *manager, "Subscribe")))
    pids = b"".join(pid.to_bytes(4, "little") for pid in _PIDS)
    return Messages(before + request, len(before),
                    request.index(_NAME.encode()) + len("hardrun-"), request.index(pids))
