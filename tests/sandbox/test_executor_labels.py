"""The executor on a kernel without SELinux: a label that can't be drawn refuses the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardrun.kernel import selinux
from tests.sandbox.raw import Program, operation


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def test_a_context_that_can_not_be_drawn_refuses_the_start(program: Program) -> None:
    if selinux.enforcing() is not None:  # what a kernel that has it answers: tests/vm
        return
    drawing = [operation("draw_label", "hardrun_untrusted_t", "hardrun_untrusted_file_t", 1),
               operation("set_exec_label", "selinux", "hardrun_untrusted_t"),
               operation("expect_label", "selinux", "hardrun_untrusted_t")]
    finished = program.run(["echo", "RAN"], drawing)
    assert (finished.returncode, finished.stdout) == (125, b"")
    assert finished.stderr.startswith(b"hardrun: draw the categories of hardrun_untrusted_t: ")
    assert len(finished.stderr.splitlines()) == 1
