"""What people see: errors in one line with a hint, tables, nothing that steers a terminal."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from hardrun.errors import HardrunError
from hardrun.values import printable as printable


def error_lines(error: HardrunError) -> list[str]:
    """One line ``hardrun: …`` and, where there is something to do, one ``  hint: …``."""
    prefix = "refused: " if error.code == "refused" and "refused:" not in error.message else ""
    lines = [f"hardrun: {prefix}{printable('; '.join(error.message.splitlines()))}"]
    if error.hint:
        lines.append(f"  hint: {printable('; '.join(error.hint.splitlines()))}")
    return lines


def write(lines: Iterable[str], *, to_error: bool = False) -> None:
    """Write lines to standard output or error; nowhere when that was closed at the start.

    Raises HardrunError when standard output takes nothing more (a full disk); an error has nowhere
    else to go.
    """
    stream = sys.stderr if to_error else sys.stdout
    if stream is None:
        return
    try:
        stream.write("".join(line + "\n" for line in lines))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_output()
        if not to_error:
            raise HardrunError(f"standard output can't be written: {error.strerror}") from None


def forget_output() -> None:
    """Nobody can read any more: keep Python from complaining about that at its own end."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], widest: int = 34,
          highest: int = 4) -> list[str]:
    """Rows as lines with columns of equal width.

    A cell that is wider than ``widest`` goes on in the lines below it, at most ``highest``; the
    last cell of a row is as long as it is.
    """
    cells = [[_wrapped(printable(cell), widest, highest) for cell in row[:-1]]
             + [[printable(row[-1])]] for row in (heading, *rows)]
    columns = range(len(heading) - 1)
    widths = [max(len(line) for row in cells for line in row[i]) for i in columns]
    lines = []
    for row in cells:
        for parts in zip_longest(*row, fillvalue=""):
            start = "".join(parts[i].ljust(widths[i]) + "  " for i in columns)
            lines.append((start + parts[-1]).rstrip())
    return lines


def _wrapped(cell: str, widest: int, highest: int) -> list[str]:
    lines = textwrap.wrap(cell, widest, break_long_words=False, break_on_hyphens=False) or [""]
    return lines if len(lines) <= highest else [*lines[:highest - 1], "…"]
