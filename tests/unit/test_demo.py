"""The demonstration's lists agree with each other and with the controls."""

from __future__ import annotations

import pytest

from hardrun.demo.attempts import ALONE, TOGETHER
from hardrun.demo.hostile import endless, main
from hardrun.demo.play import Answer, _judge, _layer
from hardrun.errors import ExecutorError
from hardrun.posture.registry import BY_ID


def test_the_table_lists_what_the_script_tries_and_nothing_else() -> None:
    assert {a.name for a in (*TOGETHER, *ALONE)} == set(main.ATTEMPTS)
    assert {a.name for a in ALONE} == set(endless.ATTEMPTS)


def test_at_least_twenty_two_things_are_tried() -> None:
    assert len(TOGETHER) + len(ALONE) >= 22


@pytest.mark.parametrize("attempt", [*TOGETHER, *ALONE], ids=lambda a: a.name)
def test_every_attempt_names_controls_that_exist(attempt: object) -> None:
    for control in attempt.stopped_by.values():  # type: ignore[attr-defined]
        assert control.startswith("=") or control in BY_ID


def test_an_attempt_without_an_answer_is_an_error_and_not_a_success() -> None:
    document = {"answers": [], "outcome": "exited", "errors": "Traceback"}
    with pytest.raises(ExecutorError, match="no answer"):
        dict(_judge(TOGETHER[:1], document))
    with pytest.raises(ExecutorError, match="no answer"):
        dict(_judge(TOGETHER[:2], document | {"outcome": "timeout"}))


def test_a_sandbox_that_was_ended_for_the_attempt_counts_as_stopped() -> None:
    document = {"answers": [], "outcome": "timeout", "errors": ""}
    answers = dict(_judge(ALONE[-3:-2], document))
    assert answers[ALONE[-3].name] == Answer(False, "timeout", "the sandbox was ended: timeout")


def test_what_got_through_is_reported_even_when_the_sandbox_was_ended() -> None:
    name = ALONE[0].name
    document = {"answers": [{"name": name, "through": True, "evidence": "did it"}],
                "outcome": "timeout", "errors": ""}
    assert dict(_judge(ALONE[:1], document))[name].through


def test_a_layer_is_named_in_the_words_of_the_decision() -> None:
    attempt = next(a for a in TOGETHER if a.name == "load-bpf")
    layers = {"seccomp": ["seccomp (untrusted)"]}
    assert _layer(attempt, Answer(False, "EPERM", ""), layers) == "seccomp (untrusted)"
