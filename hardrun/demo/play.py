"""Plays the demonstration twice, in a sandbox and without one, and judges what came of it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from hardrun.demo.attempts import ALONE, TOGETHER, Attempt
from hardrun.demo.scene import Scene
from hardrun.errors import ExecutorError

TIME_FOR_ALL = "120"
TIME_FOR_ONE = "5"
TIME_TO_SPIN = "1"

Mode = Literal["sandbox", "bare"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the kernel said to one attempt."""

    through: bool
    errno: str  # an errno's name, a signal's, or an outcome
    evidence: str


class Row(NamedTuple):
    """One attempt in both runs. ``stopped_by`` is empty where it got through the sandbox."""

    attempt: Attempt
    inside: Answer
    without: Answer
    stopped_by: str


def _perform(mode: Mode, scene: Scene, limit: str, names: list[str]) -> dict[str, Any]:
    """Start the stage with a terminal, a forgotten descriptor and a secret in the environment."""
    home = os.path.dirname(scene.canaries.startup_file)
    terminal, slave = os.openpty()
    forgotten = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hardrun.demo.stage", mode, scene.canaries.project, limit,
             *names],
            stdin=slave, capture_output=True, start_new_session=True,
            pass_fds=(forgotten,), check=False,
            env={**os.environ, "API_TOKEN": scene.canaries.secret})
    finally:
        for descriptor in (terminal, slave, forgotten):
            os.close(descriptor)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ExecutorError(f"the demonstration could not be played: {lines[-1] if lines else ''}",
                            hint="hardrun doctor")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _judge(attempts: tuple[Attempt, ...], document: dict[str, Any]) -> Iterator[tuple[str, Answer]]:
    """An attempt without an answer was stopped only if the whole sandbox was ended for it."""
    answers = {a["name"]: a for a in document["answers"]}
    outcome = document["outcome"]
    for attempt in attempts:
        answer = answers.get(attempt.name)
        if answer is not None:
            yield attempt.name, Answer(answer["through"], answer.get("errno", ""),
                                       answer["evidence"])
        elif len(attempts) == 1 and outcome != "exited":
            yield attempt.name, Answer(through=False, errno=outcome,
                                       evidence=f"the sandbox was ended: {outcome}")
        else:
            raise ExecutorError(f"the hostile script gave no answer to {attempt.name!r}: "
                                f"{outcome}, {document['errors'][-300:]}")


def _act(mode: Mode) -> tuple[dict[str, Answer], Mapping[str, list[str]]]:
    """All attempts in one of the two ways, and the layers that the Decision names."""
    with Scene(rude=mode == "sandbox") as scene:
        document = _perform(mode, scene, TIME_FOR_ALL, [a.name for a in TOGETHER])
        answers = dict(_judge(TOGETHER, document))
        for attempt in ALONE:
            limit = TIME_TO_SPIN if attempt.name == "spin" else TIME_FOR_ONE
            alone = _perform(mode, scene, limit, [attempt.name])
            answers |= dict(_judge((attempt,), alone))
    return answers, document["layers"]


def _layer(attempt: Attempt, answer: Answer, layers: Mapping[str, list[str]]) -> str:
    """Who stopped it: the attempt's control for this errno, in the Decision's own words."""
    control = attempt.stopped_by.get(answer.errno, attempt.stopped_by[""])
    if control.startswith("="):
        return control[1:]
    return ", ".join(layers.get(control, ())) or control


def play() -> list[Row]:
    """Play both acts. Raises ExecutorError when an attempt has no answer: no news is bad news."""
    inside, layers = _act("sandbox")
    without, _ = _act("bare")
    return [Row(a, inside[a.name], without[a.name],
                "" if inside[a.name].through else _layer(a, inside[a.name], layers))
            for a in (*TOGETHER, *ALONE)]
