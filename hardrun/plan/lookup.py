"""Finds the command and the working directory in the view, before anything is started.

What the kernel would answer with a bare ENOENT in the finished sandbox is told here in one line:
which path is outside the view, and the flag that shows it.
"""

from __future__ import annotations

import os
import stat

from hardrun.errors import BadInput, CommandNotExecutable, CommandNotFound
from hardrun.plan.view import View
from hardrun.posture.filesystem import below, parents
from hardrun.workload import toolchain
from hardrun.workload.model import Workload

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_MAXIMUM_INTERPRETERS = 4  # execve(2): deeper chains answer ELOOP
_ELF_INTERPRETER = 3  # PT_INTERP


def working_directory(view: View, workload: Workload, home: str, *, kept: bool = False) -> str:
    """Where the command starts: ``--workdir``, else the caller's directory when the view has it
    (a grant below is enough, so that ``--ro a.py`` and ``python3 a.py`` go together), else HOME.

    ``kept``: a layer that earlier runs have written lies over the root, and may have the directory.
    Raises BadInput when ``--workdir`` is not a directory of the view.
    """
    wanted = workload.working_directory
    if wanted is None:
        found = view.find(workload.caller_directory)
        return home if found.missing else found.inside
    found = view.find(wanted)
    if kept and view.mount_of(found.inside) is None:
        return wanted
    if found.missing:
        raise BadInput(f"--workdir {wanted}: {found.missing} is not in the sandbox's view",
                       hint=f"--rw {wanted}")
    if found.host is not None and not os.path.isdir(found.host):
        raise BadInput(f"--workdir {wanted}: not a directory")
    return found.inside


def command_in_layer(command: str, directory: str) -> str:
    """What the executor is to look for itself, since earlier runs may have installed the command.
    """
    return os.path.normpath(os.path.join(directory, command)) if "/" in command else command


def find_command(view: View, command: str, search_path: str, directory: str) -> str:
    """The path inside the sandbox at which ``command`` is to be executed.

    A name with a slash that is not absolute starts at ``directory``.
    Raises CommandNotFound when it, its interpreter, or the Python that its virtual environment
    was made from lies outside the view, CommandNotExecutable when it is there but no program.
    """
    if "/" in command:
        path = os.path.normpath(os.path.join(directory, command))
        _check(view, path, search_path, 0)
        return path
    refused: CommandNotExecutable | None = None
    for entry in search_path.split(":"):
        path = os.path.normpath(os.path.join(directory, entry, command))
        found = view.find(path)
        if found.missing or found.host is None or not os.path.isfile(found.host):
            continue
        if os.access(found.host, os.X_OK):
            _check(view, path, search_path, 0)
            return path
        refused = CommandNotExecutable(f"{path}: permission denied", hint=f"chmod +x {path}")
    if refused is not None:
        raise refused
    outside = toolchain.find_command(command, search_path, directory)
    if outside is None:
        raise CommandNotFound(f"{command}: no such command in the sandbox's PATH {search_path}",
                              hint="--env PATH=… names other directories")
    raise _outside(command, outside)


def _outside(command: str, path: str) -> CommandNotFound:
    """The error for something that the host has and the view does not."""
    subject = path if command == path else f"{command} is {path}, which"
    return CommandNotFound(f"{subject} is not in the sandbox's view",
                           hint=_flag_that_shows(command, path))


def _flag_that_shows(command: str, path: str) -> str:
    for directory in parents(path):
        if os.path.exists(os.path.join(directory, "pyvenv.cfg")):
            return f"--ro {directory}"
    if os.path.basename(os.path.dirname(path)) in ("bin", "sbin", "shims"):
        return f"--toolchain {command}"
    return f"--ro {path}"


def _check(view: View, path: str, search_path: str, depth: int) -> None:
    """Check that what execve(2) would open for ``path`` is all there."""
    found = view.find(path)
    if found.missing:
        if below(path, found.missing) and os.path.exists(path):
            raise _outside(path, path)
        if os.path.exists(path):
            raise CommandNotFound(f"{path} leads to {found.missing}, which is not in the sandbox's "
                                  f"view", hint=f"--toolchain {path}")
        raise CommandNotFound(f"{path}: no such file", hint="name a command that exists")
    if found.host is None:
        raise CommandNotFound(f"{path}: not a program of the sandbox's view")
    status = os.stat(found.host)
    if not stat.S_ISREG(status.st_mode) or not os.access(found.host, os.X_OK):
        what = "permission denied" if stat.S_ISREG(status.st_mode) else "not a regular file"
        raise CommandNotExecutable(f"{path}: {what}", hint="name an executable file")
    _check_environment(view, path, found.inside)
    words = toolchain.interpreter_of(found.host)
    if words and depth < _MAXIMUM_INTERPRETERS:
        _check_interpreter(view, path, words, search_path, depth)
    elif not words:
        loader = elf_interpreter(found.host)
        if loader and view.find(loader).missing:
            raise CommandNotFound(f"{path}: its dynamic loader {loader} is not in the sandbox's "
                                  f"view", hint=f"--ro {loader}")


def _check_interpreter(view: View, path: str, words: list[str], search_path: str,
                       depth: int) -> None:
    interpreter = words[0]
    if view.find(interpreter).missing:
        raise CommandNotFound(f"{path}: its interpreter {interpreter} is not in the sandbox's view",
                              hint=_flag_that_shows(interpreter, interpreter))
    _check(view, interpreter, search_path, depth + 1)
    if os.path.basename(interpreter) == "env" and len(words) == 2:
        name = words[1].removeprefix("-S").split()[0] if words[1].strip("-S ") else ""
        if name and "=" not in name and not name.startswith("-") and "/" not in name:
            try:
                find_command(view, name, search_path, "/")
            except CommandNotFound as error:
                raise CommandNotFound(f"{path}: its interpreter {error.message}",
                                      hint=error.hint) from None


def _check_environment(view: View, path: str, inside: str) -> None:
    """A virtual environment starts nothing without the Python that it was made from."""
    for program in (path, inside):
        prefix = os.path.dirname(os.path.dirname(program))
        host = view.find(prefix).host
        base = toolchain.virtual_environment_base(host) if host else None
        if base and view.find(base).missing:
            raise CommandNotFound(
                f"{path}: its virtual environment was made from {base}, which is not in the "
                f"sandbox's view", hint=f"--toolchain {path}")


def elf_interpreter(path: str) -> str:
    """The dynamic loader that an ELF program names (PT_INTERP), or an empty string."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:4] != b"\x7fELF" or header[5] != 1:
                return ""
            wide = header[4] == 2
            offset = int.from_bytes(header[32:40] if wide else header[28:32], "little")
            size, count = (int.from_bytes(header[at:at + 2], "little")
                           for at in ((54, 56) if wide else (42, 44)))
            file.seek(offset)
            table = file.read(size * min(count, 64))
            for entry in range(0, len(table), size or 1):
                if int.from_bytes(table[entry:entry + 4], "little") != _ELF_INTERPRETER:
                    continue
                at, length = (entry + 8, entry + 32) if wide else (entry + 4, entry + 16)
                word = 8 if wide else 4
                file.seek(int.from_bytes(table[at:at + word], "little"))
                name = file.read(min(int.from_bytes(table[length:length + word], "little"), 4096))
                return os.fsdecode(name.split(b"\0", 1)[0])
    except (OSError, OverflowError, ValueError):
        return ""
    return ""
