"""Every reader is given damaged input for a while, and all that was ever worth keeping.

``make fuzz`` does the same for longer. A reader may refuse in its own words or succeed; any other
exception, a minute for one input or two GiB of memory fail.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import decoder
from tests.fuzz.targets import READERS, TARGETS, stored

SECONDS = {"decoder": 20, "policy": 10, "profile": 10}
OTHERS = 3
KEPT = [(name, path) for kind in ("corpus", "regression") for name in TARGETS
        for path in stored(kind, name)]
ENGINES = ["mutator", *(["atheris"] if importlib.util.find_spec("atheris") else [])]


def _fuzz(target: str, work: Path, seconds: int, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "--work", str(work), "--seconds", str(seconds),
         *options], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", ["decoder", *TARGETS])
def test_no_input_makes_it_fail(target: str, tmp_path: Path) -> None:
    done = _fuzz(target, tmp_path, SECONDS.get(target, OTHERS))
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_input_that_makes_a_reader_fail_is_found(engine: str, tmp_path: Path) -> None:
    done = _fuzz("planted", tmp_path, 60, "--engine", engine)
    assert done.returncode != 0, done.stderr[-4000:]
    (crash,) = (tmp_path / "planted").glob("crash-*")
    with pytest.raises(KeyError):
        READERS["planted"](crash.read_bytes())


@pytest.mark.parametrize("target, path", KEPT, ids=lambda value: getattr(value, "name", value))
def test_what_was_kept_is_read(target: str, path: Path) -> None:
    assert TARGETS[target](path.read_bytes())


def test_what_was_kept_the_decoder_reads(tmp_path: Path) -> None:
    program = decoder.build("hardrun-exec-fuzz", tmp_path)
    kept = decoder.seeds(tmp_path / "seeds")
    done = subprocess.run([program, "0", "0", *kept], capture_output=True, text=True, check=False,
                          env=decoder.ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    verdicts = [line.rpartition(": ")[2] for line in done.stdout.splitlines()]
    assert len(verdicts) == len(kept)
    assert "accepted" in verdicts


def _unbounded(sources: Path) -> None:
    plan = sources / "plan.c"
    text = plan.read_text(encoding="utf-8")
    bound = "return offset + size <= plan->pool_size;"
    assert text.count(bound) == 1
    plan.write_text(text.replace(bound, "return offset <= plan->pool_size || size;"))


def test_a_decoder_without_one_of_its_bounds_is_found(tmp_path: Path) -> None:
    program = decoder.build("hardrun-exec-fuzz", tmp_path, _unbounded)
    assert decoder.mutate(program, decoder.seeds(tmp_path / "seeds"), 60, 1)
