"""mountinfo: whatever bytes a path has, what the kernel writes is read back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hardrun.kernel.mounts import Mount, parse, unescape

NUMBERS = st.integers(0, 2**31 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)


def escape(text: str) -> str:
    """As seq_path and mangle of the kernel do: octal for these characters and no others."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)


def line(mount: Mount) -> str:
    """A line as show_mountinfo of the kernel writes it."""
    fields = [str(mount.id), str(mount.parent), "{}:{}".format(*mount.device), escape(mount.root),
              escape(mount.mount_point), ",".join(mount.options), *mount.propagation, "-",
              mount.type, escape(mount.source), ",".join(map(escape, mount.super_options))]
    return " ".join(fields) + "\n"


OPTION = TEXT.filter(lambda text: "," not in text)
MOUNTS = st.builds(
    Mount, id=NUMBERS, parent=NUMBERS, device=st.tuples(NUMBERS, NUMBERS),
    root=TEXT.map("/{}".format), mount_point=TEXT.map("/{}".format),
    options=st.lists(WORDS, min_size=1, max_size=4).map(tuple),
    propagation=st.lists(WORDS, max_size=2).map(tuple), type=WORDS, source=TEXT,
    super_options=st.lists(OPTION, min_size=1, max_size=4).map(tuple))


@given(st.lists(MOUNTS, max_size=4))
def test_what_the_kernel_writes_is_read_back(mounts: list[Mount]) -> None:
    assert parse("".join(map(line, mounts))) == tuple(mounts)


@given(TEXT)
def test_unescape_is_the_inverse_of_escape(text: str) -> None:
    assert unescape(escape(text)) == text
