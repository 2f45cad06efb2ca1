"""One page that stands alone: no script, nothing is loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from hardrun.audit.facts import BOUNDABLE
from hardrun.audit.model import Finding, Subject
from hardrun.audit.report import Report
from hardrun.audit.score import word
from hardrun.values import printable

# What the matrix shows of each workload, if its source tells it.
_COLUMNS = ("privileged", "network_mode", "pid_namespace", "user_namespace", "capabilities",
            "no_new_privs", "ids.user", "seccomp_mode", "apparmor_mode",
            "filesystem.read_only_root", "filesystem.writable", "limits.memory", "limits.pids")
_MANY = 6
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;
color:#1c2128}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
th{background:#f6f8fa}code{font-size:.85em}
.tag{border-radius:.7em;padding:.1em .7em;color:#fff;font-size:.8rem}
.critical{background:#8c1220}.high{background:#d1242f}.medium{background:#bf8700}
.low{background:#3b7ea1}.info{background:#6e7781}
.bar{background:#eaeef2;border-radius:.3em;width:8rem;height:.7em}
.bar i{display:block;height:100%;border-radius:.3em;background:#d1242f}
.loose{color:#b3261e;font-weight:600}.unknown{color:#8a6d00;font-style:italic}.wide{overflow-x:auto}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th{background:#161b22}
th,td{border-color:#30363d}.bar{background:#30363d}.loose{color:#ff8077}.unknown{color:#e3b341}}
"""


def page(report: Report) -> str:
    """The report as one page."""
    return "\n".join(_page(report))


def _text(text: object) -> str:
    return escape(printable(str(text)))


def _page(report: Report) -> Iterator[str]:
    counts = report.count()
    yield ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
           '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
           ' \'unsafe-inline\'"><meta name="viewport" content="width=device-width">'
           f"<title>Audit</title><style>{_STYLE}</style></head><body>")
    yield "<h1>Audit of container isolation</h1>"
    yield (f"<p>{len(report.subjects)} workloads in {report.files} files, judged by "
           f"{_text(', '.join(report.asked))}: "
           + " ".join(f'<span class="tag {name}">{number} {name}</span>'
                      for name, number in counts.items() if number)
           + (" nothing found." if not any(counts.values()) else "") + "</p>")
    yield from _scores(report)
    yield from _findings(report)
    yield from _matrix(report)
    yield from _rest(report)
    yield "</body></html>"


def _scores(report: Report) -> Iterator[str]:
    if not report.scores:
        return
    yield "<h2>Exposure</h2><table><tr><th>workload</th><th>0 to 10</th><th></th><th>file</th></tr>"
    for (file, name), value in sorted(report.scores.items(), key=lambda i: (-i[1], i[0])):
        yield (f"<tr><td>{_text(name)}</td><td>{value:.1f} {word(value)}</td><td><div class=bar>"
               f'<i style="width:{value * 10:.0f}%"></i></div></td>'
               f"<td><code>{_text(file)}</code></td></tr>")
    yield "</table>"


def _findings(report: Report) -> Iterator[str]:
    yield "<h2>Findings, the worst first</h2><table><tr><th></th><th>what</th><th>where</th>" \
          "<th>why, and what to do</th></tr>"
    for finding in report.counting:
        yield _finding(finding)
    yield "</table>"
    held = [f for f in report.findings if not f.counts]
    if held:
        yield f"<h2>Not counted: {len(held)}</h2><table><tr><th>rule</th><th>where</th>" \
              "<th>reason</th></tr>"
        for finding in held:
            reason = finding.suppressed.reason if finding.suppressed else "in the baseline"
            yield (f"<tr><td>{_text(finding.rule.id)}</td><td><code>{_text(finding.place)}</code>"
                   f"</td><td>{_text(reason)}</td></tr>")
        yield "</table>"


def _finding(finding: Finding) -> str:
    rule = finding.rule
    references = "; ".join(f"{name}: {', '.join(ids)}" for name, ids in rule.standards.items())
    return (f'<tr><td><span class="tag {finding.severity}">{finding.severity}</span></td>'
            f"<td><b>{_text(rule.title)}</b><br>{_text(finding.seen)}<br><code>{_text(rule.id)}"
            f"</code></td><td>{_text(', '.join(finding.subjects[:4]))}<br>"
            f"<code>{_text(finding.place)}</code><br><code>{_text(finding.place.field)}</code></td>"
            f"<td>{_text(rule.why)}<br>{_text(rule.fix)}<br><small>{_text(references)}</small></td>"
            "</tr>")


def _matrix(report: Report) -> Iterator[str]:
    used = [name for name in _COLUMNS if any(name in s.values or name in s.unknown
                                             for s in report.subjects)]
    if not used:
        return
    heads = "".join(f"<th>{_text(BOUNDABLE[name].title)}</th>" for name in used)
    yield f"<h2>Posture</h2><div class=wide><table><tr><th>workload</th>{heads}</tr>"
    for subject in report.subjects:
        yield (f"<tr><td>{_text(subject.name)}</td>"
               + "".join(_cell(subject, name) for name in used) + "</tr>")
    yield "</table></div>"


def _cell(subject: Subject, name: str) -> str:
    seen = subject.values.get(name)
    if seen is None:
        return (f"<td class=unknown title='{_text(subject.unknown[name])}'>not known</td>"
                if name in subject.unknown else "<td></td>")
    control = BOUNDABLE[name]
    loose = control.compare(seen.value, control.loosest) == "equal"
    shown = control.show(seen.value)
    words = shown.split(", ")
    shown = ", ".join(words[:_MANY]) + (f" and {len(words) - _MANY} more"
                                        if len(words) > _MANY else "")
    return f"<td{' class=loose' if loose else ''}>{_text(shown)}</td>"


def _rest(report: Report) -> Iterator[str]:
    if report.problems:
        yield "<h2>Not audited, and notes</h2><ul>"
        for problem in report.problems:
            yield f"<li><code>{_text(problem.place)}</code> {_text(problem.message)}</li>"
        yield "</ul>"
