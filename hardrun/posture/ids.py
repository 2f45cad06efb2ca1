"""User and group ids inside, and the supplementary groups of the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, degraded, enforced
from hardrun.posture.namespaces import needs_user_namespace
from hardrun.posture.orders import Level

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts


def _helpers(facts: HostFacts) -> tuple[str, str]:
    """What is missing for a range of ids, and what would help; two empty texts: nothing is."""
    for name in ("newuidmap", "newgidmap"):
        helper = getattr(facts, name)
        if not helper.available:
            return f"{name} can't be used: {helper.detail or 'not found'}", helper.fix
    if not facts.subordinate_uids or not facts.subordinate_gids:
        return (f"{facts.user_name} has no subordinate ids",
                f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535"
                f" {facts.user_name}")
    if not facts.id_ranges.available:
        return f"a range can't be mapped: {facts.id_ranges.detail}", facts.id_ranges.fix
    return "", ""


def _range(value: str, facts: HostFacts) -> Enforcement:
    if value == "single":
        return needs_user_namespace(facts, "user namespace")
    missing, fix = _helpers(facts)
    if missing:
        return degraded("user namespace", because=f"one id only: {missing}", fix=fix,
                        fact="subordinate_uids")
    return needs_user_namespace(facts, "user namespace", "newuidmap")


def _user(value: str, facts: HostFacts) -> Enforcement:
    return needs_user_namespace(facts, "user namespace")


def _groups(value: str, facts: HostFacts) -> Enforcement:
    # A single-id map needs setgroups=deny, and then the caller's groups stay in force inside: a
    # file of such a group (mode 0040) can be read. Only a range written by newgidmap keeps
    # setgroups(2) usable (user_namespaces(7)).
    if value == "inherit":
        return enforced("not restricted")
    if not facts.supplementary_groups:
        return enforced("no supplementary groups")
    missing, fix = _helpers(facts)
    if missing:
        groups = ", ".join(map(str, facts.supplementary_groups))
        return degraded(because=f"groups {groups} can't be dropped: {missing}", fix=fix,
                        fact="supplementary_groups")
    return enforced("newgidmap", "setgroups")


RANGE = Level(
    id="ids.range", title="id range",
    meaning="Ids inside: single, own (a range of the user's subordinate ids) or shared.",
    levels=("single", "own", "shared"), loosest="shared", default="single", enforce=_range)

USER = Level(
    id="ids.user", title="user inside",
    meaning="The id inside: self (the caller's own number) or root (0; still the caller outside).",
    levels=("self", "root"), loosest="root", default="self", enforce=_user)

SUPPLEMENTARY_GROUPS = Level(
    id="ids.supplementary_groups", title="supplementary groups",
    meaning="Whether the caller's supplementary groups are dropped or inherited.",
    levels=("drop", "inherit"), loosest="inherit", default="drop", enforce=_groups)
