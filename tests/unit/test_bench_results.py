"""Results of `hardrun bench`: as JSON and back, compared, judged, as pages."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hardrun.bench import compare, document, law, musts, ours, pages, plots, suites
from hardrun.bench.contender import LEVELS
from hardrun.bench.document import Document, Peer, Series
from hardrun.cli.main import main
from hardrun.errors import BadInput

MACHINE = {"kernel": "6.1", "cpus": "2"}


def _spread(value: float, count: int = 30) -> tuple[float, ...]:
    return tuple(value * (1 + 0.001 * (n % 7)) for n in range(count))


def _startup(name: str, value: float, **changes: object) -> Series:
    return replace(Series("startup", name, "exit", "s", _spread(value), level="L1"), **changes)


def _results(*series: Series, peers: tuple[Peer, ...] = ()) -> Document:
    return Document(MACHINE, series, peers, {"runs": "30"})


RESULTS = _results(
    _startup(ours.PLAIN, 0.0005), _startup(ours.FLOOR, 0.0019), _startup(ours.COMPILED, 0.002),
    _startup("bwrap L1", 0.004), _startup("runc L1", 0.03),
    Series("startup", "crun L1", "exit", "s", failure="exit status 1: no | cgroup"),
    Series("disk", "runc", "created", "B", (12288.0,), 10),
    Series("disk", "runc", "created, inodes", "inodes", (3.0,), 10),
    Series("memory", ours.COMPILED, "proportional set size", "B", (120e3,), 10, limit=True),
    Series("memory", "podman L2 (runc)", "proportional set size", "B", (900e3,), 10),
    Series("syscall", ours.COMPILED, "getpid", "ns", _spread(140.0)),
    Series("scale", ours.COMPILED, "in sequence", "s", _spread(0.002, 1000), 1000),
    Series("scale", ours.COMPILED, "throughput", "/s", _spread(500.0, 10), 2),
    Series("io", ours.COMPILED, "stat", "ns", _spread(1000.0)),
    Series("layers", ours.PLAIN, "layers", "s", _spread(0.0005)),
    Series("layers", "layer: mounts", "layers", "s", _spread(0.0015)),
    peers=(Peer("bwrap", "0.8.0"), Peer("nsjail", install="make")))


def test_results_come_back_from_json_as_they_were() -> None:
    assert document.loads(document.dumps(RESULTS), "here") == RESULTS


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "hardrun-bench/0"}', "\ud800",
                                  '{"schema": "hardrun-bench/1", "machine": 3, "series": []}',
                                  '{"results": [{"command": "x"}]}', "[" * 100_000])
def test_what_is_no_result_is_one_line_with_the_files_name(text: str) -> None:
    with pytest.raises(BadInput, match=r"^results\.json: not "):
        document.loads(text, "results.json")


def test_times_are_exported_as_hyperfine_writes_them() -> None:
    exported = json.loads(document.hyperfine(RESULTS.series))["results"]
    [ours_] = [one for one in exported if one["command"] == ours.COMPILED]
    assert {"mean", "stddev", "median", "min", "max", "times", "exit_codes"} <= ours_.keys()
    assert ours_["median"] == pytest.approx(0.002, rel=0.01)
    assert not [one for one in exported if "crun" in one["command"]], "a failure has no time"


def test_hyperfines_own_file_can_be_compared() -> None:
    text = '{"results": [{"command": "true", "times": [0.1, 0.2, 0.1], "mean": 0.13}]}'
    [one] = document.loads(text, "here").series
    assert (one.contender, one.samples) == ("true", (0.1, 0.2, 0.1))


def _written(directory: Path, name: str, results: Document) -> str:
    (directory / name).write_text(document.dumps(results))
    return str(directory / name)


@pytest.mark.parametrize("factor, status", [(1.0, 0), (0.5, 0), (1.02, 0), (1.5, 1)])
def test_compare_exits_with_1_where_it_became_slower(
        tmp_path: Path, factor: float, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    old = _written(tmp_path, "old", _results(_startup(ours.COMPILED, 0.002)))
    new = _written(tmp_path, "new", _results(_startup(ours.COMPILED, 0.002 * factor)))
    assert main(["bench", "compare", old, new]) == status
    assert ours.COMPILED in capsys.readouterr().out


def test_fewer_starts_a_second_are_a_regression_and_more_are_none() -> None:
    rate = Series("scale", ours.COMPILED, "throughput", "/s", _spread(500.0), 2)
    slower = replace(rate, samples=_spread(250.0))
    assert compare.regressed(_results(rate), _results(slower))
    assert not compare.regressed(_results(slower), _results(rate))


def test_what_fails_now_is_a_regression_and_no_speed() -> None:
    failed = _startup(ours.COMPILED, 1.0, samples=(), failure="exit status 125")
    assert compare.regressed(RESULTS, _results(failed))
    assert any("exit status 125" in line for line in compare.lines(RESULTS, _results(failed)))


def test_noise_is_no_regression() -> None:
    shaken = _startup(ours.COMPILED, 1.0, samples=tuple(0.001 * (1 + n % 9) for n in range(9)))
    assert not compare.regressed(RESULTS, _results(shaken))


def test_one_more_block_on_disk_is_a_regression_without_an_interval() -> None:
    kept = Series("disk", "runc", "created", "B", (16384.0,), 10)
    assert compare.regressed(RESULTS, _results(kept))


def test_two_results_of_different_things_are_not_compared(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = _written(tmp_path, "old", _results(_startup("one", 1.0)))
    new = _written(tmp_path, "new", _results(_startup("two", 1.0)))
    assert main(["bench", "compare", old, new]) == 125
    assert "nothing in common" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [
    ["compare", "one"], ["compare", "/nowhere", "/nowhere"], ["network"], ["startup", "disk"],
    ["startup", "--against", "docker"], ["startup", "--"], ["disk", "--", "true"],
    ["startup", "--runs", "0"], ["check", "--policy", "agent"]])
def test_a_mistake_in_the_command_line_measures_nothing(
        arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 125
    assert "hint:" in capsys.readouterr().err


def _row(results: Document, what: str, against: str) -> musts.Row:
    [found] = [row for row in musts.rows(results) if row.must.what.startswith(what)
               and row.must.against.startswith(against)]
    return found


def test_a_must_holds_fails_or_was_not_measured() -> None:
    assert _row(RESULTS, "compiled", "runc").state == musts.HOLDS
    assert _row(RESULTS, "compiled", "crun").state == musts.NOT_MEASURED
    assert _row(RESULTS, "memory", "podman").state == musts.HOLDS
    slow = _results(_startup(ours.COMPILED, 0.02), _startup("runc L1", 0.03))
    assert _row(slow, "compiled", "runc").state == musts.FAILS
    assert not musts.holds(musts.rows(RESULTS))


def test_memory_is_compared_at_the_same_count() -> None:
    size = "proportional set size"
    found = _results(Series("memory", ours.COMPILED, size, "B", (90e3,), 10),
                     Series("memory", ours.COMPILED, size, "B", (10e3,), 500),
                     Series("memory", "podman L2", size, "B", (900e3,), 10))
    row = _row(found, "memory", "podman")
    assert row.ratio is not None
    assert row.ratio.value == 0.1


def test_what_is_not_built_is_not_passed() -> None:
    for what in ("warm pool", "one more container, created", "one more container, running, eph"):
        assert _row(RESULTS, what, "").state == musts.NOT_BUILT


def test_near_the_kernels_floor_a_row_holds_and_says_so() -> None:
    near = _results(_startup(ours.FLOOR, 0.0095), _startup(ours.COMPILED, 0.01),
                    _startup("bwrap L1", 0.011))
    row = _row(near, "compiled plan, policy untrusted, start to exit", "bwrap, same")
    assert row.state == musts.HOLDS
    assert "floor" in row.note
    far = _results(_startup(ours.FLOOR, 0.008), *near.series[1:])
    assert _row(far, "compiled plan, policy untrusted, start to exit",
                "bwrap, same").state == musts.FAILS


def test_a_floor_that_was_disturbed_excuses_nothing() -> None:
    shaken = _startup(ours.FLOOR, 1.0, samples=tuple(0.001 * (1 + n % 30) for n in range(60)))
    found = _results(shaken, _startup(ours.COMPILED, 0.01), _startup("bwrap L1", 0.011))
    assert _row(found, "compiled plan, policy untrusted, start to exit",
                "bwrap, same").state == musts.FAILS


def test_few_or_shaken_samples_hold_nothing() -> None:
    few = _results(_startup(ours.COMPILED, 1.0, samples=(0.001,)),
                   _startup("runc L1", 1.0, samples=(0.1,)))
    assert _row(few, "compiled", "runc").state == musts.NOISY


def test_throughput_must_be_more_and_not_less() -> None:
    def rates(ours_: float) -> Document:
        return _results(Series("scale", ours.COMPILED, "throughput", "/s", _spread(ours_), 2),
                        Series("scale", "bwrap L1", "throughput", "/s", _spread(100.0), 2))
    assert _row(rates(150.0), "throughput", "bwrap").state == musts.HOLDS
    assert _row(rates(120.0), "throughput", "bwrap").state == musts.FAILS


def test_a_start_that_became_dearer_with_their_number_does_not_hold() -> None:
    rising = Series("scale", ours.COMPILED, "in sequence", "s",
                    tuple(0.002 * (1 + n / 1000) for n in range(1000)), 1000)
    assert _row(_results(rising), "starts in sequence", "").state == musts.FAILS
    assert _row(RESULTS, "starts in sequence", "").state == musts.HOLDS


def test_every_must_has_a_line_with_its_limits() -> None:
    text = "\n".join(musts.lines(musts.rows(RESULTS)))
    assert text.count("\n") == len(musts.MUSTS) + 1
    assert "≤ 0.12" in text
    assert "≥ 1.4" in text


def test_the_page_names_failures_levels_and_who_is_missing() -> None:
    text = pages.markdown(RESULTS)
    assert re.search(r"\| crun L1 \|.*\| failed \|.*no . cgroup", text)
    assert "not installed: nsjail (make)" in text
    assert "at most 117.2 KiB" in text, "an upper bound is told as such"
    for level in filter(None, LEVELS):
        assert f"| {level} |" in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


@pytest.mark.parametrize("with_plots", [True, False])
def test_the_html_page_loads_nothing(with_plots: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_plots and not plots.available():
        pytest.fail("matplotlib is not installed: pip install '.[bench]'")
    monkeypatch.setattr(plots, "available", lambda: with_plots)
    text = plots.page(RESULTS)
    assert ("<svg" in text) is with_plots
    assert (plots.EXTRA.replace("'", "&#x27;") in text) is not with_plots
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", text)
    assert "<script" not in text


def test_what_a_file_says_is_no_html() -> None:
    evil = _results(_startup("<script>alert(1)</script>", 0.1))
    assert "<script" not in plots.page(evil)


def test_quick_is_at_most_a_minute_and_no_suite_is_without_a_time() -> None:
    everything = suites.Choice(tuple(suites.SUITES), quick=True)
    assert suites.estimate(everything) <= suites.QUICK_LIMIT
    assert suites.estimate(everything) < suites.estimate(everything._replace(quick=False))
    longer = suites.Choice(("io",), runs=600)
    assert suites.estimate(longer) > suites.estimate(longer._replace(runs=60))


def test_a_median_of_a_failure_can_not_be_had() -> None:
    with pytest.raises(ValueError, match="no samples"):
        _ = Series("startup", "x", "exit", "s", failure="no").median
    assert law.FEWEST > 1
