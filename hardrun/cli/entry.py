"""The console script ``hardrun-cli``: what the native front-end has no stored plan for."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; the exit status of everything that is not replaced by the executor."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        _start_again_in_utf8()
    from hardrun.cli.main import main as decide

    return decide(sys.argv[1:])


def _start_again_in_utf8() -> None:
    """Names are bytes, and plans hold them as UTF-8 with surrogateescape.

    In a Latin-1 locale Python would decode a byte 0xE9 as a letter of two bytes in UTF-8, and the
    file of that name would not be found.
    """
    if sys.executable and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-P", "-m", "hardrun",
                                  *sys.argv[1:]])
