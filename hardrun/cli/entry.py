"""The console script: a stored plan is started before anything heavy is imported."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; the exit status of everything that is not replaced by the executor."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        _start_again_in_utf8()
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        _run_stored(arguments)
    from hardrun.cli.main import main as decide

    return decide(arguments)


def _start_again_in_utf8() -> None:
    """Names are bytes, and plans hold them as UTF-8 with surrogateescape.

    In a Latin-1 locale Python would decode a byte 0xE9 as a letter of two bytes in UTF-8, and the
    file of that name would not be found.
    """
    if sys.executable and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-P", "-m", "hardrun",
                                  *sys.argv[1:]])


def _run_stored(arguments: list[str]) -> None:
    """Replace this process by a stored plan; return when there is none for this request."""
    from hardrun import cache
    from hardrun.errors import HardrunError
    from hardrun.executor import image

    halves = cache.split(arguments)
    if halves is None:
        return
    request, tail = halves
    try:
        key = cache.make_key(request, os.stat(image.executor_path()))
        artefact = None if key is None else cache.load(key)
        if artefact is not None:
            image.execute(artefact, tail)
    except (OSError, HardrunError):
        return  # the long way meets the same obstacle and knows how to explain it
