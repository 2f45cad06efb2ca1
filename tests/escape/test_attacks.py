"""Every attack: refused by every policy, by each layer alone, and shown to work without them.

Attacks of one property that need the same sandbox are tried in one, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.escape.attacks import Attack
from tests.escape.probe import Answer
from tests.escape.registry import ATTACKS
from tests.escape.sandbox import POLICIES, Cached, Sandbox

CONCLUSIVE = [attack for attack in ATTACKS if not attack.inconclusive]
WHOLE, CACHED, NOTHING = "with every layer", "from the cache", ""
Tried = Callable[[Attack, str, str], Answer]


def _id(value: object) -> str:
    return value.id if isinstance(value, Attack) else str(value)


@pytest.fixture(scope="module")
def tried(probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """What an attack comes to: with the ``WHOLE`` policy, or no layer of it but the one named.

    ``CACHED``: by the command line, from its stored plan.
    """
    directory = tmp_path_factory.mktemp("attacks")
    known: dict[tuple[str, str, str], Answer] = {}

    def answer(attack: Attack, policy: str, kept: str) -> Answer:
        if (attack.id, policy, kept) not in known:
            made = Cached if kept == CACHED else Sandbox
            sandbox = made(probe, directory, policy, **attack.options)
            if kept not in (WHOLE, CACHED):
                sandbox = sandbox.removed(*attack.removals(kept))
            alike = [other for other in ATTACKS if attack.shares_a_sandbox_with(other)]
            for other, found in zip(alike, sandbox.attack(*(a.steps for a in alike)), strict=True):
                known[other.id, policy, kept] = found
        return known[attack.id, policy, kept]
    return answer


@pytest.mark.parametrize("how", [WHOLE, CACHED])
@pytest.mark.parametrize("attack, policy", [(a, p) for a in ATTACKS for p in POLICIES], ids=_id)
def test_it_is_refused(tried: Tried, attack: Attack, policy: str, how: str) -> None:
    """Or the policy says that it gives the property up; then it must be needed."""
    answer = tried(attack, policy, how)
    if policy in attack.given_up:
        assert attack.succeeded(answer), f"{policy} does not give this up: {answer}"
    else:
        assert attack.is_refused(answer), answer


@pytest.mark.parametrize("attack, layer", [
    (a, layer) for a in CONCLUSIVE for layer in a.layers if len(a.layers) > 1], ids=_id)
def test_one_layer_alone_refuses_it(tried: Tried, attack: Attack, layer: str) -> None:
    answer = tried(attack, "untrusted", layer)
    assert attack.is_refused(answer), answer


@pytest.mark.parametrize("attack", CONCLUSIVE, ids=_id)
def test_it_works_without_the_defences(tried: Tried, attack: Attack) -> None:
    """The negative control: without it a refusal shows nothing."""
    answer = tried(attack, "untrusted", NOTHING)
    assert attack.succeeded(answer), f"inconclusive: {answer}"
