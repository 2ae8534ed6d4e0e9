"""The diff report of a backfill: JSON for programs, and one page for people with a picture of every day.

In: the comparison and its verdict. Out: reports/backfills/<name>/report.json and index.html, each in place
only when it is whole; the page stands alone, without scripts and without anything from the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from html import escape

from jobs.backfill.compare import PartitionDifference, Shift, TableDifference
from jobs.conf.settings import Settings
from jobs.core import Outcome, StrictModel, Verdict
from jobs.files import write_whole

FOLDER = "backfills"
COLORS = {"same": "#9aa7b4", "changed": "#e0a100", "added": "#2a9d55", "removed": "#c8383f"}
SIGNS = {Outcome.PASS: "#2a9d55", Outcome.FAIL: "#c8383f", Outcome.INCONCLUSIVE: "#e0a100"}
BAR_WIDTH, BAR_HEIGHT, SHAPE_WIDTH, SHAPE_HEIGHT = 14, 120, 240, 60
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; max-width: 72rem; color: #1d2530 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .2rem .7rem; text-align: right }
th { border-bottom: 1px solid #9aa7b4; font-weight: 600 } td:first-child, th:first-child { text-align: left }
.shapes { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0 } figcaption { font-size: 12px }
.verdict { display: inline-block; padding: .1rem .6rem; border-radius: .3rem; color: white }
.key span { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }
"""


class Report(StrictModel):
    """A backfill compared with production."""

    name: str
    dag: str
    first: date
    last: date
    reason: str
    person: str
    verdict: Verdict
    tables: tuple[TableDifference, ...]


def write_report(settings: Settings, report: Report) -> str:
    """Write both files; gives the page's path below the reports."""
    folder = settings.reports / FOLDER / report.name
    write_whole(folder / "report.json", report.model_dump_json(indent=1))
    write_whole(folder / "index.html", page_of(report))
    return f"{FOLDER}/{report.name}/index.html"


def page_of(report: Report) -> str:
    """The whole page."""
    title = f"Backfill {report.name}"
    outcome = report.verdict.outcome
    key = "".join(f'<span style="background:{color}"></span>{name}' for name, color in COLORS.items())
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>{escape(title)}</title><style>{STYLE}</style><body><h1>{escape(title)}</h1>",
            f"<p>{escape(report.dag)}, {report.first} to {report.last}, asked for by "
            f"{escape(report.person)}: {escape(report.reason)}</p>",
            f'<p><span class="verdict" style="background:{SIGNS[outcome]}">{outcome.value}</span> '
            f"{escape(report.verdict.reason)}</p>",
            f'<p class="key">Rows of each day, staged beside production:{key}</p>',
            *(_table_section(found) for found in report.tables),
            "<h2>Checks</h2>",
            _checks(report),
            "</body></html>\n",
        ]
    )


def _table_section(found: TableDifference) -> str:
    note = "" if found.decides else " (bookkeeping: shown, never a reason to refuse)"
    shapes = "".join(_shape(shift) for shift in found.shifts)
    return "\n".join(
        [
            f"<h2>{escape(found.table)}{note}</h2>",
            _days_picture(found.partitions),
            f'<div class="shapes">{shapes}</div>' if shapes else "",
            _days_table(found.partitions),
        ]
    )


def _days_picture(parts: tuple[PartitionDifference, ...]) -> str:
    """One bar a partition: what stays, changes and comes upwards, what goes downwards."""
    if not parts:
        return "<p>Neither side has rows of these days.</p>"
    tallest = max(max(part.rows_after, part.rows_before) for part in parts)
    lowest = max(part.removed for part in parts)
    scale = BAR_HEIGHT / max(tallest, 1)
    height = BAR_HEIGHT + lowest * scale
    bars = "".join(_bar(place, part, scale) for place, part in enumerate(parts))
    width = len(parts) * BAR_WIDTH
    return (
        f'<svg role="img" aria-label="rows by day" width="{width}" height="{height:.0f}">{bars}'
        f'<line x1="0" x2="{width}" y1="{BAR_HEIGHT}" y2="{BAR_HEIGHT}" stroke="#1d2530"/></svg>'
    )


def _bar(place: int, part: PartitionDifference, scale: float) -> str:
    same = max(part.rows_after - part.added - part.changed, 0)
    x, y = place * BAR_WIDTH + 1, float(BAR_HEIGHT)
    pieces = []
    for rows, kind in ((same, "same"), (part.changed, "changed"), (part.added, "added")):
        y -= rows * scale
        pieces.append(_box(x, y, rows * scale, COLORS[kind]))
    pieces.append(_box(x, BAR_HEIGHT, part.removed * scale, COLORS["removed"]))
    title = (
        f"{escape(part.partition)}: {part.rows_before} rows before, {part.rows_after} after; "
        f"{part.added} added, {part.removed} removed, {part.changed} changed"
    )
    return f"<g><title>{title}</title>{''.join(pieces)}</g>"


def _box(x: float, y: float, height: float, color: str, width: float = BAR_WIDTH - 2) -> str:
    if height <= 0:
        return ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'


def _shape(shift: Shift) -> str:
    """Both histograms of a column: production grey and filled, staged as a line."""
    totals = max(sum(shift.before), 1), max(sum(shift.after), 1)
    before = [count / totals[0] for count in shift.before]
    after = [count / totals[1] for count in shift.after]
    top = max([*before, *after, 1e-12])
    step = SHAPE_WIDTH / len(before)
    boxes = "".join(
        _box(
            place * step,
            SHAPE_HEIGHT * (1 - share / top),
            SHAPE_HEIGHT * share / top,
            COLORS["same"],
            step - 1,
        )
        for place, share in enumerate(before)
    )
    points = " ".join(
        f"{(place + edge) * step:.1f},{SHAPE_HEIGHT * (1 - share / top):.1f}"
        for place, share in enumerate(after)
        for edge in (0, 1)
    )
    psi = "not known" if shift.psi is None else f"{shift.psi:.4f}"
    return (
        f'<figure><svg role="img" aria-label="{escape(shift.column)}" width="{SHAPE_WIDTH}" '
        f'height="{SHAPE_HEIGHT}">{boxes}<polyline points="{points}" fill="none" stroke="#1d2530"/></svg>'
        f"<figcaption>{escape(shift.column)}: {shift.low:g} … {shift.high:g}, PSI {psi}</figcaption></figure>"
    )


def _days_table(parts: tuple[PartitionDifference, ...]) -> str:
    """Every partition that differs; those that are equal are counted."""
    equal = sum(part.equal for part in parts)
    rows = [
        (part.partition, part.rows_before, part.rows_after, part.added, part.removed, part.changed)
        for part in parts
        if not part.equal
    ]
    line = f"<p>{equal} of {len(parts)} partitions have the same contents on both sides.</p>"
    head = ("partition", "rows before", "rows after", "keys added", "removed", "changed")
    return line + (_html_table(head, rows) if rows else "")


def _checks(report: Report) -> str:
    rows = [
        (
            check.name,
            check.outcome.value,
            "" if check.value is None else f"{check.value:.4g}",
            "" if check.threshold is None else f"{check.threshold:g}",
            check.detail,
        )
        for check in report.verdict.checks
    ]
    return _html_table(("check", "outcome", "value", "allowed", ""), rows)


def _html_table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"
