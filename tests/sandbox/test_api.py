"""The Python API, as an agent framework or a judge would use it."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from pathlib import Path

import pytest

import hardrun


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")


def sh(script: str, **options: object) -> hardrun.Result:
    return hardrun.run(["sh", "-c", script], **({"capture_output": True} | options))  # type: ignore[arg-type]


def test_a_result_tells_all() -> None:
    result = sh("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 3)
    assert (result.outcome, result.signal, result.truncated) == ("exited", None, False)
    assert result.argv[0] == "sh"
    assert result.usage.wall > 0
    assert result.usage.max_rss > 1 << 16
    assert result.usage.output == 8
    assert result.decision.policies
    assert result.decision.digest == hardrun.explain(["sh"]).digest


def test_a_signal_is_128_more() -> None:
    result = sh("kill -SEGV $$")
    assert (result.outcome, result.returncode, result.signal) == ("signaled", 139, 11)


def test_text_survives_with_any_bytes() -> None:
    assert sh("cat; printf '\\377'", input="grüße\udcff", text=True).stdout == "grüße\udcff\udcff"


def test_standard_input_is_empty_unless_given() -> None:
    assert sh("cat").stdout == b""
    assert sh("cat", input=b"x" * 200_000).stdout == b"x" * 200_000


def test_an_input_that_nobody_reads_is_no_error() -> None:
    assert sh("exit 0", input=b"x" * 10_000_000).returncode == 0


def test_the_output_limit_truncates_and_ends() -> None:
    result = sh("yes", output_limit=100_000)
    assert (result.outcome, result.truncated) == ("output-limit", True)
    assert len(result.stdout) == 100_000


def test_the_time_out_is_in_seconds() -> None:
    assert sh("sleep 1000", timeout=0.2).outcome == "timeout"


def test_limits_and_values_can_be_numbers_or_texts() -> None:
    for memory, timeout in ((128 << 20, 1.5), ("128M", "1500ms")):
        decision = hardrun.explain(["sh"], memory=memory, pids=10, timeout=timeout)
        assert decision.control("limits.memory").value == 128 << 20
        assert decision.control("limits.timeout").value == 1500


def test_variables_are_set_or_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("SECRET", "x")
    assert sh("echo $A$SECRET", env={"A": "b c"}).stdout == b"b c\n"
    assert sh("echo $LC_ALL", env=["LC_ALL"]).stdout == b"C\n"
    with pytest.raises(hardrun.PolicyRefused):
        sh("echo $SECRET", env=["SECRET"])


def test_paths_can_be_texts_or_objects(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.mkdir()
    (odd / "file").write_text("content")
    assert sh(f"cat '{odd}/file'", ro=odd).stdout == b"content"
    assert sh("cat /data/file", ro=[f"{tmp_path}/a\\:b:/data"]).stdout == b"content"
    sh(f"echo new > '{odd}/file'", rw=[odd], check=True)
    assert (odd / "file").read_text() == "new\n"


def test_check_raises_what_subprocess_raises() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        sh("echo out; exit 3", check=True)
    assert (caught.value.returncode, caught.value.stdout) == (3, b"out\n")


@pytest.mark.parametrize("options, error", [
    ({"memory": "900G"}, hardrun.PolicyRefused),
    ({"network": "host"}, hardrun.PolicyRefused),
    ({"policy": "no-such-policy"}, hardrun.PolicyError),
    ({"ro": "/no/such/path"}, hardrun.BadInput),
    ({"ro": 7}, hardrun.BadInput),
    ({"timeout": -1}, hardrun.BadInput),
    ({"timeout": float("nan")}, hardrun.BadInput),
    ({"memory": 1.5}, hardrun.BadInput),
    ({"timout": 1}, hardrun.BadInput),
    ({"cpuset": [0]}, hardrun.BadInput),
    ({"cgroup_parent": ""}, hardrun.BadInput),
    ({"env": {"A": "b\0c"}}, hardrun.BadInput),
], ids=str)
def test_what_is_not_granted_is_an_exception(options: dict[str, object],
                                             error: type[Exception]) -> None:
    with pytest.raises(error):
        sh("echo ran", **options)


@pytest.mark.parametrize("argv", [[], [""], "ls -l", ["ls", "a\0b"]])
def test_a_wrong_argv_is_an_exception(argv: list[str]) -> None:
    with pytest.raises(hardrun.BadInput):
        hardrun.run(argv)


def test_a_command_that_is_not_there_is_an_exception() -> None:
    with pytest.raises(hardrun.CommandNotFound):
        hardrun.run(["no-such-command"])


def test_verify_lets_go_what_holds() -> None:
    assert sh("echo hello", verify=True).stdout == b"hello\n"


def test_a_protected_name_that_was_made_is_reported(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    result = sh("cd project && mkdir -p a && echo evil > a/.envrc", policy="agent", rw=project,
                workdir=tmp_path, check=False)
    assert result.created in ((), (str(project / "a/.envrc"),))
    assert bool(result.created) == (project / "a/.envrc").exists()


def test_one_decision_serves_many_starts_from_many_threads() -> None:
    prepared = hardrun.prepare(["sh", "-c", "cat"])
    wrong: list[hardrun.Result] = []

    def work(number: int) -> None:
        for turn in range(50):
            word = f"{number} {turn}"
            result = prepared.run(input=word, text=True, capture_output=True)
            if result.stdout != word:
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_may_decide_and_run_at_once() -> None:
    outputs: set[bytes] = set()

    def work(number: int) -> None:
        outputs.add(sh(f"echo {number}").stdout)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {b"%d\n" % n for n in range(8)}


def test_tasks_run_side_by_side_and_can_be_cancelled() -> None:
    async def scenario() -> list[bytes]:
        endless = asyncio.create_task(
            hardrun.run_async(["sh", "-c", "setsid sleep 1000 & sleep 1000"]))
        results = await asyncio.gather(*[
            hardrun.run_async(["sh", "-c", f"echo {n}"], capture_output=True) for n in range(8)])
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        return [result.stdout for result in results]

    assert asyncio.run(scenario()) == [b"%d\n" % n for n in range(8)]
