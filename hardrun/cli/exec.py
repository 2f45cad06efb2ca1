"""``hardrun exec``: a command in a session or container, or in a sandbox of a pool that waits."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from hardrun.cli.options import CommandAfterDashes, command_words
from hardrun.errors import BadInput

if TYPE_CHECKING:
    from hardrun.containers.join import Joined
    from hardrun.executor.named import Connection
    from hardrun.executor.serve import Asked, Command, Ended

_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1,
              signal.SIGUSR2)
_COPIED = 64 << 20  # bytes of a file that become standard input; what is larger goes through a pipe


@click.command("exec", cls=CommandAfterDashes)
@click.argument("session", metavar="[NAME|PID]", required=False)
@click.option("--pool", metavar="SOCKET", help="A sandbox of this pool, used once, instead.")
@click.option("--env", metavar="K=V", multiple=True, help="Set a variable.")
@click.option("--workdir", metavar="DIR", help="The working directory inside.")
@click.option("--timeout", metavar="TIME", help="Wall-clock time, such as 1m.")
@click.option("-i", "--interactive", is_flag=True, help="Hand over the terminal's input.")
@click.pass_context
def command(context: click.Context, /, session: str | None, pool: str | None, **options: Any
            ) -> int:
    """Run a command in a session, a container that runs, or a sandbox of a pool.

    It is held to what the sandbox is held to. The exit status is the command's own, 128+N after
    signal N, 124 after the time-out, 125 when hardrun refused or failed, 126 when the command can't
    be executed, 127 when it isn't found.
    """
    from hardrun.executor import named, serve

    if (session is None) == (pool is None):
        raise BadInput("name a session or container, or --pool SOCKET",
                       hint="hardrun exec NAME -- COMMAND ARGUMENT...")
    asked = serve.Asked(tuple(command_words(context)), options["workdir"] or "",
                        dict(_variable(text) for text in options["env"]))
    asked.encode(0)
    limit = _seconds(options["timeout"])
    connection = named.connect(pool, asked.argv[0]) if pool is not None else \
        _connect(session or "", asked.argv[0])
    with connection:
        serve.is_ready(connection.to)  # raises where the sandbox is stopped
        return _run(connection, asked, limit, interactive=options["interactive"])


def _connect(name: str, command: str) -> Connection | Joined:
    """To the session or container of a name, or which the process of a number is in."""
    from hardrun.executor import named

    if named.session_listens(name):
        return named.connect_session(name, command)
    from hardrun.containers.join import Joined, name_of
    from hardrun.errors import HostUnsupported
    from hardrun.state.containers import Store

    try:
        store = Store()
        known = any(seen.record.name == name for seen in store.look())
    except HostUnsupported:  # a host without state has no containers
        return named.connect_session(name, command)
    if known:
        return Joined(store, name, command)
    container = name_of(store, int(name)) if name.isascii() and name.isdigit() else None
    if container is not None:
        return Joined(store, container, command)
    return named.connect_session(name, command)


def _variable(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        if name not in os.environ:
            raise BadInput(f"--env {text}: there is no such variable", hint="--env NAME=VALUE")
        value = os.environ[name]
    return name, value


def _seconds(text: str | None) -> float | None:
    from hardrun.workload.units import parse_duration

    return None if text is None else parse_duration(text, "--timeout") / 1000


def _run(connection: Connection | Joined, asked: Asked, limit: float | None, *,
         interactive: bool) -> int:
    from hardrun.executor import serve

    try:
        command = serve.Command(connection.to, asked, **_input(interactive=interactive))
    except serve.SandboxEnded:
        raise BadInput("the sandbox has ended", hint="start another one") from None
    _forward(command)
    if command.stdin is not None:
        _feed(command)
    deadline = None if limit is None else time.monotonic() + limit
    ended = serve.Exchange(command, limit=connection.output_limit, deadline=deadline,
                           sinks=(1, 2)).run()
    return _status(connection, asked, ended)


def _status(connection: Connection | Joined, asked: Asked, ended: Ended) -> int:
    from hardrun.executor.serve import error_of_reply

    if ended.stopped:
        _tell(f"hardrun: {ended.stopped}")
        return 124 if ended.stopped == "timeout" else 128 + signal.SIGKILL
    if ended.reply is None:
        document = connection.ended()
        _tell(f"hardrun: the sandbox has ended: {document.get('outcome')}")
        return int(document.get("returncode", 128 + signal.SIGKILL))
    error = error_of_reply(ended.reply, asked)
    if error is not None:
        raise error
    status = ended.reply.status
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _tell(line: str) -> None:
    from hardrun.cli.render import write

    if sys.stderr is not None and sys.stderr.isatty():
        write([line], to_error=True)


def _input(*, interactive: bool) -> dict[str, Any]:
    """How standard input goes in: nothing of the caller's but a pipe without a name, as it is."""
    status = os.fstat(0)
    if os.isatty(0):
        return {"stdin": subprocess.PIPE if interactive else subprocess.DEVNULL}
    if stat.S_ISDIR(status.st_mode):
        raise BadInput("standard input is a directory", hint="it would lead out of the sandbox")
    if stat.S_ISFIFO(status.st_mode) and os.readlink("/proc/self/fd/0").startswith("pipe:"):
        return {"stdin": 0}
    if status.st_rdev == os.stat(os.devnull).st_rdev and stat.S_ISCHR(status.st_mode):
        return {"stdin": subprocess.DEVNULL}
    if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _COPIED:
        position = os.lseek(0, 0, os.SEEK_CUR)
        data = os.pread(0, status.st_size, position)
        return {"data": data} if data else {"stdin": subprocess.DEVNULL}
    return {"stdin": subprocess.PIPE}


def _feed(command: Command) -> None:
    """Relay standard input, in a thread that ends with this process."""
    end = command.stdin
    command.stdin = None
    assert end is not None

    def relay(descriptor: int) -> None:
        try:
            while data := os.read(0, 65536):
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view):]
        except OSError:
            return
        finally:
            os.close(descriptor)

    threading.Thread(target=relay, args=(end,), daemon=True).start()


def _forward(command: Command) -> None:
    """Signals that we get go to the command's group; a terminal's stop and start are ours."""
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: command.signal(received))
