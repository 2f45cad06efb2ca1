"""``hardrun bench``: what isolation costs here, beside other runtimes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hardrun.cli.render import printable, write
from hardrun.errors import BadInput

if TYPE_CHECKING:
    from hardrun.bench.document import Document, Peer
    from hardrun.bench.suites import Choice

REGRESSION = 1
_QUICK_RUNS = 20
_WORDS = "bench.command"


class _Bench(click.Command):
    """``[SUITE] OPTION... [-- COMMAND]``; everything after the first ``--`` is the command."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[SUITE | check | compare OLD NEW]", "[OPTIONS]", "[-- COMMAND [ARGUMENT]...]"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[_WORDS] = args[end + 1:]
        if end + 1 == len(args):
            raise BadInput("there is no command after --", hint="hardrun bench startup -- CMD")
        return super().parse_args(ctx, args[:end])


@click.command("bench", cls=_Bench)
@click.argument("what", nargs=-1)
@click.option("--against", metavar="NAME,…",
              help="The runtimes to compare with. Default: all that are installed.")
@click.option("--policy", metavar="NAME|FILE", multiple=True,
              help="A policy that bounds hardrun's sandboxes; repeatable. Default: untrusted.")
@click.option("--rootfs", metavar="DIR", help="The root of all of them; COMMAND lies in it.")
@click.option("--warmup", metavar="N", type=click.IntRange(0), default=2, show_default=True,
              help="Rounds that are not counted.")
@click.option("--runs", metavar="N", type=click.IntRange(1), help="Rounds. Default: 60.")
@click.option("--prepare", metavar="CMD", default="",
              help="A shell command before each counted start, such as one that drops caches.")
@click.option("--export-json", metavar="FILE", help="Write times as hyperfine does.")
@click.option("--output", metavar="DIR",
              help="Write results.json, results.md and results.html.")
@click.option("--quick", is_flag=True, help="Everything in at most 60 s, with wider intervals.")
@click.pass_context
def command(context: click.Context, /, what: Sequence[str], **options: Any) -> int:
    """Measure what isolation costs, beside other runtimes on the same root file system.

    SUITE is startup, disk, memory, syscall, scale, io, or all (the default). check measures what
    hardrun must reach and exits with 1 unless all of it was shown to hold. compare reads two
    results.json (or hyperfine's files) and exits with 1 where the new one is worse beyond the
    interval. With -- COMMAND that command is timed instead of one that does nothing.

    A runtime that fails is reported as failed and is in no ratio; one that is not installed is
    listed with how to get it.
    """
    suite, *rest = what or ("all",)
    if suite == "compare":
        return _compare(rest)
    words = tuple(context.meta[_WORDS])
    if rest:
        raise BadInput(f"{rest[0]}: one suite at a time", hint="hardrun bench all")
    return _measure(suite, words, options)


def _compare(files: Sequence[str]) -> int:
    from hardrun.bench import compare, document

    if len(files) != 2:
        raise BadInput("compare: two files are compared", hint="hardrun bench compare OLD NEW")
    old, new = (document.load(name) for name in files)
    if not list(compare.rows(old, new)) and not compare.lost(old, new):
        raise BadInput("compare: they have nothing in common",
                       hint="measure the same suites, by the same names")
    write(printable(line) for line in compare.lines(old, new))
    return REGRESSION if compare.regressed(old, new) else 0


def _choice(suite: str, options: dict[str, Any]) -> Choice:
    from hardrun.bench import musts, suites

    names = {"all": tuple(suites.SUITES), "check": musts.SUITES}.get(suite, (suite,))
    for name in names:
        if name not in suites.SUITES:
            raise BadInput(f"{name}: no such suite",
                           hint=f"{', '.join(suites.SUITES)}, all, check or compare")
    runs = options["runs"] or (_QUICK_RUNS if options["quick"] else 60)
    return suites.Choice(names, runs, options["warmup"], options["quick"], options["prepare"])


def _peers(suite: str, against: str | None) -> list[Peer]:
    from hardrun.bench import musts, peers

    if against is None:
        return peers.look(musts.PEERS if suite == "check" else ())
    wanted = [name.strip() for name in against.split(",") if name.strip()]
    for name in wanted:
        if name not in peers.KNOWN:
            raise BadInput(f"--against {name}: not known",
                           hint=f"known are {', '.join(peers.KNOWN)}")
    return peers.look(wanted or ("",))


def _measure(suite: str, words: tuple[str, ...], options: dict[str, Any]) -> int:
    from hardrun.bench import musts, scene, suites

    choice = _choice(suite, options)
    if words and choice.suites != ("startup",):
        raise BadInput("a command of one's own is for the suite startup",
                       hint="hardrun bench startup -- COMMAND")
    if suite == "check" and (options["policy"] or options["rootfs"]):
        raise BadInput("check: its goals are those of the policy untrusted on a root of its own",
                       hint="hardrun bench all, for others")
    looked = _peers(suite, options["against"])
    tell = _tell
    for peer in looked:
        if not peer.version:
            tell(f"{peer.name}: not installed: {peer.install}")
    tell(f"{', '.join(choice.suites)}: at most {suites.estimate(choice):.0f} s")
    begun = time.monotonic()
    with scene.scene(policies=tuple(options["policy"]), rootfs=options["rootfs"],
                     command=words) as made, _progress(choice.suites) as progress:
        document = suites.run(made, choice, looked, tell=tell, progress=progress)
    tell(f"took {time.monotonic() - begun:.0f} s")
    _write(document, options)
    if suite != "check":
        return 0
    found = musts.rows(document)
    write(["", *musts.lines(found)])
    return 0 if musts.holds(found) else 1


def _tell(line: str) -> None:
    write([printable(line)], to_error=True)


def _write(document: Document, options: dict[str, Any]) -> None:
    from hardrun.bench import document as documents
    from hardrun.bench import pages, plots

    write(printable(line) for line in pages.summary(document))
    targets: list[tuple[Path, Callable[[], str]]] = []
    if options["export_json"]:
        targets.append((Path(options["export_json"]),
                        lambda: documents.hyperfine(document.series)))
    if options["output"]:
        directory = Path(options["output"])
        targets += [(directory / "results.json", lambda: documents.dumps(document)),
                    (directory / "results.md", lambda: pages.markdown(document)),
                    (directory / "results.html", lambda: plots.page(document))]
        if not plots.available():
            _tell(f"no plots: {plots.EXTRA}")
    for path, text in targets:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}", hint="name a place that you may write"
                           ) from None


@contextmanager
def _progress(suites: Sequence[str]) -> Iterator[Callable[[str, float], None]]:
    """A bar for each suite, on standard error where that is a terminal; else nothing.

    It is drawn between measurements: a thread that draws would be in the times.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(TextColumn("{task.description:8}"), BarColumn(), TimeElapsedColumn(),
                  console=console, transient=True, auto_refresh=False,
                  disable=not console.is_terminal) as bars:
        tasks = {name: bars.add_task(name, total=1.0, start=False) for name in suites}

        def advance(name: str, share: float) -> None:
            bars.start_task(tasks[name])
            bars.update(tasks[name], completed=share, refresh=True)
        yield advance
