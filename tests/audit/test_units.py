"""Units of systemd with their drop-ins: those of templates, of prefixes, and without a unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardrun.audit.model import Subject
from hardrun.audit.walk import read_paths

UNIT = "[Service]\nExecStart=/usr/bin/web\nEnvironment=A=b\n"


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _drop_in(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("[Service]", *lines, "")))


def _one(*paths: str) -> Subject:
    batch = read_paths(paths)
    assert not batch.problems
    (subject,) = batch.subjects
    return subject


@pytest.mark.parametrize("paths", [["."], ["web.service"], ["web.service.d/10-a.conf"],
                                   ["web.service", "web.service.d/20-b.conf"]])
def test_drop_ins_are_read_with_their_unit_in_the_order_of_their_names(
        top: Path, paths: list[str]) -> None:
    (top / "web.service").write_text(UNIT)
    _drop_in(top / "web.service.d/10-a.conf", "NoNewPrivileges=yes", "User=root",
             "CapabilityBoundingSet=CAP_CHOWN")
    _drop_in(top / "web.service.d/20-b.conf", "User=web", "CapabilityBoundingSet=",
             "CapabilityBoundingSet=CAP_KILL", "# hardrun:ignore no-memory-limit: later")
    unit = _one(*paths)
    assert (unit.name, unit.place.file) == ("web.service", "web.service")
    assert unit.values["no_new_privs"].place.file == "web.service.d/10-a.conf"
    assert unit.values["ids.user"].value == "self"
    assert unit.values["capabilities"].value == {"CAP_KILL"}


def test_an_instance_has_the_drop_ins_of_its_template_its_prefix_and_all_services(
        top: Path) -> None:
    (top / "a-b@c.service").write_text(UNIT)
    _drop_in(top / "a-b@.service.d/1.conf", "PrivateNetwork=yes")
    _drop_in(top / "a-.service.d/2.conf", "ProtectSystem=strict")
    _drop_in(top / "service.d/3.conf", "NoNewPrivileges=yes")
    _drop_in(top / "service.d/1.conf", "PrivateNetwork=no")  # hidden by the narrower one
    _drop_in(top / "a.service.d/4.conf", "User=other")
    unit = _one("a-b@c.service")
    assert unit.values["network_mode"].value == "none"
    assert unit.values["filesystem.read_only_root"].value is True
    assert unit.values["no_new_privs"].value is True
    assert unit.values["ids.user"].value == "root"


def test_what_an_instance_decides_is_not_known(top: Path) -> None:
    (top / "web@.service").write_text(UNIT + "User=%i\n")
    assert _one(".").unknown["ids.user"] == "the instance decides"


def test_a_drop_in_without_its_unit_says_only_what_it_says(top: Path) -> None:
    _drop_in(top / "ssh.service.d/a.conf", "NoNewPrivileges=no")
    _drop_in(top / "ssh.service.d/b.conf", "PrivateNetwork=yes")
    unit = _one(".")
    assert unit.values["no_new_privs"].value is False
    assert unit.values["network_mode"].value == "none"
    for name in ("capabilities", "ids.user", "limits.memory"):
        assert unit.unknown[name] == "the unit itself is not among what is audited"


def test_a_drop_in_in_etc_belongs_to_the_unit_in_usr(top: Path) -> None:
    unit = top / "usr/lib/systemd/system/web.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(UNIT)
    _drop_in(top / "etc/systemd/system/web.service.d/a.conf", "User=web")
    assert _one(".").values["ids.user"].place.file == "etc/systemd/system/web.service.d/a.conf"


def test_drop_ins_behind_a_link_that_leads_out_are_not_read_and_that_is_said(top: Path) -> None:
    inside = top / "in"
    inside.mkdir()
    (inside / "web.service").write_text(UNIT)
    _drop_in(top / "out/a.conf", "User=web")
    (inside / "web.service.d").symlink_to(top / "out")
    unit = _one("in")
    assert unit.unknown["ids.user"] == "one of its files: outside of what is audited"
