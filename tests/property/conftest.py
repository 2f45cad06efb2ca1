"""No law has a deadline: how long an example takes is the machine's matter."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("laws", deadline=None)
settings.load_profile("laws")
