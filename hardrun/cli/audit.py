"""``hardrun audit``: judge container configurations and running containers; nothing is started."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from hardrun.cli.render import printable, table, write
from hardrun.errors import BadInput
from hardrun.kernel.outputs import write_output

if TYPE_CHECKING:
    from rich.progress import Progress

    from hardrun.audit.model import Severity
    from hardrun.audit.report import Report
    from hardrun.audit.walk import Batch

FOUND = 1
FAILED = 125
FORMATS = ("text", "json", "sarif", "junit", "html")
SEVERITIES = ("info", "low", "medium", "high", "critical")
_ALL = -1
_DIFF = 3  # words: diff A B
_OPTIONS = {"form": "--format", "output": "--output", "write_baseline": "--write-baseline"}


@click.command("audit")
@click.argument("paths", metavar="[PATH|-]...", nargs=-1)
@click.option("--live", is_flag=False, flag_value=_ALL, type=int, metavar="[PID]",
              help="A running process; without PID every container that this user can see.")
@click.option("--docker", is_flag=True, help="The containers that docker lists.")
@click.option("--podman", is_flag=True, help="The containers that podman lists.")
@click.option("--policy", "policy", multiple=True, metavar="SET|NAME|FILE",
              help="What to judge by; repeatable. Default: pss-baseline and ways-out.")
@click.option("--fail-on", type=click.Choice([*SEVERITIES, "never"]),
              help="The least severity that makes the exit status 1. Default: high.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text",
              help="The form of the report.")
@click.option("-o", "--output", metavar="FILE", help="Write the report to a file.")
@click.option("--explain", metavar="RULE", help="Say what a rule is about, and nothing else.")
@click.option("--config", metavar="FILE",
              help="An organisation's settings, which .hardrun.yaml can tighten.")
@click.option("--baseline", metavar="FILE", help="Only findings that are not in it count.")
@click.option("--write-baseline", metavar="FILE", help="Write today's findings as a baseline.")
@click.option("--exclude", multiple=True, metavar="PATTERN",
              help="Files to leave out, as in .gitignore; repeatable.")
@click.option("--show-suppressed", is_flag=True, help="List what does not count, too.")
@click.option("--no-foreign-suppressions", is_flag=True,
              help="Don't honour checkov:skip, trivy:ignore and .trivyignore.")
@click.option("--fix", is_flag=True, help="Mend what can be mended without a risk, in place.")
@click.option("--unsafe-fixes", is_flag=True,
              help="Mend what may break a workload, too: read-only roots, users, capabilities.")
@click.option("--diff", "as_diff", is_flag=True, help="With --fix: show the patch, write nothing.")
@click.option("--strict", is_flag=True,
              help="Templates that are not rendered and faulty suppressions fail, too.")
@click.option("-q", "--quiet", is_flag=True, help="No scores, findings and the summary alone.")
def command(paths: tuple[str, ...], live: int | None, docker: bool, podman: bool,
            policy: tuple[str, ...], fail_on: str | None, form: str, output: str | None,
            explain: str | None, config: str | None, baseline: str | None,
            write_baseline: str | None, exclude: tuple[str, ...], show_suppressed: bool,
            no_foreign_suppressions: bool, fix: bool, unsafe_fixes: bool, as_diff: bool,
            strict: bool, quiet: bool) -> int:
    """Judge container configurations and running containers. Nothing is started.

    PATH is a file, a directory or - (standard input): Kubernetes manifests, Compose files (A:B
    merges two), Dockerfiles, docker and podman inspect, run lines in scripts and pipelines,
    config.json of OCI bundles, units of systemd, profiles of seccomp and AppArmor. `hardrun
    audit diff A B` says instead what changed between two versions, control by control. The exit
    status is 0 when nothing that counts is as bad as --fail-on, 1 when something is, 125 when
    something could not be audited, 2 for a wrong option.
    """
    from hardrun.audit import run, settings, walk

    # What is read stays until the end and has no cycles: looking for some takes a fifth of a run.
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)
    given = _given()
    if explain is not None:
        write(run.explained(explain))
        return 0
    if paths[:1] == ("diff",) and not Path("diff").exists():
        if len(paths) != _DIFF or given - {"paths", "form"} or form not in ("text", "json"):
            raise click.UsageError("audit diff takes two paths, and --format text or json")
        return _compared(*paths[1:], form=form)
    mending = fix or unsafe_fixes
    if as_diff and not mending:
        raise click.UsageError("--diff says what --fix would do: give one of --fix, --unsafe-fixes")
    if wrong := sorted(given & {"form", "output", "write_baseline"}) if mending else []:
        raise click.UsageError(f"{_OPTIONS[wrong[0]]} is nothing for fixes: audit again for it")
    chosen = settings.find(paths)
    if config is not None:
        chosen = chosen.within(settings.read(config))
    batch = _gathered(paths, live, (*exclude, *chosen.exclude), docker=docker, podman=podman)
    directories = [path for path in paths if Path(path).is_dir()]
    everywhere = (*chosen.notes, *walk.ignore_notes([".", *directories]))
    import datetime

    report = run.audit(batch, run.Request(
        policy=policy, settings=settings.Settings(
            chosen.policy, chosen.fail_on, chosen.exclude, chosen.severities, everywhere),
        baseline=settings.read_baseline(baseline) if baseline else None,
        foreign=not no_foreign_suppressions, today=datetime.date.today(),
        whole=frozenset(str(Path(path, settings.NAME)) for path in directories)))
    if write_baseline is not None:
        number = settings.write_baseline(write_baseline, report.findings)
        write([f"{number} findings written to {write_baseline}"], to_error=True)
        return 0
    if mending:
        report = _mended(report, unsafe=unsafe_fixes, as_diff=as_diff)
    else:
        _put(report, form, output, suppressed=show_suppressed, quiet=quiet)
    return _status(report, fail_on or chosen.fail_on or "high", strict=strict)


def _given() -> frozenset[str]:
    """The parameters that the command line has, by name."""
    context = click.get_current_context()
    return frozenset(name for name in context.params if context.get_parameter_source(name)
                     == click.core.ParameterSource.COMMANDLINE)


def _status(report: Report, fail_on: str, *, strict: bool) -> int:
    if any((strict or not (p.template or p.warning)) for p in report.problems):
        return FAILED
    least = None if fail_on == "never" else cast("Severity", fail_on)
    return FOUND if report.fails(least) else 0


def _gathered(paths: tuple[str, ...], pid: int | None, exclude: tuple[str, ...], *, docker: bool,
              podman: bool) -> Batch:
    from hardrun.audit import engines, run, walk

    if not paths and pid is None and not docker and not podman:
        raise click.UsageError("nothing to audit: name a PATH, --live, --docker or --podman")
    progress = Progression()
    try:
        batch = walk.read_paths(paths, exclude, progress)
    finally:
        progress.close()
    for engine in [name for name, on in (("docker", docker), ("podman", podman)) if on]:
        engines.read(engine, batch)
    if pid is not None:
        if pid != _ALL and pid < 1:
            raise click.UsageError(f"--live {pid}: no process has that number")
        found = run.live(None if pid == _ALL else pid)
        batch.subjects += found.subjects
        batch.problems += found.problems
    return batch


def _compared(old: str, new: str, *, form: str) -> int:
    """What changed in posture from one version to another; 1 when something may be looser."""
    import json

    from hardrun.audit import compare, walk

    sides = [walk.read_paths([path]) for path in (old, new)]
    found = list(compare.changes(sides[0].subjects, sides[1].subjects))
    if form == "json":
        write([json.dumps({"schema": "hardrun.audit.diff", "schema_version": 1,
                           "changes": [change._asdict() for change in found]}, indent=2)])
    else:
        write(table(("workload", "control", "became", "from", "to", "where"), found)
              if found else ["no control differs"])
    for problem in (p for side in sides for p in side.problems):
        write([printable(f"{problem.place}  {problem.message}")], to_error=True)
    if any(side.problems for side in sides):
        return FAILED
    return FOUND if any(change.loosens for change in found) else 0


def _mended(report: Report, *, unsafe: bool, as_diff: bool) -> Report:
    """Write the fixes, or show them as a patch; say of every finding that is left what to do, and
    what could not be audited. The report of what is left."""
    from dataclasses import replace

    from hardrun.audit import fix
    from hardrun.audit.rules import catalogue

    rules = {rule.id: rule for rule in catalogue()}
    done = fix.mended(report.counting, rules, unsafe=unsafe)
    for file, (old, new) in done.texts.items():
        if as_diff:
            write([printable(line) for line in fix.difference(old, new, file)])
        else:
            write_output(file, new.encode("utf-8", "surrogateescape"))
    for file in done.links:
        write([printable(f"{file}  a symlink, not mended: name the file itself")], to_error=True)
    number = len(report.counting) - len(done.left)
    said = [f"{number} finding{'s' if number != 1 else ''} mended in {len(done.texts)}"
            f" file{'s' if len(done.texts) != 1 else ''}, {len(done.left)} left"]
    for finding in done.left:
        able = finding.source in fix.SOURCES and Path(finding.place.file).is_file()
        advice = "--unsafe-fixes may mend it" if able and not unsafe and fix.settings(
            finding.rule, unsafe=True) else finding.rule.fix
        said.append(printable(f"  {finding.place}  {finding.rule.id}  {advice}"))
    said += [printable(f"  {problem.place}  {problem.message}") for problem in report.problems]
    write(said, to_error=as_diff)
    return replace(report, findings=done.left)


class Progression:
    """A bar on standard error, on a terminal alone, where reading takes longer than ``after``
    seconds."""

    def __init__(self, after: float = 1.0) -> None:
        self._since = time.monotonic() + after
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar: Progress | None = None

    def __call__(self, number: int, total: int) -> None:
        """Tell how many files are read, of how many that are known of."""
        if not self._terminal or (self._bar is None and time.monotonic() < self._since):
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(TextColumn("files"), BarColumn(), MofNCompleteColumn(),
                                 console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task("files")
        self._bar.update(self._bar.task_ids[0], completed=number, total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _put(report: Report, form: str, output: str | None, *, suppressed: bool, quiet: bool) -> None:
    from hardrun.audit.report import data, html, text

    if form == "text":
        colours = output is None and text.coloured(sys.stdout)
        width = shutil.get_terminal_size().columns if output is None and sys.stdout.isatty() else 0
        lines = list(text.lines(report, colours=colours, suppressed=suppressed, quiet=quiet,
                                width=width))
    else:
        writers: dict[str, Callable[[Report], str]] = {
            "json": data.as_json, "sarif": data.as_sarif, "junit": data.as_junit,
            "html": html.page}
        lines = [writers[form](report)]
        if form == "sarif" and (cut := data.truncation(report)):
            write([cut], to_error=True)
    if output is None:
        write(lines)
        return
    try:
        write_output(output, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise BadInput(f"-o {output}: {error.strerror}") from None
