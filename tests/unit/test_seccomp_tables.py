"""The system call table against the kernel's headers and libseccomp, where they are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardrun.errors import BadInput
from hardrun.kernel.seccomp import tables, widths

HEADERS = {
    "x86_64": "x86_64-linux-gnu/asm/unistd_64.h",
    "i386": "x86_64-linux-gnu/asm/unistd_32.h",
}
LIBSECCOMP = {"x86_64": "X86_64", "i386": "X86", "aarch64": "AARCH64", "arm": "ARM",
              "riscv64": "RISCV64", "s390x": "S390X", "ppc64le": "PPC64LE"}  # fmt: skip
# From 424 on, these are the exceptions that one architecture alone lacks.
COMMON_FROM = 424
NEWER_THAN_LIBSECCOMP = {
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454,
    "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458,
    "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462,
    "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466,
    "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469, "listns": 470,
}  # fmt: skip


@pytest.mark.parametrize("abi", HEADERS)
def test_the_table_agrees_with_the_kernels_headers(abi: str) -> None:
    header = Path("/usr/include") / HEADERS[abi]
    if not header.is_file():
        pytest.skip(f"no kernel headers for {abi} at {header}")
    defined = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    assert len(defined) > 300
    ours = tables.numbers(abi)
    assert {name: ours.get(name) for name in defined} == {n: int(v) for n, v in defined.items()}


@pytest.mark.parametrize("abi", LIBSECCOMP)
def test_the_table_agrees_with_libseccomp_on_every_name_that_both_know(abi: str) -> None:
    library = pytest.importorskip("pyseccomp", exc_type=RuntimeError)
    token = getattr(library.Arch, LIBSECCOMP[abi])
    known = {name: library.resolve_syscall(token, name) for name in tables.numbers(abi)}
    both = {name: number for name, number in known.items() if number >= 0}
    assert len(both) > 300
    assert both == {name: tables.numbers(abi)[name] for name in both}


@pytest.mark.parametrize("abi", tables.ABIS)
def test_names_newer_than_libseccomp_have_the_same_number_everywhere(abi: str) -> None:
    numbers = tables.numbers(abi)
    assert {name: numbers[name] for name in NEWER_THAN_LIBSECCOMP} == NEWER_THAN_LIBSECCOMP


def test_from_424_on_a_number_means_the_same_call_on_every_architecture() -> None:
    meanings: dict[int, set[str]] = {}
    for abi in tables.ABIS:
        for name, number in tables.numbers(abi).items():
            if COMMON_FROM <= number < 1024:
                meanings.setdefault(number, set()).add(name)
    assert all(len(names) == 1 for names in meanings.values())
    assert sorted(meanings) == list(range(COMMON_FROM, 471))


def test_calls_of_one_architecture_have_their_own_numbers() -> None:
    assert tables.numbers("x86_64")["uretprobe"] == 335
    assert tables.numbers("x86_64")["uprobe"] == 336
    assert tables.numbers("riscv64")["riscv_hwprobe"] == 258
    assert tables.numbers("arm")["cacheflush"] == 0xF0002
    assert "socketcall" in tables.numbers("i386")
    assert "socketcall" in tables.numbers("s390x")
    assert "socketcall" not in tables.numbers("x86_64")


def test_a_number_with_two_names_keeps_both() -> None:
    assert set(tables.names("arm")[341]) == {"arm_sync_file_range", "sync_file_range2"}


def test_machine_names_of_uname_lead_to_a_table() -> None:
    assert tables.architecture_of("i686") == "i386"
    assert tables.architecture_of("armv7l") == "arm"
    assert tables.architecture_of("x86_64") == "x86_64"


def test_an_architecture_without_a_table_is_refused() -> None:
    with pytest.raises(BadInput, match="no system call table for architecture 'alpha'"):
        tables.architecture_of("alpha")


def test_argument_widths_name_calls_that_exist() -> None:
    assert {name for name, _ in widths._masks()} <= tables.known_names()


def test_the_kernel_reads_the_flags_of_clone_where_the_architecture_has_them() -> None:
    x86, s390 = tables.ABIS["x86_64"], tables.ABIS["s390x"]
    assert widths.significant_bits(x86, "clone", 0) == 0xFFFFFFFF
    assert widths.significant_bits(x86, "clone", 1) == 0xFFFFFFFFFFFFFFFF
    assert widths.significant_bits(s390, "clone", 1) == 0xFFFFFFFF


def test_a_value_is_narrowed_only_if_the_field_can_hold_it() -> None:
    assert widths.as_wide_as(0x5412, 0xFFFFFFFF) == 0x5412
    assert widths.as_wide_as(0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF) == 0xFFFFFFFF  # -1
    assert widths.as_wide_as(0x100005412, 0xFFFFFFFF) is None
