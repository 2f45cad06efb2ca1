"""``hardrun run --session``: whoever started a sandbox lets further commands in."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from hardrun.errors import BadInput, HostUnsupported
from hardrun.executor import named
from hardrun.executor.joined import output_limit
from hardrun.request import Request, Standing


def _closed() -> dict[str, Any]:
    return {"outcome": "cancelled", "returncode": 128 + signal.SIGKILL}


def _check_containers(name: str) -> None:
    """Raises BadInput where a container has the name: hardrun exec would mean either."""
    from hardrun.state.containers import Store

    with suppress(HostUnsupported):  # a host without state has no containers
        if any(seen.record.name == name for seen in Store().look()):
            raise BadInput(f"there is a container {name} already",
                           hint=f"another name, or hardrun rm {name}")


@contextmanager
def listening(name: str, request: Request, policies: Sequence[str]
              ) -> Iterator[Callable[[int, socket.socket], None]]:
    """Listen under a name; what to call with the executor's pid and socket once it is started.

    Each command is decided under the policies of its time, and refused where they decide otherwise
    about it than about this sandbox. Raises BadInput where the name is taken.
    """
    _check_containers(name)
    standing = Standing(request, policies)
    listener = named.Listener(name=name)

    def at_serve(launcher: int, to: socket.socket) -> None:
        def answer(command: str) -> named.Place:
            standing.check(command)
            return named.Place(to.dup(), launcher, output_limit(request.decision), _closed)

        threading.Thread(target=listener.serve, args=(answer,), daemon=True).start()

    try:
        yield at_serve
    finally:
        listener.close()
