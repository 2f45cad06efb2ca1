"""One HTML page with its plots in it: nothing is loaded from anywhere.

matplotlib draws them (`pip install hardrun[bench]`); without it the page has the tables alone.
"""

from __future__ import annotations

import html
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hardrun.bench import ladder, ours, scale, startup
from hardrun.bench.document import Document, Series
from hardrun.bench.pages import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXTRA = "pip install 'hardrun[bench]'"
_OURS, _OTHERS, _BASE = "#0b6e4f", "#8a8f98", "#c9a227"
_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1f24; background: #fff; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; display: block;
        overflow-x: auto; }
td, th { border-bottom: 1px solid #dde1e6; padding: .25rem .6rem; text-align: left;
         vertical-align: top; font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; }
h1, h2 { line-height: 1.2; }
"""


def available() -> bool:
    """Whether plots can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def page(document: Document) -> str:
    """The page: plots, where they can be drawn, and every table."""
    drawn = list(_plots(document)) if available() else [
        f"<p>No plots: {html.escape(EXTRA)}</p>"]
    return (f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
            f"<title>What isolation costs</title><style>{_STYLE}</style></head><body>\n"
            f"{_body(markdown(document), drawn)}\n</body></html>\n")


def _body(text: str, drawn: Sequence[str]) -> str:
    """The Markdown that ``pages`` writes as HTML, plots after the first heading's paragraph."""
    found: list[str] = []
    rows: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            if not line.startswith("| ---"):
                kind = "td" if rows else "th"
                cells = [cell.strip() for cell in line[1:-1].split("|")]
                rows.append("<tr>" + "".join(f"<{kind}>{_inline(c)}</{kind}>" for c in cells)
                            + "</tr>")
            continue
        if rows:
            found.append(f"<table>{''.join(rows)}</table>")
            rows = []
            if drawn:  # after the facts of the machine
                found += drawn
                drawn = ()
        if line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            found.append(f"<h{level}>{_inline(line.strip('# '))}</h{level}>")
        elif line:
            found.append(f"<p>{_inline(line.removeprefix('* '))}</p>")
    return "\n".join(found)


def _inline(text: str) -> str:
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(pieces))


def _plots(document: Document) -> Iterator[str]:
    for title, draw, series in (
            ("Start to exit", _distribution, document.of("startup", startup.EXIT)),
            ("Layer after layer", _stack, document.of("layers")),
            ("In sequence", _sequence, document.of("scale", scale.IN_SEQUENCE)),
            ("Starts a second", _curves(log=False), document.of("scale", scale.THROUGHPUT)),
            ("Memory that stays for each", _curves(log=True), document.of("memory")),
            ("On disk for each, created", _curves(log=True), document.of("disk", "created"))):
        able = [one for one in series if one.samples]
        if able:
            yield f"<h2>{html.escape(title)}</h2>\n{_draw(draw, able)}"


def _draw(draw: Callable[[Axes, Sequence[Series]], None], series: Sequence[Series]) -> str:
    from matplotlib.figure import Figure

    height = 1.4 + 0.3 * len(series) if draw in (_distribution, _stack) else 4.2
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, series)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg"):]


def _colour(name: str) -> str:
    return _OURS if name.startswith("hardrun") else _BASE if name in (
        ours.PLAIN, ours.FLOOR) else _OTHERS


def _distribution(axes: Axes, series: Sequence[Series]) -> None:
    """Each runtime's starts as a box with its whiskers at 5 and 95 %, and every sample."""
    ordered = sorted(series, key=lambda s: s.median, reverse=True)
    boxes = axes.boxplot([[x * 1e3 for x in s.samples] for s in ordered], orientation="horizontal",
                         whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6,
                         medianprops={"color": "black"})
    for box, one in zip(boxes["boxes"], ordered, strict=True):
        box.set_facecolor(_colour(one.contender))
        box.set_alpha(0.7)
    for number, one in enumerate(ordered, 1):
        axes.plot([x * 1e3 for x in one.samples], [number] * len(one.samples), "|", color="black",
                  alpha=0.25, markersize=5, rasterized=True)
    axes.set_yticks(range(1, len(ordered) + 1),
                    [f"{s.contender}  {s.level}".strip() for s in ordered])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("milliseconds, logarithmic")


def _stack(axes: Axes, series: Sequence[Series]) -> None:
    """What each layer adds, one bar after the other."""
    steps = [s for s in series if not s.contender.startswith(ladder.VARIANT)]
    before = 0.0
    for number, one in enumerate(steps):
        value = one.median * 1e3
        added = value - before
        axes.barh(number, added, left=before, color=_OURS if number else _BASE, alpha=0.8)
        axes.text(max(value, before), number, f" {added:+.2f}", va="center", fontsize=9)
        before = value
    axes.set_yticks(range(len(steps)), [s.contender.removeprefix(ladder.STEP) for s in steps])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("milliseconds")


def _sequence(axes: Axes, series: Sequence[Series]) -> None:
    """The cost of each start in the order in which they were made: medians of fiftieths."""
    for one in series:
        part = max(1, len(one.samples) // 50)
        pieces = [sorted(one.samples[n:n + part]) for n in range(0, len(one.samples), part)]
        axes.plot([n * part for n in range(len(pieces))],
                  [piece[len(piece) // 2] * 1e3 for piece in pieces], label=one.contender,
                  color=None if _colour(one.contender) == _OTHERS else _colour(one.contender))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("start")
    axes.set_ylabel("milliseconds, logarithmic")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _curves(*, log: bool) -> Callable[[Axes, Sequence[Series]], None]:
    """Medians over the counts, a curve for each contender."""
    def draw(axes: Axes, series: Sequence[Series]) -> None:
        for name in dict.fromkeys(s.contender for s in series):
            own = sorted((s for s in series if s.contender == name), key=lambda s: s.at or 0)
            unit = 1024 if own[0].unit == "B" else 1
            axes.plot([s.at or 0 for s in own], [s.median / unit for s in own], "o-", label=name,
                      markersize=4)
        axes.set_xscale("log", base=2 if not log else 10)
        axes.xaxis.set_major_formatter("{x:g}")
        if log:
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(bottom=0)
            axes.set_ylabel("KiB, logarithmic")
        else:
            axes.set_yscale("log")
            axes.set_ylabel("a second, logarithmic")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("at once" if not log else "containers")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return draw
