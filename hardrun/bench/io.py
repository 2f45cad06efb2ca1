"""Files in the sandbox against outside: read, write, look at, execute."""

from __future__ import annotations

from collections.abc import Iterator

from hardrun.bench.bench import Bench
from hardrun.bench.document import Series
from hardrun.bench.scene import DATA, DATA_SIZE, WRITABLE
from hardrun.bench.syscall import times_inside

OPERATIONS = {
    f"read {DATA_SIZE >> 20} MiB": ("read-file", "10", DATA),
    "write 1 MiB": ("write-file", "20", f"{WRITABLE}/file"),
    "stat": ("stat", "10000", DATA),
    "exec": ("exec", "25", "/"),
}
"""What it is called, what the probe calls it, how often in one round, on which file."""


def run(bench: Bench) -> Iterator[Series]:
    """Nanoseconds of one operation on the root file system, or the writable directory."""
    if not bench.scene.probed:
        return
    yield from bench.failures("io", next(iter(OPERATIONS)), "ns")
    words = [word for operation in OPERATIONS.values() for word in operation]
    yield from times_inside(bench, "io", bench.able("io"), tuple(OPERATIONS), words, writable=True)
