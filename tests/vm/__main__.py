"""Runs the tests that are meant for machines in them: ``python -m tests.vm --help``."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.vm import qemu, share
from tests.vm.image import Image, find_or_build
from tests.vm.machines import MACHINES, Machine
from tests.vm.outcomes import VARIABLE
from tests.vm.recipe import TREE, RigError

MARK = re.compile(r"mark\.vm\(")
RIG_FAILED, NOT_RUN = 125, 3
HANGS = 150  # seconds until a test that goes on shows where it is


def marked_files() -> list[str]:
    """Test files with a test for some machine, relative to the tree."""
    return sorted(str(path.relative_to(TREE)) for path in (TREE / "tests").rglob("test_*.py")
                  if MARK.search(path.read_text(encoding="utf-8")))


def _pytest(options: argparse.Namespace) -> str:
    """The script that runs what is marked for the machine that it runs in."""
    files = options.tests or marked_files()
    # Interrupted before the machine is, pytest still says where it was and what failed.
    seconds = max(options.timeout - 90, 30)
    argv = ["timeout", "--foreground", "--signal=INT", "--kill-after=30", f"{seconds:.0f}",
            "python", "-m", "pytest", "-p", "no:cacheprovider", "-v", "--color=no",
            "--durations=15", "-o", f"faulthandler_timeout={HANGS}",
            *(["-k", options.k] if options.k else []), *files]
    return f"export {VARIABLE}=/share/out/outcomes.json\nexec {shlex.join(argv)}"


def run(machine: Machine, image: Image, site: Path, options: argparse.Namespace) -> int:
    """Boot ``machine``, do the job, show what it prints; the job's status, or 125 for the rig's."""
    def show(line: str) -> None:
        print(f"{machine.name:8} | {line}" if len(options.machines) > 1 else line, flush=True)

    script = options.command or _pytest(options)
    job = share.Job(script, root=options.root, seconds=options.timeout)
    directory = Path(tempfile.mkdtemp(prefix=f"hardrun-vm-{machine.name}-"))
    try:
        disk = share.make(directory, site, machine, job)
        ended = qemu.boot(machine, image, disk, directory, job.seconds, show)
        back = share.results(disk, directory)
        if options.console:
            Path(options.console).write_text(ended.console)
        status = back / "status"
        times = (back / "times").read_text() if (back / "times").exists() else "never came up"
        if not status.exists():
            why = f"no end after {job.seconds:.0f} s" if ended.timed_out else "no status came back"
            show(f"the machine {machine.name} failed: {why} ({' '.join(times.split())})")
            for line in (ended.errors + ended.console).splitlines()[-30:]:
                show(f"  {line}")
            return RIG_FAILED
        if options.out and (back / "outcomes.json").exists():
            Path(options.out).mkdir(parents=True, exist_ok=True)
            shutil.copy(back / "outcomes.json", Path(options.out) / f"{machine.name}.json")
        show(f"[{machine.name}: {ended.seconds:.0f} s; {', '.join(times.splitlines())}]")
        return int(status.read_text())
    except RigError as error:
        show(f"the machine {machine.name} failed: {error}")
        return RIG_FAILED
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help=", ".join(MACHINES))
    parser.add_argument("-t", "--tests", nargs="+", help="these files or test ids, not all")
    parser.add_argument("-k", metavar="EXPRESSION", help="as pytest's")
    parser.add_argument("-c", "--command", help="no tests: this shell command, as the user tester")
    parser.add_argument("--root", action="store_true", help="do it as the guest's root")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1,
                        help="machines at the same time (default: one for each processor)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for each machine")
    parser.add_argument("--console", metavar="FILE", help="keep what the kernel printed")
    parser.add_argument("--out", metavar="DIRECTORY", help="keep each machine's outcomes there")
    parser.add_argument("--optional", action="store_true",
                        help="without QEMU or an image say so and succeed")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.machines if name not in MACHINES]
    if unknown:
        parser.error(f"no machine {', '.join(unknown)}: there are {', '.join(MACHINES)}")
    options.machines = options.machines or list(MACHINES)
    return options


def main(arguments: list[str]) -> int:
    """The worst status of all machines."""
    options = _options(arguments)
    started = time.monotonic()
    try:
        if not shutil.which(qemu.PROGRAM):
            raise RigError(f"missing {qemu.PROGRAM} (as root: scripts/prepare-host vm)")
        image = find_or_build()
    except RigError as error:
        print(f"NOT RUN: the tests in virtual machines: {error}")
        return 0 if options.optional else NOT_RUN
    left_out = [name for name in options.machines if MACHINES[name].labels and not image.labelled]
    for name in left_out:
        print(f"NOT RUN: the machine {name}: only root can label the files of its image")
        options.machines.remove(name)
    if not options.machines:
        return 0 if options.optional else NOT_RUN
    with tempfile.TemporaryDirectory(prefix="hardrun-vm-") as directory:
        site = share.unpacked_wheel(Path(directory))
        with ThreadPoolExecutor(options.jobs) as pool:
            statuses = dict(zip(options.machines, pool.map(
                lambda name: run(MACHINES[name], image, site, options), options.machines),
                strict=True))
    if len(statuses) > 1:
        told = ", ".join(f"{name} {'passed' if status == 0 else f'FAILED ({status})'}"
                         for name, status in statuses.items())
        print(f"virtual machines: {told} in {time.monotonic() - started:.0f} s")
    return max(*statuses.values(), 0 if options.optional or not left_out else NOT_RUN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
