"""One boot of one machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.image import Image
from tests.vm.machines import Machine
from tests.vm.recipe import RigError

PROGRAM = "qemu-system-x86_64"
MEMORY, PROCESSORS = "1536", "2"
# A busy host: the TSC's frequency is guessed wrongly at boot, and a clock ten times too fast lets
# every time-out fire, while HPET ticks with the host; and the kernel panics in its timer check.
COMMAND_LINE = (
    "root=/dev/nvme0n1 rw console=ttyS0 loglevel=3 panic=-1 systemd.show_status=0 audit=1 "
    "systemd.unified_cgroup_hierarchy=1 random.trust_cpu=on tsc=unstable clocksource=hpet "
    "no_timer_check mitigations=off i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd "
    "cryptomgr.notests nokaslr")


@dataclass(frozen=True)
class Boot:
    """How a machine ended."""

    console: str
    timed_out: bool
    seconds: float
    errors: str


def has_kvm() -> bool:
    """Can this host run a stock kernel in hardware? A /dev/kvm without vmx or svm can't."""
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return (re.search(r"^flags\s*:.* (vmx|svm)( |$)", flags, re.MULTILINE) is not None
            and os.access("/dev/kvm", os.R_OK | os.W_OK))


def _argv(machine: Machine, image: Image, share: Path, directory: Path) -> list[str]:
    accelerator = (["-accel", "kvm", "-cpu", "host"] if has_kvm()
                   else ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"])
    return [
        PROGRAM, "-M", "q35", *accelerator, "-m", MEMORY, "-smp", PROCESSORS,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(image.kernel), "-append", f"{COMMAND_LINE} {machine.append}",
        "-drive", f"file={image.root},if=none,id=root,format=raw,snapshot=on,cache=unsafe",
        "-device", "nvme,drive=root,serial=root",
        "-drive", f"file={share},if=none,id=share,format=raw,cache=unsafe",
        "-device", "nvme,drive=share,serial=share",
        "-serial", f"file:{directory / 'console'}", "-serial", f"file:{directory / 'output'}"]


def boot(machine: Machine, image: Image, share: Path, directory: Path, seconds: float,
         show: Callable[[str], None]) -> Boot:
    """Boot, hand each line that the job prints to ``show``, wait until it is off.

    :raises RigError: there is no QEMU here.
    """
    if not shutil.which(PROGRAM):
        raise RigError(f"missing {PROGRAM} (as root: scripts/prepare-host vm)")
    started = time.monotonic()
    output = directory / "output"
    output.touch()
    with (directory / "errors").open("wb") as errors, output.open(errors="replace") as printed:
        process = subprocess.Popen(_argv(machine, image, share, directory),
                                   stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                                   env={**os.environ, "TMPDIR": str(directory)})
        try:
            rest, timed_out = "", False
            while process.poll() is None:
                rest = _pass_on(rest + printed.read(), show)
                if time.monotonic() - started > seconds:
                    timed_out = True
                    process.kill()
                time.sleep(0.05)
            _pass_on(rest + printed.read() + "\n", show)
        finally:
            process.kill()
            process.wait()
    console = (directory / "console").read_text(errors="replace")
    return Boot(console, timed_out, time.monotonic() - started,
                (directory / "errors").read_text(errors="replace"))


def _pass_on(text: str, show: Callable[[str], None]) -> str:
    *lines, rest = text.split("\n")
    for line in lines:
        if line.strip("\r"):
            show(line.rstrip("\r"))
    return rest
