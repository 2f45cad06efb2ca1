"""``docker run`` and ``podman run`` lines, also in shell scripts.

The words are found, not executed: what a shell would put in the place of a variable stays unknown.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping

from hardrun.audit.model import Place, Subject
from hardrun.audit.read import engine
from hardrun.audit.read.gather import Gather, Word

_START = re.compile(
    r"(?:^|[\s;&|(])(?:docker|podman|nerdctl)[ \t]+(?:container[ \t]+)?(?:run|create)(?=[ \t])")
# Bounded: from each of many lines an open quote would be followed to the end of the file.
_TOKEN = re.compile(r"""[ \t]*((?:[^\s'"\\;&|<>()]|\\.|'[^']{0,1024}'|"(?:\\.|[^"\\]){0,1024}\""""
                    r"|\$\([^)]{0,1024}\))+)")
_SWITCHES = frozenset({  # long options that take no value
    "--detach", "--init", "--interactive", "--no-healthcheck", "--oom-kill-disable", "--privileged",
    "--publish-all", "--quiet", "--read-only", "--rm", "--sig-proxy", "--tty", "--replace",
    "--no-hosts", "--http-proxy", "--tls-verify", "--env-host", "--rmi", "--passwd"})
_SHORT_SWITCHES = frozenset("ditPq")
_LONG = {"-v": "--volume", "-p": "--publish", "-e": "--env", "-u": "--user", "-m": "--memory",
         "--net": "--network"}


def is_script(text: str) -> bool:
    """Whether a text has such a line."""
    return _START.search(text) is not None


def read(text: str, file: str) -> Iterator[Subject]:
    """Every container that a line of the text would start."""
    joined = text.replace("\\\n", "  ")  # as long as before, so that offsets stay
    starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]

    def place(offset: int, field: str) -> Place:
        line = bisect_right(starts, offset)
        return Place(file, line, offset - starts[line - 1] + 1, field, (line,))

    position = 0
    for match in _START.finditer(joined):
        if match.end() < position:
            continue  # an argument of the one before
        begin = match.start() + len(match[0]) - len(match[0].lstrip(" \t\n;&|("))
        line_start = joined.rfind("\n", 0, begin) + 1
        if joined[line_start:begin].lstrip().startswith("#"):
            continue
        words = []
        position = match.end()
        while token := _TOKEN.match(joined, position):
            words.append((_unquoted(token[1]), place(token.start(1), token[1].split("=")[0])))
            position = token.end()
        here = place(begin, "")
        yield _container(words, Place(file, here.line, here.column, "run",
                                      (bisect_right(starts, begin),)))


def _unquoted(word: str) -> str:
    return re.sub(r"""'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)""",
                  lambda m: m[1] or (m[2] or "").replace('\\"', '"') or m[3] or "", word)


def options(words: Iterable[Word]) -> tuple[list[tuple[str, str, Place]], Word | None]:
    """Options with their values, and the image, which is the first word that is none of them."""
    found: list[tuple[str, str, Place]] = []
    waiting = iter(words)
    for text, place in waiting:
        name, equals, value = text.partition("=")
        if not name.startswith("-") or name == "--":
            return found, next(waiting, None) if name == "--" else (text, place)
        if not name.startswith("--") and len(name) > 2 and name[1] in _SHORT_SWITCHES:
            name = "-" + name.lstrip("-" + "".join(_SHORT_SWITCHES))  # -itv
            if name == "-":
                continue
        if not name.startswith("--") and len(name) > 2:  # -p80:80
            name, value, equals = name[:2], name[2:] + equals + value, "="
        name = _LONG.get(name, name)
        if equals:
            found.append((name, value, place))
        elif name in _SWITCHES or (len(name) == 2 and name[1] in _SHORT_SWITCHES):
            found.append((name, "true", place))
        else:
            found.append((name, next(waiting, ("", place))[0], place))
    return found, None


def _container(words: list[Word], where: Place) -> Subject:
    said, image = options(words)
    name = next((value for option, value, _ in said if option == "--name"), "")
    gather = Gather("command", name or (image[0] if image else "?"), f"line {where.line}", where)
    given: dict[str, list[Word]] = {}
    for option, value, place in said:
        given.setdefault(option, []).append((value, place))
    privileged = [place for value, place in given.get("--privileged", ())
                  if gather.switch("privileged", value)]
    if privileged:
        gather.privileged(privileged[0])
    else:
        gather.capabilities(given.get("--cap-add", ()), given.get("--cap-drop", ()), where)
    for kind in ("network", "pid", "ipc", "uts", "userns"):
        for value, place in given.get(f"--{kind}", ()):
            engine.namespace(gather, kind, value, place)
    for value, place in given.get("--cgroupns", ()):
        engine.namespace(gather, "cgroup", value, place)
    engine.security_options(gather, given.get("--security-opt", ()))
    for option, function in _EACH.items():
        for value, place in given.get(option, ()):
            function(gather, value, place)
    if "--user" not in given:
        gather.unknown("ids.user", "the image decides")
    _health(gather, given)
    if image is not None:
        gather.image(*image)
    engine.by_default(gather)
    return gather.subject()


def _health(gather: Gather, given: Mapping[str, list[Word]]) -> None:
    for _, place in given.get("--no-healthcheck", ()):
        gather.say("healthcheck", value=False, place=place)
    for _, place in given.get("--health-cmd", ()):
        gather.say("healthcheck", value=True, place=place)
    gather.unknown("healthcheck", "the image may have one")


def _mount(gather: Gather, value: str, place: Place) -> None:
    fields = [field.strip() for field in value.split(",")]
    pairs = dict(field.partition("=")[::2] for field in fields)
    if pairs.get("type") == "bind":
        engine.mounted(gather, pairs.get("source") or pairs.get("src") or "", fields, place)


def _environment(gather: Gather, value: str, place: Place) -> None:
    gather.variable(*value.partition("=")[::2], place)


def _read_only(gather: Gather, value: str, place: Place) -> None:
    read_only = gather.switch("filesystem.read_only_root", value)
    if read_only is not None:
        gather.say("filesystem.read_only_root", read_only, place)


def _limit(control: str, factor: float = 1) -> Callable[[Gather, str, Place], None]:
    def limited(gather: Gather, value: str, place: Place) -> None:
        engine.size(gather, control, value, place, factor)
    return limited


_EACH: Mapping[str, Callable[[Gather, str, Place], None]] = {
    "--volume": engine.bind, "--mount": _mount, "--publish": engine.published,
    "--device": engine.device, "--sysctl": engine.sysctl, "--env": _environment,
    "--user": engine.user, "--read-only": _read_only, "--memory": _limit("limits.memory"),
    "--cpus": _limit("limits.cpus", 1000), "--pids-limit": _limit("limits.pids"),
}
