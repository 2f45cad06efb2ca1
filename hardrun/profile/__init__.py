"""Profiles of the modules that label processes: made from policies, checked, installed, listed.

A file for each module, with the same functions; ``hardrun profile`` knows nothing else of them.
"""

from __future__ import annotations

from typing import NamedTuple


class State(NamedTuple):
    """A shipped profile on this host.

    ``loaded`` is the mode in which the kernel has it, ``no``, or ``unknown``. ``stale``: what is
    installed or loaded is not what ships; None where that can't be told.
    """

    module: str
    name: str
    policy: str
    installed: bool
    loaded: str
    stale: bool | None = None
