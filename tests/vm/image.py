"""The image of the machines from the cache, where it is kept by the hash of what goes in."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.recipe import RigError, environment, fill, manifest

DIGITS = 16  # of the hash
KEPT = 6  # images in the cache; one for each set of packages that is worked on


@dataclass(frozen=True)
class Image:
    """A bootable pair."""

    root: Path
    kernel: Path
    labelled: bool


def cache_directory() -> Path:
    """Where images survive a fresh clone."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hardrun-vm"


def find_or_build() -> Image:
    """The image for this tree.

    :raises RigError: it is not there and can't be made here; says what is missing.
    """
    described = manifest()
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / hashlib.sha256(described.encode()).hexdigest()[:DIGITS]
    if not kept.exists():
        with _locked(kept.with_suffix(".lock")):
            if not kept.exists():  # nobody else has built it meanwhile
                _prune(cache)
                _build(kept, described)
    os.utime(kept)
    return Image(kept / "root.img", kept / "vmlinuz", os.geteuid() == 0)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prune(cache: Path) -> None:
    """Images that nobody has used for longest go. A machine that runs on one has it open."""
    images = sorted((path for path in cache.glob("?" * DIGITS) if path.is_dir()),
                    key=lambda path: path.stat().st_mtime)
    for path in images[:-(KEPT - 1)]:
        shutil.rmtree(path, ignore_errors=True)


def _build(kept: Path, described: str) -> None:
    missing = [name for name in ("mmdebstrap", "mke2fs")
               if not shutil.which(name, path=environment()["PATH"])]
    if missing:
        raise RigError(f"no image in {kept.parent} and none can be built: "
                       f"missing {' '.join(missing)} (as root: scripts/prepare-host vm)")
    started = time.monotonic()
    print(f"building the image of the virtual machines in {kept.parent}", flush=True)
    new = kept.parent / f"new-{os.getpid()}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        fill(new)
        (new / "manifest").write_text(described)
        new.rename(kept)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)
