"""User and group ids inside, and the supplementary groups of the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, degraded, enforced
from hardrun.posture.namespaces import needs_user_namespace
from hardrun.posture.orders import Level

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts


def _lacking(facts: HostFacts) -> str:
    """The name of the fact that keeps a range of ids from being mapped; empty when none does."""
    return next((name for name in ("newuidmap", "newgidmap", "id_ranges")
                 if not getattr(facts, name).available), "")


def _range(value: str, facts: HostFacts) -> Enforcement:
    if value == "single":
        return needs_user_namespace(facts, "user namespace")
    if name := _lacking(facts):
        fact = getattr(facts, name)
        # By nothing: who asks for ids of its own is not served by the caller's.
        return degraded(because=f"the caller's id alone: {fact.detail}", fix=fact.fix, fact=name)
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
    if name := _lacking(facts):
        fact = getattr(facts, name)
        groups = ", ".join(map(str, facts.supplementary_groups))
        return degraded(because=f"groups {groups} can't be dropped: {fact.detail}", fix=fact.fix,
                        fact=name)
    return enforced("newgidmap", "setgroups")


RANGE = Level(
    id="ids.range", title="id range",
    meaning="Ids inside: single (the caller's own), own (a range that no other sandbox has, and"
    " none of the caller's) or shared (the caller's own and the whole of its subordinate ids).",
    levels=("single", "own", "shared"), loosest="shared", default="single", enforce=_range)

USER = Level(
    id="ids.user", title="user inside",
    meaning="The id inside: self (the caller's own number) or root (0; still the caller outside).",
    levels=("self", "root"), loosest="root", default="self", enforce=_user)

SUPPLEMENTARY_GROUPS = Level(
    id="ids.supplementary_groups", title="supplementary groups",
    meaning="Whether the caller's supplementary groups are dropped or inherited.",
    levels=("drop", "inherit"), loosest="inherit", default="drop", enforce=_groups)
