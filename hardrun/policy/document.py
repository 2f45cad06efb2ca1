"""The policy document: its fields, checked, and turned into the values that the engine reads.

Imported only where a document must be parsed; policies parsed ahead need neither this nor YAML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NoReturn, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrun.errors import PolicyError
from hardrun.policy.loaded import Acceptance, Case, DangerGrant, Layer, LoadedPolicy, Said
from hardrun.policy.tree import Path, Tree
from hardrun.posture import ways_out
from hardrun.posture.control import Control
from hardrun.posture.orders import nearest
from hardrun.posture.registry import BY_ID, CONTROLS

NAME = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
BY_PLACE: Mapping[str, Control[Any]] = {control.place: control for control in CONTROLS}
_GROUPS = frozenset(place.split(".")[0] for place in BY_PLACE if "." in place)

Controls = dict[str, Any]
Patterns = str | list[str]


class Strict(BaseModel):
    """Base of the parts of a document: unknown fields are errors, nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Metadata(Strict):
    """What the policy is called and for."""

    name: Annotated[str, Field(pattern=NAME, description="What --policy and `within` call it.")]
    description: Annotated[str, Field(description="One sentence: for what it is.")] = ""
    version: Annotated[str, Field(description="The version of the standard it follows.")] = ""


class Match(Strict):
    """What the policy applies to; all conditions must hold. Patterns are those of a shell."""

    trust: Annotated[Patterns | None, Field(description="The class given by --trust.")] = None
    labels: Annotated[dict[str, Patterns] | None, Field(
        description="Labels given by --label K=V.")] = None
    command: Annotated[Patterns | None, Field(
        description="The command, as it was given or its last part.")] = None
    user: Annotated[Patterns | None, Field(description="The caller's name or uid.")] = None
    group: Annotated[Patterns | None, Field(description="A gid of the caller.")] = None
    image: Annotated[Patterns | None, Field(description="The directory given by --rootfs.")] = None
    host: Annotated[Patterns | None, Field(
        description="The architecture or kernel release of the host.")] = None


class DangerItem(Strict):
    """A grant that opens a known way out."""

    grant: Annotated[Controls, Field(description="Controls, as in `bounds`.")]
    reason: Annotated[str, Field(min_length=10, description="Why; it appears in explain, reports"
                                                            " and audits.")]


class TestItem(Strict):
    """What a request must come to; `hardrun policy test` runs these."""

    __test__ = False

    request: Annotated[Controls, Field(description="Controls that are asked for.")] = {}
    refused: Annotated[Patterns | None, Field(
        description="The controls that the refusal must name.")] = None
    granted: Annotated[Controls, Field(description="Values that must be granted.")] = {}


class PolicyDocument(Strict):
    """A policy."""

    apiVersion: Annotated[Literal["hardrun/v1"], Field(description="The version of the language.")]
    kind: Annotated[Literal["Policy"], Field(description="What the document is.")]
    metadata: Annotated[Metadata, Field(description="Its name and purpose.")]
    within: Annotated[list[str], Field(
        description="Policies that this one is no looser than; their bounds hold too.")] = []
    match: Annotated[Match | None, Field(
        description="What it applies to; without it, it must be named.")] = None
    bounds: Annotated[Controls, Field(description="Nothing looser gets past these.")] = {}
    defaults: Annotated[Controls, Field(
        description="What a request gets when it does not say.")] = {}
    danger: Annotated[list[DangerItem], Field(
        description="Bounds that open a known way out, each with a reason.")] = []
    host: Annotated[dict[str, Any], Field(
        description="What is accepted of a host that can't enforce a control: refuse (not even a"
                    " weaker form), weaker (some layer must still enforce it; so it is when nothing"
                    " is said), degrade (even if nothing does).")] = {}
    tests: Annotated[list[TestItem], Field(description="Requests and what they come to.")] = []


class _Reader:
    """One document being read; knows the file and the lines."""

    def __init__(self, tree: Tree, file: str) -> None:
        self.tree = tree
        self.file = file

    def fail(self, message: str, path: Path, hint: str | None = None) -> NoReturn:
        """Raise PolicyError for the value at a path."""
        raise PolicyError(message, file=self.file, line=self.tree.line(path),
                          field=".".join(map(str, path)) or None, hint=hint)

    def origin(self, path: Path) -> str:
        """``file:line`` of the value at a path."""
        return f"{self.file}:{self.tree.line(path)}"

    def document(self) -> PolicyDocument:
        """The document with its outer form checked."""
        if not isinstance(self.tree.value, dict):
            self.fail("a policy is a mapping with apiVersion, kind, metadata, …", ())
        try:
            return PolicyDocument.model_validate(self.tree.value)
        except ValidationError as error:
            first = error.errors()[0]
            path = tuple(part for part in first["loc"] if self.tree.knows(first["loc"], part))
            if first["type"] == "extra_forbidden":
                self.fail(f"unknown field{nearest(str(path[-1]), _fields(path[:-1]))}", path)
            if first["type"] == "missing":
                self.fail(f"the field {first['loc'][-1]!r} is missing", path)
            self.fail(first["msg"][:1].lower() + first["msg"][1:], path)

    def controls(self, raw: Any, path: Path) -> Iterator[tuple[Control[Any], Any, Path]]:
        """Every control of a section, nested (``limits: {memory: …}``) or dotted."""
        prefix = ".".join(map(str, path[1:])) if path[0] in ("bounds", "defaults") else ""
        yield from self._walk(raw, path, "", prefix)

    def _walk(self, raw: Any, path: Path, group: str,
              shown: str) -> Iterator[tuple[Control[Any], Any, Path]]:
        if not isinstance(raw, dict):
            self.fail("must be a mapping of controls", path)
        for key, value in raw.items():
            here = (*path, key)
            name = f"{group}.{key}" if group else str(key)
            control = BY_PLACE.get(name) or BY_ID.get(name)
            if control is not None and not (name in _GROUPS and isinstance(value, dict)):
                yield control, value, here
            elif name in _GROUPS:
                yield from self._walk(value, here, name, shown)
            else:
                known = [p.removeprefix(f"{group}.") for p in BY_PLACE if p.startswith(group)]
                self.fail(f"unknown field{nearest(str(key), [*known, *_GROUPS])}", here)

    def values(self, raw: Any, path: Path) -> dict[str, tuple[Any, Path]]:
        """Every control of a section with its parsed value."""
        found: dict[str, tuple[Any, Path]] = {}
        for control, text, here in self.controls(raw, path):
            if control.id in found:
                self.fail(f"{control.place} is said twice", here)
            try:
                found[control.id] = control.parse(text), here
            except ValueError as error:
                self.fail(str(error), here)
        return found


def _fields(path: Path) -> list[str]:
    models: dict[str, type[BaseModel]] = {"metadata": Metadata, "match": Match,
                                          "danger": DangerItem, "tests": TestItem}
    model = models.get(str(path[0]), PolicyDocument) if path else PolicyDocument
    return list(model.model_fields)


def parse(tree: Tree, file: str, layer: Layer) -> LoadedPolicy:
    """The policy in a document, without its parents. PolicyError says file, line and field."""
    reader = _Reader(tree, file)
    document = reader.document()
    dangers = tuple(_danger(reader, item, i) for i, item in enumerate(document.danger))
    return LoadedPolicy(
        name=document.metadata.name, file=file, layer=layer,
        description=document.metadata.description,
        within=tuple((name, tree.line(("within", i))) for i, name in enumerate(document.within)),
        match=document.match.model_dump(exclude_none=True) if document.match is not None else None,
        bounds=_bounds(reader, document, dangers),
        defaults={control: (Said(value, tree.line(path), reader.origin(path)),)
                  for control, (value, path) in
                  reader.values(document.defaults, ("defaults",)).items()},
        dangers=dangers,
        host=_host(reader, document.host),
        tests=tuple(_case(reader, item, i) for i, item in enumerate(document.tests)))


def _danger(reader: _Reader, item: DangerItem, index: int) -> DangerGrant:
    path = ("danger", index)
    grants = {control: value
              for control, (value, _) in reader.values(item.grant, (*path, "grant")).items()}
    if not grants:
        reader.fail("grants nothing", path)
    return DangerGrant(grants, item.reason, reader.tree.line(path), reader.origin(path))


def _bounds(reader: _Reader, document: PolicyDocument,
            dangers: tuple[DangerGrant, ...]) -> dict[str, tuple[Said, ...]]:
    """What ``bounds`` and ``danger`` say together. A way out in ``bounds`` alone is an error."""
    bounds: dict[str, tuple[Said, ...]] = {}
    for control, (value, path) in reader.values(document.bounds, ("bounds",)).items():
        ways = ways_out.entered(control, value) if control in ways_out.PATH_CONTROLS \
            else ways_out.opened(control, value)
        if ways:
            way = ways[0]
            reader.fail(f"{way.value} is a known way out ({way.opens})", path,
                        hint="grant it under 'danger:' with a reason")
        bounds[control] = (Said(value, reader.tree.line(path), reader.origin(path)),)
    for danger in dangers:
        for control, value in danger.grants.items():
            said = bounds.get(control, (Said(value, danger.line, danger.origin),))[0]
            excepted = said.excepted
            if control in ways_out.PATH_CONTROLS:
                excepted = excepted | value
            bounds[control] = (said._replace(
                value=BY_ID[control].join(said.value, value), excepted=excepted),)
    return bounds


def _host(reader: _Reader, raw: Any) -> dict[str, tuple[Acceptance, str]]:
    accepted: dict[str, tuple[Acceptance, str]] = {}
    for control, value, path in reader.controls(raw, ("host",)):
        if value not in ("refuse", "weaker", "degrade"):
            reader.fail(f"must be refuse, weaker or degrade, not {value!r}", path)
        accepted[control.id] = cast(Acceptance, value), reader.origin(path)
    return accepted


def _case(reader: _Reader, item: TestItem, index: int) -> Case:
    path = ("tests", index)
    names = [item.refused] if isinstance(item.refused, str) else item.refused or []
    refused = []
    for name in names:
        control = BY_PLACE.get(name) or BY_ID.get(name)
        if control is None:
            reader.fail(f"{name!r} is not a control{nearest(name, BY_PLACE)}", (*path, "refused"))
        refused.append(control.id)
    if bool(refused) == bool(item.granted):
        reader.fail("must say either what is refused or what is granted", path)

    def values(raw: Controls, name: str) -> dict[str, Any]:
        return {control: value for control, (value, _) in reader.values(raw, (*path, name)).items()}

    return Case(values(item.request, "request"), tuple(refused), values(item.granted, "granted"),
                reader.tree.line(path))
