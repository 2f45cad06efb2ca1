"""Capabilities: names, numbers and the masks of /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardrun.kernel import capabilities


def test_names_and_numbers_are_those_of_the_kernels_header() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.is_file():
        pytest.skip("linux-libc-dev is not installed")
    lines = (line.split() for line in header.read_text().splitlines())
    defined = {words[1]: int(words[2]) for words in lines
               if len(words) >= 3 and words[0] == "#define" and words[1].startswith("CAP_")
               and words[2].isdecimal()}
    assert defined.items() <= dict(capabilities.NUMBERS).items()


def test_numbers_run_from_0_to_the_last_one() -> None:
    assert sorted(capabilities.NUMBERS.values()) == list(range(capabilities.LAST + 1))


def test_a_mask_is_the_inverse_of_its_names() -> None:
    assert capabilities.names_of(capabilities.mask_of(capabilities.ALL)) == capabilities.ALL
    assert capabilities.mask_of(["CAP_CHOWN", "CAP_BPF"]) == 1 << 39 | 1


def test_a_bit_without_a_name_is_not_passed_over() -> None:
    assert capabilities.names_of(1 << 41) == {"CAP_41"}


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="CAP_NOTHING"):
        capabilities.mask_of(["CAP_NOTHING"])


@pytest.mark.parametrize("text", ["", "0x1f", "-1", "1 2", "g"])
def test_what_is_no_mask_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a capability mask"):
        capabilities.parse_mask(text)


def test_a_mask_is_read_as_proc_writes_it() -> None:
    assert capabilities.parse_mask("000001fffeffffff") == (1 << 41) - 1 - (1 << 24)


def test_this_kernel_knows_at_least_the_first_37() -> None:
    assert capabilities.last_capability() >= 37
