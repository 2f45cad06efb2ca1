"""The attacks inside bubblewrap, podman and hardrun, side by side: ``peers.py [PAGE]``.

Each attack gets a sandbox of its own in each of them, is spelled out to the same probe, and what
came back is written down: the word, and whether that is the attack's aim or a refusal.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hardrun import __version__
from tests.escape import probe as probes
from tests.escape.attacks import Attack
from tests.escape.probe import Answer, answers_of, call, words_of
from tests.escape.properties import write
from tests.escape.registry import ATTACKS
from tests.escape.sandbox import Sandbox
from tests.sandbox.containers import PODMAN, RUNC, Podman

POLICY = "untrusted"
PATIENCE = 60  # seconds for one attack
NOT_COMPARABLE = "n/a"
BWRAP_FLAGS = (
    "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr",
    "--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin", "--symlink", "usr/lib",
    "/lib", "--symlink", "usr/lib64", "/lib64", "--ro-bind", "/etc", "/etc", "--proc", "/proc",
    "--dev", "/dev", "--tmpfs", "/tmp")


STARTS = Attack(property="", name="no attack", steps=(call("getpid"),), layers=())


class Peer(NamedTuple):
    """One column. ``attack`` answers None where the attack needs what the peer has no word for;
    ``called`` and ``beside`` say how it was called, and what to know when reading the column."""

    name: str
    called: str
    beside: str
    attack: Callable[[Attack], Answer | None]


class Cell(NamedTuple):
    """What one attack came to in one peer."""

    word: str
    verdict: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.verdict})" if self.verdict else self.word


def _flags_of(options: Mapping[str, Any], ro: str, rw: str, tmpfs: str) -> list[str] | None:
    """What the options of an attack are for another program; None if it has no such thing."""
    if not options.keys() <= {"ro", "rw", "tmpfs"}:
        return None
    words = [word.format(path=path) for form, name in ((ro, "ro"), (rw, "rw"))
             for path in options.get(name, ()) for word in form.split()]
    for mount in options.get("tmpfs", ()):
        path, _, size = mount.partition(":")
        if not size.endswith("M"):
            return None
        words += [word.format(path=path, size=int(size[:-1]) << 20) for word in tmpfs.split()]
    return words


def _run(argv: Sequence[str], attack: Attack, **options: Any) -> Answer:
    """The answer to one attack; an empty one where the probe was ended with it."""
    done = subprocess.run([*argv, *words_of([attack.steps])], stdin=subprocess.DEVNULL,
                          capture_output=True, check=False, timeout=PATIENCE, **options)
    if done.stderr and attack is STARTS:
        print(done.stderr.decode(errors="replace"), file=sys.stderr)
    return (*answers_of(done.stdout), Answer(()))[0]


def _is_on_pid_1(attack: Attack) -> bool:
    """Whether it is PID 1 that is attacked: what a sandbox has for that, or the command itself."""
    return any((isinstance(argument, str) and argument.startswith("/proc/1/"))
               or (argument == 1 and step.name in {"ptrace", "kill", "pidfd_open"})
               for step in attack.steps for argument in step.arguments)


def _version(*argv: str, **options: Any) -> str:
    done = subprocess.run([*argv, "--version"], capture_output=True, text=True, check=True,
                          **options)
    return done.stdout.splitlines()[0].split()[-1]


def hardrun(probe: Path, directory: Path) -> Peer:
    """The policy untrusted."""
    def attack(attack: Attack) -> Answer:
        return Sandbox(probe, directory, POLICY, **attack.options).one(*attack.steps)
    return Peer("hardrun", f"hardrun {__version__}: `hardrun run --policy {POLICY}`",
                "its policy file is the default one", attack)


def bubblewrap(probe: Path, directory: Path) -> Peer | None:
    """As its manual page and its demonstration call it; None where it is not installed."""
    if not shutil.which("bwrap"):
        return None

    def attack(attack: Attack) -> Answer | None:
        extra = _flags_of(attack.options, "--ro-bind {path} {path}", "--bind {path} {path}",
                          "--size {size} --tmpfs {path}")
        if extra is None:
            return None
        return _run(["bwrap", *BWRAP_FLAGS, *extra, "--ro-bind", str(probe), "/probe", "/probe"],
                    attack)
    return Peer("bubblewrap", f"bubblewrap {_version('bwrap')}: `bwrap {' '.join(BWRAP_FLAGS)}`",
                "it takes a seccomp filter from its caller, and none was given", attack)


def podman(probe: Path, container: Podman) -> Peer:
    """As an ordinary user calls it."""
    shutil.copy(probe, container.directory / "rootfs/probe")
    environment = {**os.environ, **container.environment}

    def attack(attack: Attack) -> Answer | None:
        extra = _flags_of(attack.options, "--volume={path}:{path}:ro", "--volume={path}:{path}:rw",
                          "--tmpfs={path}:size={size}")
        if extra is None or _is_on_pid_1(attack):
            return None
        return _run([*container.command("--volume=/usr:/usr:ro", *extra), "/probe"], attack,
                    env=environment)
    version = _version(str(PODMAN), env=environment)
    return Peer(
        "podman", f"podman {version} with runc {_version(str(RUNC))}, rootless: "
        "`podman run --cgroups=disabled --network none --ulimit host --volume=/usr:/usr:ro "
        "--rootfs DIRECTORY`",
        "the command is root of the container's user namespace, with podman's default capabilities "
        "there, and PID 1; cgroups and the network, which not every host gives a user, were left "
        "out",
        attack)


def judge(attack: Attack, answer: Answer | None) -> Cell:
    """The word, and ``works`` or ``holds`` where it tells."""
    if answer is None:
        return Cell(NOT_COMPARABLE)
    if answer.signal or not answer.steps:  # there is no whole answer to judge
        return Cell(answer.word, "holds" if answer.word in attack.refused else "")
    return Cell(answer.word, "works" if attack.succeeded(answer) else
                "holds" if attack.is_refused(answer) else "")


Table = dict[str, list[Cell]]


def measure(peers: Sequence[Peer], attacks: Iterable[Attack]) -> Table:
    """What every attack came to in each peer. Raises SystemExit for one that does not start."""
    found: Table = {}
    for peer in peers:
        if judge(STARTS, peer.attack(STARTS)).word != "ok":
            raise SystemExit(f"{peer.name} does not start: {peer.called}")
    for attack in attacks:
        cells = []
        for peer in peers:
            try:
                cells.append(judge(attack, peer.attack(attack)))
            except subprocess.TimeoutExpired:
                cells.append(Cell(f"no end in {PATIENCE} s"))
        found[attack.id] = cells
    return found


def lines_of(peers: Sequence[Peer], table: Table) -> list[str]:
    """Both tables as Markdown, with how the peers were called."""
    lines = [f"Linux {platform.release()}, {platform.machine()}, an ordinary user.", ""]
    lines += [f"* {peer.called}; {peer.beside}" for peer in peers]
    lines += ["", "| | " + " | ".join(peer.name for peer in peers) + " |",
              "| --- |" + " --- |" * len(peers)]
    for name, verdict in (("holds", "holds"), ("works", "works"), ("neither", "")):
        counts = (sum(cells[n].verdict == verdict and cells[n].word != NOT_COMPARABLE
                      for cells in table.values()) for n in range(len(peers)))
        lines.append(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    compared = (sum(cells[n].word != NOT_COMPARABLE for cells in table.values())
                for n in range(len(peers)))
    lines += ["| attacks | " + " | ".join(map(str, compared)) + " |", "",
              "| property | attack | " + " | ".join(peer.name for peer in peers) + " |",
              "| --- | --- |" + " --- |" * len(peers)]
    for name, cells in table.items():
        words = [*name.split(" ", 1), *map(str, cells)]
        lines.append("| " + " | ".join(w.replace("|", "\\|") for w in words) + " |")
    return lines


def main(arguments: list[str]) -> int:
    """Measure, print, and write the page."""
    with tempfile.TemporaryDirectory(prefix="hardrun-peers-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        probe = probes.build(directory)
        peers = [hardrun(probe, directory)]
        wrapped = bubblewrap(probe, directory)
        peers += [wrapped] if wrapped else []
        if PODMAN and RUNC:
            (directory / "podman").mkdir()
            with Podman(directory / "podman") as container:
                peers.append(podman(probe, container))
                table = measure(peers, ATTACKS)
        else:
            table = measure(peers, ATTACKS)
    lines = lines_of(peers, table)
    print("\n".join(lines))
    if arguments:
        write(Path(arguments[0]), "peers", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
